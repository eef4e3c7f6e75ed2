/**
 * Length-prefixed framing: frames to bytes and bytes to frames, without I/O.
 *
 * A frame is a length field and a payload. By default the length is an
 * unsigned 64-bit big-endian integer that counts the payload's bytes:
 *
 * ```text
 *   8 bytes                   5 bytes
 * +-------------------------+-----------+
 * | 00 00 00 00 00 00 00 05 | h e l l o |
 * +-------------------------+-----------+
 * ```
 *
 * {@linkcode FrameOptions} describes other layouts in the terms of Netty's
 * `LengthFieldBasedFrameDecoder` and tokio-util's `LengthDelimitedCodec`:
 *
 * ```text
 *    lengthFieldOffset   lengthFieldLength   field value + lengthAdjustment
 * +---------------------+-------------------+-------------------------------+
 * |  bytes before it    |   length field    |     bytes after the field     |
 * +---------------------+-------------------+-------------------------------+
 * |<------- initialBytesToStrip ----------->|<--------- the frame --------->|
 * ```
 *
 * {@linkcode FrameDecoder} and {@linkcode FrameEncoder} do the work;
 * {@linkcode FrameReader}, {@linkcode FrameWriter} and the two streams are
 * thin shells that add a source or a sink. This module uses web-standard APIs
 * only, so it runs in browsers, Node and Bun as well as in Deno.
 *
 * @example Encode, cut anywhere, decode
 * ```ts
 * import { encodeFrame, FrameDecoder } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const wire = encodeFrame(new TextEncoder().encode("hello"));
 * assertEquals(wire.length, 8 + 5);
 *
 * const decoder = new FrameDecoder();
 * decoder.push(wire.subarray(0, 10));
 * assertEquals(decoder.decode(), null);
 * decoder.push(wire.subarray(10));
 * assertEquals(new TextDecoder().decode(decoder.decode()!), "hello");
 * decoder.finish();
 * ```
 *
 * @module
 */

import { ignore } from "./_callbacks.ts";
import { defer } from "./_deferred.ts";
import {
  idInPayload,
  type Layout,
  readLengthField,
  readSimpleLength,
  readUint,
  resolveLayout,
  shareLayout,
  writeLengthField,
  writeSimpleLength,
  writeUint,
} from "./_layout.ts";
import { pair } from "./_memory_pipe.ts";
import { show } from "./_options.ts";
import { countEmpty } from "./_progress.ts";
import { ReadBuffer } from "./_read_buffer.ts";
import { MAX_COPIED, WriteBuffer } from "./_write_buffer.ts";

/** Of a larger payload so much is sent along with the header: a header alone
 * would cost the peer a read, and a packet where Nagle's algorithm is off. */
const LEAD_LENGTH = 8 * 1024;

const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

/**
 * The layout of a frame on the wire. Both sides agree on it beforehand.
 *
 * @example MongoDB: four bytes, little endian, that count themselves
 * ```ts
 * import { encodeFrame, type FrameOptions } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const mongodb: FrameOptions = {
 *   lengthFieldLength: 4,
 *   byteOrder: "little",
 *   lengthAdjustment: -4,
 * };
 * assertEquals(
 *   encodeFrame(new Uint8Array([1, 2, 3]), mongodb),
 *   new Uint8Array([7, 0, 0, 0, 1, 2, 3]),
 * );
 * ```
 */
export interface FrameOptions {
  /**
   * Width of the length field in bytes: 1, 2, 3, 4 or 8.
   *
   * @default {8}
   */
  lengthFieldLength?: 1 | 2 | 3 | 4 | 8;
  /**
   * Byte order of the length field.
   *
   * @default {"big"}
   */
  byteOrder?: "big" | "little";
  /**
   * Bytes that stand before the length field, 0 to 65535.
   *
   * @default {0}
   */
  lengthFieldOffset?: number;
  /**
   * Added to the field's value to get the number of bytes after the field, a
   * safe integer; negative where the field counts itself or what stands before.
   *
   * @default {0}
   */
  lengthAdjustment?: number;
  /**
   * Bytes dropped from the front of each decoded frame, 0 or more; 0 keeps the
   * header.
   *
   * @default {lengthFieldOffset + lengthFieldLength}
   */
  initialBytesToStrip?: number;
  /**
   * Most bytes allowed after the length field, after adjustment, 0 or more:
   * the same when decoding and when encoding.
   *
   * @default {16777216}
   */
  maxFrameLength?: number;
}

/**
 * Where the frames of one direction carry an id that tells which response
 * belongs to which request.
 *
 * @example Four bytes, put in behind the length field
 * ```ts
 * import { FrameDecoder, FrameEncoder } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const encoder = new FrameEncoder({ lengthFieldLength: 1 }, { length: 4 });
 * encoder.push(new Uint8Array([10]), 7);
 * assertEquals(encoder.chunk(), new Uint8Array([5, 0, 0, 0, 7, 10]));
 *
 * const decoder = new FrameDecoder({ lengthFieldLength: 1 }, { length: 4 });
 * decoder.push(encoder.chunk()!);
 * assertEquals(decoder.decode(), new Uint8Array([10]));
 * assertEquals(decoder.id, 7);
 * ```
 */
export interface FrameIdField {
  /** Width of the id in bytes: 1, 2 or 4, in the byte order of the frame. */
  length: 1 | 2 | 4;
  /**
   * Where it stands, in bytes from the end of the length field, up to 65535;
   * negative where it stands before the length field. The payload then has room
   * for it. Without an offset it is put in right behind the length field, and
   * taken out again when the frame is decoded.
   */
  offset?: number;
}

