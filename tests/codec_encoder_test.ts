/** FrameEncoder: its chunks, what it copies, holds, measures and refuses. */
import {
  assert,
  assertEquals,
  assertFalse,
  assertLessOrEqual,
  assertThrows,
} from "@std/assert";
import { concat, equals } from "@std/bytes";
import {
  encodeFrame,
  FrameEncoder,
  type FrameOptions,
  FrameTooLargeError,
  InvalidFrameLengthError,
} from "../codec.ts";
import { bytes, KIB, MIB, pattern } from "./bytes_support.ts";
import { referenceEncode } from "./codec_reference_support.ts";
import { takeAll, W1, W2, W4 } from "./codec_support.ts";
import { isCollected } from "./memory_support.ts";
import { thrownBy } from "./promise_support.ts";

Deno.test("FrameEncoder gives adjacent small frames as one chunk", () => {
  const encoder = new FrameEncoder(W2);
  assertEquals(encoder.chunk(), null);
  assertEquals(encoder.buffered, 0);
  for (const text of ["abc", "", "de"]) encoder.push(bytes(text));
  assertEquals(encoder.buffered, 11);
  assertEquals(encoder.chunk(), bytes(0, 3, "abc", 0, 0, 0, 2, "de"));
  encoder.advance(11);
  assertEquals(encoder.buffered, 0);
  assertEquals(encoder.chunk(), null);
});

Deno.test("FrameEncoder repeats a chunk until it is advanced over", () => {
  const encoder = new FrameEncoder(W2);
  encoder.push(bytes("abc"));
  assertEquals(encoder.chunk(), bytes(0, 3, "abc"));
  assertEquals(encoder.chunk(), bytes(0, 3, "abc"));
  encoder.advance(0);
  assertEquals(encoder.chunk(), bytes(0, 3, "abc"));
  encoder.advance(4);
  assertEquals(encoder.buffered, 1);
  assertEquals(encoder.chunk(), bytes("c"));
  encoder.push(bytes("d"));
  assertEquals(concat(takeAll(encoder)), bytes("c", 0, 1, "d"));
});

Deno.test("FrameEncoder gives the same bytes for any payload sizes and any advances", () => {
  const sizes = [
    0,
    1,
    10,
    1000,
    1023,
    1024,
    1025,
    4000,
    4096,
    8191,
    8192,
    16384,
    30_000,
    0,
    65_535,
    65_536,
    5,
    200_000,
    7,
    7,
    7,
    70_000,
    70_000,
    1,
  ];
  const payloads = sizes.map((size, i) => pattern(size, i));
  const expected = concat(payloads.map((p) => encodeFrame(p, W4)));
  for (const most of [1, 3, 1000, 4096, 65_536, Infinity]) {
    const encoder = new FrameEncoder(W4);
    for (const payload of payloads) encoder.push(payload);
    assertEquals(encoder.buffered, expected.length);
    assertEquals(concat(takeAll(encoder, most)), expected, `steps of ${most}`);
    assertEquals(encoder.buffered, 0);
  }
  // The same, with frames queued while others are on their way.
  const encoder = new FrameEncoder(W4);
  const out: Uint8Array[] = [];
  for (const payload of payloads) {
    encoder.push(payload);
    const chunk = encoder.chunk();
    assert(chunk !== null);
    const n = Math.max(1, chunk.length >> 1);
    out.push(chunk.slice(0, n));
    encoder.advance(n);
  }
  out.push(...takeAll(encoder));
  assertEquals(concat(out), expected);
});

Deno.test("FrameEncoder does not overwrite a chunk that is being written", () => {
  const encoder = new FrameEncoder(W2);
  encoder.push(bytes("first"));
  const chunk = encoder.chunk();
  assert(chunk !== null);
  const before = chunk.slice();
  for (let i = 0; i < 500; i++) encoder.push(pattern(i, i));
  assertEquals(chunk, before);
  // A large frame among them may make the encoder change its buffer.
  encoder.push(pattern(60_000));
  encoder.push(bytes("last"));
  assertEquals(chunk, before);
});

Deno.test("FrameEncoder queues nothing of a payload that it refuses", () => {
  const encoder = new FrameEncoder({ ...W1, maxFrameLength: 300 });
  encoder.push(bytes("ok"));
  const tooLarge = assertThrows(
    () => encoder.push(new Uint8Array(301)),
    FrameTooLargeError,
  );
  assertEquals(tooLarge.length, 301);
  assertEquals(tooLarge.limit, 300);
  assertThrows(
    () => encoder.push(new Uint8Array(256)),
    InvalidFrameLengthError,
  );
  assertEquals(encoder.buffered, 3);
  encoder.push(bytes("on"));
  assertEquals(concat(takeAll(encoder)), bytes(2, "ok", 2, "on"));
});

