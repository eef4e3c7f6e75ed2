// What one connection of the server holds of the memory that all share: the
// frame that comes in, and the responses that are not yet written.
//
// Knows: the budget, the encoder of the responses, and which buffers they refer
// to. Must not know: what a request is, and when its handler runs.

import { type Budget, Share, UNCOUNTED } from "./_budget.ts";
import { MAX_COPIED } from "./_write_buffer.ts";
import { type FrameDecoder, FrameEncoder, type Transport } from "./codec.ts";

/** By how many bytes the memory of a frame grows at first, and at least. */
const FIRST_STEP = 256 * 1024;
const MIN_STEP = 4 * 1024;

/** A step is at most so many times what the last read has brought: who sends
 * slowly gets memory slowly. */
const STEP_GROWTH = 4;

/** What a view may leave unused of its buffer, beyond its own length, before it
 * is copied. */
const MAX_UNUSED = 64 * 1024;

/**
 * A response that is not to keep alive much more than itself: a view on a much
 * larger buffer is copied.
 *
 * @param unused Bytes of the buffer that may lie idle.
 */
export function compact(
  response: Uint8Array,
  unused: number = MAX_UNUSED,
): Uint8Array {
  const { length, buffer } = response;
  return buffer.byteLength > 2 * length + unused ? response.slice() : response;
}

/** A response in the encoder that refers to a buffer. */
interface Reference {
  /** Position in the stream behind its frame. */
  readonly end: number;
  /** Bytes of its frame. */
  readonly length: number;
  readonly buffer: ArrayBufferLike;
  /** How the buffer is counted: along with what is written next to it, by
   * itself, or as the turn's. */
  readonly counted: "along" | "pinned" | "turn";
}

/** An encoder that knows which buffers its frames refer to until they are
 * written. */
export class ResponseEncoder extends FrameEncoder {
  /** Bytes that were written. */
  written = 0;
  /** Bytes of the largest response so far, if it was large enough to be
   * referred to; else 0. */
  largest = 0;
  /** It is the connection's turn: room was set aside for what comes. */
  hasTurn = false;
  /** Bytes of buffers that the turn is for. */
  turnBytes = 0;
  /** Buffers that are counted by themselves. */
  pins = 0;
  #references: Reference[] | undefined;
  /** Bytes of buffers and of frames that are not counted as they are written. */
  #idle = 0;
  #countedElsewhere = 0;
  readonly #budget: Budget | undefined;

  constructor(
    budget: Budget | undefined,
    ...options: ConstructorParameters<typeof FrameEncoder>
  ) {
    super(...options);
    this.#budget = budget;
  }

  /** Bytes that it holds, and that are counted nowhere else. */
  get held(): number {
    // A buffer that is half written is counted as a whole.
    return this.#idle + Math.max(0, this.buffered - this.#countedElsewhere);
  }

  override push(payload: Uint8Array, id?: number): number {
    // What is copied pins nothing.
    if (payload.length <= MAX_COPIED) return super.push(payload, id);
    const response = compact(payload);
    const length = super.push(response, id);
    if (this.#budget !== undefined) this.#refer(response.buffer, length);
    return length;
  }

  override advance(n: number): void {
    super.advance(n);
    this.written += n;
    if (this.#references !== undefined) this.#forget(this.written);
  }

  /** Nothing more will be written. */
  release(): void {
    this.#forget(Infinity);
  }

  #refer(buffer: ArrayBufferLike, length: number): void {
    this.largest = Math.max(this.largest, length);
    const counted = buffer.byteLength <= UNCOUNTED
      ? "along"
      : this.hasTurn
      ? "turn"
      : "pinned";
    const end = this.written + this.buffered;
    this.#references ??= [];
    const reference: Reference = { end, length, buffer, counted };
    this.#references.push(reference);
    if (counted === "pinned") this.#budget!.pin(buffer);
    this.#count(reference, 1);
  }

  #forget(written: number): void {
    const references = this.#references;
    if (references === undefined) return;
    let count = 0;
    for (const reference of references) {
      if (reference.end > written) break;
      count++;
      if (reference.counted === "pinned") this.#budget!.unpin(reference.buffer);
      this.#count(reference, -1);
    }
    if (count === references.length) this.#references = undefined;
    else if (count > 0) references.splice(0, count);
  }