/**
 * Where requests and responses carry the id that belongs them together, so that
 * responses may come in any order. Both sides agree on it beforehand.
 *
 * Where neither offset is given, both sides put the id in right behind the
 * length field, and take it out again. Where either is given, the id is part of
 * the payload, which has room for it: it is overwritten as the frame is encoded,
 * never in the caller's own bytes.
 *
 * @example DNS: the first two bytes of every message
 * ```ts
 * import type { CorrelationOptions } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const dns: CorrelationOptions = { length: 2, requestOffset: 0 };
 * assertEquals(dns.responseOffset, undefined); // the same as requestOffset
 * ```
 */
export interface CorrelationOptions {
  /** Width of the id in bytes: 1, 2 or 4, in the byte order of the frame. */
  length: 1 | 2 | 4;
  /**
   * Where it stands in a request, in bytes from the end of the length field, up
   * to 65535; negative where it stands before the length field.
   *
   * @default {responseOffset}
   */
  requestOffset?: number;
  /**
   * Where it stands in a response, likewise.
   *
   * @default {requestOffset}
   */
  responseOffset?: number;
}

/** What every error about a frame extends. After one, a stream of frames
 * cannot be read on: close the connection. */
export class FrameError extends Error {
  /** Makes the error; `options` may carry a `cause`. */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "FrameError";
  }
}

/** A frame is longer than {@linkcode FrameOptions.maxFrameLength}. */
export class FrameTooLargeError extends FrameError {
  /** Bytes after the length field, as announced or as given to encode. A
   * bigint where a number could not hold it exactly: for a field over 2^53-1
   * its own value, which no adjustment makes acceptable. */
  readonly length: number | bigint;
  /** The limit in bytes that it exceeds. */
  readonly limit: number;

  /** Makes the error from the announced length and the limit, in bytes. */
  constructor(length: number | bigint, limit: number) {
    super(`Frame of ${length} bytes exceeds the limit of ${limit}`);
    this.name = "FrameTooLargeError";
    this.length = length;
    this.limit = limit;
  }
}

/** A length field says less than zero bytes after adjustment, or less than
 * is to be stripped; or a payload's length cannot be written in the field. */
export class InvalidFrameLengthError extends FrameError {
  /** The offending length in bytes: of the frame after the length field when
   * decoding, of the payload when encoding. */
  readonly length: number;

  /** Makes the error with the offending length in bytes. */
  constructor(message: string, length: number) {
    super(message);
    this.name = "InvalidFrameLengthError";
    this.length = length;
  }
}

/** The bytes ended inside a frame. */
export class TruncatedFrameError extends FrameError {
  /** Bytes that the frame takes on the wire, header included; the header's
   * alone where the end came inside it. */
  readonly expected: number;
  /** Bytes of it that were received. */
  readonly received: number;

  /** Makes the error from the figures, in bytes. */
  constructor(expected: number, received: number) {
    super(`Frame of ${expected} bytes ended after ${received}`);
    this.name = "TruncatedFrameError";
    this.expected = expected;
    this.received = received;
  }
}

/**
 * Encodes one payload as one frame.
 *
 * The first `lengthFieldOffset` bytes of the payload go before the length
 * field, the rest after it. The result has a buffer of its own, which the
 * caller may keep or transfer; the payload is copied.
 *
 * @param payload The bytes to frame.
 * @param options The layout of the frame.
 * @returns The frame as it goes on the wire.
 * @throws {FrameTooLargeError} If more than `maxFrameLength` bytes come after
 * the length field.
 * @throws {InvalidFrameLengthError} If the length field cannot express the
 * length, or the payload is shorter than `lengthFieldOffset`, or the frame is
 * shorter than `initialBytesToStrip`, which its decoder would refuse.
 *
 * @example The default layout
 * ```ts
 * import { encodeFrame } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const frame = encodeFrame(new TextEncoder().encode("hello"));
 * assertEquals(
 *   frame,
 *   new Uint8Array([0, 0, 0, 0, 0, 0, 0, 5, 104, 101, 108, 108, 111]),
 * );
 * ```
 *
 * @example PostgreSQL: a type byte, then four bytes that count themselves
 * ```ts
 * import { encodeFrame } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const query = new TextEncoder().encode("QSELECT 1\0");
 * assertEquals(
 *   encodeFrame(query, {
 *     lengthFieldOffset: 1,
 *     lengthFieldLength: 4,
 *     lengthAdjustment: -4,
 *   }),
 *   new TextEncoder().encode("Q\0\0\0\x0dSELECT 1\0"),
 * );
 * ```
 */
export function encodeFrame(
  payload: Uint8Array,
  options?: FrameOptions,
): Uint8Array<ArrayBuffer> {
  return encode(resolveLayout(options), payload);
}