Deno.test("FrameEncoder copies small payloads at push() and refers to large ones", () => {
  const encoder = new FrameEncoder(W4);
  const small = bytes("small");
  const large = pattern(MIB);
  encoder.push(small);
  small.fill(0);
  encoder.push(large);
  const buffers = new Set<ArrayBufferLike>();
  const out: Uint8Array[] = [];
  for (let chunk = encoder.chunk(); chunk !== null; chunk = encoder.chunk()) {
    buffers.add(chunk.buffer);
    out.push(chunk.slice());
    encoder.advance(chunk.length);
  }
  assert(buffers.has(large.buffer), "the large payload was copied");
  assertFalse(buffers.has(small.buffer));
  assertEquals(
    concat(out),
    concat([bytes(0, 0, 0, 5, "small", 0, 16, 0, 0), large]),
  );
});

Deno.test("FrameEncoder copies payloads of up to 32 KiB, in whatever layout", () => {
  const layouts: ConstructorParameters<typeof FrameEncoder>[] = [
    [],
    [{}, { length: 4 }],
    [{ lengthFieldLength: 4 }, { length: 4 }],
    [{ lengthFieldLength: 4, lengthFieldOffset: 3 }],
    [{ lengthFieldLength: 4 }, { length: 4, offset: 5 }],
  ];
  for (const layout of layouts) {
    for (
      const [length, isCopied] of [[32 * KIB, true], [32 * KIB + 1, false]]
    ) {
      const encoder = new FrameEncoder(...layout);
      const payload = new Uint8Array(length as number);
      encoder.push(payload);
      payload[payload.length - 1] = 1;
      const chunks = takeAll(encoder);
      const what = `${JSON.stringify(layout)}, ${length}`;
      assertEquals(chunks.length, isCopied ? 1 : 2, what);
      assertEquals(chunks.at(-1)!.at(-1), isCopied ? 0 : 1, what);
    }
  }
});

Deno.test("FrameEncoder puts the payload's first bytes before the length field, small or large", () => {
  const options: FrameOptions = {
    lengthFieldLength: 4,
    lengthFieldOffset: 3,
    lengthAdjustment: -4,
    byteOrder: "little",
  };
  for (const size of [3, 4, 100, 100_000]) {
    const payload = pattern(size);
    const encoder = new FrameEncoder(options);
    encoder.push(payload);
    const expected = referenceEncode(payload, options);
    assert(typeof expected !== "string");
    assertEquals(concat(takeAll(encoder)), expected);
    assertEquals(encodeFrame(payload, options), expected);
  }
});

Deno.test("FrameEncoder loses no byte where its memory ends, however the frames fall on it", () => {
  // The smallest frames, since those end exactly at an edge most often.
  const payloads = [bytes(), bytes(1), bytes(2, 3)];
  const wires = payloads.map((payload) => encodeFrame(payload, W1));
  const encoder = new FrameEncoder(W1);
  const parts: Uint8Array[] = [];
  const expected: Uint8Array[] = [];
  for (let i = 0; i < 500_000; i++) {
    const which = (i * i + (i >> 4)) % 3;
    encoder.push(payloads[which]!);
    expected.push(wires[which]!);
    if (i % 1000 === 0) parts.push(...takeAll(encoder));
  }
  parts.push(...takeAll(encoder));
  assert(equals(concat(parts), concat(expected)));
});

Deno.test("FrameEncoder has room for the widest header and a payload beside it", () => {
  const options: FrameOptions = { ...W4, lengthFieldOffset: 65_535 };
  for (const size of [65_535, 65_536, 80_000, 90_000, 200_000]) {
    const payload = pattern(size);
    const encoder = new FrameEncoder(options);
    encoder.push(payload);
    const wire = concat(takeAll(encoder));
    assert(equals(wire, encodeFrame(payload, options)), String(size));
    assertEquals(wire.subarray(0, 65_535), payload.subarray(0, 65_535));
  }
});

