/**
 * The codec's options, checked alike by all that take them and read once; what
 * is no bytes; and the family of the codec's errors.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";
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
import { bytes, pattern } from "./bytes_support.ts";
import {
  assertFrameError,
  RecordingSink,
  ScriptedSource,
  takeAll,
  W1,
  W2,
  ways,
} from "./codec_support.ts";
import { thrownBy } from "./promise_support.ts";

// Options ---------------------------------------------------------------------

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

// Errors ----------------------------------------------------------------------

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
