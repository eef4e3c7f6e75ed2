/**
 * Length-prefixed TCP for Deno: a framing codec, a server, a client and a
 * connection pool.
 *
 * ```text
 *   client.ts          server.ts        length field   payload
 *    |     \            /              +--------------+-----------+
 *  pool.ts  +-- codec.ts               | 8 bytes, big | ...       |
 *                                      +--------------+-----------+
 * ```
 *
 * - {@linkcode serve} answers frames with a handler.
 * - {@linkcode Client} sends requests over pooled, pipelined connections.
 * - {@linkcode Pool} lends any resource, not only connections.
 * - {@linkcode FrameDecoder} and {@linkcode FrameEncoder} turn bytes into
 *   frames and back, without I/O.
 *
 * Each module is also an entry point of its own: `./codec`, `./pool`,
 * `./server` and `./client`.
 *
 * @example A server and its client
 * ```ts
 * import { Client, serve } from "@wirepool/net";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, (payload) => payload);
 * const { port } = server.addr as Deno.NetAddr;
 *
 * await using client = new Client({ port });
 * const response = await client.send(new Uint8Array([1, 2, 3]));
 * assertEquals(response, new Uint8Array([1, 2, 3]));
 * ```
 *
 * @module
 */

export * from "./codec.ts";
export * from "./pool.ts";
export * from "./server.ts";
export * from "./client.ts";