  #count({ counted, length, buffer }: Reference, sign: 1 | -1): void {
    if (counted === "along") {
      this.#idle += sign * Math.max(0, buffer.byteLength - length);
      return;
    }
    this.#countedElsewhere += sign * length;
    if (counted === "pinned") this.pins += sign;
    else this.turnBytes += sign * buffer.byteLength;
  }
}

/** What is told of room, and of its end. */
export interface MemoryOwner {
  /** There is room to read on. It may take note and no more. */
  mayRead(): void;
  /** There is room to begin with a request. It may take note and no more. */
  mayBegin(): void;
  /** The connection holds memory that others wait for, and moves too slowly. */
  cut(error: Error): void;
}

/**
 * What one connection holds. There is one only for connections that have ever
 * held more than what is not counted, or come while memory is short: all others
 * cost nothing.
 */
export class ConnectionMemory {
  readonly #budget: Budget;
  readonly #encoder: ResponseEncoder;
  readonly #in: Share;
  readonly #out: Share;
  /** Waits for room to begin. It holds nothing itself. */
  readonly #begin: Share;
  /** By how many bytes the memory of a frame grows next. */
  #step = FIRST_STEP;
  /** The memory that is read into, and the room that is left in it. */
  #memory = 0;
  #left = 0;
  /** Bytes of a whole frame that has to wait until it may begin. */
  #kept = 0;
  /** Bytes of frames that were taken. */
  #taken = 0;

  constructor(
    budget: Budget,
    encoder: ResponseEncoder,
    owner: MemoryOwner,
  ) {
    this.#budget = budget;
    this.#encoder = encoder;
    const cut = (error: Error) => owner.cut(error);
    this.#in = new Share({ granted: () => owner.mayRead(), cut }, "in");
    this.#out = new Share({ granted() {}, cut }, "out");
    this.#begin = new Share({ granted: () => owner.mayBegin(), cut }, "out");
    // Handlers are not judged; what they answer is, as it goes out.
    this.#begin.paused = true;
  }

  /** Whether reading waits for room. */
  get waitsToRead(): boolean {
    return this.#in.waiting;
  }

