/**
 * What FrameDecoder makes of bytes: a table of streams, by every way into it
 * and in every cut; its errors, `finish()`, its own room (`space()` and
 * `advance()`), and whose the bytes are.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";
import {
  encodeFrame,
  FrameDecoder,
  FrameError,
  type FrameOptions,
  FrameTooLargeError,
  TruncatedFrameError,
} from "../codec.ts";
import { bytes, MIB, pattern, splits } from "./bytes_support.ts";
import {
  assertFrameError,
  fill,
  NINE,
  STREAM,
  THREE,
  W1,
  W2,
  W4,
  ways,
} from "./codec_support.ts";
import { isCollected } from "./memory_support.ts";
import { thrownBy } from "./promise_support.ts";

// Decoding, as a table --------------------------------------------------------

interface DecodeCase {
  name: string;
  options?: FrameOptions;
  chunks: Uint8Array[];
  frames: (string | Uint8Array)[];
  error?: string;
  fields?: Record<string, number>;
}

const decodeCases: DecodeCase[] = [
  { name: "no bytes at all", chunks: [], frames: [] },
  { name: "only empty chunks", chunks: [bytes(), bytes()], frames: [] },
  {
    name: "one frame in one chunk, all defaults",
    chunks: [bytes(0, 0, 0, 0, 0, 0, 0, 2, "hi")],
    frames: ["hi"],
  },
  {
    name: "one frame in one chunk",
    options: W4,
    chunks: [NINE],
    frames: ["abcdefghi"],
  },
  {
    name: "one frame in many chunks",
    options: W4,
    chunks: [bytes(0, 0), bytes(0, 9, "abc"), bytes("defghi")],
    frames: ["abcdefghi"],
  },
  {
    name: "one frame in single bytes, empty chunks between",
    options: W4,
    chunks: Array.from(NINE, (byte) => [bytes(byte), bytes()]).flat(),
    frames: ["abcdefghi"],
  },
  {
    name: "many frames in one chunk",
    options: W4,
    chunks: [STREAM],
    frames: ["abcdefghi", "123", "hello world"],
  },
  {
    name: "many frames in many chunks that fit none of them",
    options: W4,
    chunks: [
      bytes(0, 0),
      bytes(0, 9, "abc"),
      bytes("defghi"),
      bytes(0, 0, 0, 3, "12"),
      bytes("3", 0, 0, 0, 11, "hello world"),
    ],
    frames: ["abcdefghi", "123", "hello world"],
  },
  {
    name: "a chunk that ends where the header ends",
    options: W4,
    chunks: [bytes(0, 0, 0, 3), bytes("123", 0, 0, 0, 3), bytes("456")],
    frames: ["123", "456"],
  },
  {
    name: "an empty frame",
    options: W4,
    chunks: [bytes(0, 0, 0, 0)],
    frames: [""],
  },
  {
    name: "empty frames between others",
    options: W2,
    chunks: [bytes(0, 0, 0, 1, "a", 0, 0, 0, 0, 0, 1, "b", 0, 0)],
    frames: ["", "a", "", "", "b", ""],
  },
  {
    name: "an empty frame whose last header byte comes alone",
    options: W2,
    chunks: [bytes(0), bytes(0)],
    frames: [""],
  },
  {
    name: "a cut header",
    options: W4,
    chunks: [bytes(0, 0)],
    frames: [],
    error: "TruncatedFrameError",
    fields: { expected: 4, received: 2 },
  },
  {
    name: "a header cut after one byte, all defaults",
    chunks: [bytes(0)],
    frames: [],
    error: "TruncatedFrameError",
    fields: { expected: 8, received: 1 },
  },
  {
    name: "a header cut in the bytes before the length field",
    options: { ...W2, lengthFieldOffset: 3 },
    chunks: [bytes("ab")],
    frames: [],
    error: "TruncatedFrameError",
    fields: { expected: 5, received: 2 },
  },
  {
    name: "a whole header and nothing else",
    options: W4,
    chunks: [bytes(0, 0, 0, 9)],
    frames: [],
    error: "TruncatedFrameError",
    fields: { expected: 13, received: 4 },
  },
  {
    name: "a cut payload",
    options: W4,
    chunks: [bytes(0, 0, 0, 9, "ab"), bytes("cd")],
    frames: [],
    error: "TruncatedFrameError",
    fields: { expected: 13, received: 8 },
  },
  {
    name: "a payload that lacks its last byte",
    options: W4,
    chunks: [bytes(0, 0, 0, 9, "abcdefgh")],
    frames: [],
    error: "TruncatedFrameError",
    fields: { expected: 13, received: 12 },
  },
  {
    name: "a cut header after whole frames",
    options: W4,
    chunks: [concat([NINE, THREE]), bytes(0, 0, 0)],
    frames: ["abcdefghi", "123"],
    error: "TruncatedFrameError",
    fields: { expected: 4, received: 3 },
  },
  {
    name: "a cut payload after whole frames, in one chunk",
    options: W4,
    chunks: [concat([NINE, THREE, bytes(0, 0, 0, 2, "x")])],
    frames: ["abcdefghi", "123"],
    error: "TruncatedFrameError",
    fields: { expected: 6, received: 5 },
  },
  {
    name: "a payload cut where an adjustment and an offset count",
    options: { ...W2, lengthFieldOffset: 1, lengthAdjustment: -2 },
    chunks: [bytes("T", 0, 6, "ab")],
    frames: [],
    error: "TruncatedFrameError",
    fields: { expected: 7, received: 5 },
  },
  {
    name: "a frame exactly at the limit",
    options: { ...W4, maxFrameLength: 9 },
    chunks: [NINE],
    frames: ["abcdefghi"],
  },
  {
    name: "a frame one byte over the limit",
    options: { ...W4, maxFrameLength: 8 },
    chunks: [NINE],
    frames: [],
    error: "FrameTooLargeError",
    fields: { length: 9, limit: 8 },
  },
  {
    name: "a frame over the limit, of which only the header came",
    options: { ...W4, maxFrameLength: 8 },
    chunks: [bytes(0, 0, 0, 9)],
    frames: [],
    error: "FrameTooLargeError",
    fields: { length: 9, limit: 8 },
  },
  {
    name: "a frame over the default limit",
    options: W4,
    chunks: [bytes(1, 0, 0, 1)],
    frames: [],
    error: "FrameTooLargeError",
    fields: { length: 16 * MIB + 1, limit: 16 * MIB },
  },
  {
    name: "the limit after a negative adjustment, exactly",
    options: { ...W2, lengthAdjustment: -2, maxFrameLength: 3 },
    chunks: [bytes(0, 5, "abc")],
    frames: ["abc"],
  },
  {
    name: "the limit after a negative adjustment, one over",
    options: { ...W2, lengthAdjustment: -2, maxFrameLength: 3 },
    chunks: [bytes(0, 6, "abcd")],
    frames: [],
    error: "FrameTooLargeError",
    fields: { length: 4, limit: 3 },
  },
  {
    name: "the limit after a positive adjustment, exactly",
    options: { ...W2, lengthAdjustment: 2, maxFrameLength: 3 },
    chunks: [bytes(0, 1, "abc")],
    frames: ["abc"],
  },
  {
    name: "the limit after a positive adjustment, one over",
    options: { ...W2, lengthAdjustment: 2, maxFrameLength: 3 },
    chunks: [bytes(0, 2, "abcd")],
    frames: [],
    error: "FrameTooLargeError",
    fields: { length: 4, limit: 3 },
  },
  {
    name: "a limit that does not count the bytes before the length field",
    options: { ...W2, lengthFieldOffset: 4, maxFrameLength: 1 },
    chunks: [bytes("head", 0, 1, "x")],
    frames: ["x"],
  },
  {
    name: "a limit of nothing, and frames of nothing",
    options: { ...W2, maxFrameLength: 0 },
    chunks: [bytes(0, 0, 0, 0)],
    frames: ["", ""],
  },
  {
    name: "a limit of nothing, and a frame of one byte",
    options: { ...W2, maxFrameLength: 0 },
    chunks: [bytes(0, 0, 0, 1, "x")],
    frames: [""],
    error: "FrameTooLargeError",
    fields: { length: 1, limit: 0 },
  },
  {
    name: "a field below zero after adjustment",
    options: { ...W2, lengthAdjustment: -2 },
    chunks: [bytes(0, 1, "abc")],
    frames: [],
    error: "InvalidFrameLengthError",
  },
  {
    name: "a field of exactly zero after adjustment",
    options: { ...W2, lengthAdjustment: -2 },
    chunks: [bytes(0, 2, 0, 3, "x")],
    frames: ["", "x"],
  },
  {
    name: "a frame that is shorter than what is stripped from it",
    options: { ...W2, initialBytesToStrip: 4 },
    chunks: [bytes(0, 3, "abc", 0, 2, "de", 0, 1, "f")],
    frames: ["c", ""],
    error: "InvalidFrameLengthError",
  },
  {
    name: "frames before one that is too large, in the same chunk",
    options: { ...W4, maxFrameLength: 9 },
    chunks: [STREAM],
    frames: ["abcdefghi", "123"],
    error: "FrameTooLargeError",
    fields: { length: 11, limit: 9 },
  },
  {
    name: "frames before one that says less than zero, in the same chunk",
    options: { ...W1, lengthAdjustment: -1 },
    chunks: [bytes(2, "a", 3, "bc", 0, 2, "d")],
    frames: ["a", "bc"],
    error: "InvalidFrameLengthError",
  },
  {
    name: "a large frame with small ones around it",
    options: W4,
    chunks: [
      concat([NINE, bytes(0, 4, 0, 0), pattern(262144), THREE]),
    ],
    frames: ["abcdefghi", pattern(262144), "123"],
  },
  {
    name: "a large frame in chunks of 1000 bytes",
    options: W4,
    chunks: chop(
      concat([THREE, bytes(0, 4, 0, 0), pattern(262144), NINE]),
      1000,
    ),
    frames: ["123", pattern(262144), "abcdefghi"],
  },
];

function chop(input: Uint8Array, size: number): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let i = 0; i < input.length; i += size) {
    chunks.push(input.subarray(i, i + size));
  }
  return chunks;
}

for (const [way, run] of Object.entries(ways)) {
  Deno.test(`${way} decodes every case of the table`, async () => {
    for (
      const { name, options, chunks, frames, error, fields } of decodeCases
    ) {
      const outcome = await run(chunks, options);
      assertEquals(
        outcome.frames,
        frames.map((f) => typeof f === "string" ? bytes(f) : f),
        name,
      );
      if (error === undefined) {
        assertEquals(outcome.error, undefined, name);
        continue;
      }
      assertFrameError(outcome.error, error, name);
      for (const [field, value] of Object.entries(fields ?? {})) {
        assertEquals(Reflect.get(outcome.error as Error, field), value, name);
      }
    }
  });
}

for (const [way, run] of Object.entries(ways)) {
  Deno.test(`${way} gives the same for every split of a stream`, async () => {
    for (const chunks of splits(STREAM)) {
      const { frames, error } = await run(chunks, W4);
      assertEquals(error, undefined);
      assertEquals(
        frames,
        ["abcdefghi", "123", "hello world"].map((f) => bytes(f)),
      );
    }
  });
}

// Errors, finish(), ownership -------------------------------------------------

Deno.test("FrameDecoder tells a bad length as soon as the header is whole", () => {
  const decoder = new FrameDecoder({ ...W4, maxFrameLength: 5 });
  decoder.push(bytes(0, 0, 0));
  assertEquals(decoder.decode(), null);
  decoder.push(bytes(6));
  assertThrows(() => decoder.decode(), FrameTooLargeError);
});

Deno.test("FrameDecoder gives the frames before a bad one, then the same error for ever", () => {
  const bad: [string, FrameOptions, Uint8Array][] = [
    ["FrameTooLargeError", { ...W2, maxFrameLength: 5 }, bytes(0, 6, "abcdef")],
    ["InvalidFrameLengthError", { ...W2, lengthAdjustment: -2 }, bytes(0, 1)],
  ];
  for (const [name, options, wire] of bad) {
    const good = encodeFrame(bytes("ok"), options);
    const decoder = new FrameDecoder(options);
    decoder.push(concat([good, good, wire, good]));
    assertEquals(decoder.decode(), bytes("ok"));
    assertEquals(decoder.decode(), bytes("ok"));
    const error = assertThrows(() => decoder.decode(), FrameError);
    assertFrameError(error, name, name);
    for (let i = 0; i < 2; i++) {
      assertStrictEquals(thrownBy(() => decoder.decode()), error);
      assertStrictEquals(thrownBy(() => [...decoder]), error);
      assertStrictEquals(thrownBy(() => decoder.finish()), error);
      assertStrictEquals(thrownBy(() => decoder.push(good)), error);
      assertStrictEquals(thrownBy(() => decoder.space()), error);
      assertStrictEquals(thrownBy(() => decoder.advance(0)), error);
      assertEquals(decoder.buffered, 0, "nothing is held for a failed stream");
    }
  }
});

Deno.test("FrameDecoder.finish() judges what remains after the whole frames, and takes none of them", () => {
  const decoder = new FrameDecoder(W2);
  decoder.finish();
  decoder.push(bytes(0, 1, "a", 0, 2, "bc"));
  decoder.finish();
  assertEquals(decoder.decode(), bytes("a"));
  decoder.finish();
  assertEquals(decoder.decode(), bytes("bc"));
  decoder.finish();

  const cut = new FrameDecoder(W2);
  cut.push(bytes(0, 1, "a", 0, 2, "b"));
  const error = assertThrows(() => cut.finish(), TruncatedFrameError);
  assertEquals(error.expected, 4);
  assertEquals(error.received, 3);
  assertEquals(cut.decode(), bytes("a"));
  assertStrictEquals(thrownBy(() => cut.decode()), error);
});

Deno.test("What FrameDecoder.finish() throws is sticky, behind the frames before it", () => {
  for (
    const [tail, type] of [
      [bytes(0), TruncatedFrameError],
      [bytes(0, 3, "bc"), TruncatedFrameError],
      [bytes(0, 9, "b"), FrameTooLargeError],
    ] as const
  ) {
    const decoder = new FrameDecoder({ ...W2, maxFrameLength: 5 });
    decoder.push(concat([bytes(0, 1, "a", 0, 2, "bc"), tail]));
    const error = thrownBy(() => decoder.finish());
    assertInstanceOf(error, type);
    assertStrictEquals(thrownBy(() => decoder.push(bytes("c"))), error);
    assertStrictEquals(thrownBy(() => decoder.space()), error);
    assertStrictEquals(thrownBy(() => decoder.advance(0)), error);
    assertStrictEquals(thrownBy(() => decoder.finish()), error);
    assertEquals(decoder.decode(), bytes("a"));
    assertEquals(decoder.decode(), bytes("bc"));
    assertStrictEquals(thrownBy(() => decoder.decode()), error);
    assertStrictEquals(thrownBy(() => decoder.decode()), error);
  }
});

Deno.test("FrameDecoder.finish() throws the error of a bad frame that nobody has met yet", () => {
  const decoder = new FrameDecoder({ ...W2, maxFrameLength: 5 });
  decoder.push(bytes(0, 1, "a", 0, 9, "b"));
  assertThrows(() => decoder.finish(), FrameTooLargeError);
  assertEquals(decoder.decode(), bytes("a"));
  assertThrows(() => decoder.decode(), FrameTooLargeError);
});

Deno.test("FrameDecoder.buffered counts the bytes that are held", () => {
  const decoder = new FrameDecoder(W2);
  assertEquals(decoder.buffered, 0);
  decoder.push(bytes(0));
  assertEquals(decoder.buffered, 1);
  decoder.push(bytes(2, "ab", 0, 1));
  assertEquals(decoder.buffered, 6);
  decoder.decode();
  assertEquals(decoder.buffered, 2);
  fill(decoder, bytes("x"));
  assertEquals(decoder.buffered, 3);
  decoder.decode();
  assertEquals(decoder.buffered, 0);
  decoder.space();
  assertEquals(decoder.buffered, 0);

  const large = new FrameDecoder(W4);
  large.push(concat([bytes(0, 1, 0, 0), pattern(1000)]));
  assertEquals(large.decode(), null);
  assertEquals(large.buffered, 1004);
  fill(large, pattern(1000));
  assertEquals(large.buffered, 2004);
});

Deno.test("FrameDecoder is iterable again and again", () => {
  const decoder = new FrameDecoder(W1);
  decoder.push(bytes(1, "a", 1, "b", 1));
  assertEquals([...decoder], [bytes("a"), bytes("b")]);
  assertEquals([...decoder], []);
  decoder.push(bytes("c", 1, "d", 1, "e"));
  for (const frame of decoder) {
    assertEquals(frame, bytes("c"));
    break;
  }
  assertEquals([...decoder], [bytes("d"), bytes("e")]);
});

Deno.test("FrameDecoder.push() leaves the chunk to its caller", () => {
  const sizes = [10, 5000, 100_000];
  for (const size of sizes) {
    const payload = pattern(size);
    const wire = encodeFrame(payload, W4);
    const decoder = new FrameDecoder(W4);
    const chunk = wire.slice();
    decoder.push(chunk);
    chunk.fill(0xee);
    const frame = decoder.decode();
    assertEquals(frame, payload);

    // A payload that came whole in one chunk, and was decoded before the
    // caller used the chunk again.
    const again = wire.slice();
    decoder.push(again);
    const kept = decoder.decode();
    again.fill(0xee);
    assertEquals(kept, payload);
    assertEquals(frame, payload);
  }
});

Deno.test("FrameDecoder.push() takes views, of ordinary and of shared memory", () => {
  const memory = bytes("..", 0, 2, "hi", "..");
  const decoder = new FrameDecoder(W2);
  decoder.push(memory.subarray(2, 6));
  assertEquals(decoder.decode(), bytes("hi"));
  const shared = new Uint8Array(new SharedArrayBuffer(5));
  shared.set(bytes(0, 4, "sha"));
  decoder.push(shared);
  assertEquals(decoder.decode(), null);
  decoder.push(bytes("r"));
  assertEquals(decoder.decode(), bytes("shar"));
});

Deno.test("A payload handed out is never written again", () => {
  const decoder = new FrameDecoder(W2);
  const held: [Uint8Array, Uint8Array][] = [];
  for (let i = 0; i < 2000; i++) {
    const payload = pattern(i % 700, i);
    const wire = encodeFrame(payload, W2);
    if (i % 3 === 0) decoder.push(wire);
    else fill(decoder, wire);
    const frame = decoder.decode();
    assert(frame !== null);
    held.push([frame, payload]);
    // Room that is asked for and filled, but never declared, is scratch.
    if (i % 5 === 0) decoder.space().fill(0xee);
  }
  for (const [frame, payload] of held) assertEquals(frame, payload);
});

Deno.test("A write to one payload reaches no other and no later one", () => {
  const decoder = new FrameDecoder(W1);
  decoder.push(bytes(2, "ab", 2, "cd", 2, "e"));
  const first = decoder.decode();
  assert(first !== null);
  first.fill(0);
  assertEquals(decoder.decode(), bytes("cd"));
  decoder.push(bytes("f"));
  assertEquals(decoder.decode(), bytes("ef"));
});

// space() and advance() -------------------------------------------------------

Deno.test("FrameDecoder.space() is never empty, also where nothing was ever pushed", () => {
  const decoder = new FrameDecoder();
  for (let i = 0; i < 5; i++) {
    const room = decoder.space();
    assertGreater(room.length, 0);
    decoder.advance(room.length - 1);
    assertGreater(decoder.space().length, 0);
    decoder.advance(1);
  }
});

Deno.test("FrameDecoder.advance() takes any count up to the room, also none", () => {
  const decoder = new FrameDecoder(W2);
  let room = decoder.space();
  decoder.advance(0);
  assertEquals(decoder.buffered, 0);
  room = decoder.space();
  room.set(bytes(0, 3, "ab"));
  decoder.advance(4);
  assertEquals(decoder.decode(), null);
  room = decoder.space();
  room.set(bytes("c"));
  decoder.advance(1);
  assertEquals(decoder.decode(), bytes("abc"));

  room = decoder.space();
  room.fill(0);
  decoder.advance(room.length);
  assertEquals(decoder.decode(), bytes());
});

Deno.test("FrameDecoder.advance() refuses a count that the room cannot hold", () => {
  const bad = [-1, 1.5, NaN, Infinity, "1", null, undefined, 1n, {}];
  for (const n of bad) {
    const decoder = new FrameDecoder(W2);
    decoder.space();
    const error = thrownBy(() => decoder.advance(n as number));
    assert(
      error instanceof RangeError || error instanceof TypeError,
      `advance(${String(n)}) gave ${error}`,
    );
    assertEquals(decoder.buffered, 0);
    decoder.push(bytes(0, 1, "x"));
    assertEquals(decoder.decode(), bytes("x"));
  }
  const decoder = new FrameDecoder(W2);
  const room = decoder.space();
  assertThrows(() => decoder.advance(room.length + 1), RangeError);
  assertThrows(() => new FrameDecoder().advance(1), RangeError);
});

Deno.test("FrameDecoder.advance() counts once: the same room cannot be declared twice over", () => {
  const decoder = new FrameDecoder(W2);
  const room = decoder.space();
  decoder.advance(room.length);
  assertThrows(() => decoder.advance(1), RangeError);
  assertEquals(decoder.buffered, room.length);
});

Deno.test("FrameDecoder.advance() refuses room that a push has taken back", () => {
  const decoder = new FrameDecoder(W2);
  decoder.space().set(bytes(0, 1, "x"));
  decoder.push(bytes(0, 1, "y"));
  assertThrows(() => decoder.advance(3), RangeError);
  assertEquals([...decoder], [bytes("y")]);
  // Neither is there any where none was asked for.
  assertThrows(() => decoder.advance(1), RangeError);
  assertEquals(decoder.buffered, 0);
});

Deno.test("FrameDecoder.advance() may declare one room in several steps", () => {
  const decoder = new FrameDecoder(W2);
  const room = decoder.space();
  room.set(bytes(0, 1, "x", 0, 2, "yz"));
  for (const n of [1, 0, 1, 1, 4]) decoder.advance(n);
  assertEquals([...decoder], [bytes("x"), bytes("yz")]);
  assertThrows(() => decoder.advance(room.length - 6), RangeError);
  decoder.advance(room.length - 7);
  assertEquals(decoder.buffered, room.length - 7);
});

Deno.test("FrameDecoder holds no frame that it has handed out, once its memory is used up", async () => {
  const decoder = new FrameDecoder(W4);
  const wire = encodeFrame(pattern(MIB), W4);
  const collected = await isCollected(decoder, () => {
    fill(decoder, wire.subarray(0, 10));
    assertEquals(decoder.decode(), null);
    fill(decoder, wire.subarray(10));
    return decoder.decode()!.buffer;
  });
  assert(collected);
  assertEquals(decoder.buffered, 0);
});

Deno.test("FrameDecoder takes a frame partly from push() and partly from its room", () => {
  for (const size of [20, 3000, 200_000]) {
    const payload = pattern(size);
    const wire = encodeFrame(payload, W4);
    for (const cut of [1, 3, 4, 5, size >> 1, size + 3]) {
      const first = new FrameDecoder(W4);
      first.push(wire.subarray(0, cut));
      assertEquals(first.decode(), null);
      fill(first, wire.subarray(cut));
      assertEquals(first.decode(), payload);

      const second = new FrameDecoder(W4);
      fill(second, wire.subarray(0, cut));
      assertEquals(second.decode(), null);
      second.push(wire.subarray(cut));
      assertEquals(second.decode(), payload);
    }
  }
});

Deno.test("FrameDecoder keeps bytes in order when room was asked for and then left for push()", () => {
  const decoder = new FrameDecoder(W1);
  decoder.space();
  decoder.push(bytes(3, "a"));
  const room = decoder.space();
  room.set(bytes("b"));
  decoder.advance(1);
  decoder.space();
  decoder.push(bytes("c", 1, "d"));
  assertEquals([...decoder], [bytes("abc"), bytes("d")]);
});
