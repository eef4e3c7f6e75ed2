/** What suites of frames with ids share: frames by id, one after the other. */
import { concat } from "@std/bytes";
import {
  FrameDecoder,
  FrameEncoder,
  type FrameIdField,
  type FrameOptions,
} from "../codec.ts";

/** A frame as tests write it: its id and its payload; a number is a payload of
 * that one byte. */
export type Numbered = readonly [id: number, payload: number | Uint8Array];

/** Frames with ids, one after the other. */
export function wireIds(
  frames: Iterable<Numbered>,
  field: FrameIdField,
  options?: FrameOptions,
): Uint8Array<ArrayBuffer> {
  const encoder = new FrameEncoder(options, field);
  const chunks: Uint8Array[] = [];
  for (const [id, payload] of frames) {
    encoder.push(
      typeof payload === "number" ? Uint8Array.of(payload) : payload,
      id,
    );
    for (let c = encoder.chunk(); c !== null; c = encoder.chunk()) {
      chunks.push(c.slice());
      encoder.advance(c.length);
    }
  }
  return concat(chunks);
}

/** The ids and payloads of whole frames, in order. */
export function unwireIds(
  bytes: Uint8Array,
  field: FrameIdField,
  options?: FrameOptions,
): [id: number, payload: number[]][] {
  const decoder = new FrameDecoder(options, field);
  decoder.push(bytes);
  decoder.finish();
  const frames: [number, number[]][] = [];
  for (let f = decoder.decode(); f !== null; f = decoder.decode()) {
    frames.push([decoder.id, [...f]]);
  }
  return frames;
}
