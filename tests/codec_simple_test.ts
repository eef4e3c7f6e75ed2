/**
 * The default layout is read and written without loops. These tests hold that
 * way to the general one, which says what is right.
 */
import { assertEquals } from "@std/assert";
import {
  encodeFrame,
  FrameDecoder,
  FrameEncoder,
  FrameError,
} from "../codec.ts";

const LIMIT = 20_000;
/** The same frames, but not the default layout: nothing is stripped. */
const GENERAL = { maxFrameLength: LIMIT, initialBytesToStrip: 0 };
const SIMPLE = { maxFrameLength: LIMIT };

/** What a decoder makes of bytes: a payload, nothing yet, or an error. */
function outcome(
  options: typeof SIMPLE | typeof GENERAL,
  wire: Uint8Array,
): unknown {
  const decoder = new FrameDecoder(options);
  decoder.push(wire);
  try {
    const frame = decoder.decode();
    if (frame === null) return null;
    return options === GENERAL ? frame.subarray(8) : frame;
  } catch (error) {
    if (!(error instanceof FrameError)) throw error;
    return { name: error.name, message: error.message };
  }
}

Deno.test("The default layout's header is judged as by the general way, whatever it says", () => {
  const wire = new Uint8Array(8 + LIMIT + 1);
  const headers: number[][] = [];
  for (const first of [0, 1, 0x1f, 0x20, 0x7f, 0x80, 0xff]) {
    for (let place = 0; place < 8; place++) {
      const header = new Array(8).fill(0);
      header[place] = first;
      headers.push(header, header.map((byte, i) => i > place ? 0xff : byte));
    }
  }
  for (const length of [0, 1, 255, 256, LIMIT - 1, LIMIT, LIMIT + 1]) {
    headers.push([0, 0, 0, 0, 0, 0, length >>> 8, length & 0xff]);
  }
  let state = 42;
  for (let i = 0; i < 2000; i++) {
    headers.push(Array.from({ length: 8 }, (_, place) => {
      state = (state * 48_271) % 0x7fff_ffff;
      return state % 3 === 0 || place > 5 ? state & 0xff : 0;
    }));
  }
  for (const header of headers) {
    wire.set(header);
    for (const bytes of [wire, wire.subarray(0, 300), wire.subarray(0, 8)]) {
      assertEquals(outcome(SIMPLE, bytes), outcome(GENERAL, bytes));
    }
  }
});

Deno.test("The default layout is written as by the general way, whatever the length", () => {
  for (
    const length of [0, 1, 255, 256, 257, 16_383, 16_384, 16_385, 19_999, LIMIT]
  ) {
    const payload = new Uint8Array(length).map((_, i) => i);
    const encoder = new FrameEncoder(SIMPLE);
    assertEquals(encoder.push(payload), 8 + length);
    const written: Uint8Array[] = [];
    for (let c; (c = encoder.chunk()) !== null;) {
      written.push(c.slice());
      encoder.advance(c.length);
    }
    const wire = new Uint8Array(8 + length);
    let at = 0;
    for (const chunk of written) {
      wire.set(chunk, at);
      at += chunk.length;
    }
    assertEquals(at, wire.length);
    assertEquals(wire, encodeFrame(payload, SIMPLE));
  }
});

Deno.test("An id that is put in is written and read as by the general way", () => {
  const field = { length: 4 } as const;
  for (const length of [0, 1, 300, 16_380, 16_384, LIMIT - 4]) {
    const payload = new Uint8Array(length).map((_, i) => i);
    for (const id of [undefined, 0, 1, 0xffff_ffff]) {
      const wires = [SIMPLE, GENERAL].map((options) => {
        const encoder = new FrameEncoder(options, field);
        encoder.push(payload, id);
        const bytes: number[] = [];
        for (let c; (c = encoder.chunk()) !== null;) {
          bytes.push(...c);
          encoder.advance(c.length);
        }
        return Uint8Array.from(bytes);
      });
      assertEquals(wires[0], wires[1]);
      const decoder = new FrameDecoder(SIMPLE, field);
      decoder.push(wires[0]!);
      assertEquals(decoder.decode(), payload);
      assertEquals(decoder.id, id ?? 0);
    }
  }
  // Too short to hold it, and too long with it.
  for (const body of [0, 3, LIMIT + 1]) {
    const wire = new Uint8Array(8 + body);
    new DataView(wire.buffer).setUint32(4, body);
    const [simple, general] = [SIMPLE, GENERAL].map((options) => {
      const decoder = new FrameDecoder(options, field);
      decoder.push(wire);
      try {
        return decoder.decode();
      } catch (error) {
        return (error as FrameError).message;
      }
    });
    assertEquals(simple, general);
  }
});
