/**
 * The length field: its widths and byte orders, offset, adjustment and strip,
 * to the edges of each; and what encodeFrame() refuses.
 */
import {
  assertEquals,
  assertGreater,
  assertNotStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";
import {
  encodeFrame,
  FrameDecoder,
  FrameError,
  type FrameOptions,
  FrameTooLargeError,
  InvalidFrameLengthError,
  TruncatedFrameError,
} from "../codec.ts";
import { bytes, hex, MIB, pattern } from "./bytes_support.ts";
import { referenceDecode, referenceEncode } from "./codec_reference_support.ts";
import { drain, W1, W2 } from "./codec_support.ts";

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
