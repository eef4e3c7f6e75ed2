/**
 * The published tables of the two codecs whose terms this one uses: the bytes
 * of tokio-util's `LengthDelimitedCodec` (its tests and the pictures in its
 * docs) and of Netty's `LengthFieldBasedFrameDecoder` and
 * `LengthFieldPrepender` (likewise). Where this codec differs on purpose, the
 * row says how.
 */
import {
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";
import {
  encodeFrame,
  FrameDecoder,
  type FrameOptions,
  FrameReader,
  FrameTooLargeError,
  FrameWriter,
  InvalidFrameLengthError,
  TruncatedFrameError,
} from "../codec.ts";
import { bytes, hex, pattern, splits } from "./bytes_support.ts";
import { RecordingSink, ScriptedSource } from "./codec_support.ts";
import { turn } from "./promise_support.ts";

type Width = NonNullable<FrameOptions["lengthFieldLength"]>;

const ERRORS = {
  tooLarge: FrameTooLargeError,
  invalid: InvalidFrameLengthError,
  truncated: TruncatedFrameError,
};

interface Row {
  name: string;
  options: FrameOptions;
  chunks: Uint8Array[];
  frames: Uint8Array[];
  error?: keyof typeof ERRORS;
}

/** Decodes `chunks` through a reader, each chunk one read of the source. */
async function read(
  chunks: Uint8Array[],
  options: FrameOptions,
): Promise<{ frames: Uint8Array[]; error: unknown }> {
  const reader = new FrameReader(new ScriptedSource(chunks), options);
  const frames: Uint8Array[] = [];
  try {
    for await (const frame of reader) frames.push(frame);
    return { frames, error: undefined };
  } catch (error) {
    return { frames, error };
  }
}

async function check(rows: Row[]): Promise<void> {
  for (const { name, options, chunks, frames, error } of rows) {
    const whole = concat(chunks);
    // As published, and then in every other chunking that two pieces make.
    for (const pieces of [chunks, ...splits(whole)]) {
      const outcome = await read(pieces, options);
      assertEquals(outcome.frames, frames, name);
      if (error === undefined) assertEquals(outcome.error, undefined, name);
      else assertInstanceOf(outcome.error, ERRORS[error], name);
    }
  }
}

// ---------------------------------------------------------------------------
// tokio-util

interface TokioOptions {
  lengthFieldLength?: Width;
  lengthFieldOffset?: number;
  lengthAdjustment?: number;
  numSkip?: number;
  maxFrameLength?: number;
  littleEndian?: boolean;
}

/**
 * tokio-util's options in this codec's terms. Two differ in meaning:
 *
 * - There a frame is `numSkip` bytes and then as many as the field says after
 *   adjustment. Here the adjusted field counts the bytes after the field,
 *   whatever is stripped (as in Netty).
 * - There the limit is held against the field before adjustment, here against
 *   the bytes that follow it.
 */
function fromTokio(theirs: TokioOptions = {}): FrameOptions {
  const {
    lengthFieldLength = 4,
    lengthFieldOffset = 0,
    lengthAdjustment = 0,
    numSkip = lengthFieldOffset + lengthFieldLength,
    maxFrameLength = 8 * 1024 * 1024,
    littleEndian = false,
  } = theirs;
  const adjustment = lengthAdjustment + numSkip -
    (lengthFieldOffset + lengthFieldLength);
  return {
    lengthFieldLength,
    lengthFieldOffset,
    lengthAdjustment: adjustment,
    initialBytesToStrip: numSkip,
    maxFrameLength: maxFrameLength + adjustment,
    byteOrder: littleEndian ? "little" : "big",
  };
}

const NINE = bytes("abcdefghi");
const THREE = bytes("123");
const ELEVEN = bytes("hello world");

const tokioReads: Row[] = [
  {
    name: "read_empty_io_yields_nothing",
    options: fromTokio(),
    chunks: [],
    frames: [],
  },
  {
    name: "read_single_frame_one_packet",
    options: fromTokio(),
    chunks: [bytes(0, 0, 0, 9, NINE)],
    frames: [NINE],
  },
  {
    name: "read_single_frame_one_packet_little_endian",
    options: fromTokio({ littleEndian: true }),
    chunks: [bytes(9, 0, 0, 0, NINE)],
    frames: [NINE],
  },
  {
    name: "read_single_multi_frame_one_packet",
    options: fromTokio(),
    chunks: [
      bytes(0, 0, 0, 9, NINE, 0, 0, 0, 3, THREE, 0, 0, 0, 0x0b, ELEVEN),
    ],
    frames: [NINE, THREE, ELEVEN],
  },
  {
    name: "read_single_frame_multi_packet",
    options: fromTokio(),
    chunks: [bytes(0, 0), bytes(0, 9, "abc"), bytes("defghi")],
    frames: [NINE],
  },
  {
    name: "read_multi_frame_multi_packet",
    options: fromTokio(),
    chunks: [
      bytes(0, 0),
      bytes(0, 9, "abc"),
      bytes("defghi"),
      bytes(0, 0, 0, 3, "12"),
      bytes("3", 0, 0, 0, 0x0b, ELEVEN),
    ],
    frames: [NINE, THREE, ELEVEN],
  },
  {
    name: "read_incomplete_head",
    options: fromTokio(),
    chunks: [bytes(0, 0)],
    frames: [],
    error: "truncated",
  },
  {
    name: "read_incomplete_head_multi",
    options: fromTokio(),
    chunks: [bytes(0)],
    frames: [],
    error: "truncated",
  },
  {
    name: "read_incomplete_payload",
    options: fromTokio(),
    chunks: [bytes(0, 0, 0, 9, "ab"), bytes("cd")],
    frames: [],
    error: "truncated",
  },
  {
    name: "read_max_frame_len",
    options: fromTokio({ maxFrameLength: 5 }),
    chunks: [bytes(0, 0, 0, 9, NINE)],
    frames: [],
    error: "tooLarge",
  },
  {
    name: "read_one_byte_length_field",
    options: fromTokio({ lengthFieldLength: 1 }),
    chunks: [bytes(9, NINE)],
    frames: [NINE],
  },
  {
    name: "read_header_offset",
    options: fromTokio({ lengthFieldLength: 2, lengthFieldOffset: 4 }),
    chunks: [bytes("zzzz", 0, 9, NINE)],
    frames: [NINE],
  },
  {
    name: "read_single_multi_frame_one_packet_skip_none_adjusted",
    options: fromTokio({
      lengthFieldLength: 2,
      lengthFieldOffset: 2,
      numSkip: 0,
      lengthAdjustment: 4,
    }),
    chunks: [bytes("xx", 0, 9, NINE, "yy", 0, 3, THREE, "zz", 0, 11, ELEVEN)],
    frames: [
      bytes("xx", 0, 9, NINE),
      bytes("yy", 0, 3, THREE),
      bytes("zz", 0, 0x0b, ELEVEN),
    ],
  },
  {
    name: "read_single_frame_length_adjusted",
    options: fromTokio({ lengthFieldLength: 3, numSkip: 4 }),
    chunks: [bytes(0, 0, 0x0b, 0x0c, "Hello world")],
    frames: [bytes("Hello world")],
  },
  {
    name: "read_single_multi_frame_one_packet_length_includes_head",
    options: fromTokio({ lengthFieldLength: 2, lengthAdjustment: -2 }),
    chunks: [bytes(0, 0x0b, NINE, 0, 5, THREE, 0, 0x0d, ELEVEN)],
    frames: [NINE, THREE, ELEVEN],
  },
];

Deno.test("The frames of tokio-util's read tests come out the same", async () => {
  await check(tokioReads);
});

Deno.test("The frames of tokio-util's read tests with waits between come out the same", async () => {
  const chunks = [
    bytes(0, 0),
    bytes(0, 9, "abc"),
    bytes("defghi"),
    bytes(0, 0, 0, 3, "12"),
    bytes("3", 0, 0, 0, 0x0b, ELEVEN),
  ];
  const reader = new FrameReader({
    read: async (p) => {
      await turn();
      const chunk = chunks.shift();
      if (chunk === undefined) return null;
      p.set(chunk);
      return chunk.length;
    },
  }, fromTokio());
  const frames: Uint8Array[] = [];
  for await (const frame of reader) frames.push(frame);
  assertEquals(frames, [NINE, THREE, ELEVEN]);
});

// tokio-util's limit can be changed while a codec is in use
// (read_update_max_frame_len_at_rest and _in_flight, and the two for writes).
// Here options are fixed at construction; a new limit is a new decoder.

/** The pictures in tokio-util's module docs, "Hello world" in each. */
const tokioPictures: Row[] = [
  {
    // Its docs set `length_adjustment(0)` or `(2)`, by version: it is counted
    // from the skipped bytes there. Here it is 0, whatever is stripped.
    name: "a two-byte length, head kept",
    options: { lengthFieldLength: 2, initialBytesToStrip: 0 },
    chunks: [bytes(0, 0x0b, "Hello world")],
    frames: [bytes(0, 0x0b, "Hello world")],
  },
  {
    name: "a two-byte length, head stripped",
    options: { lengthFieldLength: 2 },
    chunks: [bytes(0, 0x0b, "Hello world")],
    frames: [bytes("Hello world")],
  },
  {
    name: "a two-byte length that includes itself, head kept",
    options: {
      lengthFieldLength: 2,
      lengthAdjustment: -2,
      initialBytesToStrip: 0,
    },
    chunks: [bytes(0, 0x0d, "Hello world")],
    frames: [bytes(0, 0x0d, "Hello world")],
  },
  {
    name: "a three-byte length in a five-byte head, head kept",
    options: {
      lengthFieldLength: 3,
      lengthAdjustment: 2,
      initialBytesToStrip: 0,
    },
    chunks: [bytes(0, 0, 0x0b, 0xca, 0xfe, "Hello world")],
    frames: [bytes(0, 0, 0x0b, 0xca, 0xfe, "Hello world")],
  },
  {
    name: "a length in the middle of the head, its first half stripped",
    options: {
      lengthFieldLength: 2,
      lengthFieldOffset: 1,
      lengthAdjustment: 1,
      initialBytesToStrip: 3,
    },
    chunks: [bytes(0xca, 0, 0x0b, 0xfe, "Hello world")],
    frames: [bytes(0xfe, "Hello world")],
  },
  {
    name: "the same with a length that includes the whole head",
    options: {
      lengthFieldLength: 2,
      lengthFieldOffset: 1,
      lengthAdjustment: -3,
      initialBytesToStrip: 3,
    },
    chunks: [bytes(0xca, 0, 0x0f, 0xfe, "Hello world")],
    frames: [bytes(0xfe, "Hello world")],
  },
  {
    // There a skipped byte is not counted by the field; here it is one of the
    // bytes after the field, so the adjustment says so.
    name: "a byte between length and payload, stripped",
    options: {
      lengthFieldLength: 3,
      lengthAdjustment: 1,
      initialBytesToStrip: 4,
    },
    chunks: [bytes(0, 0, 0x0b, 0xff, "Hello world")],
    frames: [bytes("Hello world")],
  },
];

Deno.test("The pictures of tokio-util's docs come out the same", async () => {
  await check(tokioPictures);
});

const tokioWrites: {
  name: string;
  options: FrameOptions;
  payloads: Uint8Array[];
  wire: Uint8Array;
  accepts?: number[];
}[] = [
  {
    name: "write_nothing_yields_nothing",
    options: fromTokio(),
    payloads: [],
    wire: bytes(),
  },
  {
    name: "write_single_frame_length_adjusted",
    options: fromTokio({ lengthAdjustment: -2 }),
    payloads: [NINE],
    wire: bytes(0, 0, 0, 0x0b, NINE),
  },
  {
    name: "write_single_frame_one_packet",
    options: fromTokio(),
    payloads: [NINE],
    wire: bytes(0, 0, 0, 9, NINE),
  },
  {
    name: "write_single_multi_frame_one_packet",
    options: fromTokio(),
    payloads: [NINE, THREE, ELEVEN],
    wire: bytes(0, 0, 0, 9, NINE, 0, 0, 0, 3, THREE, 0, 0, 0, 0x0b, ELEVEN),
  },
  {
    name: "write_single_frame_would_block",
    options: fromTokio(),
    payloads: [NINE],
    wire: bytes(0, 0, 0, 9, NINE),
    accepts: [2, 2, 9],
  },
  {
    name: "write_update_max_frame_len_in_flight, without the update",
    options: fromTokio(),
    payloads: [bytes("abcdef")],
    wire: bytes(0, 0, 0, 6, "abcdef"),
    accepts: [4, 2, 4],
  },
  {
    name: "write_single_frame_little_endian",
    options: fromTokio({ littleEndian: true }),
    payloads: [NINE],
    wire: bytes(9, 0, 0, 0, NINE),
  },
  {
    name: "write_single_frame_with_short_length_field",
    options: fromTokio({ lengthFieldLength: 1 }),
    payloads: [NINE],
    wire: bytes(9, NINE),
  },
  {
    name: "the picture of a written frame in the docs",
    options: fromTokio({ lengthFieldLength: 2 }),
    payloads: [ELEVEN],
    wire: bytes(0, 0x0b, ELEVEN),
  },
];

Deno.test("The bytes of tokio-util's write tests go out the same", async () => {
  for (const { name, options, payloads, wire, accepts } of tokioWrites) {
    assertEquals(
      concat(payloads.map((p) => encodeFrame(p, options))),
      wire,
      name,
    );
    const sink = new RecordingSink((p, call) => accepts?.[call] ?? p.length);
    const writer = new FrameWriter(sink, options);
    await Promise.all(payloads.map((payload) => writer.write(payload)));
    assertEquals(sink.written, wire, name);
  }
});

Deno.test("Frames written one after the other, as in tokio-util's multi-packet test, leave one by one", async () => {
  const sink = new RecordingSink();
  const writer = new FrameWriter(sink, fromTokio());
  for (const payload of [NINE, THREE, ELEVEN]) await writer.write(payload);
  assertEquals(sink.writes, [
    bytes(0, 0, 0, 9, NINE),
    bytes(0, 0, 0, 3, THREE),
    bytes(0, 0, 0, 0x0b, ELEVEN),
  ]);
});

Deno.test("A payload over the limit is refused as in tokio-util's write_max_frame_len, and nothing is written", async () => {
  const sink = new RecordingSink();
  const writer = new FrameWriter(sink, fromTokio({ maxFrameLength: 5 }));
  await assertRejects(() => writer.write(bytes("abcdef")), FrameTooLargeError);
  assertEquals(sink.writes, []);
});

Deno.test("A sink that takes nothing fails the write as in tokio-util's write_zero, after a few tries", async () => {
  let calls = 0;
  const writer = new FrameWriter({
    write: () => Promise.resolve((calls++, 0)),
  }, fromTokio());
  await assertRejects(() => writer.write(bytes("abcdef")), Error);
  // tokio-util gives up at the first 0; a Deno.Conn may report one.
  assertEquals(calls > 1 && calls < 1000, true);
});

Deno.test("A field too narrow for the limit bounds the frames as in tokio-util's does_not_fit tests", () => {
  // There the limit itself is lowered; here the limit stands and what the
  // field cannot say is an InvalidFrameLengthError.
  const table: [string, FrameOptions, number][] = [
    ["frame_does_not_fit", { maxFrameLength: 256 }, 255],
    ["neg_adjusted_frame_does_not_fit", { lengthAdjustment: -1 }, 254],
    ["pos_adjusted_frame_does_not_fit", { lengthAdjustment: 1 }, 256],
  ];
  for (const [name, more, most] of table) {
    const options: FrameOptions = { lengthFieldLength: 1, ...more };
    const wire = encodeFrame(pattern(most), options);
    assertEquals(wire[0], 255, name);
    const decoder = new FrameDecoder(options);
    decoder.push(wire);
    assertEquals(decoder.decode(), pattern(most), name);
    assertThrows(
      () => encodeFrame(pattern(most + 1), options),
      InvalidFrameLengthError,
      undefined,
      name,
    );
  }
});

// ---------------------------------------------------------------------------
// Netty

interface NettyOptions {
  maxFrameLength?: number;
  lengthFieldOffset?: number;
  lengthFieldLength: Width;
  lengthAdjustment?: number;
  initialBytesToStrip?: number;
}

/**
 * The decoder's options in this codec's terms: the same, but that Netty's
 * limit counts the whole frame from its first byte, and that it strips nothing
 * unless told to.
 */
function fromNetty(theirs: NettyOptions): FrameOptions {
  const { lengthFieldOffset = 0, lengthFieldLength } = theirs;
  const { maxFrameLength, initialBytesToStrip = 0, ...same } = theirs;
  return {
    ...same,
    initialBytesToStrip,
    ...(maxFrameLength === undefined ? {} : {
      maxFrameLength: maxFrameLength - lengthFieldOffset - lengthFieldLength,
    }),
  };
}

const HELLO = bytes("HELLO, WORLD");

/** The pictures in the docs of `LengthFieldBasedFrameDecoder`. */
const nettyPictures: Row[] = [
  {
    name: "2 bytes length field at offset 0, do not strip header",
    options: fromNetty({ lengthFieldLength: 2 }),
    chunks: [bytes(0, 0x0c, HELLO)],
    frames: [bytes(0, 0x0c, HELLO)],
  },
  {
    name: "2 bytes length field at offset 0, strip header",
    options: fromNetty({ lengthFieldLength: 2, initialBytesToStrip: 2 }),
    chunks: [bytes(0, 0x0c, HELLO)],
    frames: [HELLO],
  },
  {
    name: "the length field represents the length of the whole message",
    options: fromNetty({ lengthFieldLength: 2, lengthAdjustment: -2 }),
    chunks: [bytes(0, 0x0e, HELLO)],
    frames: [bytes(0, 0x0e, HELLO)],
  },
  {
    name: "3 bytes length field at the end of 5 bytes header",
    options: fromNetty({ lengthFieldOffset: 2, lengthFieldLength: 3 }),
    chunks: [bytes(0xca, 0xfe, 0, 0, 0x0c, HELLO)],
    frames: [bytes(0xca, 0xfe, 0, 0, 0x0c, HELLO)],
  },
  {
    name: "3 bytes length field at the beginning of 5 bytes header",
    options: fromNetty({ lengthFieldLength: 3, lengthAdjustment: 2 }),
    chunks: [bytes(0, 0, 0x0c, 0xca, 0xfe, HELLO)],
    frames: [bytes(0, 0, 0x0c, 0xca, 0xfe, HELLO)],
  },
  {
    name: "2 bytes length field in the middle of 4 bytes header",
    options: fromNetty({
      lengthFieldOffset: 1,
      lengthFieldLength: 2,
      lengthAdjustment: 1,
      initialBytesToStrip: 3,
    }),
    chunks: [bytes(0xca, 0, 0x0c, 0xfe, HELLO)],
    frames: [bytes(0xfe, HELLO)],
  },
  {
    name: "the same, the length field counting the whole message",
    options: fromNetty({
      lengthFieldOffset: 1,
      lengthFieldLength: 2,
      lengthAdjustment: -3,
      initialBytesToStrip: 3,
    }),
    chunks: [bytes(0xca, 0, 0x10, 0xfe, HELLO)],
    frames: [bytes(0xfe, HELLO)],
  },
];

Deno.test("The pictures of Netty's docs come out the same", async () => {
  await check(nettyPictures);
});

Deno.test("The pictures of Netty's docs go out the same", () => {
  // What stands before the length field comes first in a payload, what stands
  // after it comes next; the length field itself is not part of one.
  for (const { name, options, chunks } of nettyPictures) {
    const { lengthFieldOffset = 0, lengthFieldLength = 8 } = options;
    const wire = concat(chunks);
    const payload = concat([
      wire.subarray(0, lengthFieldOffset),
      wire.subarray(lengthFieldOffset + lengthFieldLength),
    ]);
    assertEquals(encodeFrame(payload, options), wire, name);
  }
});

Deno.test("The frames that Netty's tests call too long are too large here, at their header and for good", () => {
  // Netty skips a frame that is too long and goes on behind it. Here the
  // stream has ended: after such a length nothing in it is to be trusted.
  const limit5 = fromNetty({
    maxFrameLength: 5,
    lengthFieldLength: 4,
    initialBytesToStrip: 4,
  });
  const limit16 = fromNetty({ maxFrameLength: 16, lengthFieldLength: 4 });
  const long = bytes(0, 0, 0, 32, pattern(32), 0, 0, 0, 1, "a");
  const table: [string, FrameOptions, Uint8Array[], number, number][] = [
    [
      "testFailSlowTooLongFrameRecovery",
      limit5,
      [bytes(0, 0, 0, 2), bytes(0, 0), bytes(0, 0, 0, 1, "A")],
      2,
      1,
    ],
    [
      "testFailFastTooLongFrameRecovery",
      limit5,
      [bytes(0, 0, 0, 2), bytes(0, 0, 0, 0, 0, 1, "A")],
      2,
      1,
    ],
    ["testDiscardTooLongFrame1", limit16, [long], 32, 12],
    [
      "testDiscardTooLongFrame2",
      limit16,
      [long.subarray(0, 14), long.subarray(14)],
      32,
      12,
    ],
  ];
  for (const [name, options, chunks, length, limit] of table) {
    const decoder = new FrameDecoder(options);
    decoder.push(chunks[0]!);
    const error = assertThrows(
      () => decoder.decode(),
      FrameTooLargeError,
      undefined,
      name,
    );
    assertEquals(error.length, length, name);
    assertEquals(error.limit, limit, name);
    for (const chunk of chunks.slice(1)) {
      assertStrictEquals(assertThrows(() => decoder.push(chunk)), error);
      assertStrictEquals(assertThrows(() => decoder.decode()), error);
    }
  }
});

Deno.test("A frame after those of Netty's tests, within the limit, comes out", async () => {
  await check([
    {
      name: "five bytes in all, the header stripped",
      options: fromNetty({
        maxFrameLength: 5,
        lengthFieldLength: 4,
        initialBytesToStrip: 4,
      }),
      chunks: [bytes(0, 0, 0, 1, "A")],
      frames: [bytes("A")],
    },
    {
      name: "five bytes in all, the header kept",
      options: fromNetty({ maxFrameLength: 16, lengthFieldLength: 4 }),
      chunks: [bytes(0, 0, 0, 1, "a")],
      frames: [bytes(0, 0, 0, 1, "a")],
    },
  ]);
});

Deno.test("The lengths that Netty calls corrupted are refused", async () => {
  await check([
    {
      name: "an adjusted length that ends before the length field does",
      options: fromNetty({ lengthFieldLength: 2, lengthAdjustment: -2 }),
      chunks: [bytes(0, 1, "abc")],
      frames: [],
      error: "invalid",
    },
    {
      name: "a frame shorter than what is stripped",
      options: fromNetty({ lengthFieldLength: 2, initialBytesToStrip: 5 }),
      chunks: [bytes(0, 2, "ab")],
      frames: [],
      error: "invalid",
    },
    {
      // Java reads eight bytes as signed and calls this negative; here it is
      // the unsigned number it is on the wire.
      name: "an eight-byte length with its highest bit set",
      options: fromNetty({ lengthFieldLength: 8 }),
      chunks: [hex("8000000000000001")],
      frames: [],
      error: "tooLarge",
    },
  ]);
});

/**
 * `LengthFieldPrepender` adds its adjustment to what it writes; this codec's
 * adjustment is what a reader adds to the field, so the sign turns over.
 */
function fromPrepender(
  lengthFieldLength: Width,
  lengthAdjustment = 0,
  lengthIncludesLengthFieldLength = false,
  byteOrder: "big" | "little" = "big",
): FrameOptions {
  const included = lengthIncludesLengthFieldLength ? lengthFieldLength : 0;
  return {
    lengthFieldLength,
    byteOrder,
    lengthAdjustment: -lengthAdjustment - included,
  };
}

Deno.test("The bytes of Netty's LengthFieldPrepender go out the same", () => {
  const table: [string, FrameOptions, Uint8Array, Uint8Array][] = [
    ["docs", fromPrepender(2), HELLO, bytes(0, 0x0c, HELLO)],
    [
      "docs, the length included",
      fromPrepender(2, 0, true),
      HELLO,
      bytes(0, 0x0e, HELLO),
    ],
    [
      "testPrependLength",
      fromPrepender(4),
      bytes("A"),
      bytes(0, 0, 0, 1, "A"),
    ],
    [
      "testPrependLengthIncludesLengthFieldLength",
      fromPrepender(4, 0, true),
      bytes("A"),
      bytes(0, 0, 0, 5, "A"),
    ],
    [
      "testPrependAdjustedLength",
      fromPrepender(4, -1),
      bytes("A"),
      bytes(0, 0, 0, 0, "A"),
    ],
    [
      "testPrependLengthInLittleEndian",
      fromPrepender(4, 0, false, "little"),
      bytes("A"),
      bytes(1, 0, 0, 0, "A"),
    ],
  ];
  for (const [name, options, payload, wire] of table) {
    assertEquals(encodeFrame(payload, options), wire, name);
    const decoder = new FrameDecoder(options);
    decoder.push(wire);
    assertEquals(decoder.decode(), payload, name);
  }
  // testAdjustedLengthLessThanZero
  assertThrows(
    () => encodeFrame(bytes("A"), fromPrepender(4, -2)),
    InvalidFrameLengthError,
  );
});
