// One connection of the server: reads frames, has them handled, and ends.
//
// Knows: a transport, the codec, the limits of one connection, and a handler as
// a function. Must not know: where the connection came from, which others there
// are, and what is done about them all.

import { UNCOUNTED } from "./_budget.ts";
import { callDetached, ignore, isThenable } from "./_callbacks.ts";
import { isDisconnect, namedError } from "./_errors.ts";
import type { ReadAhead } from "./_handshake.ts";
import { countEmpty, READS_A_TURN } from "./_progress.ts";
import { freeMemory } from "./_read_buffer.ts";
import { ConnectionContext } from "./_server_context.ts";
import { CorrelatedResponses } from "./_server_correlated.ts";
import { greet, hasGreeting } from "./_server_greeting.ts";
import {
  ConnectionMemory,
  MeteredTransport,
  ResponseEncoder,
} from "./_server_memory.ts";
import { OrderedResponses } from "./_server_ordered.ts";
import { checkResult, FAILED, recover } from "./_server_result.ts";
import { SendQueue } from "./_server_send_queue.ts";
import type {
  ConnectionSettings,
  ConnectionStats,
  Reason,
} from "./_server_settings.ts";
import { Stillness } from "./_stillness.ts";
import {
  nextRealTurn,
  refTimer,
  startTimer,
  type Timer,
  unrefTimer,
} from "./_timers.ts";
import { closeTransport } from "./_transports.ts";
import { FrameDecoder, type FrameEncoder, type Transport } from "./codec.ts";

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

/** The same behind a goaway where `shutdownTimeout` sets no limit: a peer that
 * has gone in silence would hold its connection for ever. */
const LONGEST_LINGER = 10_000;

/** Turns of the event loop in which what has arrived is read. A timer may be due
 * before the reads of its turn: only the second turn is behind them. */
const DRAIN_TURNS = 2;

/** Where bytes that nobody wants are read to; shared, since nobody looks. */
const SCRAP: Uint8Array<ArrayBuffer> = new Uint8Array(4096);

const EMPTY = new Uint8Array(0);

/** The responses of one connection, ordered or correlated. A ticket stands for
 * a request that waits for its response. */
interface Responses<Ticket> {
  readonly pending: number;
  readonly heldBack: number;
  answer(response: Uint8Array | undefined, id: number): void;
  open(id: number): Ticket;
  judge(response: Uint8Array | undefined): void;
  settle(ticket: Ticket, response: Uint8Array | undefined): void;
  fail(ticket: Ticket): boolean;
  clear(): void;
}

/**
 * One connection. What goes on:
 *
 * ```text
 * read loop    read -> decoder -> take frames; pauses while its frames cannot
 *              be taken and enough has been read ahead
 * responses    requests that wait for a promise; each moves its response to the
 *              encoder, in order or as it comes
 * send queue   encoder -> write, one at a time
 *
 * phase      reads    takes frames      left by
 * greeting   its own  no                the end of the greeting
 * open       yes      yes               end of stream, bad frame, handler's
 *                                       failure, drain, context.close, idle
 * draining   away     those read so far nothing left to take or to answer
 * answering  away     no                nothing left to answer
 * flushing   away     no                the last byte is written
 * lingering  away     no                end of stream, limit
 * closed     no       no
 * ```
 *
 * To read away is to read and forget: the end of the stream and a reset are
 * noticed, and a peer that writes before it reads is not stuck.
 *
 * Phases are only ever left downwards. Whatever calls a user's callback (a
 * handler, `onError`, a hook, an abort listener) may find a later phase when
 * the callback returns.
 */
export class ServerConnection {
  readonly context: ConnectionContext;
  readonly #conn: Transport;
  readonly #settings: ConnectionSettings;
  readonly #stats: ConnectionStats;
  readonly #decoder: FrameDecoder;
  readonly #encoder: ResponseEncoder;
  readonly #responses: Responses<unknown>;
  readonly #queue: SendQueue;
  /** Told once, when the connection has ended. A function, and no promise that
   * somebody awaits: with the read loop it would be a third of what an idle
   * connection holds. */
  readonly #onEnd: (connection: ServerConnection) => void;