Deno.test("FrameEncoder gathers the small frames of an encoder that took turns with others", () => {
  const encoders = [1, 2, 3].map(() => new FrameEncoder(W2));
  const payload = pattern(100);
  for (let i = 0; i < 30; i++) {
    for (const encoder of encoders) encoder.push(payload);
  }
  for (const encoder of encoders) {
    const [chunk, ...more] = takeAll(encoder);
    assertEquals(chunk?.length, 30 * 102);
    assertEquals(more, []);
  }
  // Not without bound: what is gathered is copied once more.
  for (let i = 0; i < 3000; i++) {
    for (const encoder of encoders) encoder.push(payload);
  }
  for (const encoder of encoders) {
    const chunks = takeAll(encoder);
    assertEquals(chunks.reduce((sum, c) => sum + c.length, 0), 3000 * 102);
    for (const chunk of chunks) assertLessOrEqual(chunk.length, 64 * 1024);
    assertLessOrEqual(chunks.length, 6);
  }
});

Deno.test("FrameEncoder.advance() counts what was already written of a chunk", () => {
  for (const encoders of [1, 2]) {
    // With two that take turns, the chunk comes from sealed pieces.
    const all = Array.from({ length: encoders }, () => new FrameEncoder(W2));
    for (let i = 0; i < 2; i++) {
      for (const encoder of all) encoder.push(bytes("abc"));
    }
    for (const encoder of all) {
      assertEquals(encoder.chunk()?.length, 10);
      encoder.advance(7);
      assertThrows(() => encoder.advance(4), RangeError);
      encoder.advance(1);
      assertEquals(encoder.chunk(), bytes("bc"));
      encoder.advance(2);
      assertThrows(() => encoder.advance(1), RangeError);
    }
  }
});

Deno.test("FrameEncoder with nothing to write holds no memory", async () => {
  const encoder = new FrameEncoder(W2);
  const collected = await isCollected(encoder, () => {
    encoder.push(bytes("abc"));
    const memory = encoder.chunk()!.buffer;
    encoder.advance(5);
    // Other encoders may go on with that memory, until it is used up.
    const other = new FrameEncoder(W2);
    for (let i = 0; i < 20; i++) other.push(pattern(10_000));
    takeAll(other);
    return memory;
  });
  assert(collected);
  assertEquals(encoder.buffered, 0);
});

Deno.test("FrameEncoder.advance() refuses a count beyond the chunk", () => {
  const bad = [-1, 1.5, NaN, Infinity, "1", null, undefined, 1n, {}];
  for (const n of bad) {
    const encoder = new FrameEncoder(W2);
    encoder.push(bytes("abc"));
    encoder.chunk();
    const error = thrownBy(() => encoder.advance(n as number));
    assert(
      error instanceof RangeError || error instanceof TypeError,
      `advance(${String(n)}) gave ${error}`,
    );
    assertEquals(encoder.buffered, 5);
    assertEquals(concat(takeAll(encoder)), bytes(0, 3, "abc"));
  }
  const encoder = new FrameEncoder(W2);
  encoder.push(bytes("abc"));
  encoder.chunk();
  assertThrows(() => encoder.advance(6), RangeError);
  assertThrows(() => new FrameEncoder().advance(1), RangeError);
});

Deno.test("FrameEncoder holds no payload that has been written", async () => {
  const encoder = new FrameEncoder(W4);
  const collected = await isCollected(encoder, () => {
    const payload = pattern(MIB);
    encoder.push(payload);
    takeAll(encoder);
    return payload.buffer;
  });
  assert(collected);
  assertEquals(encoder.chunk(), null);
});

Deno.test("FrameEncoder.measure() judges a payload as push() does, and queues nothing", () => {
  const layouts: FrameOptions[] = [
    W1,
    { ...W2, maxFrameLength: 3 },
    {
      ...W2,
      lengthFieldOffset: 2,
      lengthAdjustment: -4,
      initialBytesToStrip: 7,
    },
  ];
  for (const options of layouts) {
    for (let size = 0; size <= 300; size++) {
      const payload = pattern(size);
      const encoder = new FrameEncoder(options);
      const refused = thrownBy(() => encoder.push(payload));
      const length = encoder.buffered;
      if (refused === undefined) {
        assertEquals(encoder.measure(payload), length);
        assertEquals(length, encodeFrame(payload, options).length);
      } else {
        const error = thrownBy(() => encoder.measure(payload)) as Error;
        assertEquals(error.name, (refused as Error).name);
        assertEquals(error.message, (refused as Error).message);
      }
      assertEquals(encoder.buffered, length);
    }
  }
});

Deno.test("FrameEncoder keeps no memory of what was written", () => {
  const encoder = new FrameEncoder(W4);
  for (let round = 0; round < 50; round++) {
    for (let i = 0; i < 100; i++) encoder.push(pattern(500));
    takeAll(encoder);
  }
  encoder.push(bytes("x"));
  const chunk = encoder.chunk();
  assert(chunk !== null);
  assertLessOrEqual(chunk.buffer.byteLength, 256 * 1024);
});
