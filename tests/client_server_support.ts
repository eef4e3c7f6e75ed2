/** Servers on real sockets that do to a client what the test says. */
import { assertEquals, AssertionError } from "@std/assert";
import { concat } from "@std/bytes";
import { encodeFrame, FrameReader } from "../codec.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { freePort } from "./machine_support.ts";

/** One connection of a {@linkcode ScriptedServer}. */
export class Peer {
  readonly #frames: FrameReader;
  /** Requests that have come whole. */
  readonly requests: string[] = [];

  constructor(readonly conn: Deno.Conn) {
    this.#frames = new FrameReader(conn);
  }

  /** The next request, or `null` when the client has closed. */
  async receive(): Promise<string | null> {
    const frame = await this.#frames.read();
    if (frame === null) return null;
    const request = textOf(frame);
    this.requests.push(request);
    return request;
  }

  /** Expects these requests, in this order. */
  async expect(...requests: string[]): Promise<void> {
    const received: (string | null)[] = [];
    while (received.length < requests.length) {
      received.push(await this.receive());
    }
    assertEquals(received, requests);
  }

  /** Sends responses, in one write where they are small. */
  async respond(...responses: string[]): Promise<void> {
    await this.write(concat(responses.map((r) => encodeFrame(ascii(r)))));
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let n = 0; n < bytes.length;) {
      n += await this.conn.write(bytes.subarray(n));
    }
  }

  /** Answers `pong:request` to everything until the client closes. */
  async serve(): Promise<void> {
    for (let r = await this.receive(); r !== null; r = await this.receive()) {
      await this.respond(`pong:${r}`);
    }
  }

  /** Waits until the client has closed; it must not send anything. */
  async closed(): Promise<void> {
    try {
      assertEquals(await this.receive(), null);
    } catch (error) {
      if (error instanceof Deno.errors.ConnectionReset) return;
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.conn[Symbol.dispose]();
  }
}

/** A server that does what the test says, connection by connection. */
export class ScriptedServer {
  readonly #listener: Deno.Listener;
  readonly peers: Peer[] = [];

  constructor(
    // Not of the system's choice: a client that dials again once this one has
    // closed must not reach somebody else's.
    listener: Deno.Listener = Deno.listen({
      hostname: "127.0.0.1",
      port: freePort(),
    }),
  ) {
    this.#listener = listener;
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  async accept(): Promise<Peer> {
    const peer = new Peer(await this.#listener.accept());
    this.peers.push(peer);
    return peer;
  }

  /** Accepts for good, and has `serve` look after every connection; errors of
   * one end that one. */
  async run(
    serve: (peer: Peer, index: number) => Promise<void> = (peer) =>
      peer.serve(),
  ): Promise<void> {
    const serving: Promise<void>[] = [];
    for (;;) {
      let peer: Peer;
      try {
        peer = await this.accept();
      } catch {
        break;
      }
      const index = this.peers.length - 1;
      serving.push(
        serve(peer, index).catch((error) => {
          // A connection may end in any way. What a test asserts may not fail.
          if (error instanceof AssertionError) throw error;
        }).finally(() => peer.conn[Symbol.dispose]()),
      );
    }
    await Promise.all(serving);
  }

  [Symbol.dispose](): void {
    this.#listener[Symbol.dispose]();
    for (const peer of this.peers) peer[Symbol.dispose]();
  }
}

/** A server that answers `pong:request` on every connection. */
export function pongServer(): ScriptedServer & { done: Promise<void> } {
  const server = new ScriptedServer();
  return Object.assign(server, { done: server.run() });
}
