/**
 * Servers in memory, which do to a client what the test says: connections whose
 * frames may carry ids, and whose other side is the test itself.
 */
import { assertEquals } from "@std/assert";
import {
  type CorrelationOptions,
  encodeFrame,
  FrameDecoder,
  FrameEncoder,
  type FrameIdField,
  type FrameOptions,
  type Transport,
  transportPair,
} from "../codec.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { immediate } from "./promise_support.ts";

/** A request as it arrived. */
export interface Arrived {
  readonly id: number;
  readonly text: string;
}

/** The wire that a server in memory speaks. */
interface Wire {
  readonly frame?: FrameOptions;
  readonly correlation?: CorrelationOptions;
}

/** Where an id stands in the frames of one direction. */
function idField(
  correlation: CorrelationOptions | undefined,
  offset: number | undefined,
): FrameIdField | undefined {
  if (correlation === undefined) return undefined;
  const { length } = correlation;
  return offset === undefined ? { length } : { length, offset };
}

/** The other side of one connection. */
export class MemoryPeer {
  readonly #transport: Transport;
  #decoder: FrameDecoder;
  readonly #plain: FrameDecoder;
  readonly #tagged: FrameDecoder;
  readonly #wire: Wire;
  readonly #queue: Arrived[] = [];
  #waiting: (() => void) | undefined;
  #paused = false;
  /** It ends its own side when the client has ended its. */
  endsBack = true;
  /** Every request that has come. */
  readonly requests: Arrived[] = [];
  /** The client has closed its writing side, or all of it. */
  ended = false;
  /** Called with each request. */
  onRequest: ((request: Arrived) => void) | undefined;

  constructor(transport: Transport, wire: Wire) {
    this.#transport = transport;
    this.#wire = wire;
    const { frame, correlation } = wire;
    const { requestOffset, responseOffset } = correlation ?? {};
    this.#plain = new FrameDecoder(frame);
    this.#decoder = this.#tagged = new FrameDecoder(
      frame,
      idField(correlation, requestOffset ?? responseOffset),
    );
    this.#read();
  }

  async #read(): Promise<void> {
    // Not into a decoder's own room: there may be another decoder when the bytes
    // have come.
    const room = new Uint8Array(64 * 1024);
    for (;;) {
      while (this.#paused) await immediate();
      let n: number | null;
      try {
        n = await this.#transport.read(room);
      } catch {
        // It was closed.
        break;
      }
      if (n === null) break;
      // What this throws, a bad frame or a damaged request, fails the test.
      this.#decoder.push(room.subarray(0, n));
      for (
        let payload = this.#decoder.decode();
        payload !== null;
        payload = this.#decoder.decode()
      ) {
        const request = { id: this.#decoder.id, text: textOf(payload) };
        this.requests.push(request);
        this.#queue.push(request);
        this.onRequest?.(request);
      }
      this.#waiting?.();
    }
    this.ended = true;
    if (this.endsBack) this.end();
    this.#waiting?.();
  }

  /** Reads no more. */
  pause(): void {
    this.#paused = true;
  }

  /** Reads on. */
  resume(): void {
    this.#paused = false;
  }

  /** Frames carry no ids for now, as in a handshake. */
  set skipIds(skip: boolean) {
    const decoder = skip ? this.#plain : this.#tagged;
    decoder.push(this.#decoder.rest());
    this.#decoder = decoder;
  }

  /** The next request; it must come. */
  async receive(): Promise<Arrived> {
    while (this.#queue.length === 0) {
      if (this.ended) throw new Error("The client has closed");
      await new Promise<void>((resolve) => this.#waiting = resolve);
    }
    return this.#queue.shift()!;
  }

  /** Waits for requests with these texts, in this order; returns their ids. */
  async expect(...texts: string[]): Promise<number[]> {
    const requests: Arrived[] = [];
    while (requests.length < texts.length) requests.push(await this.receive());
    assertEquals(requests.map(({ text }) => text), texts);
    return requests.map(({ id }) => id);
  }

  /** Waits until the client has closed. */
  async closed(): Promise<void> {
    while (!this.ended) {
      await new Promise<void>((resolve) => this.#waiting = resolve);
    }
  }

  /** Writes a frame. */
  send(text: string | Uint8Array, id?: number): Promise<void> {
    const { frame, correlation } = this.#wire;
    const { requestOffset, responseOffset } = correlation ?? {};
    const encoder = new FrameEncoder(
      frame,
      idField(correlation, responseOffset ?? requestOffset),
    );
    encoder.push(typeof text === "string" ? ascii(text) : text, id);
    return this.write(encoder.chunk()!);
  }

  /** Writes a frame without an id, as in a handshake. */
  sendPlain(text: string): Promise<void> {
    return this.write(encodeFrame(ascii(text), this.#wire.frame));
  }

  async write(bytes: Uint8Array): Promise<void> {
    bytes = bytes.slice();
    while (bytes.length > 0) {
      bytes = bytes.subarray(await this.#transport.write(bytes));
    }
  }

  /** Closes the writing side: the client reads its end. */
  end(): void {
    this.#transport.closeWrite?.();
  }

  close(): void {
    this.#transport.close();
  }
}

/** A server in memory: each dial gives it a connection. */
export class MemoryServer {
  readonly peers: MemoryPeer[] = [];
  readonly #wire: Wire;
  /** Called with each connection as it is dialled. */
  onPeer: ((peer: MemoryPeer, index: number) => void) | undefined;

  constructor(wire: Wire = {}) {
    this.#wire = wire;
  }

  /** The client's option `connect`. */
  readonly connect = (): Transport => {
    const [here, there] = transportPair();
    const peer = new MemoryPeer(there, this.#wire);
    this.peers.push(peer);
    this.onPeer?.(peer, this.peers.length - 1);
    return here;
  };

  /** The connection dialled as the n-th, once there is one. */
  async peer(index: number): Promise<MemoryPeer> {
    while (this.peers.length <= index) {
      await immediate();
    }
    return this.peers[index]!;
  }
}
