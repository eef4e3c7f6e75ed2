// One connection of the server: reads frames, has them handled, and writes the
// responses in the order of the requests.
//
// Knows: a transport, the codec, the limits of one connection, and a handler as
// a function. Must not know: where the connection came from, which others there
// are, and what is done about them all.

import {
  FrameDecoder,
  FrameEncoder,
  type FrameOptions,
  type Transport,
} from "./codec.ts";
import { ignore, isThenable } from "./_callbacks.ts";
import { isDisconnect, namedError } from "./_errors.ts";
import { countEmpty } from "./_progress.ts";
import { ConnectionContext } from "./_server_context.ts";
import { startTimer, type Timer, unrefTimer } from "./_timers.ts";

/** Bytes of responses that may wait to be written before a connection takes
 * no more requests: enough to keep a fast reader busy, and what a slow one
 * can cost. */
const MAX_OUTGOING = 256 * 1024;

/** Bytes that may be read ahead while handlers are busy. Reading on is how a
 * reset is noticed while they are. */
const MAX_READ_AHEAD = 64 * 1024;

/** How long a connection that we end waits for the other side to end it too.
 * Closing over unread bytes would reset the connection, and a reset may
 * overtake the responses before it. */
const LINGER = 500;

/** Turns of the microtask queue without a new response before what has been
 * answered is written: handlers that are `async` but wait for nothing settle
 * within so many, and their responses then leave in one write. */
const FLUSH_PATIENCE = 10;

/** Where bytes that nobody wants are read to; shared, since nobody looks. */
const SCRAP: Uint8Array<ArrayBuffer> = new Uint8Array(4096);

/** What is set for a connection; all connections of a server share it. */
export interface ConnectionSettings {
  /** The layout of the frames. */
  readonly frame: FrameOptions;
  /** Makes a response, or a promise of one. */
  readonly handler: (
    payload: Uint8Array<ArrayBuffer>,
    context: ConnectionContext,
  ) => unknown;
  /** Handlers at once. */
  readonly concurrency: number;
  /** Limits in milliseconds; 0 is none. */
  readonly idleTimeout: number;
  readonly readTimeout: number;
  readonly writeTimeout: number;
  /** May give a response in place of a failed handler's. */
  readonly onError:
    | ((error: unknown, context: ConnectionContext) => unknown)
    | undefined;
  /** Told of an error that nothing is answered to. It never throws. */
  report(error: unknown, context: ConnectionContext | undefined): void;
}

/** Figures that connections count; all connections of a server share them. */
export interface ConnectionStats {
  requests: number;
  inFlight: number;
  bytesIn: number;
  bytesOut: number;
  errors: number;
}

/** A request whose response is not yet in the encoder. */
interface Slot {
  /** A response, nothing, or {@linkcode END}; undefined until settled. */
  result: unknown;
  settled: boolean;
  next: Slot | null;
}

/** In place of a response: the connection ends here. */
const END: unique symbol = Symbol("end");

/**
 * One connection. Three things go on at once:
 *
 * ```text
 * read loop    read -> decoder -> take frames; pauses while its frames cannot
 *              be taken and enough has been read ahead
 * slots        requests that wait for a promise, in order; a settled one at
 *              the front moves its response to the encoder
 * flush        encoder -> write, one at a time
 *
 * state        reads   takes frames   left by
 * open         yes     yes            end of stream, bad frame, handler error,
 *                                     drain()
 * ending       no      if drained     last response written
 * lingering    away    no             end of stream, LINGER over
 * closed       no      no
 * ```
 */
export class ServerConnection {
  readonly context: ConnectionContext;
  readonly #conn: Transport;
  readonly #settings: ConnectionSettings;
  readonly #stats: ConnectionStats;
  readonly #decoder: FrameDecoder;
  readonly #encoder: FrameEncoder;

  #state: "open" | "ending" | "lingering" | "closed" = "open";
  /** There is nothing to linger for: the stream has ended, or nothing was
   * going on. */
  #quiet = false;
  /** Frames are still taken from the decoder. */
  #taking = true;
  /** A whole frame may be in the decoder that could not be taken. */
  #blocked = false;
  /** What comes before the first frame is under way, with a limit of its own. */
  #greeting = false;
  /** Wakes the read loop from its pause. */
  #wake: (() => void) | null = null;
  /** Limits the handshake, and later the lingering. */
  #timer: Timer | undefined;

