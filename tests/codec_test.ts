/**
 * The codec without I/O: decoding and encoding as tables, errors, ownership of
 * bytes, and options.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertLessOrEqual,
  assertNotStrictEquals,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat, equals } from "@std/bytes";
import {
  encodeFrame,
  FrameDecoder,
  FrameDecoderStream,
  FrameEncoder,
  FrameEncoderStream,
  FrameError,
  type FrameOptions,
  FrameReader,
  FrameTooLargeError,
  FrameWriter,
  InvalidFrameLengthError,
  TruncatedFrameError,
} from "../codec.ts";
import {
  assertFrameError,
  bytes,
  hex,
  isCollected,
  MIB,
  pattern,
  RecordingSink,
  ScriptedSource,
  splits,
  thrownBy,
} from "./codec_support.ts";
import { referenceDecode, referenceEncode } from "./reference_decoder.ts";

const W1: FrameOptions = { lengthFieldLength: 1 };
const W2: FrameOptions = { lengthFieldLength: 2 };
const W4: FrameOptions = { lengthFieldLength: 4 };

// ---------------------------------------------------------------------------
// Five ways into the one decoder. Each takes the same chunks and must give the
// same frames and the same error.

interface Outcome {
  frames: Uint8Array[];
  error: unknown;
}

type Way = (
  chunks: readonly Uint8Array[],
  options?: FrameOptions,
) => Outcome | Promise<Outcome>;

/** Takes every frame that is whole; returns the error that ended it, if any. */
function drain(decoder: FrameDecoder, into: Uint8Array[]): unknown {
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

function finish(decoder: FrameDecoder): unknown {
  try {
    decoder.finish();
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Puts `chunk` into the decoder by way of its own room. */
function fill(decoder: FrameDecoder, chunk: Uint8Array): void {
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

const ways: Record<string, Way> = {
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

// ---------------------------------------------------------------------------
// Decoding, as a table

const NINE = bytes(0, 0, 0, 9, "abcdefghi");
const THREE = bytes(0, 0, 0, 3, "123");
const ELEVEN = bytes(0, 0, 0, 11, "hello world");
const STREAM = concat([NINE, THREE, ELEVEN]);

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

// ---------------------------------------------------------------------------
// Widths, byte orders, offsets, adjustments, strips

const WIDTHS = [1, 2, 3, 4, 8] as const;
const ORDERS = ["big", "little"] as const;

Deno.test("Each width and byte order writes the length field that the protocol books show", () => {
  const table: [FrameOptions, number, Uint8Array][] = [
    [{ lengthFieldLength: 1 }, 0xab, hex("ab")],
    [{ lengthFieldLength: 2 }, 0x0102, hex("0102")],
    [{ lengthFieldLength: 3 }, 0x010203, hex("010203")],
    [{ lengthFieldLength: 4 }, 0x010203, hex("00010203")],
    [{ lengthFieldLength: 8 }, 0x010203, hex("0000000000010203")],
    [{ lengthFieldLength: 1, byteOrder: "little" }, 0xab, hex("ab")],
    [{ lengthFieldLength: 2, byteOrder: "little" }, 0x0102, hex("0201")],
    [{ lengthFieldLength: 3, byteOrder: "little" }, 0x010203, hex("030201")],
    [{ lengthFieldLength: 4, byteOrder: "little" }, 0x010203, hex("03020100")],
    [
      { lengthFieldLength: 8, byteOrder: "little" },
      0x010203,
      hex("0302010000000000"),
    ],
    [{}, 0x010203, hex("0000000000010203")],
  ];
  for (const [options, length, field] of table) {
    const payload = pattern(length);
    const wire = encodeFrame(payload, options);
    assertEquals(
      wire.subarray(0, field.length),
      field,
      JSON.stringify(options),
    );
    assertEquals(wire.length, field.length + length);
    const decoder = new FrameDecoder(options);
    decoder.push(wire);
    assertEquals(decoder.decode(), payload);
    decoder.finish();
  }
});

Deno.test("A four-byte field is unsigned", () => {
  for (const byteOrder of ORDERS) {
    const decoder = new FrameDecoder({ lengthFieldLength: 4, byteOrder });
    decoder.push(hex("ffffffff"));
    const error = assertThrows(() => decoder.decode(), FrameTooLargeError);
    assertEquals(error.length, 4294967295);
  }
});

Deno.test("Every field width and byte order reads its highest bits", () => {
  // A limit of 2^53-1 lets the largest values through to finish(), which then
  // tells how the field was read.
  const limit = Number.MAX_SAFE_INTEGER;
  const table: [number, string, number][] = [
    [1, "80", 0x80],
    [1, "ff", 0xff],
    [2, "8001", 0x8001],
    [3, "800001", 0x800001],
    [3, "ffffff", 0xffffff],
    [4, "80000001", 0x80000001],
    [4, "ffffffff", 0xffffffff],
    [8, "0000000080000001", 0x80000001],
    [8, "00000001 00000000", 0x100000000],
    [8, "00000001 80000000", 0x180000000],
    [8, "00123456 89abcdef", 0x12345689abcdef],
    [8, "001fffff fffffff0", 0x1ffffffffffff0],
  ];
  for (const [width, text, value] of table) {
    for (const byteOrder of ORDERS) {
      const field = hex(text);
      if (byteOrder === "little") field.reverse();
      const decoder = new FrameDecoder({
        lengthFieldLength: width as 1,
        byteOrder,
        maxFrameLength: limit,
      });
      decoder.push(field);
      assertEquals(decoder.decode(), null, text);
      const error = assertThrows(() => decoder.finish(), TruncatedFrameError);
      assertEquals(error.expected, width + value, text);
      assertEquals(error.received, width, text);
    }
  }
});

Deno.test("Every width, byte order, offset, adjustment and strip gives the wire and the frames of the reference", () => {
  let accepted = 0;
  for (const lengthFieldLength of WIDTHS) {
    for (const byteOrder of ORDERS) {
      for (const lengthFieldOffset of [0, 1, 4]) {
        const header = lengthFieldOffset + lengthFieldLength;
        for (
          const lengthAdjustment of [0, 1, 4, -1, -lengthFieldLength, -header]
        ) {
          const strips = [
            undefined,
            0,
            1,
            lengthFieldOffset,
            header,
            header + 2,
          ];
          for (const strip of strips) {
            const options: FrameOptions = {
              lengthFieldLength,
              byteOrder,
              lengthFieldOffset,
              lengthAdjustment,
              ...(strip === undefined ? {} : { initialBytesToStrip: strip }),
            };
            const label = JSON.stringify(options);
            const wires: Uint8Array[] = [];
            for (const length of [0, 1, 5, 9, 40, 260]) {
              const payload = pattern(length, wires.length + 1);
              const expected = referenceEncode(payload, options);
              if (typeof expected === "string") {
                const error = assertThrows(
                  () => encodeFrame(payload, options),
                  FrameError,
                  undefined,
                  `${label} ${length}`,
                );
                assertEquals(error.name, expected, `${label} ${length}`);
                continue;
              }
              assertEquals(
                encodeFrame(payload, options),
                expected,
                `${label} ${length}`,
              );
              wires.push(expected);
              accepted++;
            }
            const wire = concat(wires);
            const frames: Uint8Array[] = [];
            const decoder = new FrameDecoder(options);
            decoder.push(wire);
            assertEquals(drain(decoder, frames), undefined, label);
            decoder.finish();
            assertEquals(
              frames,
              referenceDecode(wire, options).frames.map((f) => f.payload),
              label,
            );
          }
        }
      }
    }
  }
  assertGreater(accepted, 1000, "the table must not be empty of frames");
});

Deno.test("A decoder accepts whatever encodeFrame() accepts, and refuses the first length it refuses", () => {
  for (const lengthFieldLength of WIDTHS) {
    for (const lengthAdjustment of [0, 3, -2]) {
      const maxFrameLength = 20;
      const options: FrameOptions = {
        lengthFieldLength,
        lengthAdjustment,
        maxFrameLength,
      };
      const most = encodeFrame(pattern(maxFrameLength), options);
      const decoder = new FrameDecoder(options);
      decoder.push(most);
      assertEquals(decoder.decode(), pattern(maxFrameLength));

      const onEncode = assertThrows(
        () => encodeFrame(pattern(maxFrameLength + 1), options),
        FrameTooLargeError,
      );
      const wider = { ...options, maxFrameLength: maxFrameLength + 1 };
      const over = encodeFrame(pattern(maxFrameLength + 1), wider);
      decoder.push(over);
      const onDecode = assertThrows(() => decoder.decode(), FrameTooLargeError);
      for (const error of [onEncode, onDecode]) {
        assertEquals(error.length, maxFrameLength + 1);
        assertEquals(error.limit, maxFrameLength);
      }
    }
  }
});

Deno.test("encodeFrame() fills each width to its last value and refuses the next", () => {
  const table: [1 | 2 | 3, number][] = [[1, 0xff], [2, 0xffff], [3, 0xffffff]];
  for (const [lengthFieldLength, most] of table) {
    for (const lengthAdjustment of [0, 1, -1]) {
      const options: FrameOptions = {
        lengthFieldLength,
        lengthAdjustment,
        maxFrameLength: 2 * most + 10,
      };
      const longest = new Uint8Array(most + lengthAdjustment);
      const wire = encodeFrame(longest, options);
      assertEquals(
        wire.subarray(0, lengthFieldLength),
        new Uint8Array(lengthFieldLength).fill(0xff),
      );
      const decoder = new FrameDecoder(options);
      decoder.push(wire);
      assertEquals(decoder.decode()?.length, longest.length);
      assertThrows(
        () => encodeFrame(new Uint8Array(longest.length + 1), options),
        InvalidFrameLengthError,
      );
    }
  }
});

Deno.test("Length fields with their highest bits set are written and read, by way of an adjustment", () => {
  const table: [1 | 2 | 3 | 4 | 8, number, string][] = [
    [1, 0xff, "ff"],
    [2, 0x8001, "8001"],
    [3, 0x800001, "800001"],
    [3, 0xffffff, "ffffff"],
    [4, 0x7fffffff, "7fffffff"],
    [4, 0x80000001, "80000001"],
    [4, 0xffffffff, "ffffffff"],
    [8, 0x80000001, "0000000080000001"],
    [8, 0xffffffff, "00000000ffffffff"],
    [8, 0x100000000, "0000000100000000"],
    [8, 0x80000000_0001, "0000800000000001"],
    [8, 0x12345689abcdef, "0012345689abcdef"],
    [8, Number.MAX_SAFE_INTEGER, "001fffffffffffff"],
  ];
  for (const [lengthFieldLength, value, text] of table) {
    for (const byteOrder of ORDERS) {
      const options: FrameOptions = {
        lengthFieldLength,
        byteOrder,
        lengthAdjustment: 3 - value,
      };
      const field = hex(text);
      if (byteOrder === "little") field.reverse();
      const wire = encodeFrame(bytes("abc"), options);
      assertEquals(wire, bytes(field, "abc"), `${text} ${byteOrder}`);
      const decoder = new FrameDecoder(options);
      decoder.push(wire);
      assertEquals(decoder.decode(), bytes("abc"));
      // The next value does not fit, in the field or in a number.
      if (/^(00)?1?f+$/.test(text)) {
        assertThrows(
          () => encodeFrame(bytes("abcd"), options),
          InvalidFrameLengthError,
        );
      }
    }
  }
});

Deno.test("encodeFrame() refuses a payload that a positive adjustment would make negative", () => {
  const options: FrameOptions = { ...W2, lengthAdjustment: 3 };
  assertThrows(
    () => encodeFrame(bytes("ab"), options),
    InvalidFrameLengthError,
  );
  assertEquals(encodeFrame(bytes("abc"), options), bytes(0, 0, "abc"));
});

Deno.test("encodeFrame() refuses a payload shorter than what stands before the length field", () => {
  const options: FrameOptions = { ...W2, lengthFieldOffset: 3 };
  assertThrows(
    () => encodeFrame(bytes("ab"), options),
    InvalidFrameLengthError,
  );
  assertEquals(encodeFrame(bytes("abc"), options), bytes("abc", 0, 0));
});

Deno.test("encodeFrame() refuses a frame shorter than what a decoder would strip", () => {
  const options: FrameOptions = { ...W2, initialBytesToStrip: 4 };
  assertThrows(() => encodeFrame(bytes("a"), options), InvalidFrameLengthError);
  assertEquals(encodeFrame(bytes("ab"), options), bytes(0, 2, "ab"));
});

Deno.test("encodeFrame() returns memory of its own and leaves the payload as it was", () => {
  const memory = bytes("..payload..");
  const payload = memory.subarray(2, 9);
  const wire = encodeFrame(payload, W1);
  assertEquals(wire, bytes(7, "payload"));
  assertNotStrictEquals(wire.buffer, memory.buffer);
  memory.fill(0);
  assertEquals(wire, bytes(7, "payload"));
});

Deno.test("An eight-byte field is judged before it is a number that could be rounded", () => {
  const most = Number.MAX_SAFE_INTEGER;
  const table: [string, FrameOptions, number | bigint][] = [
    ["001fffff ffffffff", {}, most],
    ["00200000 00000000", {}, 2n ** 53n],
    ["00200000 00000001", {}, 2n ** 53n + 1n],
    ["7fffffff ffffffff", {}, 2n ** 63n - 1n],
    ["80000000 00000000", {}, 2n ** 63n],
    ["ffffffff ffffffff", {}, 2n ** 64n - 1n],
    ["01020304 05060708", {}, 0x0102030405060708n],
    // An adjustment does not bring a field over 2^53-1 back into range,
    [
      "00200000 00000001",
      { lengthAdjustment: -most, maxFrameLength: most },
      2n ** 53n + 1n,
    ],
    // nor does one push a field below 2^53 over it and have it rounded down.
    [
      "001fffff ffffffff",
      { lengthAdjustment: 2, maxFrameLength: most },
      2n ** 53n + 1n,
    ],
    [
      "001fffff ffffffff",
      { lengthAdjustment: most, maxFrameLength: most },
      2n * (2n ** 53n - 1n),
    ],
  ];
  for (const [text, more, length] of table) {
    for (const byteOrder of ORDERS) {
      const field = hex(text);
      if (byteOrder === "little") field.reverse();
      const decoder = new FrameDecoder({ byteOrder, ...more });
      decoder.push(field);
      const error = assertThrows(() => decoder.decode(), FrameTooLargeError);
      assertEquals<number | bigint>(error.length, length, text);
      assertEquals(error.limit, more.maxFrameLength ?? 16 * MIB);
      assertStringIncludes(error.message, String(length));
    }
  }
});

// ---------------------------------------------------------------------------
// The decoder: errors, finish(), ownership

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

// ---------------------------------------------------------------------------
// The decoder: space() and advance()

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

// ---------------------------------------------------------------------------
// FrameEncoder

/** Takes everything the encoder has, as the chunks it gives. */
function takeAll(encoder: FrameEncoder, most = Infinity): Uint8Array[] {
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

// ---------------------------------------------------------------------------
// Options

type Hostile = Record<string, unknown[]>;

const NOT_NUMBERS: unknown[] = ["8", "", null, true, 5n, {}, [], [4], () => 4];
const NOT_COUNTS: unknown[] = [NaN, Infinity, -Infinity, 1.5, 2 ** 53];

const badOptions: Hostile = {
  lengthFieldLength: [...NOT_NUMBERS, ...NOT_COUNTS, -1, 0, 5, 6, 7, 9, 16],
  byteOrder: ["BIG", "Little", "", "network", null, 1, 0, true, {}, ["big"]],
  lengthFieldOffset: [...NOT_NUMBERS, ...NOT_COUNTS, -1, 65_536],
  lengthAdjustment: [...NOT_NUMBERS, ...NOT_COUNTS, -(2 ** 53)],
  initialBytesToStrip: [...NOT_NUMBERS, ...NOT_COUNTS, -1],
  maxFrameLength: [...NOT_NUMBERS, ...NOT_COUNTS, -1],
};

const takers: Record<string, (options: FrameOptions) => unknown> = {
  encodeFrame: (options) => encodeFrame(pattern(40), options),
  FrameDecoder: (options) => new FrameDecoder(options),
  FrameEncoder: (options) => new FrameEncoder(options),
  FrameReader: (options) => new FrameReader(new ScriptedSource([]), options),
  FrameWriter: (options) => new FrameWriter(new RecordingSink(), options),
  FrameDecoderStream: (options) => new FrameDecoderStream(options),
  FrameEncoderStream: (options) => new FrameEncoderStream(options),
};

for (const [name, take] of Object.entries(takers)) {
  Deno.test(`${name} refuses every bad option, and says what it was given`, () => {
    for (const [field, values] of Object.entries(badOptions)) {
      for (const value of values) {
        const error = thrownBy(() => take({ [field]: value } as FrameOptions));
        const label = `${field}: ${typeof value} ${String(value)}`;
        assert(
          error instanceof TypeError || error instanceof RangeError,
          `${label} gave ${error}`,
        );
        assertFalse(error instanceof FrameError, label);
        assertStringIncludes(error.message, field, label);
        if (typeof value === "number") {
          assertStringIncludes(error.message, String(value), label);
        } else if (typeof value === "bigint") {
          assertStringIncludes(error.message, `${value}n`, label);
        } else if (typeof value === "string") {
          assertStringIncludes(error.message, `"${value}"`, label);
        }
      }
    }
  });

  Deno.test(`${name} takes undefined options, fields and the edges of every range`, () => {
    const good: FrameOptions[] = [
      {},
      Object.freeze({}),
      { lengthFieldLength: undefined, byteOrder: undefined } as never,
      { lengthFieldOffset: undefined, lengthAdjustment: undefined } as never,
      { initialBytesToStrip: undefined, maxFrameLength: undefined } as never,
      { maxFrameLength: Number.MAX_SAFE_INTEGER },
      { maxFrameLength: 40 },
      { lengthFieldOffset: 40, initialBytesToStrip: 0 },
      { lengthAdjustment: -8, initialBytesToStrip: 48 },
      { lengthAdjustment: 40 },
      { lengthAdjustment: -1_000_000 },
      { lengthFieldLength: 1, byteOrder: "little" },
      { unknown: 1 } as never,
    ];
    for (const options of good) take(options);
    take(undefined as never);
  });

  Deno.test(`${name} refuses options that are no object`, () => {
    for (const options of [null, 5, "big", true, 4n, Symbol("o"), () => {}]) {
      const error = thrownBy(() => take(options as never));
      assertInstanceOf(error, TypeError, String(options));
      assertStringIncludes(error.message, "ptions", String(options));
    }
  });
}

Deno.test("The error for a bad option tells a wrong type from a wrong value", () => {
  const types: unknown[] = ["8", null, true, 5n, {}];
  for (const field of Object.keys(badOptions)) {
    if (field === "byteOrder") {
      const make = (byteOrder: unknown) => () =>
        new FrameDecoder({ byteOrder } as FrameOptions);
      assertThrows(make("network"), RangeError);
      assertThrows(make(1), TypeError);
      assertThrows(make(null), TypeError);
      continue;
    }
    for (const value of types) {
      const options = { [field]: value } as FrameOptions;
      assertInstanceOf(thrownBy(() => new FrameDecoder(options)), TypeError);
    }
    for (const value of [-1.5, 2 ** 53, Infinity]) {
      const options = { [field]: value } as FrameOptions;
      assertInstanceOf(thrownBy(() => new FrameDecoder(options)), RangeError);
    }
  }
});

Deno.test("Values that cannot be turned into text are refused like any other", () => {
  const hostile: unknown[] = [
    Symbol("four"),
    Object.create(null),
    {
      toString: () => {
        throw new Error("no text");
      },
    },
    { valueOf: () => 4 },
    new Proxy({}, {}),
  ];
  for (const field of Object.keys(badOptions)) {
    for (const value of hostile) {
      const error = thrownBy(() =>
        new FrameDecoder({ [field]: value } as FrameOptions)
      );
      assert(
        error instanceof TypeError || error instanceof RangeError,
        `${field} gave ${error}`,
      );
    }
  }
});

/** Sends `abc` through what takes frames in or out, and gives the wire. */
const carriers: Record<
  string,
  (options: FrameOptions) => (payload: Uint8Array) => Promise<Uint8Array>
> = {
  FrameEncoder: (options) => {
    const encoder = new FrameEncoder(options);
    return (payload) => {
      encoder.push(payload);
      return Promise.resolve(concat(takeAll(encoder)));
    };
  },
  FrameWriter: (options) => {
    const sink = new RecordingSink();
    const writer = new FrameWriter(sink, options);
    return async (payload) => {
      sink.writes.length = 0;
      await writer.write(payload);
      return sink.written;
    };
  },
  FrameEncoderStream: (options) => {
    const stream = new FrameEncoderStream(options);
    const writer = stream.writable.getWriter();
    const reader = stream.readable.getReader();
    return async (payload) => {
      const [{ value }] = await Promise.all([
        reader.read(),
        writer.write(payload),
      ]);
      return value!;
    };
  },
};

/** Options that are `first` the first time each is looked at, and bad later. */
function fickle(first: FrameOptions, reads: Record<string, number>) {
  return new Proxy(first, {
    get(target, key) {
      const name = String(key);
      reads[name] = (reads[name] ?? 0) + 1;
      return reads[name] === 1 ? Reflect.get(target, key) : NaN;
    },
  });
}

const FICKLE: FrameOptions = {
  lengthFieldLength: 2,
  byteOrder: "little",
  lengthFieldOffset: 1,
  lengthAdjustment: -3,
  initialBytesToStrip: 3,
  maxFrameLength: 4,
};

for (const [name, make] of Object.entries(carriers)) {
  Deno.test(`${name} reads an option once: what is checked is what is used`, async () => {
    const reads: Record<string, number> = {};
    const carry = make(fickle(FICKLE, reads));
    for (let i = 0; i < 2; i++) {
      assertEquals(await carry(bytes("Tabcd")), bytes("T", 7, 0, "abcd"));
    }
    for (const [key, count] of Object.entries(reads)) {
      assertEquals(count, 1, key);
    }
  });

  Deno.test(`${name} does not notice that its options object changes later`, async () => {
    const options = { lengthFieldLength: 2 as 1 | 2, maxFrameLength: 3 };
    const carry = make(options);
    options.lengthFieldLength = 1;
    options.maxFrameLength = 1;
    assertEquals(await carry(bytes("abc")), bytes(0, 3, "abc"));
  });
}

for (const [way, run] of Object.entries(ways)) {
  Deno.test(`${way} reads an option once`, async () => {
    const reads: Record<string, number> = {};
    const { frames, error } = await run(
      [bytes("T", 7, 0, "abcd", "T", 8, 0)],
      fickle(FICKLE, reads),
    );
    assertEquals(frames, [bytes("abcd")]);
    assertFrameError(error, "FrameTooLargeError", way);
    for (const [key, count] of Object.entries(reads)) {
      assertEquals(count, 1, key);
    }
  });
}

Deno.test("What is not bytes is refused with a TypeError, and changes nothing", () => {
  const junk: unknown[] = [
    "text",
    null,
    undefined,
    5,
    {},
    [1, 2],
    new ArrayBuffer(4),
    new Uint16Array(4),
    new DataView(new ArrayBuffer(4)),
    { length: 2, byteLength: 2, 0: 1, 1: 2 },
  ];
  const decoder = new FrameDecoder(W1);
  const encoder = new FrameEncoder(W1);
  for (const value of junk) {
    const label = Object.prototype.toString.call(value);
    const payload = value as Uint8Array;
    assertThrows(() => decoder.push(payload), TypeError, undefined, label);
    assertThrows(() => encoder.push(payload), TypeError, undefined, label);
    assertThrows(() => encodeFrame(payload, W1), TypeError, undefined, label);
  }
  assertEquals(decoder.buffered, 0);
  assertEquals(encoder.buffered, 0);
});

// ---------------------------------------------------------------------------
// Errors

Deno.test("The errors form one family, with names, messages and figures", () => {
  const tooLarge = assertThrows(
    () => encodeFrame(new Uint8Array(20), { maxFrameLength: 16 }),
    FrameTooLargeError,
  );
  assertStringIncludes(tooLarge.message, "20");
  assertStringIncludes(tooLarge.message, "16");
  const invalid = assertThrows(
    () => encodeFrame(new Uint8Array(300), W1),
    InvalidFrameLengthError,
  );
  const decoder = new FrameDecoder(W2);
  decoder.push(bytes(0, 9, "abc"));
  const truncated = assertThrows(() => decoder.finish(), TruncatedFrameError);
  assertStringIncludes(truncated.message, "11");
  assertStringIncludes(truncated.message, "5");
  const cause = new Error("why");
  const base = new FrameError("Something about a frame", { cause });
  assertStrictEquals(base.cause, cause);
  for (const error of [tooLarge, invalid, truncated, base]) {
    assertInstanceOf(error, FrameError);
    assertInstanceOf(error, Error);
    assertEquals(error.name, error.constructor.name);
    assertFalse(error.message.endsWith("."), error.message);
    assertGreater(error.message.length, 10);
  }
});
