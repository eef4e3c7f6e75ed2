/**
 * Ids that frames carry: inserted behind the length field, or where the payload
 * has room for them; on every layout, and never in the caller's own bytes.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertThrows,
} from "@std/assert";
import {
  FrameDecoder,
  FrameEncoder,
  FrameError,
  type FrameIdField,
  type FrameOptions,
  FrameTooLargeError,
  InvalidFrameLengthError,
} from "../codec.ts";
import { bytes } from "./bytes_support.ts";

/** Everything that an encoder has to write. */
function drain(encoder: FrameEncoder): Uint8Array<ArrayBuffer> {
  const written: number[] = [];
  for (let c; (c = encoder.chunk()) !== null;) {
    for (const byte of c) written.push(byte);
    encoder.advance(c.length);
  }
  return Uint8Array.from(written);
}

function encode(
  payload: Uint8Array,
  id: number | undefined,
  frame: FrameOptions,
  field: FrameIdField,
): Uint8Array<ArrayBuffer> {
  const encoder = new FrameEncoder(frame, field);
  assertEquals(encoder.push(payload, id), encoder.buffered);
  return drain(encoder);
}

function decodeOne(
  wire: Uint8Array,
  frame: FrameOptions,
  field: FrameIdField,
): { id: number; payload: Uint8Array<ArrayBuffer> } {
  const decoder = new FrameDecoder(frame, field);
  decoder.push(wire);
  const payload = decoder.decode();
  assert(payload !== null);
  decoder.finish();
  return { id: decoder.id, payload };
}

const layouts: { name: string; frame: FrameOptions; field: FrameIdField }[] = [
  { name: "the default layout, inserted", frame: {}, field: { length: 4 } },
  {
    name: "little endian, inserted",
    frame: { byteOrder: "little", lengthFieldLength: 2 },
    field: { length: 2 },
  },
  {
    name: "bytes before the length, inserted",
    frame: { lengthFieldOffset: 3, lengthFieldLength: 2 },
    field: { length: 1 },
  },
  {
    name: "a length that counts itself, inserted",
    frame: { lengthFieldLength: 4, lengthAdjustment: -4 },
    field: { length: 4 },
  },
  {
    name: "DNS",
    frame: { lengthFieldLength: 2 },
    field: { length: 2, offset: 0 },
  },
  {
    name: "Kafka requests",
    frame: { lengthFieldLength: 4 },
    field: { length: 4, offset: 4 },
  },
  {
    name: "MongoDB",
    frame: { lengthFieldLength: 4, byteOrder: "little", lengthAdjustment: -4 },
    field: { length: 4, offset: 0 },
  },
  {
    name: "Modbus TCP",
    frame: { lengthFieldOffset: 4, lengthFieldLength: 2 },
    field: { length: 2, offset: -6 },
  },
];

for (const { name, frame, field } of layouts) {
  Deno.test(`An id goes there and back: ${name}`, () => {
    const top = 2 ** (8 * field.length) - 1;
    const lengths = frame.lengthFieldLength === 2
      ? [12, 100, 16_000, 17_000, 40_000]
      : [12, 100, 16_384, 17_000, 200_000];
    for (const id of [0, 1, 127, top >>> 1, top]) {
      for (const length of lengths) {
        const payload = new Uint8Array(length).fill(0x55);
        const before = payload.slice();
        const wire = encode(payload, id, frame, field);
        assertEquals(payload, before, "the caller's bytes have changed");
        const decoded = decodeOne(wire, frame, field);
        assertEquals(decoded.id, id);
        // The same frames read without ids: as long as they say, and with the
        // id where it is told to be.
        const plain = new FrameDecoder({ ...frame, initialBytesToStrip: 0 });
        plain.push(wire);
        assertEquals(plain.decode()?.length, wire.length);
        plain.finish();
      }
    }
  });
}

Deno.test("An inserted id stands right behind the length field, which counts it", () => {
  assertEquals(
    encode(bytes(9, 8), 0x0102_0304, { lengthFieldLength: 2 }, { length: 4 }),
    bytes(0, 6, 1, 2, 3, 4, 9, 8),
  );
  assertEquals(
    encode(bytes(7, 9, 8), 5, {
      lengthFieldOffset: 1,
      lengthFieldLength: 1,
      byteOrder: "little",
    }, { length: 2 }),
    bytes(7, 4, 5, 0, 9, 8),
  );
});

Deno.test("An id in the payload overwrites what stands there, before the length too", () => {
  assertEquals(
    encode(bytes(1, 1, 2, 2, 3), 0x0a0b, {
      lengthFieldOffset: 2,
      lengthFieldLength: 1,
    }, { length: 2, offset: -3 }),
    bytes(10, 11, 3, 2, 2, 3),
  );
  assertEquals(
    encode(bytes(1, 2, 3, 4), 0x0a0b, { lengthFieldLength: 1 }, {
      length: 2,
      offset: 1,
    }),
    bytes(4, 1, 10, 11, 4),
  );
});

Deno.test("Without an id the payload's own stays, and an inserted one is 0", () => {
  const frame: FrameOptions = { lengthFieldLength: 1 };
  assertEquals(
    encode(bytes(1, 2, 3), undefined, frame, { length: 2, offset: 1 }),
    bytes(3, 1, 2, 3),
  );
  assertEquals(
    encode(bytes(1, 2), undefined, frame, { length: 2 }),
    bytes(4, 0, 0, 1, 2),
  );
});