  /** Slots in request order. */
  #first: Slot | null = null;
  #last: Slot | null = null;
  #slots = 0;
  /** Bytes of settled responses that wait behind an unsettled slot. */
  #heldBack = 0;

  #writing = false;
  #flushQueued = false;
  /** Counts what was moved to the encoder, for the flush's patience. */
  #responses = 0;

  // What sweeps compare: a counter that moves with progress, what it was when
  // the wait was first seen, and when that was.
  #waiting: "frame" | "request" | null = null;
  #frames = 0;
  #framesSeen = 0;
  #waitingSince = 0;
  #written = 0;
  #writtenSeen = 0;
  #writingSince = -1;

  /** Told once, when the connection has ended. A function, and no promise that
   * somebody awaits: with the read loop it would be a third of what an idle
   * connection holds. */
  readonly #onEnd: (connection: ServerConnection) => void;

  constructor(
    conn: Transport,
    settings: ConnectionSettings,
    stats: ConnectionStats,
    onEnd: (connection: ServerConnection) => void,
  ) {
    this.#conn = conn;
    this.#onEnd = onEnd;
    this.#settings = settings;
    this.#stats = stats;
    this.context = new ConnectionContext(conn);
    this.#decoder = new FrameDecoder(settings.frame);
    this.#encoder = new FrameEncoder(settings.frame);
  }

  /**
   * Begins to serve.
   *
   * @param prelude What comes before the first frame; it resolves to bytes of
   * frames that it has read already.
   * @param timeout How long that may take, in milliseconds; 0 is for ever.
   */
  serve(prelude?: Promise<Uint8Array | void>, timeout = 0): void {
    if (prelude === undefined) this.#readLoop();
    else this.#greet(prelude, timeout);
  }