  /** Bytes that this connection has moved to their end. */
  get #worth(): number {
    return this.#encoder.written + this.#taken;
  }

  /**
   * Room for the next read of a frame.
   *
   * @returns Null while there is no memory.
   */
  room(decoder: FrameDecoder): Uint8Array<ArrayBuffer> | null {
    const { buffered, frameLength } = decoder;
    if (this.#kept === 0) this.#budget.resume(this.#in);
    // While memory is short, the room at hand is used up before more is asked
    // for. It is not so for the last step, which the decoder takes as soon as it
    // is paid for, nor where memory was waited for and is granted now.
    const saves = this.#left >= MIN_STEP && 2 * buffered < frameLength &&
      this.#in.held <= this.#counted && !this.#budget.isAmple;
    const step = saves ? 0 : this.#step;
    if (step > 0 && frameLength > UNCOUNTED) {
      const grown = Math.min(frameLength, buffered + Math.max(buffered, step));
      const granted = this.#budget.ask(
        this.#in,
        Math.max(0, this.#kept + Math.max(this.#memory, grown) - UNCOUNTED),
        frameLength - UNCOUNTED,
        this.#worth,
      );
      if (!granted) return null;
    }
    const room = decoder.space(step);
    this.#left = room.length;
    // The room ends where its memory ends.
    this.#memory = room.byteOffset + room.length;
    this.#countInput();
    return room;
  }

  /** A read has brought so many bytes. */
  received(n: number): void {
    const full = n === this.#left;
    this.#left -= n;
    this.#in.moved += n;
    const step = Math.max(STEP_GROWTH * n, full ? this.#step : this.#step / 2);
    this.#step = Math.min(
      this.#budget.maxFrameLength,
      Math.max(MIN_STEP, Math.ceil(step)),
    );
  }

  /** A frame has come to its end, and begins. */
  taken(length: number): void {
    this.#taken += length;
    this.#budget.endTurn(this.#in);
    this.#kept = 0;
    this.#leaveMemory(length);
  }

  /** A whole frame may not begin yet, and nothing can be done about it. */
  keep(length: number): void {
    this.#kept = length;
    this.#in.paused = true;
    this.#leaveMemory(length);
  }

  /** A large frame has left, and has taken its memory along. */
  #leaveMemory(length: number): void {
    if (length > UNCOUNTED) this.#memory = this.#left = 0;
    this.#countInput();
  }

  /** What the frame that comes in is to be counted as. */
  get #counted(): number {
    return Math.max(0, this.#kept + this.#memory - UNCOUNTED);
  }

  #countInput(): void {
    this.#budget.hold(this.#in, this.#counted);
  }

  /** Nothing is read for a while. */
  pauseReading(): void {
    if (!this.#in.waiting) this.#in.paused = true;
  }

  /** No frame is read any more. */
  endReading(): void {
    this.#memory = this.#left = 0;
    this.#budget.leave(this.#in);
  }

  /** Whether a request may begin, whose response takes nobody knows how much.
   * If not, `mayBegin` will be called. */
  mayBegin(): boolean {
    const { written, largest } = this.#encoder;
    // What has always been answered with little will go on so, probably.
    const small = written > 0 && largest <= UNCOUNTED;
    if (small && this.#budget.mayBeginSmall(this.#worth)) return true;
    const granted = this.#budget.askToBegin(
      this.#begin,
      this.#in,
      largest,
      this.#worth,
    );
    this.#encoder.hasTurn = this.#begin.turn > 0;
    return granted;
  }

  /** Writes have taken so many bytes. */
  written(n: number): void {
    this.#out.moved += n;
  }

  /**
   * Counts the responses that are held.
   *
   * @param heldBack Bytes of those that are not in the encoder yet.
   * @param writing Whether a write is under way.
   * @param pending Whether handlers are at work.
   */
  update(heldBack: number, writing: boolean, pending: boolean): void {
    const { held, pins, turnBytes, buffered } = this.#encoder;
    const counted = Math.max(0, held + heldBack - UNCOUNTED);
    // Who refers to buffers that are counted by themselves is judged, too.
    const least = pins > 0 || turnBytes > 0 ? 1 : 0;
    this.#budget.hold(this.#out, Math.max(least, counted));
    // What was set aside is known now, but for handlers that are still at work.
    if (!pending) this.#budget.hold(this.#begin, turnBytes);
    if (writing) this.#budget.resume(this.#out);
    else this.#out.paused = true;
    if (!pending && buffered === 0) {
      this.#encoder.hasTurn = false;
      this.#budget.endTurn(this.#begin);
    }
  }

  /** The connection has ended. */
  leave(): void {
    for (const share of [this.#in, this.#out, this.#begin]) {
      this.#budget.leave(share);
    }
    this.#encoder.release();
  }
}

/**
 * A transport whose reads wait for memory, for as long as a greeting lasts. What
 * becomes of the bytes is not known, so all that has come counts as held.
 */
export class MeteredTransport implements Transport {
  readonly #conn: Transport;
  readonly #budget: Budget;
  readonly #share: Share;
  #received = 0;
  #granted: (() => void) | undefined;

  constructor(conn: Transport, budget: Budget, cut: (error: Error) => void) {
    this.#conn = conn;
    this.#budget = budget;
    this.#share = new Share({ granted: () => this.#granted?.(), cut }, "in");
  }

  async read(p: Uint8Array<ArrayBuffer>): Promise<number | null> {
    const bytes = this.#received + p.length - UNCOUNTED;
    if (
      bytes > 0 &&
      !this.#budget.ask(this.#share, bytes, this.#budget.maxFrameLength, 0)
    ) await new Promise<void>((resolve) => this.#granted = resolve);
    const n = await this.#conn.read(p);
    if (n !== null) {
      this.#received += n;
      this.#share.moved += n;
    }
    return n;
  }

  write(p: Uint8Array): Promise<number> {
    return this.#conn.write(p);
  }

  close(): void {
    this.#conn.close();
  }

  /** The greeting is over, or the connection is. */
  release(): void {
    this.#budget.leave(this.#share);
    this.#granted?.();
  }
}