  #phase:
    | "greeting"
    | "open"
    | "draining"
    | "answering"
    | "flushing"
    | "lingering"
    | "closed" = "greeting";
  /** Why it ends; set once it is known. */
  #reason: Reason | undefined;
  /** The end that is due once the greeting is over. */
  #dueEnd: "shutdown" | "close" | undefined;
  /** Whether the goaway is true: nothing that was taken stays unanswered. */
  #mayGoAway = false;
  /** The peer has ended its stream. */
  #peerEnded = false;
  /** A whole frame may be in the decoder that could not be taken. */
  #blocked = false;
  /** Frames are being taken: a handler may run just now, whose response is not
   * counted yet. */
  #taking = false;
  /** Whether `connectionOpen` was told. */
  #opened = false;
  /** A frame that was read and may not begin yet, for want of memory. */
  #kept: Uint8Array<ArrayBuffer> | undefined;
  /** What is read through while it is greeted. */
  #metered: MeteredTransport | undefined;
  /** What it holds of the memory that all share; most never need one. */
  #memory: ConnectionMemory | undefined;
  /** Wakes the read loop from its pause. */
  #wake: (() => void) | null = null;
  /** Limits the greeting, delays a drain, and limits the lingering. */
  #timer: Timer | undefined;
  /** Whether it keeps the process alive. */
  #refed = true;

  /** What its peer is waited for, as sweeps see it: counted frames are progress. */
  readonly #stillness = new Stillness();
  #frames = 0;

