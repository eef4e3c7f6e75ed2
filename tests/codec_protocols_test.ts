/**
 * Protocols that people meet, with bytes from their own documentation:
 * the options for each, its messages in, and its messages out.
 */
import { assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { encodeFrame, FrameDecoder, type FrameOptions } from "../codec.ts";
import { bytes, hex, splits } from "./bytes_support.ts";

interface Message {
  /** The message as it goes over the wire. */
  wire: Uint8Array;
  /** What is given to `encodeFrame` for it. */
  payload: Uint8Array;
  /** What a decoder hands out for it; the payload where it is the same. */
  frame?: Uint8Array;
}

/** Encodes each message, and decodes all of them from every split. */
function check(options: FrameOptions, messages: Message[]): void {
  for (const { wire, payload } of messages) {
    assertEquals(encodeFrame(payload, options), wire);
  }
  const stream = concat(messages.map((message) => message.wire));
  const frames = messages.map(({ frame, payload }) => frame ?? payload);
  for (const chunks of splits(stream)) {
    const decoder = new FrameDecoder(options);
    const decoded: Uint8Array[] = [];
    for (const chunk of chunks) {
      decoder.push(chunk);
      decoded.push(...decoder);
    }
    decoder.finish();
    assertEquals(decoded, frames);
  }
}

Deno.test("The default wire: eight bytes, big endian, then the payload", () => {
  check({}, [
    { wire: bytes(0, 0, 0, 0, 0, 0, 0, 5, "hello"), payload: bytes("hello") },
    { wire: bytes(0, 0, 0, 0, 0, 0, 0, 0), payload: bytes() },
    { wire: bytes(0, 0, 0, 0, 0, 0, 0, 1, 0xff), payload: bytes(0xff) },
  ]);
});

Deno.test("DNS over TCP: two bytes (RFC 1035, 4.2.2), with the messages of RFC 8484, 4", () => {
  const query = hex(`
    00 00 01 00 00 01 00 00  00 00 00 00 03 77 77 77
    07 65 78 61 6d 70 6c 65  03 63 6f 6d 00 00 01 00
    01`);
  const response = hex(`
    00 00 81 80 00 01 00 01  00 00 00 00 03 77 77 77
    07 65 78 61 6d 70 6c 65  03 63 6f 6d 00 00 1c 00
    01 c0 0c 00 1c 00 01 00  00 0e 7d 00 10 20 01 0d
    b8 ab cd 00 12 00 01 00  02 00 03 00 04`);
  check({ lengthFieldLength: 2, maxFrameLength: 65_535 }, [
    { wire: bytes(0, 33, query), payload: query },
    { wire: bytes(0, 61, response), payload: response },
  ]);
});

Deno.test("Kafka: four bytes, with the ApiVersions request of its Java client, as its protocol guide lays it out", () => {
  const request = hex(`
    00 12                     # API key: ApiVersions
    00 03                     # API version
    00 00 00 00               # correlation id
    00 07 61 64 6d 69 6e 2d 31   # client id: admin-1
    00                        # no tagged fields
    12 61 70 61 63 68 65 2d 6b 61 66 6b 61 2d 6a 61 76 61
    06 33 2e 33 2e 31         # client software: apache-kafka-java 3.3.1
    00                        # no tagged fields
  `.replaceAll(/#.*/g, ""));
  check({ lengthFieldLength: 4 }, [
    { wire: concat([hex("00 00 00 2b"), request]), payload: request },
  ]);
});

Deno.test("Thrift framed: four bytes, with a call in the strict binary protocol of its specification", () => {
  const call = concat([
    hex("80 01 00 01"), // version 1, a call
    hex("00 00 00 04"),
    bytes("ping"),
    hex("00 00 00 07"), // sequence id
    hex("00"), // no arguments
  ]);
  const reply = concat([
    hex("80 01 00 02 00 00 00 04"),
    bytes("ping"),
    hex("00 00 00 07 00"),
  ]);
  // The limit that its RPC specification sets, 16384000 bytes.
  check({ lengthFieldLength: 4, maxFrameLength: 16_384_000 }, [
    { wire: concat([hex("00 00 00 11"), call]), payload: call },
    { wire: concat([hex("00 00 00 11"), reply]), payload: reply },
  ]);
});

Deno.test("MongoDB: four bytes, little endian, that count themselves, around the document of the BSON specification", () => {
  const document = bytes(
    hex("16 00 00 00 02"),
    "hello",
    hex("00 06 00 00 00"),
    "world",
    hex("00 00"),
  );
  const message = concat([
    hex("01 00 00 00"), // requestID
    hex("00 00 00 00"), // responseTo
    hex("dd 07 00 00"), // opCode 2013: OP_MSG
    hex("00 00 00 00"), // flagBits
    hex("00"), // section of kind 0: one document
    document,
  ]);
  const options: FrameOptions = {
    lengthFieldLength: 4,
    byteOrder: "little",
    lengthAdjustment: -4,
    maxFrameLength: 48_000_000,
  };
  const wire = concat([hex("2b 00 00 00"), message]);
  check(options, [{ wire, payload: message }, { wire, payload: message }]);
  // A BSON document has the same outer shape.
  check(options, [{ wire: document, payload: document.subarray(4) }]);
  // With the header kept, a frame is the message as its parsers expect it.
  check({ ...options, initialBytesToStrip: 0 }, [
    { wire, payload: message, frame: wire },
  ]);
});

Deno.test("MySQL: three bytes, little endian, then a sequence byte that they do not count", () => {
  // The examples of its documentation: commands, and an EOF, an OK and an
  // error packet.
  const wires = [
    hex("01 00 00 00 01"), // COM_QUIT
    bytes(hex("05 00 00 00 02"), "test"), // COM_INIT_DB
    bytes(hex("21 00 00 00 03"), "select @@version_comment limit 1"),
    hex("05 00 00 05 fe 00 00 02 00"), // EOF
    hex("07 00 00 02 00 00 00 02 00 00 00"), // OK
    bytes(hex("17 00 00 01 ff 48 04"), "#HY000No tables used"),
  ];
  const options: FrameOptions = {
    lengthFieldLength: 3,
    byteOrder: "little",
    lengthAdjustment: 1,
    maxFrameLength: 0xffffff + 1,
  };
  // The sequence byte stays with the payload: a peer has to check it.
  check(options, wires.map((wire) => ({ wire, payload: wire.subarray(3) })));
  // Where it does not matter, it can be stripped.
  const decoder = new FrameDecoder({ ...options, initialBytesToStrip: 4 });
  decoder.push(concat(wires));
  assertEquals([...decoder], wires.map((wire) => wire.subarray(4)));
  decoder.finish();
});

Deno.test("MySQL: the longest packet, whose length field is full", () => {
  const options: FrameOptions = {
    lengthFieldLength: 3,
    byteOrder: "little",
    lengthAdjustment: 1,
    maxFrameLength: 0xffffff + 1,
  };
  const payload = new Uint8Array(1 + 0xffffff);
  const wire = encodeFrame(payload, options);
  assertEquals(wire.subarray(0, 4), hex("ff ff ff 00"));
  const decoder = new FrameDecoder(options);
  decoder.push(wire);
  assertEquals(decoder.decode()?.length, payload.length);
});

Deno.test("PostgreSQL: a type byte, then four bytes that count themselves and not the type", () => {
  const options: FrameOptions = {
    lengthFieldOffset: 1,
    lengthFieldLength: 4,
    lengthAdjustment: -4,
    initialBytesToStrip: 0,
  };
  // From the message formats of its documentation. The length field stands
  // inside the frame, so a frame is the whole message.
  const messages: [type: string, field: string, rest: Uint8Array][] = [
    ["R", "00 00 00 08", hex("00 00 00 00")], // AuthenticationOk
    ["K", "00 00 00 0c", hex("00 00 10 92 5f 2c 88 21")], // BackendKeyData
    ["S", "00 00 00 16", bytes("server_version", 0, "17", 0)],
    ["Z", "00 00 00 05", bytes("I")], // ReadyForQuery, idle
    ["Q", "00 00 00 0d", bytes("SELECT 1", 0)], // Query
    ["C", "00 00 00 0d", bytes("SELECT 1", 0)], // CommandComplete
    ["S", "00 00 00 04", bytes()], // Sync
    ["X", "00 00 00 04", bytes()], // Terminate
  ];
  check(
    options,
    messages.map(([type, field, rest]) => {
      const wire = bytes(type, hex(field), rest);
      return { wire, payload: bytes(type, rest), frame: wire };
    }),
  );
});

Deno.test("PostgreSQL: the first messages, which have no type byte", () => {
  const options: FrameOptions = { lengthFieldLength: 4, lengthAdjustment: -4 };
  const startup = bytes(
    hex("00 03 00 00"), // protocol 3.0
    "user",
    0,
    "postgres",
    0,
    0,
  );
  check(options, [
    { wire: hex("00 00 00 08 04 d2 16 2f"), payload: hex("04 d2 16 2f") },
    { wire: concat([hex("00 00 00 17"), startup]), payload: startup },
  ]);
});
