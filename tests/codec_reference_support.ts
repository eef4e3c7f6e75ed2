/**
 * The framing rules once more, as plainly as they can be written: one byte at a
 * time, in bigint, over bytes that are all there. The tests hold the codec
 * against it; it shares nothing with the codec but the option names.
 */
import type { FrameOptions } from "../codec.ts";

/** One frame as it stands in the input. */
export interface ReferenceFrame {
  /** Where the frame's first byte stands. */
  start: number;
  /** Where the byte after its last one stands. */
  end: number;
  /** What a decoder hands out for it. */
  payload: Uint8Array;
}

/** What a decoder must make of some input. */
export interface Reference {
  frames: ReferenceFrame[];
  /** The error, and after how many bytes of the input it is certain. */
  fault: { name: string; at: number; length: bigint } | null;
  /** What `finish()` must complain of when the input ends here. */
  unfinished: { expected: number; received: number } | null;
}

/** The options with the documented defaults filled in. */
export interface ResolvedOptions {
  width: number;
  little: boolean;
  offset: number;
  adjustment: number;
  strip: number;
  limit: number;
}

/** Fills in the defaults that the documentation states. */
export function resolve(options: FrameOptions = {}): ResolvedOptions {
  const width = options.lengthFieldLength ?? 8;
  const offset = options.lengthFieldOffset ?? 0;
  return {
    width,
    offset,
    little: options.byteOrder === "little",
    adjustment: options.lengthAdjustment ?? 0,
    strip: options.initialBytesToStrip ?? offset + width,
    limit: options.maxFrameLength ?? 16 * 1024 * 1024,
  };
}

/** Decodes all of `input`. */
export function referenceDecode(
  input: Uint8Array,
  options: FrameOptions = {},
): Reference {
  const { width, little, offset, adjustment, strip, limit } = resolve(options);
  const header = offset + width;
  const frames: ReferenceFrame[] = [];
  let start = 0;
  while (start < input.length) {
    const received = input.length - start;
    if (received < header) {
      return {
        frames,
        fault: null,
        unfinished: { expected: header, received },
      };
    }
    let value = 0n;
    for (let i = 0; i < width; i++) {
      const at = little ? width - 1 - i : i;
      value = value * 256n + BigInt(input[start + offset + at]!);
    }
    const length = value + BigInt(adjustment);
    const total = BigInt(header) + length;
    let name = "";
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) name = "FrameTooLargeError";
    else if (length < 0n) name = "InvalidFrameLengthError";
    else if (length > BigInt(limit)) name = "FrameTooLargeError";
    else if (total < BigInt(strip)) name = "InvalidFrameLengthError";
    if (name !== "") {
      const fault = { name, at: start + header, length };
      return { frames, fault, unfinished: null };
    }
    if (BigInt(received) < total) {
      const unfinished = { expected: Number(total), received };
      return { frames, fault: null, unfinished };
    }
    const end = start + Number(total);
    const payload: number[] = [];
    for (let i = start + strip; i < end; i++) payload.push(input[i]!);
    frames.push({ start, end, payload: Uint8Array.from(payload) });
    start = end;
  }
  return { frames, fault: null, unfinished: null };
}

/** Encodes one payload: its bytes on the wire, or the name of the error. */
export function referenceEncode(
  payload: Uint8Array,
  options: FrameOptions = {},
): Uint8Array | string {
  const { width, little, offset, adjustment, strip, limit } = resolve(options);
  if (payload.length < offset) return "InvalidFrameLengthError";
  const length = payload.length - offset;
  if (length > limit) return "FrameTooLargeError";
  if (offset + width + length < strip) return "InvalidFrameLengthError";
  let value = BigInt(length) - BigInt(adjustment);
  if (value < 0n || value >= 256n ** BigInt(width)) {
    return "InvalidFrameLengthError";
  }
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) return "InvalidFrameLengthError";
  const field: number[] = [];
  for (let i = 0; i < width; i++) {
    const low = Number(value % 256n);
    if (little) field.push(low);
    else field.unshift(low);
    value /= 256n;
  }
  const wire: number[] = [];
  for (let i = 0; i < offset; i++) wire.push(payload[i]!);
  for (const byte of field) wire.push(byte);
  for (let i = offset; i < payload.length; i++) wire.push(payload[i]!);
  return Uint8Array.from(wire);
}