  constructor(
    conn: Transport,
    settings: ConnectionSettings,
    stats: ConnectionStats,
    onEnd: (connection: ServerConnection) => void,
  ) {
    const { frame, correlation, budget } = settings;
    this.#conn = conn;
    this.#onEnd = onEnd;
    this.#settings = settings;
    this.#stats = stats;
    this.context = new ConnectionContext(conn, this);
    this.#decoder = new FrameDecoder(frame, correlation?.request);
    this.#encoder = new ResponseEncoder(budget, frame, correlation?.response);
    this.#responses = correlation === undefined
      ? new OrderedResponses(this.#encoder)
      : new CorrelatedResponses(this.#encoder, correlation);
    this.#queue = new SendQueue(conn, this.#encoder, this);
  }

  // ---- The beginning

  /**
   * Begins to serve.
   *
   * @param secured Settles with the TLS handshake, if there is one.
   */
  serve(secured?: Promise<unknown>): void {
    const { opened } = this.#settings;
    this.#opened = true;
    opened?.(this.context);
    if (this.#phase !== "greeting" || this.#dueEnd !== undefined) {
      // The hook has ended it.
      secured?.catch(ignore);
      const isGreeted = secured === undefined && !hasGreeting(this.#settings);
      if (this.#phase === "greeting") this.#beginRequests(undefined, isGreeted);
    } else if (secured !== undefined || hasGreeting(this.#settings)) {
      this.#greet(secured);
    } else {
      this.#beginRequests(undefined, true);
    }
  }

  async #greet(secured: Promise<unknown> | undefined): Promise<void> {
    const { handshakeTimeout } = this.#settings;
    if (handshakeTimeout > 0) {
      this.#timer = startTimer(() => {
        this.#fail(
          namedError(
            "TimedOut",
            `Handshake was not complete within ${handshakeTimeout} ms`,
          ),
          "handshake",
        );
      }, handshakeTimeout);
      // The connection keeps the process alive, if it is to.
      unrefTimer(this.#timer);
    }
    const { context } = this;
    const { budget } = this.#settings;
    const metered = budget === undefined ? undefined : new MeteredTransport(
      this.#conn,
      budget,
      (error) => this.#fail(error, "handshake"),
    );
    this.#metered = metered;
    try {
      const { ahead, refusal } = await greet(
        metered ?? this.#conn,
        secured,
        this.#settings,
        context,
        this.#stats,
      );
      this.#metered?.release();
      this.#metered = undefined;
      if (this.#phase === "closed") return;
      clearTimeout(this.#timer);
      if (refusal === undefined) return this.#beginRequests(ahead, true);
      this.#report(refusal.error);
      this.#phase = "flushing";
      this.#reason = "handshake";
      this.#queue.stop();
      this.#readBehind(ahead);
      this.#advanceEnd();
    } catch (error) {
      this.#fail(error, "handshake");
    }
  }

  /** @param isGreeted Whether all was said that comes before the first request, so
   * that the peer understands a goaway. */
  #beginRequests(ahead: ReadAhead | undefined, isGreeted: boolean): void {
    this.#phase = "open";
    this.#queue.open();
    const due = this.#dueEnd;
    if (due === "close") this.#end("close", "answering", isGreeted);
    if (ahead === undefined) this.#readLoop();
    else this.#readBehind(ahead);
    if (due === "shutdown") this.drainSoon();
  }

  /** Drains once what has arrived already was read. */
  drainSoon(turns = DRAIN_TURNS): void {
    if (turns === 0 || this.#phase === "greeting") return this.drain();
    if (this.#phase !== "open") return;
    this.#timer = startTimer(() => this.drainSoon(turns - 1), 0);
  }

  // ---- Reading

  /** Takes what the greeting has read of the requests, and reads on. */
  async #readBehind({ bytes, pending }: ReadAhead): Promise<void> {
    try {
      this.#takeBytes(bytes);
      const next = await pending;
      if (next === null) return this.#inputEnded();
      if (next !== undefined) this.#takeBytes(next);
    } catch (error) {
      this.#fail(error, "error");
    }
    this.#readLoop();
  }

  #takeBytes(bytes: Uint8Array): void {
    if (bytes.length === 0 || !this.#takes()) return;
    this.#decoder.push(bytes);
    this.#takeFrames();
  }

  /** Whether bytes that come are still taken for requests. */
  #takes(): boolean {
    return this.#phase === "open" || this.#phase === "draining";
  }

  /** Reads until the stream ends, or the connection is closed. It waits for
   * nothing that waits itself: an idle connection holds half a KiB for each. */
  async #readLoop(): Promise<void> {
    try {
      for (let empty = 0, discarded = 0;;) {
        while (this.#mustPause()) {
          this.#memory?.pauseReading();
          await new Promise<void>((resolve) => this.#wake = resolve);
        }
        if (this.#phase === "closed") break;
        const wanted = this.#phase === "open";
        if (!this.#takes()) this.#dropInput();
        const room = wanted ? this.#room() : SCRAP;
        // There is no memory for it: it waits above.
        if (room === null) continue;
        const n = await this.#conn.read(room);
        if (n === null) break;
        empty = countEmpty("read", n, empty);
        // A read may have been under way when no more were to be taken.
        if (!wanted || !this.#takes()) {
          if (++discarded % READS_A_TURN === 0) await nextRealTurn();
          continue;
        }
        this.#decoder.advance(n);
        this.#stats.bytesIn += n;
        this.#memory?.received(n);
        this.#takeFrames();
      }
    } catch (error) {
      this.#fail(error, "error");
    }
    this.#inputEnded();
  }

  #inputEnded(): void {
    if (this.#phase === "closed") return this.#dropInput();
    // An end inside a frame is a disconnect, as one between frames is. The
    // requests before it are answered: the other side may have closed only
    // its writing side. A handler that asks may give up.
    this.#peerEnded = true;
    if (this.#phase === "lingering") return this.#destroy("end");
    this.context.abort();
    this.#end("end", "draining", false);
  }

  /** Room for a read; null where it has to wait for memory. */
  #room(): Uint8Array<ArrayBuffer> | null {
    const isSmall = this.#decoder.frameLength <= UNCOUNTED;
    const memory = isSmall ? this.#memory : this.#needMemory();
    return memory === undefined
      ? this.#decoder.space()
      : memory.room(this.#decoder);
  }

  /** What was read of a frame that will not be taken is not kept. */
  #dropInput(): void {
    this.#memory?.endReading();
    if (this.#decoder.buffered === 0) return;
    const { buffer, byteOffset } = this.#decoder.rest();
    // It begins its memory: no frame before it was handed out of there.
    if (byteOffset === 0 && buffer.byteLength > UNCOUNTED) freeMemory(buffer);
  }

  /** Takes part in the budget, if there is one. */
  #needMemory(): ConnectionMemory | undefined {
    const { budget } = this.#settings;
    if (this.#memory !== undefined || budget === undefined) return this.#memory;
    return this.#memory = new ConnectionMemory(budget, this.#encoder, {
      mayRead: () => {
        // The time that it has waited does not count.
        this.#frames++;
        this.#wakeReader();
      },
      mayBegin: () => queueMicrotask(() => this.#goOn()),
      cut: (error) => this.#fail(error, "timeout"),
    });
  }

  #mustPause(): boolean {
    return this.#phase === "open" &&
      (this.#memory?.waitsToRead === true || (this.#blocked &&
        (this.#encoder.buffered >= MAX_OUTGOING ||
          this.#decoder.buffered >= MAX_READ_AHEAD)));
  }

  #wakeReader(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** Room for one more request: in count, and in bytes of responses. */
  #canTake(): boolean {
    return this.#responses.pending < this.#settings.concurrency &&
      this.#encoder.buffered + this.#responses.heldBack < MAX_OUTGOING;
  }

  /** Handles the whole frames in the decoder, as many as there is room for. */
  #takeFrames(): void {
    this.#taking = true;
    // Asked once for all frames that have come: asking for each would cost a tenth
    // of the time of a small one. What is answered at once can exceed the budget
    // by no more than MAX_OUTGOING and one response, since that ends the loop.
    const isAmple = this.#settings.budget?.mayBegin !== false;
    try {
      while (this.#takes()) {
        this.#blocked = !this.#canTake();
        if (this.#blocked) break;
        const frame = this.#kept ?? this.#decoder.decode();
        if (frame === null) break;
        this.#blocked = !(isAmple || this.#needMemory()!.mayBegin());
        this.#kept = this.#blocked ? frame : undefined;
        if (this.#blocked) {
          this.#memory!.keep(frame.length);
          break;
        }
        this.#frames++;
        this.#memory?.taken(frame.length);
        this.#handle(frame, this.#decoder.id);
      }
    } catch (error) {
      // A bad frame; the requests before it are answered.
      this.#report(error);
      this.#end("frame", "answering", false);
    }
    this.#taking = false;
    // While handlers are in progress, others may settle in this very turn.
    if (this.#responses.pending === 0) this.#queue.flush();
    else this.#queue.flushSoon();
    this.#countResponses();
    if (this.#phase !== "open") this.#advanceEnd();
  }

  /** Tells what responses are held. */
  #countResponses(): void {
    const { heldBack, pending } = this.#responses;
    if (this.#memory === undefined) {
      if (this.#encoder.buffered + heldBack <= UNCOUNTED) return;
      if (this.#needMemory() === undefined) return;
    }
    this.#memory!.update(heldBack, this.#queue.writing, pending > 0);
  }

  /** Takes frames that could not be taken before. */
  #goOn(): void {
    if (this.#phase === "closed") return;
    this.#takeFrames();
    this.#resume();
  }

  // ---- Handling

  #handle(frame: Uint8Array<ArrayBuffer>, id: number): void {
    const { correlation, goaway, handler } = this.#settings;
    // What has the high bit is no request where ids are inserted.
    if (correlation?.inserted && id >= correlation.highBit) return;
    this.#stats.requests++;
    this.#stats.inFlight++;
    let result: unknown;
    try {
      result = handler(frame, this.context);
      const isBytes = result instanceof Uint8Array;
      if (isBytes || !isThenable(result)) {
        // Nothing to wait for: no ticket, no turn. Most results are bytes on a
        // wire without a goaway of its own: there is nothing to check in them.
        const response = isBytes && goaway === undefined
          ? result as Uint8Array
          : checkResult(result, id, this.#settings);
        this.#responses.answer(response, id);
        this.#stats.inFlight--;
        return;
      }
    } catch (error) {
      result = this.#recover(error, id);
    }
    const ticket = this.#responses.open(id);
    if (isThenable(result)) this.#await(ticket, id, result);
    else this.#settle(ticket, result);
  }

  async #await(
    ticket: unknown,
    id: number,
    pending: PromiseLike<unknown>,
  ): Promise<void> {
    let result: unknown;
    try {
      result = await pending;
      if (result !== FAILED) {
        result = checkResult(result, id, this.#settings);
        this.#responses.judge(result as Uint8Array | undefined);
      }
    } catch (error) {
      result = await this.#recover(error, id);
    }
    try {
      this.#settle(ticket, result);
      this.#goOn();
    } catch (error) {
      // A response was judged good and changed while it waited for others.
      this.#fail(error, "handler");
    }
  }

  /** What there is instead of a failed handler's response, perhaps later. */
  #recover(error: unknown, id: number): unknown {
    // A handler that gave up because its connection had gone has not failed.
    if (this.context.abortedWith(error)) return FAILED;
    this.#stats.errors++;
    return recover(error, this.context, this.#settings, (answer) => {
      const response = checkResult(answer, id, this.#settings);
      this.#responses.judge(response);
      return response;
    });
  }

  #settle(ticket: unknown, result: unknown): void {
    this.#stats.inFlight--;
    if (this.#phase === "closed") return;
    if (result !== FAILED) {
      this.#responses.settle(ticket, result as Uint8Array | undefined);
    } else if (this.#responses.fail(ticket)) {
      this.#end("handler", "answering", false);
    }
  }

  /** Something was done that the read loop or the end may wait for. */
  #resume(): void {
    if (!this.#mustPause()) this.#wakeReader();
    if (this.#phase !== "open") this.#advanceEnd();
  }

  // ---- Writing: what the send queue and the context call

  written(n: number): void {
    this.#stats.bytesOut += n;
    if (this.#memory !== undefined) {
      this.#memory.written(n);
      this.#countResponses();
    }
    if (this.#blocked) this.#takeFrames();
    this.#resume();
  }

  drained(): void {
    this.#countResponses();
    this.#advanceEnd();
  }

  writeFailed(error: unknown): void {
    this.#fail(error, "error");
  }

  push(payload: Uint8Array): Promise<void> {
    // Not in the context of the request that pushes: what is written along with
    // it, and the requests that are taken then, are others'.
    return this.#settings.inOwnContext(() => {
      const refusal = refusePush(payload, this.#settings, this.#encoder);
      if (refusal !== undefined) return rejected(refusal);
      this.#frames++;
      return this.#queue.push(payload);
    });
  }

  // ---- The end

  /** Answers what was taken, this very request included, and ends. */
  closeGracefully(): void {
    this.#settings.inOwnContext(() => {
      if (this.#phase === "greeting") this.#dueEnd = "close";
      else this.#end("close", "answering", true);
    });
  }

  /** Answers what has come whole, and ends. A greeting comes to its end. */
  drain(): void {
    if (this.#phase === "greeting") this.#dueEnd ??= "shutdown";
    else this.#end("shutdown", "draining", true);
  }

  /** Ends at once.
   *
   * @param cause What the context's signal is aborted with. */
  force(cause: unknown): void {
    // What only waits for its peer's end has ended for another reason.
    if (this.#phase !== "lingering") this.#reason = "forced";
    this.#destroy("forced", cause);
  }

  /**
   * Begins to end, or takes less than before on the way there.
   *
   * @param mayGoAway Whether nothing that was taken stays unanswered; once that
   * is not so, it stays so.
   */
  #end(
    reason: Reason,
    phase: "draining" | "answering",
    mayGoAway: boolean,
  ): void {
    if (this.#phase === "open") {
      this.#reason = reason;
      this.#phase = phase;
      this.#mayGoAway = mayGoAway;
      this.#wakeReader();
    } else if (this.#phase === "draining" || this.#phase === "answering") {
      if (phase === "answering") this.#phase = phase;
      if (!mayGoAway) this.#mayGoAway = false;
    }
    this.#advanceEnd();
  }

  /** Goes from one phase of the end to the next, as far as it can. */
  #advanceEnd(): void {
    if (this.#phase === "draining" || this.#phase === "answering") {
      if (
        this.#taking || this.#responses.pending > 0 ||
        (this.#phase === "draining" && this.#blocked)
      ) return;
      this.#phase = "flushing";
      this.#mayGoAway &&= !this.#peerEnded &&
        sayGoodbye(this.#encoder, this.#settings);
      this.#queue.refusePushes();
      this.#queue.flush();
    }
    if (this.#phase !== "flushing" || !this.#queue.empty) return;
    const canHalfClose = this.#conn.closeWrite !== undefined;
    if (this.#reason === "end" || !(canHalfClose || this.#mayGoAway)) {
      return this.#destroy("end");
    }
    this.#linger();
  }

  /** Half-closes, and waits for the peer's end. */
  #linger(): void {
    this.#phase = "lingering";
    clearTimeout(this.#timer);
    const { shutdownTimeout } = this.#settings;
    const limit = this.#mayGoAway ? shutdownTimeout || LONGEST_LINGER : LINGER;
    this.#timer = startTimer(() => this.#destroy("end"), limit);
    if (!this.#refed) unrefTimer(this.#timer);
    this.#halfClose();
  }

  async #halfClose(): Promise<void> {
    try {
      await this.#conn.closeWrite?.();
    } catch {
      this.#destroy("lost");
    }
    if (this.#peerEnded) this.#destroy("end");
  }

  /** Counts and reports an error that is no handler's. */
  #report(error: unknown): void {
    if (isDisconnect(error)) return;
    this.#stats.errors++;
    this.#settings.report(error, this.context);
  }

  /** Ends at once after an error. */
  #fail(error: unknown, reason: Reason): void {
    if (this.#phase === "closed") return;
    this.#report(error);
    this.#destroy(
      reason === "error" && isDisconnect(error) ? "lost" : reason,
      error,
    );
  }

  /**
   * Ends at once.
   *
   * @param reason Counts if none was known yet.
   * @param cause What the context's signal is aborted with.
   */
  #destroy(reason: Reason, cause?: unknown): void {
    if (this.#phase === "closed") return;
    this.#phase = "closed";
    this.#reason ??= reason;
    clearTimeout(this.#timer);
    this.#responses.clear();
    this.#queue.stop();
    this.#memory?.leave();
    this.#metered?.release();
    closeTransport(this.#conn);
    this.#wakeReader();
    this.context.abort(cause);
    this.#onEnd(this);
    if (this.#opened) this.#settings.ended?.(this.context, this.#reason);
  }

  // ---- Limits in time

  /** Cuts what has waited too long, and notes what it waits for now. */
  sweep(now: number): void {
    const { idleTimeout, readTimeout, writeTimeout } = this.#settings;
    const stalled = this.#queue.stalledFor(now);
    if (writeTimeout > 0 && stalled >= writeTimeout) {
      return this.#fail(
        namedError(
          "TimedOut",
          `Write made no progress for ${writeTimeout} ms`,
        ),
        "timeout",
      );
    }
    const waiting = this.#phase !== "open" || this.#blocked ||
        this.#memory?.waitsToRead
      ? null
      : this.#decoder.buffered > 0
      ? "frame"
      : this.#responses.pending === 0 && !this.#queue.writing
      ? "request"
      : null;
    const waited = this.#stillness.look(now, waiting, this.#frames);
    if (waiting === "frame" && readTimeout > 0 && waited >= readTimeout) {
      this.#fail(
        namedError(
          "TimedOut",
          `Frame was not complete within ${readTimeout} ms`,
        ),
        "timeout",
      );
    } else if (
      waiting === "request" && idleTimeout > 0 && waited >= idleTimeout
    ) {
      this.context.abort(
        namedError("TimedOut", `Connection was idle for ${idleTimeout} ms`),
      );
      this.#end("idle", "answering", true);
    }
  }

  /** Has the connection keep the process alive or not. */
  setRef(ref: boolean): void {
    this.#refed = ref;
    const conn = this.#conn;
    callDetached(() => ref ? conn.ref?.() : conn.unref?.(), ignore);
    if (this.#phase === "lingering" && this.#timer !== undefined) {
      (ref ? refTimer : unrefTimer)(this.#timer);
    }
  }
}

/** Why a payload cannot be pushed, if it cannot. */
function refusePush(
  payload: Uint8Array,
  { correlation, goaway }: ConnectionSettings,
  encoder: FrameEncoder,
): Error | undefined {
  if (correlation === undefined) {
    return new TypeError("context.push needs the option correlation");
  }
  // What is no payload at all, the encoder refuses.
  if (goaway === undefined || !(payload instanceof Uint8Array)) {
    return undefined;
  }
  return goaway.equals(payload, encoder.readId(payload))
    ? new TypeError("A push must not be equal to the goaway")
    : undefined;
}

/**
 * Writes the goaway.
 *
 * @returns Whether there is one.
 */
function sayGoodbye(
  encoder: FrameEncoder,
  { correlation, goaway }: ConnectionSettings,
): boolean {
  try {
    if (correlation?.inserted) encoder.push(EMPTY, correlation.goaway);
    else if (goaway !== undefined) encoder.push(goaway.payload);
    else return false;
    return true;
  } catch {
    // A layout that cannot express an empty payload has no word for it.
    return false;
  }
}

/** A rejection that nobody has to handle. */
function rejected(error: unknown): Promise<never> {
  const promise = Promise.reject(error);
  promise.catch(ignore);
  return promise;
}
