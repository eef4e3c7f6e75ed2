// What is said on a connection before its first request.
//
// Knows: frames without ids on a transport, and who waits to read one. Must not
// know: what is said, how long it may take, and what comes after it.
//
// One read of the transport may still be under way when the handshake is over,
// where the callback asked for a frame and did not wait for it. A read cannot be
// taken back, so whoever goes on with the connection gets that read as well.

import { ignore } from "./_callbacks.ts";
import { namedError } from "./_errors.ts";
import { countEmpty } from "./_progress.ts";
import {
  FrameDecoder,
  FrameError,
  type FrameOptions,
  FrameWriter,
  type HandshakeConnection,
  type Transport,
  type TransportAddress,
} from "./codec.ts";

type Frame = Uint8Array<ArrayBuffer>;

/** What a handshake has read and not used: the beginning of what comes next. */
export interface ReadAhead {
  /** Bytes that were read. */
  readonly bytes: Frame;
  /** A read that is under way: the bytes that come next, or `null` at the end
   * of the stream. Nobody else may read before it has settled. */
  readonly pending: Promise<Frame | null> | undefined;
}

/** What a handshake knows of its connection. */
interface HandshakeTerms {
  readonly signal: AbortSignal;
  readonly remoteAddr?: TransportAddress | undefined;
  readonly localAddr?: TransportAddress | undefined;
  /** Bytes that were read before the handshake, as behind a PROXY header. */
  readonly bytes?: Uint8Array | undefined;
}

interface Waiter {
  resolve(frame: Frame): void;
  reject(error: unknown): void;
}

/** One side's view on a connection during its handshake. */
export class Handshake implements HandshakeConnection {
  readonly remoteAddr?: TransportAddress;
  readonly localAddr?: TransportAddress;
  readonly signal: AbortSignal;
  readonly #transport: Transport;
  readonly #decoder: FrameDecoder;
  readonly #writer: FrameWriter;
  /** Calls of `read` that wait, in order. */
  #waiters: Waiter[] = [];
  /** A read of the transport is under way, for all of them. */
  #reading = false;
  #failure: { error: unknown } | undefined;
  /** Set once the handshake is over while a read is under way. */
  #handOver: ((bytes: Frame | null) => void) | undefined;
  #handOverFailed: ((error: unknown) => void) | undefined;
  /** The last write, with which all before it have settled. */
  #written: Promise<void> = Promise.resolve();
  #over = false;

  constructor(
    transport: Transport,
    frame: FrameOptions,
    { signal, remoteAddr, localAddr, bytes }: HandshakeTerms,
  ) {
    this.#transport = transport;
    this.#decoder = new FrameDecoder(frame);
    this.#writer = new FrameWriter(transport, frame);
    this.signal = signal;
    remoteAddr ??= transport.remoteAddr;
    localAddr ??= transport.localAddr;
    if (remoteAddr !== undefined) this.remoteAddr = remoteAddr;
    if (localAddr !== undefined) this.localAddr = localAddr;
    if (bytes !== undefined && bytes.length > 0) this.#decoder.push(bytes);
  }

  read(): Promise<Frame> {
    const { promise, resolve, reject } = Promise.withResolvers<Frame>();
    // Who asks for a frame and does not wait for it need not handle its failure.
    promise.catch(ignore);
    this.#waiters.push({ resolve, reject });
    this.#serve();
    return promise;
  }

  write(payload: Uint8Array): Promise<void> {
    if (this.#over) return Promise.reject(over());
    const written = this.#writer.write(payload);
    written.catch(ignore);
    const before = this.#written;
    this.#written = written.catch((error) => {
      // A payload that cannot be framed fails alone: it is its writer's to
      // handle, and says nothing of the connection.
      if (error instanceof FrameError || error instanceof TypeError) {
        return before;
      }
      throw error;
    });
    this.#written.catch(ignore);
    return written;
  }

  /**
   * Ends the handshake: what was written has left when this resolves, and
   * nothing more can be read or written through it.
   *
   * @returns What was read ahead.
   * @throws What a write failed with, or {@linkcode FrameError} if what was read
   * is no frame.
   */
  async finish(): Promise<ReadAhead> {
    this.#over = true;
    this.#rejectAll(over());
    const pending = this.#reading
      ? new Promise<Frame | null>((resolve, reject) => {
        this.#handOver = resolve;
        this.#handOverFailed = reject;
      })
      : undefined;
    pending?.catch(ignore);
    await this.#written;
    const failure = this.#failure?.error;
    // Nobody can tell where the next frame would begin.
    if (failure instanceof FrameError) throw failure;
    return { bytes: this.#decoder.rest(), pending };
  }

  /** Gives frames to those who wait, for as long as there are both. */
  #serve(): void {
    if (this.#over) return this.#rejectAll(over());
    try {
      while (this.#waiters.length > 0) {
        if (this.#failure !== undefined) throw this.#failure.error;
        const frame = this.#decoder.decode();
        if (frame === null) {
          if (!this.#reading) this.#read();
          return;
        }
        this.#waiters.shift()!.resolve(frame);
      }
    } catch (error) {
      this.#failure = { error };
      this.#rejectAll(error);
    }
  }

  async #read(): Promise<void> {
    this.#reading = true;
    try {
      for (let empty = 0, n: number | null = 0; n === 0;) {
        const room = this.#decoder.space();
        n = await this.#transport.read(room);
        if (n === null) {
          if (this.#over) return this.#handOver?.(null);
          throw namedError(
            "UnexpectedEof",
            "Connection ended during the handshake",
          );
        }
        empty = countEmpty("read", n, empty);
        if (this.#over) return this.#handOver?.(room.subarray(0, n));
        this.#decoder.advance(n);
      }
    } catch (error) {
      this.#failure = { error };
      this.#handOverFailed?.(error);
    }
    this.#reading = false;
    this.#serve();
  }

  #rejectAll(error: unknown): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.reject(error);
  }
}

function over(): Error {
  return new Error("The handshake is over");
}
