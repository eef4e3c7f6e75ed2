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
 * - {@linkcode Client} sends requests over pooled connections: one at a time,
 *   pipelined, or correlated by ids, so that none waits behind a slow one.
 * - {@linkcode Pool} lends any resource, not only connections.
 * - {@linkcode FrameReader} and {@linkcode FrameWriter} read and write frames
 *   over a connection of your own, {@linkcode FrameDecoder} and
 *   {@linkcode FrameEncoder} without I/O.
 * - {@linkcode serveConnection} and {@linkcode transportPair} test a service
 *   without sockets.
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
 *
 * await using client = new Client({ port: server.addr.port });
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