/**
 * Turns bytes, in whatever pieces they come, into frames.
 *
 * It does no I/O. Bytes go in through {@linkcode FrameDecoder.push}, or
 * without a copy through {@linkcode FrameDecoder.space} and
 * {@linkcode FrameDecoder.advance}; frames come out of
 * {@linkcode FrameDecoder.decode} or by iterating.
 *
 * - A frame before a bad one is delivered before the error; then the error is
 *   sticky: every later call throws it.
 * - A length is judged before memory is reserved for it, and memory grows
 *   only with bytes that have arrived: to about four times their number or
 *   64 KiB, and sixteen times once they are more than 16 KiB, at most.
 * - Work is linear in the bytes, whatever their chunking.
 * - A frame handed out is a view on memory that is never written again. It
 *   may share that memory with its neighbours (at most 64 KiB, or the chunk
 *   that was pushed): keeping one view keeps all of it alive. Take a `slice()`
 *   to keep little for long, or before transferring its buffer elsewhere.
 *
 * @example Push bytes, and take out what is whole
 * ```ts
 * import { encodeFrame, FrameDecoder } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const decoder = new FrameDecoder();
 * decoder.push(encodeFrame(new Uint8Array([1, 2, 3])));
 * assertEquals(decoder.decode(), new Uint8Array([1, 2, 3]));
 * assertEquals(decoder.decode(), null); // nothing more is whole
 * ```
 *
 * @example Fill its room straight from a source
 * ```ts
 * import { encodeFrame, FrameDecoder } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const source = encodeFrame(new Uint8Array([1, 2, 3]));
 * const decoder = new FrameDecoder();
 * const room = decoder.space();
 * room.set(source);
 * decoder.advance(source.length);
 * assertEquals([...decoder], [new Uint8Array([1, 2, 3])]);
 * ```
 */
export class FrameDecoder {
  readonly #layout: Layout;
  readonly #buffer = new ReadBuffer();
  /** Bytes on the wire of the frame that is next, judged; 0 while its header
   * has not been read. */
  #frameLength = 0;
  #id = 0;
  /** Every call throws it, but those that take out what is still held. */
  #failure: { readonly error: unknown } | undefined;

  /**
   * Makes a decoder for frames of one layout.
   *
   * @param options The layout of the frames.
   * @param idField Where the frames carry an id, if they do.
   * @throws {TypeError | RangeError} If an option is of the wrong type or out
   * of its range.
   */
  constructor(options?: FrameOptions, idField?: FrameIdField) {
    this.#layout = shareLayout(options, idField);
  }

  /** The id of the last frame that was decoded; 0 before the first, and where
   * frames carry none. */
  get id(): number {
    return this.#id;
  }

  /** Number of bytes held: pushed, and not yet handed out as frames. */
  get buffered(): number {
    return this.#buffer.length;
  }

  /** Bytes on the wire of the frame in progress, header included; 0 while its
   * header has not come, or was not looked at by {@linkcode FrameDecoder.decode}.
   */
  get frameLength(): number {
    return this.#frameLength;
  }

  /**
   * Takes bytes. They are copied: the chunk stays the caller's.
   *
   * @param chunk The next bytes of the stream.
   * @throws {FrameError} The sticky error, if an earlier call failed.
   */
  push(chunk: Uint8Array): void {
    this.#throwIfFailed();
    if (!(chunk instanceof Uint8Array)) {
      throw new TypeError(
        `Chunk must be a Uint8Array, received ${show(chunk)}`,
      );
    }
    this.#buffer.append(chunk, this.#frameLength);
  }

  /**
   * Writable room for the next bytes of the stream, never empty, to be filled
   * from its front and then reported with {@linkcode FrameDecoder.advance}.
   *
   * It grows while reads come back full and shrinks when they do not, so that
   * a silent connection waits with little memory; the rest of a payload larger
   * than the room is offered memory of that payload's own. The room is the
   * decoder's and is the caller's to write until the next call of `push` or
   * `space`.
   *
   * @param most Where a frame needs new memory, it has room for no more bytes
   * than these, or than it takes to double what is held: for those who count
   * what is reserved.
   * @throws {FrameError} The sticky error, if an earlier call failed.
   */
  space(most = Infinity): Uint8Array<ArrayBuffer> {
    this.#throwIfFailed();
    return this.#buffer.room(this.#frameLength, most);
  }

