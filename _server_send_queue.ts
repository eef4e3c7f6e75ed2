// What leaves a connection: frames go in at one end, and bytes leave at the
// other, one write at a time.
//
// Knows: an encoder, the writing side of a transport, and who waits until a push
// has been written. Must not know: which frame answers what, and what else the
// connection does.

import { ignore } from "./_callbacks.ts";
import { countEmpty } from "./_progress.ts";
import { Stillness } from "./_stillness.ts";
import type { FrameEncoder, FrameSink } from "./codec.ts";

/** Turns of the microtask queue without a new frame before what is there is
 * written: handlers that are `async` but wait for nothing settle within so many,
 * and their responses then leave in one write. */
const FLUSH_PATIENCE = 10;

/** Bytes of pushes that may wait to be written; at that, one more is refused. */
const MAX_PUSHED = 256 * 1024;

/** What is told of writes. */
interface Owner {
  /** A write has taken so many bytes: there is room again. */
  written(n: number): void;
  /** All is written. */
  drained(): void;
  /** A write has failed. */
  writeFailed(error: unknown): void;
}

/** A push that is not yet written. */
interface Push {
  /** Position in the stream behind its frame. */
  readonly end: number;
  readonly length: number;
  resolve(): void;
  reject(error: unknown): void;
}

/** The frames of one connection that are to be written. */
export class SendQueue {
  readonly #sink: FrameSink;
  readonly #encoder: FrameEncoder;
  readonly #owner: Owner;
  /** Nothing is written before it is opened, and after it is stopped. */
  #open = false;
  #stopped = false;
  #writing = false;
  #flushQueued = false;
  /** Bytes that writes have taken. */
  #written = 0;
  /** Pushes in order; undefined until there is one, and none are taken once the
   * last frame is in the encoder. */
  #pushes: Push[] | undefined;
  #pushed = 0;
  #refusesPushes = false;

  /** Of the write that looks have found under way, if they have. */
  #stillness: Stillness | undefined;

  constructor(sink: FrameSink, encoder: FrameEncoder, owner: Owner) {
    this.#sink = sink;
    this.#encoder = encoder;
    this.#owner = owner;
  }

  /** Whether a write is under way, or about to begin. */
  get writing(): boolean {
    return this.#writing;
  }

  /** Whether nothing will be written but what is pushed from now on. */
  get empty(): boolean {
    return !this.#writing && (this.#stopped || this.#encoder.buffered === 0);
  }

  /** Lets writes begin. */
  open(): void {
    this.#open = true;
    this.flush();
  }

  /** Writes what is there. */
  flush(): void {
    if (
      this.#writing || !this.#open || this.#stopped ||
      this.#encoder.buffered === 0
    ) return;
    this.#writing = true;
    // Not in this very moment: the reads of other connections that came in the
    // same turn of the event loop are then handled before the first write, so
    // that writes follow each other, and peers do not wake in between. That is
    // worth a tenth of the throughput.
    queueMicrotask(() => this.#write());
  }

  /** Writes once no frame has come for some turns of the microtasks. */
  flushSoon(): void {
    if (
      this.#flushQueued || this.#writing || this.#encoder.buffered === 0
    ) return;
    this.#flushQueued = true;
    let patience = FLUSH_PATIENCE;
    let seen = this.#encoder.buffered;
    const turn = () => {
      if (seen !== this.#encoder.buffered) {
        seen = this.#encoder.buffered;
        patience = FLUSH_PATIENCE;
      } else if (--patience === 0) {
        this.#flushQueued = false;
        return this.flush();
      }
      queueMicrotask(turn);
    };
    queueMicrotask(turn);
  }

  /**
   * Queues a frame that answers nothing.
   *
   * @returns Once it is written. A rejection that nobody handles is not
   * reported.
   */
  push(payload: Uint8Array): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(ignore);
    try {
      if (this.#refusesPushes) throw ended();
      if (this.#pushed >= MAX_PUSHED) {
        throw new Error(
          `Pushes of ${this.#pushed} bytes are not written yet; the limit is ${MAX_PUSHED}`,
        );
      }
      const length = this.#encoder.push(payload);
      this.#pushed += length;
      const end = this.#written + this.#encoder.buffered;
      this.#pushes ??= [];
      this.#pushes.push({ end, length, resolve, reject });
      this.flushSoon();
    } catch (error) {
      reject(error);
    }
    return promise;
  }

  /** Takes no more pushes: the last frame is in the encoder. */
  refusePushes(): void {
    this.#refusesPushes = true;
  }

  /** Writes no more: what is not written will never be. */
  stop(): void {
    this.#stopped = this.#refusesPushes = true;
    const pushes = this.#pushes;
    this.#pushes = undefined;
    if (pushes === undefined) return;
    for (const { reject } of pushes) reject(ended());
  }

  /** How long a write has made no progress, as far as looks have seen, in
   * milliseconds. */
  stalledFor(now: number): number {
    if (!this.#writing) {
      this.#stillness = undefined;
      return 0;
    }
    this.#stillness ??= new Stillness();
    return this.#stillness.look(now, "write", this.#written);
  }

  async #write(): Promise<void> {
    const encoder = this.#encoder;
    try {
      let empty = 0;
      for (
        let chunk = encoder.chunk();
        chunk !== null && !this.#stopped;
        chunk = encoder.chunk()
      ) {
        const n = await this.#sink.write(chunk);
        encoder.advance(n);
        this.#written += n;
        if (this.#pushes !== undefined) this.#settlePushes();
        empty = countEmpty("write", n, empty);
        this.#owner.written(n);
      }
      this.#writing = false;
      this.#owner.drained();
    } catch (error) {
      this.#owner.writeFailed(error);
    }
  }

  #settlePushes(): void {
    const pushes = this.#pushes!;
    let count = 0;
    for (const { end, length, resolve } of pushes) {
      if (end > this.#written) break;
      this.#pushed -= length;
      resolve();
      count++;
    }
    if (count === pushes.length) this.#pushes = undefined;
    else if (count > 0) pushes.splice(0, count);
  }
}

function ended(): Error {
  return new Error("The connection has ended");
}
