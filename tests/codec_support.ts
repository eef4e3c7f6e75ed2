/**
 * What the codec's tests share: sources and sinks that do as they are told,
 * every way into the decoder, and the check of an error.
 */
import { assertEquals, assertGreater, assertInstanceOf } from "@std/assert";
import { concat } from "@std/bytes";
import {
  FrameDecoder,
  FrameDecoderStream,
  type FrameEncoder,
  FrameError,
  type FrameOptions,
  FrameReader,
  FrameTooLargeError,
  InvalidFrameLengthError,
  TruncatedFrameError,
} from "../codec.ts";
import { bytes } from "./bytes_support.ts";

/** Length fields of one, two and four bytes. */
export const W1: FrameOptions = { lengthFieldLength: 1 };
export const W2: FrameOptions = { lengthFieldLength: 2 };
export const W4: FrameOptions = { lengthFieldLength: 4 };

/** One step of a source: bytes to give, a plain result, or an error to throw. */
export type Step = Uint8Array | number | null | Error;

/** A source that gives its steps one after the other, then ends. */
export class ScriptedSource {
  readonly #steps: Step[];
  /** How often `read` was called. */
  reads = 0;
  /** How many reads are under way now, and were at most. */
  active = 0;
  mostActive = 0;
  /** The sizes of the buffers that were offered. */
  readonly rooms: number[] = [];

  constructor(steps: Iterable<Step>) {
    this.#steps = [...steps];
  }

  async read(p: Uint8Array): Promise<number | null> {
    this.reads++;
    this.rooms.push(p.byteLength);
    this.active++;
    this.mostActive = Math.max(this.mostActive, this.active);
    await Promise.resolve();
    this.active--;
    const step = this.#steps.shift();
    if (step === undefined) return null;
    if (step instanceof Error) throw step;
    if (step === null || typeof step === "number") return step;
    const n = Math.min(p.length, step.length);
    p.set(step.subarray(0, n));
    if (n < step.length) this.#steps.unshift(step.subarray(n));
    return n;
  }
}

/** A sink that keeps what it gets; `accept` says how much it takes of a write. */
export class RecordingSink {
  /** A copy of what each write accepted, in order. */
  readonly writes: Uint8Array[] = [];
  /** The memory each write was a view on. */
  readonly buffers: ArrayBufferLike[] = [];
  active = 0;
  mostActive = 0;

  constructor(
    readonly accept: (
      p: Uint8Array,
      call: number,
    ) => number | Promise<number> = (p) => p.length,
  ) {}

  async write(p: Uint8Array): Promise<number> {
    this.active++;
    this.mostActive = Math.max(this.mostActive, this.active);
    try {
      const call = this.writes.length;
      this.buffers.push(p.buffer);
      const at = this.writes.push(new Uint8Array(0)) - 1;
      const n = await this.accept(p, call);
      this.writes[at] = p.slice(0, Math.max(0, n));
      return n;
    } finally {
      this.active--;
    }
  }

  /** All accepted bytes. */
  get written(): Uint8Array {
    return concat(this.writes);
  }
}

/** Three frames with length fields of four bytes, and their stream. */
export const NINE: Uint8Array = bytes(0, 0, 0, 9, "abcdefghi");
export const THREE: Uint8Array = bytes(0, 0, 0, 3, "123");
export const ELEVEN: Uint8Array = bytes(0, 0, 0, 11, "hello world");
export const STREAM: Uint8Array = concat([NINE, THREE, ELEVEN]);

/** What came of a stream: its frames, and the error that ended it. */
export interface Outcome {
  frames: Uint8Array[];
  error: unknown;
}

/** A way into the decoder. */
export type Way = (
  chunks: readonly Uint8Array[],
  options?: FrameOptions,
) => Outcome | Promise<Outcome>;

/** Takes every frame that is whole; returns the error that ended it, if any. */
export function drain(decoder: FrameDecoder, into: Uint8Array[]): unknown {
  try {
    for (;;) {
      const frame = decoder.decode();
      if (frame === null) return undefined;
      into.push(frame);
    }
  } catch (error) {
    return error;
  }
}

/** Ends the input; returns the error that this throws, if any. */
export function finish(decoder: FrameDecoder): unknown {
  try {
    decoder.finish();
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Puts `chunk` into the decoder by way of its own room. */
export function fill(decoder: FrameDecoder, chunk: Uint8Array): void {
  let at = 0;
  while (at < chunk.length) {
    const room = decoder.space();
    assertGreater(room.length, 0, "space() must never be empty");
    const n = Math.min(room.length, chunk.length - at);
    room.set(chunk.subarray(at, at + n));
    decoder.advance(n);
    at += n;
  }
}

/**
 * Five ways into the one decoder. Each takes the same chunks and must give the
 * same frames and the same error.
 */
export const ways: Record<string, Way> = {
  "push() and decode()": (chunks, options) => {
    const decoder = new FrameDecoder(options);
    const frames: Uint8Array[] = [];
    for (const chunk of chunks) {
      decoder.push(chunk);
      const error = drain(decoder, frames);
      if (error !== undefined) return { frames, error };
    }
    return { frames, error: finish(decoder) };
  },
  "push() of everything, then iteration": (chunks, options) => {
    const decoder = new FrameDecoder(options);
    const frames: Uint8Array[] = [];
    for (const chunk of chunks) decoder.push(chunk);
    try {
      for (const frame of decoder) frames.push(frame);
    } catch (error) {
      return { frames, error };
    }
    return { frames, error: finish(decoder) };
  },
  "space() and advance()": (chunks, options) => {
    const decoder = new FrameDecoder(options);
    const frames: Uint8Array[] = [];
    for (const chunk of chunks) {
      fill(decoder, chunk);
      const error = drain(decoder, frames);
      if (error !== undefined) return { frames, error };
    }
    return { frames, error: finish(decoder) };
  },
  "FrameReader": async (chunks, options) => {
    const reader = new FrameReader(new ScriptedSource(chunks), options);
    const frames: Uint8Array[] = [];
    try {
      for await (const frame of reader) frames.push(frame);
    } catch (error) {
      return { frames, error };
    }
    return { frames, error: undefined };
  },
  "FrameDecoderStream": async (chunks, options) => {
    const frames: Uint8Array[] = [];
    const stream = ReadableStream.from(chunks)
      .pipeThrough(new FrameDecoderStream(options));
    try {
      for await (const frame of stream) frames.push(frame);
    } catch (error) {
      return { frames, error };
    }
    return { frames, error: undefined };
  },
};

/** Takes everything the encoder has, as the chunks it gives. */
export function takeAll(encoder: FrameEncoder, most = Infinity): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (;;) {
    const chunk = encoder.chunk();
    if (chunk === null) return chunks;
    assertGreater(chunk.length, 0, "a chunk must never be empty");
    const n = Math.min(chunk.length, most);
    chunks.push(chunk.slice(0, n));
    encoder.advance(n);
  }
}

const CLASSES = {
  FrameTooLargeError,
  InvalidFrameLengthError,
  TruncatedFrameError,
};

/** `error` must be of the class of that name, and bear it. */
export function assertFrameError(
  error: unknown,
  name: string,
  message?: string,
): asserts error is FrameError {
  assertInstanceOf(error, FrameError, message);
  assertInstanceOf(error, CLASSES[name as keyof typeof CLASSES], message);
  assertEquals(error.name, name, message);
}