  /**
   * Says how many bytes of the room were filled, from its front.
   *
   * @param n Number of bytes, 0 to the length of the room.
   * @throws {RangeError} If `n` is not such a number, or the room has been
   * taken back by a `push`.
   * @throws {FrameError} The sticky error, if an earlier call failed.
   */
  advance(n: number): void {
    this.#throwIfFailed();
    checkCount("Advanced bytes", n, this.#buffer.offered);
    if (n > 0) this.#buffer.filled(n, this.#frameLength);
  }

  /**
   * Takes the next whole frame.
   *
   * @returns The frame, without its first `initialBytesToStrip` bytes, or
   * `null` when more bytes are needed. It is a view on memory that is never
   * written again: keep it, and see the class for what that keeps alive.
   * @throws {FrameTooLargeError} If a length exceeds `maxFrameLength`.
   * @throws {InvalidFrameLengthError} If a length is less than zero after
   * adjustment, or less than what is to be stripped.
   */
  decode(): Uint8Array<ArrayBuffer> | null {
    const buffer = this.#buffer;
    const layout = this.#layout;
    const held = buffer.length;
    let length = this.#frameLength;
    if (length === 0) {
      if (held < layout.headerLength) {
        this.#throwIfFailed();
        return null;
      }
      length = this.#readLength();
      if (held < length) this.#frameLength = length;
    }
    if (held < length) return null;
    this.#frameLength = 0;
    const skipped = layout.idWidth === 0 ? layout.strip : this.#takeId();
    return buffer.take(length, skipped);
  }

  /** Yields what is whole, as {@linkcode FrameDecoder.decode} does. */
  *[Symbol.iterator](): IterableIterator<Uint8Array<ArrayBuffer>> {
    for (let f = this.decode(); f !== null; f = this.decode()) yield f;
  }

  /**
   * Says that the stream has ended. Whole frames that are still held can be
   * decoded before or after this call.
   *
   * @throws {TruncatedFrameError} If bytes of an unfinished frame remain.
   * @throws {FrameError} The sticky error, if an earlier call failed.
   */
  finish(): void {
    this.#throwIfFailed();
    const { start, end, chunk } = this.#buffer;
    let at = start;
    try {
      while (at < end) {
        const held = end - at;
        const { headerLength } = this.#layout;
        if (held < headerLength) {
          throw new TruncatedFrameError(headerLength, held);
        }
        const length = readFrameLength(this.#layout, chunk, at);
        if (held < length) throw new TruncatedFrameError(length, held);
        at += length;
      }
    } catch (error) {
      if (at === start) throw this.#fail(error);
      // The whole frames before it are still to be delivered, then the error.
      this.#buffer.cut(at);
      this.#failure = { error };
      throw error;
    }
  }

  /**
   * Takes out everything that is held, for a stream that goes on in another
   * layout or protocol. The decoder is then as new.
   *
   * @returns A view on memory that is never written again.
   * @throws {FrameError} The sticky error, if an earlier call failed.
   */
  rest(): Uint8Array<ArrayBuffer> {
    this.#throwIfFailed();
    const rest = this.#buffer.take(this.#buffer.length, 0);
    this.#buffer.clear();
    this.#frameLength = 0;
    return rest;
  }

  /** Reads and judges the next header, which is all there; gives the bytes that
   * the frame takes on the wire. */
  #readLength(): number {
    const layout = this.#layout;
    const { chunk, start } = this.#buffer;
    if (layout.simple) {
      const body = readSimpleLength(chunk, start);
      if (body >= layout.inserted && body <= layout.maxLength) {
        return layout.headerLength + body;
      }
    }
    try {
      return readFrameLength(layout, chunk, start);
    } catch (error) {
      throw this.#fail(error);
    }
  }

  /**
   * Reads the id of the next frame, which is all there, and takes the id out
   * where it was put in.
   *
   * @returns The bytes that are dropped from the front of the frame.
   */
  #takeId(): number {
    const { idWidth, idAt, inserted, strip, headerLength, little } =
      this.#layout;
    const { chunk, start } = this.#buffer;
    this.#id = readUint(chunk, start + idAt, idWidth, little);
    if (inserted > 0 && strip < headerLength) this.#closeGap();
    return strip + inserted;
  }

  /** Part of the header is kept. It moves up to the rest, and says a length as if
   * there had been no id. Nobody has seen these bytes yet. */
  #closeGap(): void {
    const layout = this.#layout;
    const { inserted, headerLength, offset } = layout;
    const { chunk, start } = this.#buffer;
    const value = readLengthField(layout, chunk, start + offset);
    chunk.copyWithin(start + inserted, start, start + headerLength);
    const at = start + inserted + offset;
    writeLengthField(layout, chunk, at, Number(value) - inserted);
  }

  #fail(error: unknown): unknown {
    this.#failure = { error };
    this.#frameLength = 0;
    this.#buffer.clear();
    return error;
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}

/**
 * Turns payloads into bytes to write: the counterpart of
 * {@linkcode FrameDecoder}, without I/O.
 *
 * Payloads go in through {@linkcode FrameEncoder.push}; the bytes to write
 * are in {@linkcode FrameEncoder.chunk}, and {@linkcode FrameEncoder.advance}
 * says how many of them a write has taken.
 *
 * - Small frames are gathered into one chunk as they come, so that they can
 *   leave in one write.
 * - A payload over 32 KiB is not copied but for its first 8 KiB: it must not
 *   change until it has been written.
 * - An encoder with nothing to write holds no memory.
 *
 * @example Two frames, one write
 * ```ts
 * import { FrameEncoder } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const encoder = new FrameEncoder({ lengthFieldLength: 1 });
 * encoder.push(new Uint8Array([10]));
 * encoder.push(new Uint8Array([20, 21]));
 * assertEquals(encoder.chunk(), new Uint8Array([1, 10, 2, 20, 21]));
 * encoder.advance(5);
 * assertEquals(encoder.chunk(), null);
 * ```
 */
export class FrameEncoder {
  readonly #layout: Layout;
  readonly #buffer = new WriteBuffer();

  /**
   * Makes an encoder for frames of one layout.
   *
   * @param options The layout of the frames.
   * @param idField Where the frames carry an id, if they do.
   * @throws {TypeError | RangeError} If an option is of the wrong type or out
   * of its range.
   */
  constructor(options?: FrameOptions, idField?: FrameIdField) {
    this.#layout = shareLayout(options, idField);
  }

  /** The layout with its defaults filled in, for others that are to agree. */
  get options(): Required<FrameOptions> {
    const { width, little, offset, adjustment, strip, maxLength } =
      this.#layout;
    return {
      lengthFieldLength: width,
      byteOrder: little ? "little" : "big",
      lengthFieldOffset: offset,
      lengthAdjustment: adjustment,
      initialBytesToStrip: strip,
      maxFrameLength: maxLength,
    };
  }

  /** Number of bytes, headers included, that are still to be written. */
  get buffered(): number {
    return this.#buffer.length;
  }

  /**
   * Judges a payload without queueing it.
   *
   * @param payload The bytes that would be framed.
   * @returns The number of bytes that the frame would take on the wire.
   * @throws {FrameTooLargeError} As {@linkcode encodeFrame}.
   * @throws {InvalidFrameLengthError} Likewise.
   */
  measure(payload: Uint8Array): number {
    return this.#layout.headerLength + checkPayload(this.#layout, payload);
  }