Deno.test("FrameEncoder.readId() tells the id that a payload carries", () => {
  const dns = new FrameEncoder({ lengthFieldLength: 2 }, {
    length: 2,
    offset: 0,
  });
  assertEquals(dns.readId(bytes(0xff, 0xfe, 0)), 0xfffe);
  const modbus = new FrameEncoder(
    { lengthFieldOffset: 4, lengthFieldLength: 2 },
    { length: 2, offset: -6 },
  );
  assertEquals(modbus.readId(bytes(1, 2, 3, 4, 5, 6)), 0x0102);
  const behind = new FrameEncoder(
    { lengthFieldOffset: 1, lengthFieldLength: 4 },
    { length: 1, offset: 1 },
  );
  assertEquals(behind.readId(bytes(1, 2, 3)), 3);
  assertEquals(new FrameEncoder({}, { length: 4 }).readId(bytes(1)), 0);
  assertEquals(new FrameEncoder().readId(bytes(1)), 0);
});

Deno.test("With the header kept, what is decoded is the frame as if there had been no id", () => {
  const frame: FrameOptions = {
    lengthFieldOffset: 1,
    lengthFieldLength: 2,
    initialBytesToStrip: 0,
  };
  for (const strip of [0, 1, 2, 3, 4]) {
    const options = { ...frame, initialBytesToStrip: strip };
    const plain = new FrameEncoder(options);
    plain.push(bytes(9, 8, 7));
    const wire = encode(bytes(9, 8, 7), 0x1234, options, { length: 2 });
    const { id, payload } = decodeOne(wire, options, { length: 2 });
    assertEquals(id, 0x1234);
    assertEquals(payload, drain(plain).subarray(strip));
  }
});

Deno.test("An id behind 8 KiB of a large payload is still written into a copy", () => {
  const field: FrameIdField = { length: 4, offset: 60_000 };
  const payload = new Uint8Array(100_000).fill(3);
  const wire = encode(payload, 0x0102_0304, {}, field);
  assertEquals(payload.every((byte) => byte === 3), true);
  assertEquals(wire.subarray(8 + 60_000, 8 + 60_004), bytes(1, 2, 3, 4));
  assertEquals(decodeOne(wire, {}, field).id, 0x0102_0304);
  // An id at the very end of a payload that is only just not copied whole.
  const last: FrameIdField = { length: 4, offset: 16_385 };
  const tail = encode(new Uint8Array(16_389), 7, {}, last);
  assertEquals(decodeOne(tail, {}, last).id, 7);
});

Deno.test("A frame too short for its id is refused, written or read", () => {
  const field: FrameIdField = { length: 4, offset: 2 };
  const encoder = new FrameEncoder({}, field);
  assertThrows(
    () => encoder.push(new Uint8Array(5), 1),
    InvalidFrameLengthError,
    "Frame of 13 bytes is too short to hold its id of 4",
  );
  assertThrows(() => encoder.measure(new Uint8Array(5)), FrameError);
  assertEquals(encoder.buffered, 0);
  assertEquals(encoder.measure(new Uint8Array(6)), 14);

  for (const [wire, id] of [[bytes(5), field], [bytes(3), { length: 4 }]]) {
    const decoder = new FrameDecoder({ lengthFieldLength: 1 }, id as never);
    // A good one before it is delivered.
    decoder.push(bytes(6, 1, 2, 3, 4, 5, 6));
    decoder.push(wire as Uint8Array);
    assert(decoder.decode() !== null);
    const error = assertThrows(() => decoder.decode(), FrameError);
    assertInstanceOf(error, InvalidFrameLengthError);
    assertEquals(assertThrows(() => decoder.decode()), error);
  }
});

Deno.test("An inserted id counts towards maxFrameLength, on both sides", () => {
  const frame: FrameOptions = { maxFrameLength: 10, lengthFieldLength: 1 };
  const encoder = new FrameEncoder(frame, { length: 4 });
  assertEquals(encoder.measure(new Uint8Array(6)), 11);
  assertThrows(() => encoder.push(new Uint8Array(7), 1), FrameTooLargeError);
});

Deno.test("A bad id field is refused", () => {
  const make = (field: unknown) => () =>
    new FrameDecoder(
      { lengthFieldOffset: 4, lengthFieldLength: 2 },
      field as never,
    );
  for (const length of [0, 3, 5, 8, NaN, 1.5]) {
    assertThrows(make({ length }), RangeError, "length");
  }
  for (const field of [null, 4, {}, { length: "4" }]) {
    const error = assertThrows(make(field));
    assert(error instanceof TypeError || error instanceof RangeError);
  }
  for (const offset of [-7, -1, -2, -3, 65_536, 0.5]) {
    assertThrows(make({ length: 2, offset }), RangeError, "offset");
  }
  for (const offset of [-6, -4, 0, 65_535]) make({ length: 2, offset })();
});

Deno.test("FrameDecoder.rest() takes out what is held, and the decoder goes on as new", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1 });
  decoder.push(bytes(1, 9, 5, 1, 2));
  assertEquals(decoder.decode(), bytes(9));
  assertEquals(decoder.decode(), null);
  const rest = decoder.rest();
  assertEquals(rest, bytes(5, 1, 2));
  assertEquals(decoder.buffered, 0);
  decoder.finish();
  decoder.push(bytes(1, 7));
  assertEquals(decoder.decode(), bytes(7));
  assertEquals(rest, bytes(5, 1, 2), "what was taken out was written again");
  assertEquals(decoder.rest(), bytes());
  // Room given out before is taken back.
  decoder.space();
  decoder.rest();
  assertThrows(() => decoder.advance(1), RangeError);
});