  async #greet(
    prelude: Promise<Uint8Array | void>,
    timeout: number,
  ): Promise<void> {
    try {
      this.#greeting = true;
      if (timeout > 0) {
        this.#timer = startTimer(() => {
          this.fail(
            namedError(
              "TimedOut",
              `Handshake was not complete within ${timeout} ms`,
            ),
          );
        }, timeout);
        // The connection keeps the process alive, if it is to.
        unrefTimer(this.#timer);
      }
      const bytes = await prelude;
      clearTimeout(this.#timer);
      this.#greeting = false;
      if (bytes !== undefined && bytes.length > 0) {
        this.#stats.bytesIn += bytes.length;
        this.#decoder.push(bytes);
        this.#takeFrames();
      }
    } catch (error) {
      return this.fail(error);
    }
    this.#readLoop();
  }

  async #readLoop(): Promise<void> {
    try {
      for (let empty = 0;;) {
        while (this.#mustPause()) {
          await new Promise<void>((resolve) => this.#wake = resolve);
        }
        if (this.#state === "closed") return;
        const n = await this.#conn.read(
          this.#state === "open" ? this.#decoder.space() : SCRAP,
        );
        if (n === null) break;
        empty = countEmpty("read", n, empty);
        // A read may have been under way when no more frames were to be taken.
        if (this.#state === "lingering" || !this.#taking) continue;
        this.#decoder.advance(n);
        this.#stats.bytesIn += n;
        this.#takeFrames();
      }
    } catch (error) {
      return this.fail(error);
    }
    // An end inside a frame is a disconnect, as one between frames is. The
    // requests before it are answered: the other side may have closed only
    // its writing side. A handler that asks may give up.
    this.#quiet = true;
    if (this.#state === "lingering") return this.destroy();
    this.context.abort();
    this.#end();
  }

  #mustPause(): boolean {
    if (this.#state === "ending") return true;
    return this.#state === "open" && this.#blocked &&
      (this.#encoder.buffered >= MAX_OUTGOING ||
        this.#decoder.buffered >= MAX_READ_AHEAD);
  }

  /** Room for one more request: in count, and in bytes of responses. */
  #canTake(): boolean {
    return this.#slots < this.#settings.concurrency &&
      this.#encoder.buffered + this.#heldBack < MAX_OUTGOING;
  }

  /** Handles the whole frames in the decoder, as many as there is room for. */
  #takeFrames(): void {
    try {
      while (this.#taking) {
        this.#blocked = !this.#canTake();
        if (this.#blocked) break;
        const frame = this.#decoder.decode();
        if (frame === null) break;
        this.#frames++;
        this.#handle(frame);
      }
    } catch (error) {
      // A bad frame; the requests before it are answered.
      this.#stats.errors++;
      this.#settings.report(error, this.context);
      this.#taking = false;
      this.#end();
    }
    // While handlers are in progress, others may settle in this very turn.
    if (this.#first === null) this.#flush();
    else this.#flushSoon();
  }

  #handle(frame: Uint8Array<ArrayBuffer>): void {
    this.#stats.requests++;
    this.#stats.inFlight++;
    let result: unknown;
    try {
      const { handler } = this.#settings;
      result = handler(frame, this.context);
      if (result instanceof Uint8Array || !isThenable(result)) {
        // Nothing to wait for; with nobody before it: no slot, no turn.
        const nothing = result === undefined || result === null;
        if (this.#first === null) {
          if (!nothing) this.#encoder.push(result as Uint8Array);
          this.#stats.inFlight--;
          return;
        }
        if (!nothing) this.#encoder.measure(result as Uint8Array);
      }
    } catch (error) {
      result = this.#recover(error);
    }
    const slot: Slot = { result: undefined, settled: false, next: null };
    if (this.#last === null) this.#first = slot;
    else this.#last.next = slot;
    this.#last = slot;
    this.#slots++;
    if (isThenable(result)) this.#await(slot, result);
    else this.#settle(slot, result);
  }

  async #await(slot: Slot, pending: PromiseLike<unknown>): Promise<void> {
    let result: unknown;
    try {
      result = await pending;
      if (result !== undefined && result !== null && result !== END) {
        this.#encoder.measure(result as Uint8Array);
      }
    } catch (error) {
      result = await this.#recover(error);
    }
    try {
      this.#settle(slot, result);
      this.#takeFrames();
      this.#resume();
    } catch (error) {
      // A response was judged good and changed while it waited for others.
      this.fail(error);
    }
  }

  /** Asks `onError` for a response in place of a failed handler's. It never
   * throws or rejects. */
  #recover(error: unknown): unknown {
    // A handler that gave up because its connection had gone has not failed.
    if (this.context.abortedWith(error)) return END;
    this.#stats.errors++;
    const usable = (answer: unknown) => {
      try {
        this.#encoder.measure(answer as Uint8Array);
        return answer;
      } catch {
        return END;
      }
    };
    try {
      const { onError } = this.#settings;
      const answer = onError?.(error, this.context);
      return isThenable(answer)
        ? Promise.resolve(answer).then(usable, () => END)
        : usable(answer);
    } catch {
      // There is nobody left to tell.
      return END;
    }
  }

  #settle(slot: Slot, result: unknown): void {
    this.#stats.inFlight--;
    slot.settled = true;
    slot.result = result;
    // What comes after a failure has no response: it is not to be handled.
    if (result === END) this.#taking = false;
    if (result instanceof Uint8Array) this.#heldBack += result.length;
    while (this.#first !== null && this.#first.settled) {
      const { result, next } = this.#first;
      this.#first = next;
      if (next === null) this.#last = null;
      this.#slots--;
      if (result instanceof Uint8Array) {
        this.#heldBack -= result.length;
        this.#encoder.push(result);
        this.#responses++;
      } else if (result === END) {
        // What comes after it is not answered, though it may be in progress.
        this.#first = this.#last = null;
        this.#end();
      }
    }
  }

  /** Something was done that the read loop or the end may wait for. */
  #resume(): void {
    if (!this.#mustPause()) this.#wakeReader();
    this.#closeIfDone();
  }

  #wakeReader(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** Writes once no handler has settled for some turns of the microtasks. */
  #flushSoon(): void {
    if (
      this.#flushQueued || this.#writing || this.#encoder.buffered === 0
    ) return;
    this.#flushQueued = true;
    let patience = FLUSH_PATIENCE;
    let seen = this.#responses;
    const turn = () => {
      if (seen !== this.#responses) {
        seen = this.#responses;
        patience = FLUSH_PATIENCE;
      } else if (--patience === 0) {
        this.#flushQueued = false;
        return this.#flush();
      }
      queueMicrotask(turn);
    };
    queueMicrotask(turn);
  }

  #flush(): void {
    if (this.#writing || this.#encoder.buffered === 0) return;
    this.#writing = true;
    // Not in this very moment: the reads of other connections that came in the
    // same turn of the event loop are then handled before the first write, so
    // that writes follow each other, and peers do not wake in between. That is
    // worth a tenth of the throughput.
    queueMicrotask(() => this.#write());
  }

  async #write(): Promise<void> {
    try {
      let empty = 0;
      for (
        let chunk = this.#encoder.chunk();
        chunk !== null && this.#state !== "closed";
        chunk = this.#encoder.chunk()
      ) {
        const n = await this.#conn.write(chunk);
        this.#encoder.advance(n);
        this.#written += n;
        this.#stats.bytesOut += n;
        empty = countEmpty("write", n, empty);
        if (this.#blocked) this.#takeFrames();
        this.#resume();
      }
      this.#writing = false;
      this.#closeIfDone();
    } catch (error) {
      this.fail(error);
    }
  }

  /**
   * Ends gracefully: takes no more bytes, answers what has come whole.
   *
   * @param quiet Nothing has come of late: an idle connection is just closed.
   */
  drain(quiet: boolean): void {
    if (
      this.#greeting ||
      (quiet && this.#first === null && !this.#blocked &&
        this.#decoder.buffered === 0 && this.#encoder.buffered === 0)
    ) {
      this.#quiet = true;
    }
    this.#end();
  }

  #end(): void {
    if (this.#state === "open") this.#state = "ending";
    this.#closeIfDone();
  }

  /** Half-closes once the last response has been written, then lingers. */
  #closeIfDone(): void {
    if (
      this.#state !== "ending" || this.#first !== null ||
      (this.#taking && this.#blocked) || this.#encoder.buffered > 0 ||
      this.#writing
    ) return;
    if (this.#quiet || this.#conn.closeWrite === undefined) {
      return this.destroy();
    }
    this.#state = "lingering";
    this.#timer = startTimer(() => this.destroy(), LINGER);
    this.#halfClose();
    this.#wakeReader();
  }

  async #halfClose(): Promise<void> {
    try {
      await this.#conn.closeWrite?.();
    } catch {
      this.destroy();
    }
  }

  /** Ends at once after an error of the transport. */
  fail(error: unknown): void {
    if (this.#state === "closed") return;
    if (!isDisconnect(error)) {
      this.#stats.errors++;
      this.#settings.report(error, this.context);
    }
    this.destroy(error);
  }

  /** Ends at once. */
  destroy(reason?: unknown): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#taking = false;
    this.#first = this.#last = null;
    clearTimeout(this.#timer);
    try {
      const closing: unknown = this.#conn.close();
      if (isThenable(closing)) Promise.resolve(closing).catch(ignore);
    } catch {
      // Closed already, which is what is wanted.
    }
    this.#wakeReader();
    this.context.abort(reason);
    this.#onEnd(this);
  }

  /** Cuts what has waited too long, and notes what it waits for now. */
  sweep(now: number): void {
    const { idleTimeout, readTimeout, writeTimeout } = this.#settings;
    if (!this.#writing) {
      this.#writingSince = -1;
    } else if (
      this.#writingSince < 0 || this.#written !== this.#writtenSeen
    ) {
      this.#writingSince = now;
      this.#writtenSeen = this.#written;
    } else if (writeTimeout > 0 && now - this.#writingSince >= writeTimeout) {
      return this.fail(
        namedError("TimedOut", `Write made no progress for ${writeTimeout} ms`),
      );
    }
    const waiting = this.#state !== "open" || !this.#taking || this.#blocked ||
        this.#greeting
      ? null
      : this.#decoder.buffered > 0
      ? "frame"
      : this.#first === null && !this.#writing
      ? "request"
      : null;
    if (waiting !== this.#waiting || this.#frames !== this.#framesSeen) {
      this.#waiting = waiting;
      this.#framesSeen = this.#frames;
      this.#waitingSince = now;
      return;
    }
    const waited = now - this.#waitingSince;
    if (waiting === "frame" && readTimeout > 0 && waited >= readTimeout) {
      this.fail(
        namedError(
          "TimedOut",
          `Frame was not complete within ${readTimeout} ms`,
        ),
      );
    } else if (
      waiting === "request" && idleTimeout > 0 && waited >= idleTimeout
    ) {
      this.destroy(
        namedError("TimedOut", `Connection was idle for ${idleTimeout} ms`),
      );
    }
  }

  setRef(ref: boolean): void {
    if (ref) this.#conn.ref?.();
    else this.#conn.unref?.();
  }
}