  /**
   * Reads the id that a payload carries itself.
   *
   * @param payload A payload that could be framed.
   * @returns The id; 0 where frames carry none, or have it put in.
   */
  readId(payload: Uint8Array): number {
    const { idWidth, inserted, little } = this.#layout;
    return idWidth === inserted
      ? 0
      : readUint(payload, idInPayload(this.#layout), idWidth, little);
  }

  /**
   * Queues one payload as one frame. Up to 32 KiB are copied; what is larger
   * is referred to and must not change until it has been written.
   *
   * @param payload The bytes to frame.
   * @param id The frame's id, an unsigned number of the field's width. Without
   * one the frame carries what the payload says, or 0 where the id is put in.
   * The payload itself is not changed.
   * @returns The number of bytes that the frame takes on the wire.
   * @throws {FrameTooLargeError} As {@linkcode encodeFrame}; nothing is
   * queued then.
   * @throws {InvalidFrameLengthError} Likewise.
   */
  push(payload: Uint8Array, id?: number): number {
    const layout = this.#layout;
    const buffer = this.#buffer;
    if (layout.simple && isCopied(layout, payload)) {
      const body = layout.inserted + payload.length;
      const length = layout.headerLength + body;
      const at = buffer.reserve(length);
      const { slab } = buffer;
      writeSimpleLength(slab, at, body);
      if (layout.inserted > 0) writeId(layout, slab, at, id);
      slab.set(payload, at + length - payload.length);
      return length;
    }
    return this.#pushAny(payload, id);
  }

  /** Any payload in any layout. It stands apart, since V8 compiles only what is
   * small into its callers. */
  #pushAny(payload: Uint8Array, id: number | undefined): number {
    const layout = this.#layout;
    const buffer = this.#buffer;
    const { offset, headerLength, inserted, idWidth } = layout;
    const body = checkPayload(layout, payload);
    const length = headerLength + body;
    const copied = payload.length <= MAX_COPIED
      ? length
      : Math.min(length, headerLength + this.#leadLength());
    const at = buffer.reserve(copied);
    const { slab } = buffer;
    writeHeader(layout, slab, at, payload, body);
    const cut = offset + copied - headerLength - inserted;
    // A view costs as much as copying a small payload.
    const whole = offset === 0 && copied === length;
    const first = whole ? payload : payload.subarray(offset, cut);
    slab.set(first, at + headerLength + inserted);
    if (idWidth > 0) writeId(layout, slab, at, id);
    if (copied < length) buffer.refer(payload.subarray(cut));
    return length;
  }

  /**
   * The next bytes to write, or `null` when nothing is left. The view stays
   * good until it is advanced over; its memory may be written again after that.
   */
  chunk(): Uint8Array | null {
    return this.#buffer.chunk();
  }

  /**
   * Says how many bytes of the last chunk were written, from its front.
   *
   * @param n Number of bytes, 0 to the length of that chunk.
   * @throws {RangeError} If `n` is not such a number.
   */
  advance(n: number): void {
    checkCount("Written bytes", n, this.#buffer.offered);
    this.#buffer.advance(n);
  }

  /** Bytes behind the header that a large frame copies: those that leave along
   * with the header, and all up to the end of the id, which is not to be written
   * into the caller's bytes. */
  #leadLength(): number {
    const { idAt, idWidth, headerLength } = this.#layout;
    return Math.max(LEAD_LENGTH, idAt + idWidth - headerLength);
  }
}

/** What {@linkcode FrameReader} reads from: `Deno.Conn` is one. */
export interface FrameSource {
  /**
   * Reads up to `p.length` bytes into `p`.
   *
   * @returns The number of bytes read, or `null` at the end.
   */
  read(p: Uint8Array<ArrayBuffer>): Promise<number | null>;
}

/** What a read gives. */
type Next = Uint8Array<ArrayBuffer> | null;

/**
 * Reads frames from anything with a `read`, such as a `Deno.Conn`.
 *
 * - Calls of {@linkcode FrameReader.read} are served in the order they came.
 * - An error of the source or in the bytes is sticky.
 * - An end between frames is a clean end; anywhere else it is a
 *   {@linkcode TruncatedFrameError}.
 *
 * @example Read until the end
 * ```ts
 * import { encodeFrame, FrameReader } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = [encodeFrame(new Uint8Array([1])), encodeFrame(new Uint8Array())];
 * const source = {
 *   read(p: Uint8Array) {
 *     const chunk = bytes.shift();
 *     if (chunk !== undefined) p.set(chunk);
 *     return Promise.resolve(chunk?.length ?? null);
 *   },
 * };
 * const payloads = await Array.fromAsync(new FrameReader(source));
 * assertEquals(payloads, [new Uint8Array([1]), new Uint8Array()]);
 * ```
 */
export class FrameReader {
  readonly #source: FrameSource;
  readonly #decoder: FrameDecoder;
  /** Reads asked for and not settled, and the last of them; none is kept once
   * all have settled, since it would keep its frame alive. */
  #pending = 0;
  #last: Promise<Next> | undefined;
  #started: ((read: Promise<Next>) => void) | undefined;
  #ended = false;
  #failed = false;
  #error: unknown = undefined;

  /**
   * Makes a reader; it reads nothing before it is asked.
   *
   * @param source What to read from.
   * @param options The layout of the frames.
   * @throws {TypeError | RangeError} If an option is of the wrong type or out
   * of its range.
   */
  constructor(source: FrameSource, options?: FrameOptions) {
    this.#source = source;
    this.#decoder = new FrameDecoder(options);
  }

  /**
   * Reads the next frame.
   *
   * @returns The payload, as {@linkcode FrameDecoder.decode} gives it, or
   * `null` at a clean end.
   * @throws {FrameError} If the bytes are no frames, or end inside one.
   * @throws The source's own error, if it fails.
   */
  read(): Promise<Uint8Array<ArrayBuffer> | null> {
    const next = () => this.#read();
    if (this.#pending++ > 0) {
      if (this.#last === undefined) {
        // The source has called back: the read that asks it is no promise yet.
        const { promise, resolve } = defer<Next>();
        this.#last = promise;
        this.#started = resolve;
      }
      return this.#last = this.#last.then(next, next);
    }
    // A lone read starts at once; others wait for the one before them.
    const result = next();
    if (this.#started !== undefined) {
      this.#started(result);
      this.#started = undefined;
    } else if (this.#pending > 0) {
      this.#last = result;
    }
    return result;
  }

  /** Yields every frame up to a clean end. Leaving the loop early leaves the
   * source open, and a later read goes on where it stopped. */
  async *[Symbol.asyncIterator](): AsyncIterableIterator<
    Uint8Array<ArrayBuffer>
  > {
    for (let f = await this.read(); f !== null; f = await this.read()) yield f;
  }

  async #read(): Promise<Next> {
    try {
      if (this.#failed) throw this.#error;
      for (let empty = 0;;) {
        const frame = this.#decoder.decode();
        if (frame !== null || this.#ended) return frame;
        const n = await this.#source.read(this.#decoder.space());
        if (n === null) {
          this.#ended = true;
          this.#decoder.finish();
        } else {
          this.#decoder.advance(n);
          empty = countEmpty("read", n, empty);
        }
      }
    } catch (error) {
      this.#failed = true;
      this.#error = error;
      throw error;
    } finally {
      if (--this.#pending === 0) this.#last = undefined;
    }
  }
}

/** Address of a TCP connection; `Deno.NetAddr` is one. */
export interface NetAddress {
  /** What carries the bytes. */
  readonly transport: "tcp" | "udp";
  /** Host name or IP address. */
  readonly hostname: string;
  /** Port, 0 to 65535. */
  readonly port: number;
}

/** Address of a Unix socket; `Deno.UnixAddr` is one. */
export interface UnixAddress {
  /** What carries the bytes. */
  readonly transport: "unix" | "unixpacket";
  /** Path of the socket; empty for a socket without a name. */
  readonly path: string;
}

/** Address of a socket between a virtual machine and its host;
 * `Deno.VsockAddr` is one. */
export interface VsockAddress {
  /** What carries the bytes. */
  readonly transport: "vsock";
  /** Context identifier of the machine. */
  readonly cid: number;
  /** Port. */
  readonly port: number;
}

/** Address of one side of a {@linkcode Transport}; `Deno.Addr` is one. */
export type TransportAddress = NetAddress | UnixAddress | VsockAddress;

/**
 * A connection, as the server and the client see it: `Deno.Conn` is one, and
 * so is whatever else carries bytes both ways, such as a tunnel or memory.
 *
 * One read and one write may be under way at a time. A buffer that is passed in
 * is the transport's until the promise settles, and not after.
 */
export interface Transport extends FrameSource, FrameSink {
  /** Closes both ways; reads and writes under way then settle. */
  close(): void;
  /** Ends the writing side and goes on reading, where the transport can. */
  closeWrite?(): Promise<void>;
  /** Has the connection keep the process alive, where the transport can. */
  ref?(): void;
  /** Lets the process end although the connection is open. */
  unref?(): void;
  /** The other side's address, if there is one. */
  readonly remoteAddr?: TransportAddress;
  /** This side's address, if there is one. */
  readonly localAddr?: TransportAddress;
}

/**
 * What `handshake` is given, on the server's side and on the client's: frames
 * before the first request. They carry no id of
 * {@linkcode CorrelationOptions}. It is over once `handshake` has settled, and
 * rejects from then on.
 */
export interface HandshakeConnection {
  /**
   * Reads the next frame's payload, as {@linkcode FrameDecoder.decode} gives
   * it. What is read ahead of it is not lost: it begins what comes after the
   * handshake.
   *
   * @throws If the stream ends, the connection fails, or the bytes are no frame.
   */
  read(): Promise<Uint8Array<ArrayBuffer>>;
  /**
   * Writes one payload as one frame; it must not change before the promise has
   * settled. What was written leaves also where nobody awaits it.
   *
   * @returns Once the transport has taken the whole frame.
   */
  write(payload: Uint8Array): Promise<void>;
  /** The other side's address, if there is one. */
  readonly remoteAddr?: TransportAddress;
  /** This side's address, if there is one. */
  readonly localAddr?: TransportAddress;
  /** Aborts when the time is up, or the connection or its owner is closed. */
  readonly signal: AbortSignal;
}

/**
 * Makes two transports that are each other's other side, in memory: for testing
 * a service without sockets.
 *
 * Each way holds up to 64 KiB that were written and not read. A write beyond
 * that waits for the reader, and takes what there is room for.
 *
 * @returns The two sides.
 *
 * @example What one side writes, the other reads
 * ```ts
 * import { transportPair } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const [here, there] = transportPair();
 * await here.write(new Uint8Array([1, 2, 3]));
 * here.close();
 *
 * const room = new Uint8Array(8);
 * assertEquals(await there.read(room), 3);
 * assertEquals(room.subarray(0, 3), new Uint8Array([1, 2, 3]));
 * assertEquals(await there.read(room), null); // the end
 * ```
 */
export function transportPair(): [Transport, Transport] {
  return pair();
}

/** What {@linkcode FrameWriter} writes to: `Deno.Conn` is one. */
export interface FrameSink {
  /**
   * Writes some or all bytes of `p`, and does not keep or transfer `p`.
   *
   * @returns The number of bytes written.
   */
  write(p: Uint8Array): Promise<number>;
}

/**
 * Writes frames to anything with a `write`, such as a `Deno.Conn`.
 *
 * - Frames leave in the order of the calls, one write of the sink at a time;
 *   short writes are completed.
 * - Frames queued in one turn, or while a write is under way, leave together
 *   in one write where they fit.
 * - When a write fails, everything queued is rejected with its error, and so
 *   is all that comes later.
 * - A payload belongs to the writer until its promise has settled: do not
 *   change it before.
 *
 * @example Two frames, one write
 * ```ts
 * import { FrameWriter } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const writes: number[] = [];
 * const sink = {
 *   write: (p: Uint8Array) => Promise.resolve(writes.push(p.length) && p.length),
 * };
 * const writer = new FrameWriter(sink);
 * await Promise.all([
 *   writer.write(new Uint8Array(3)),
 *   writer.write(new Uint8Array(4)),
 * ]);
 * assertEquals(writes, [8 + 3 + 8 + 4]);
 * ```
 */
export class FrameWriter {
  readonly #sink: FrameSink;
  readonly #encoder: FrameEncoder;
  /** Callers in the order of their frames. */
  #first: PendingWrite | null = null;
  #last: PendingWrite | null = null;
  /** Position in the stream behind the last frame queued. */
  #queued = 0;
  #flushing = false;
  #failed = false;
  #error: unknown = undefined;

  /**
   * Makes a writer.
   *
   * @param sink What to write to. Nobody else may write to it meanwhile.
   * @param options The layout of the frames.
   * @throws {TypeError | RangeError} If an option is of the wrong type or out
   * of its range.
   */
  constructor(sink: FrameSink, options?: FrameOptions) {
    this.#sink = sink;
    this.#encoder = new FrameEncoder(options);
  }

  /**
   * Writes one payload as one frame.
   *
   * @param payload The bytes to frame; not to be changed before the promise
   * has settled.
   * @returns Once the sink has taken the whole frame.
   * @throws {FrameTooLargeError} As {@linkcode encodeFrame}; nothing of the
   * frame is written then, and the writer lives on.
   * @throws {InvalidFrameLengthError} Likewise.
   * @throws The sink's own error, if it fails or has failed before.
   */
  write(payload: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failed) throw this.#error;
      this.#queued += this.#encoder.push(payload);
      const pending = { end: this.#queued, resolve, reject, next: null };
      if (this.#last === null) this.#first = pending;
      else this.#last.next = pending;
      this.#last = pending;
      if (!this.#flushing) {
        this.#flushing = true;
        // Whatever else this turn writes goes along.
        queueMicrotask(() => this.#flush());
      }
    });
  }

  async #flush(): Promise<void> {
    try {
      for (let empty = 0;;) {
        const chunk = this.#encoder.chunk();
        if (chunk === null) break;
        const n = await this.#sink.write(chunk);
        this.#encoder.advance(n);
        empty = countEmpty("write", n, empty);
        const written = this.#queued - this.#encoder.buffered;
        while (this.#first !== null && this.#first.end <= written) {
          this.#first.resolve();
          this.#first = this.#first.next;
        }
        if (this.#first === null) this.#last = null;
      }
    } catch (error) {
      this.#failed = true;
      this.#error = error;
      for (let p = this.#first; p !== null; p = p.next) p.reject(error);
      this.#first = this.#last = null;
      // What will never be written is not to be kept alive.
      for (let c; (c = this.#encoder.chunk()) !== null;) {
        this.#encoder.advance(c.length);
      }
    }
    this.#flushing = false;
  }
}

interface PendingWrite {
  /** Position in the stream behind the frame. */
  end: number;
  resolve(): void;
  reject(error: unknown): void;
  next: PendingWrite | null;
}

/**
 * A stream of bytes in, a stream of frames out.
 *
 * A frame is decoded when the reader asks for it, so a slow reader holds back
 * the writer even where one chunk carries a thousand frames, and the frames
 * before a bad one are delivered before the error.
 *
 * @example Decode a piped stream
 * ```ts
 * import { encodeFrame, FrameDecoderStream } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = ReadableStream.from([
 *   encodeFrame(new Uint8Array([1])),
 *   encodeFrame(new Uint8Array([2])),
 * ]);
 * const frames = bytes.pipeThrough(new FrameDecoderStream());
 * assertEquals(await Array.fromAsync(frames), [
 *   new Uint8Array([1]),
 *   new Uint8Array([2]),
 * ]);
 * ```
 */
export class FrameDecoderStream
  extends TransformStream<Uint8Array, Uint8Array<ArrayBuffer>> {
  /** The frames. */
  declare readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;

  /**
   * Makes a stream.
   *
   * @param options The layout of the frames.
   * @throws {TypeError | RangeError} If an option is of the wrong type or out
   * of its range.
   */
  constructor(options?: FrameOptions) {
    const decoder = new FrameDecoder(options);
    // The base takes the bytes and only says that some have come; its readable
    // end is replaced. A transform that enqueued its frames could not keep the
    // promise above: an error drops whatever its queue still holds.
    super({
      transform(chunk, controller) {
        decoder.push(chunk);
        controller.enqueue(EMPTY);
      },
      flush: () => decoder.finish(),
    });
    const arrivals = this.readable.getReader();
    const readable = new ReadableStream<Uint8Array<ArrayBuffer>>({
      async pull(controller) {
        try {
          for (;;) {
            const frame = decoder.decode();
            if (frame !== null) return controller.enqueue(frame);
            const { done } = await arrivals.read();
            if (done) return controller.close();
          }
        } catch (error) {
          // The writing side learns of it too; when it was the one that
          // failed, this does nothing.
          arrivals.cancel(error).catch(ignore);
          throw error;
        }
      },
      cancel: (reason) => arrivals.cancel(reason),
    }, { highWaterMark: 0 });
    Object.defineProperty(this, "readable", { value: readable });
  }
}

/**
 * A stream of payloads in, a stream of frames as bytes out: one chunk for each
 * payload, with a buffer of its own.
 *
 * @example Encode a piped stream
 * ```ts
 * import { FrameEncoderStream } from "@wirepool/net/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const payloads = ReadableStream.from([new Uint8Array([7])]);
 * const bytes = payloads.pipeThrough(
 *   new FrameEncoderStream({ lengthFieldLength: 2 }),
 * );
 * assertEquals(await Array.fromAsync(bytes), [new Uint8Array([0, 1, 7])]);
 * ```
 */
export class FrameEncoderStream
  extends TransformStream<Uint8Array, Uint8Array<ArrayBuffer>> {
  /**
   * Makes a stream.
   *
   * @param options The layout of the frames.
   * @throws {TypeError | RangeError} If an option is of the wrong type or out
   * of its range.
   */
  constructor(options?: FrameOptions) {
    const layout = resolveLayout(options);
    super({
      transform(payload, controller) {
        controller.enqueue(encode(layout, payload));
      },
    });
  }
}

function encode(layout: Layout, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  const body = checkPayload(layout, payload);
  const frame = new Uint8Array(layout.headerLength + body);
  writeHeader(layout, frame, 0, payload, body);
  frame.set(payload.subarray(layout.offset), layout.headerLength);
  return frame;
}

/**
 * Judges a payload that is to be encoded: it accepts what
 * {@linkcode readFrameLength} accepts, and the reverse.
 *
 * @returns The number of bytes after the length field.
 */
function checkPayload(layout: Layout, payload: Uint8Array): number {
  if (!(payload instanceof Uint8Array)) {
    throw new TypeError(
      `Payload must be a Uint8Array, received ${show(payload)}`,
    );
  }
  const body = payload.length - layout.offset + layout.inserted;
  if (body < layout.inserted) {
    throw new InvalidFrameLengthError(
      `Payload of ${payload.length} bytes lacks the ${layout.offset} that stand before the length field`,
      payload.length,
    );
  }
  if (body > layout.maxLength) {
    throw new FrameTooLargeError(body, layout.maxLength);
  }
  const value = body - layout.adjustment;
  if (value < 0 || value > layout.maxValue) {
    throw new InvalidFrameLengthError(
      `Length field of ${layout.width} bytes cannot hold ${value}`,
      payload.length,
    );
  }
  if (layout.headerLength + body < layout.minFrameLength) {
    throw tooShort(layout, body);
  }
  return body;
}

/**
 * Reads and judges the header at `at`, which is all there.
 *
 * @returns The number of bytes that the frame takes on the wire.
 */
function readFrameLength(layout: Layout, chunk: Uint8Array, at: number) {
  const value = readLengthField(layout, chunk, at + layout.offset);
  if (typeof value === "bigint") {
    throw new FrameTooLargeError(value, layout.maxLength);
  }
  const body = value + layout.adjustment;
  if (body > layout.maxLength) {
    throw new FrameTooLargeError(
      Number.isSafeInteger(body)
        ? body
        : BigInt(value) + BigInt(layout.adjustment),
      layout.maxLength,
    );
  }
  if (body < 0) {
    throw new InvalidFrameLengthError(
      `Length field of ${value} with an adjustment of ${layout.adjustment} leaves ${body} bytes`,
      body,
    );
  }
  const length = layout.headerLength + body;
  if (length < layout.minFrameLength) throw tooShort(layout, body);
  return length;
}

function tooShort(layout: Layout, body: number): InvalidFrameLengthError {
  const length = layout.headerLength + body;
  const { strip, idWidth } = layout;
  return new InvalidFrameLengthError(
    idWidth === 0 || length < strip
      ? `Frame of ${length} bytes is shorter than the ${strip} to strip`
      : `Frame of ${length} bytes is too short to hold its id of ${idWidth}`,
    body,
  );
}

/** Whether a payload is one that a simple layout copies whole; what is not, and
 * what cannot be framed, is left to the general way. */
function isCopied(
  { inserted, maxLength }: Layout,
  payload: Uint8Array,
): boolean {
  return payload instanceof Uint8Array && payload.length <= MAX_COPIED &&
    inserted + payload.length <= maxLength;
}

/** Writes what stands before the body of a frame: the bytes before the length
 * field, and the field. */
function writeHeader(
  layout: Layout,
  frame: Uint8Array,
  at: number,
  payload: Uint8Array,
  body: number,
): void {
  const { offset } = layout;
  for (let i = 0; i < offset; i++) frame[at + i] = payload[i]!;
  writeLengthField(layout, frame, at + offset, body - layout.adjustment);
}

/** Writes the id of a frame that stands in `frame` with its payload. Without
 * one, what the payload says stays, and where an id is put in it is 0. */
function writeId(
  { idWidth, idAt, inserted, little }: Layout,
  frame: Uint8Array,
  at: number,
  id: number | undefined,
): void {
  if (id === undefined && inserted === 0) return;
  writeUint(frame, at + idAt, idWidth, little, id ?? 0);
}

function checkCount(what: string, n: number, max: number): void {
  if (!Number.isInteger(n) || n < 0 || n > max) {
    throw new RangeError(
      `${what} must be an integer from 0 to ${max}, received ${show(n)}`,
    );
  }
}
