/**
 * Protocols that people meet, with bytes from their own documentation: with the
 * options that PROTOCOLS.md gives, its messages in, and its messages out.
 */
import { assertEquals, assertNotEquals } from "@std/assert";
import { concat } from "@std/bytes";
import {
  encodeFrame,
  FrameDecoder,
  FrameEncoder,
  type FrameIdField,
  type FrameOptions,
} from "../codec.ts";
import { bytes, hex, splits } from "./bytes_support.ts";
import { protocol } from "./protocols_support.ts";

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

/** A message that carries an id. */
interface Numbered extends Message {
  id: number;
}

/** Does what {@linkcode check} does, with the ids read, and written over. */
function checkIds(
  options: FrameOptions,
  field: FrameIdField | undefined,
  messages: Numbered[],
): void {
  check(options, messages);
  const offset = options.lengthFieldOffset ?? 0;
  const at = offset + (options.lengthFieldLength ?? 8) + field!.offset!;
  const decoder = new FrameDecoder(options, field);
  const encoder = new FrameEncoder(options, field);
  const encode = (payload: Uint8Array, id?: number) => {
    encoder.push(payload, id);
    const wire = encoder.chunk()!.slice();
    encoder.advance(wire.length);
    assertEquals(encoder.chunk(), null);
    return wire;
  };
  for (const { wire, payload, frame, id } of messages) {
    assertEquals(encoder.readId(payload), id);
    decoder.push(wire);
    assertEquals(decoder.decode(), frame ?? payload);
    assertEquals(decoder.id, id);
    // Without an id to write, the payload's own stays.
    assertEquals(encode(payload), wire);
    const before = payload.slice();
    const other = encode(payload, id ^ 1);
    assertEquals(payload, before);
    assertNotEquals(other, wire);
    // Only the id differs, and it stands where the protocol has it.
    const low = options.byteOrder === "little" ? at : at + field!.length - 1;
    other[low]! ^= 1;
    assertEquals(other, wire);
  }
  decoder.finish();
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
  check(protocol("DNS").frame, [
    { wire: bytes(0, 33, query), payload: query },
    { wire: bytes(0, 61, response), payload: response },
  ]);
});

Deno.test("DNS over TCP: the id stands first (RFC 1035, 4.1.1)", () => {
  // Section 4.1.1's header, around the question of RFC 8484 and its answer.
  const question = bytes(3, "www", 7, "example", 3, "com", 0, hex("00010001"));
  const query = bytes(hex("beef 0100 0001 0000 0000 0000"), question);
  const response = bytes(hex("beef 8180 0001 0000 0000 0000"), question);
  const high = bytes(hex("7ffe 0100 0001 0000 0000 0000"), question);
  const { frame, request } = protocol("DNS");
  checkIds(
    frame,
    request,
    [[query, 0xbeef], [response, 0xbeef], [high, 0x7ffe]].map(([m, id]) => ({
      wire: bytes(0, 33, m as Uint8Array),
      payload: m as Uint8Array,
      id: id as number,
    })),
  );
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
  check(protocol("Kafka").frame, [
    { wire: concat([hex("00 00 00 2b"), request]), payload: request },
  ]);
});

Deno.test("Kafka: the correlation id stands fifth in a request's header and first in a response's, as its protocol guide lays them out", () => {
  const request = bytes(
    hex("0012 0000"), // ApiVersions, version 0
    hex("01020304"), // correlation id
    hex("0005"),
    "admin",
  );
  const response = bytes(
    hex("01020304"), // correlation id
    hex("0000"), // no error
    hex("00000001 0012 0000 0003"), // ApiVersions, 0 to 3
  );
  const id = 0x0102_0304;
  const kafka = protocol("Kafka");
  checkIds(kafka.frame, kafka.request, [
    { wire: bytes(0, 0, 0, 15, request), payload: request, id },
  ]);
  checkIds(kafka.frame, kafka.response, [
    { wire: bytes(0, 0, 0, 16, response), payload: response, id },
  ]);
});

Deno.test("ZooKeeper: four bytes, then the xid, with the records of its Jute description", () => {
  const { frame, request, response } = protocol("ZooKeeper");
  const path = bytes(hex("00000005"), "/lock");
  // ConnectRequest, which begins a session and has no header.
  const connect = hex(`
    00000000 0000000000000000 00002710 0000000000000000
    00000010 00000000000000000000000000000000`);
  check(frame, [{ wire: bytes(0, 0, 0, 44, connect), payload: connect }]);
  // RequestHeader: xid, type 4; GetDataRequest: path, watch.
  const get = bytes(hex("00000001 00000004"), path, 1);
  // ReplyHeader: xid, zxid, err; GetDataResponse begins with the data.
  const reply = bytes(hex("00000001 0000000000000009 00000000 00000001"), "x");
  // A ReplyHeader of xid -1, and WatcherEvent: type 3, state 3, path.
  const event = bytes(
    hex("ffffffff ffffffffffffffff 00000000 00000003 00000003"),
    path,
  );
  const ping = hex("fffffffe 0000000b"); // xid -2, type 11
  assertEquals(request, response);
  checkIds(frame, response, [
    { wire: bytes(0, 0, 0, 18, get), payload: get, id: 1 },
    { wire: bytes(0, 0, 0, 21, reply), payload: reply, id: 1 },
    { wire: bytes(0, 0, 0, 33, event), payload: event, id: 0xffff_ffff },
    { wire: bytes(0, 0, 0, 8, ping), payload: ping, id: 0xffff_fffe },
  ]);
});

Deno.test("memcached's binary protocol: a header of 24 bytes that counts what is behind it, with the packets of its draft", () => {
  const wires = [
    // 4.2.1: get, its answer; 4.1.1: an error; 4.3.1: add, its answer.
    bytes(
      hex("8000 0005 0000 0000 00000005 00000000 0000000000000000"),
      "Hello",
    ),
    bytes(
      hex("8100 0000 0400 0000 00000009 00000000 0000000000000001 deadbeef"),
      "World",
    ),
    bytes(
      hex("8100 0000 0000 0001 00000009 00000000 0000000000000000"),
      "Not found",
    ),
    bytes(
      hex("8002 0005 0800 0000 00000012 00000000 0000000000000000"),
      hex("deadbeef 00000e10"),
      "HelloWorld",
    ),
    hex("8102 0000 0000 0000 00000000 00000000 0000000000000001"),
  ];
  const { frame, request } = protocol("memcached");
  checkIds(
    frame,
    request,
    wires.flatMap((wire) =>
      [0, 0x7fff_fffe, 0x0102_0304].map((id) => {
        const numbered = wire.slice();
        new DataView(numbered.buffer).setUint32(12, id);
        return {
          wire: numbered,
          payload: concat([numbered.subarray(0, 8), numbered.subarray(12)]),
          frame: numbered,
          id,
        };
      })
    ),
  );
});

Deno.test("Modbus TCP: the transaction stands before the length, with the PDUs of its specification, 6.3", () => {
  const { frame, request } = protocol("Modbus TCP");
  // Transaction, protocol 0, length, unit; then function 3, which reads three
  // registers from 107 on, and its response.
  const messages = [
    { head: "1501 0000", length: "0006", rest: "ff 03 006b 0003" },
    { head: "1501 0000", length: "0009", rest: "ff 03 06 022b 0000 0064" },
  ].map(({ head, length, rest }) => ({
    wire: hex(head + length + rest),
    payload: hex(head + rest),
    frame: hex(rest),
    id: 0x1501,
  }));
  checkIds(frame, request, messages);
  // With the header kept.
  checkIds(
    { ...frame, initialBytesToStrip: 0 },
    request,
    messages.map((message) => ({ ...message, frame: message.wire })),
  );
});

Deno.test("AMQP 0-9-1: type, channel and size, and an end octet that the size does not count (4.2.3)", () => {
  const wires = [
    // A heartbeat; channel.open (20, 10) and its answer (20, 11); a body.
    hex("08 0000 00000000 ce"),
    hex("01 0001 00000005 0014 000a 00 ce"),
    hex("01 0001 00000008 0014 000b 00000000 ce"),
    bytes(hex("03 0001 00000005"), "hello", 0xce),
  ];
  check(
    protocol("AMQP 0-9-1").frame,
    wires.map((wire) => ({
      wire,
      payload: concat([wire.subarray(0, 3), wire.subarray(7)]),
      frame: wire,
    })),
  );
});

Deno.test("Diameter: 24 bits that count the whole message, behind a version, with the header of RFC 6733, 3", () => {
  // Version, length, flags, code; application; hop by hop; end to end.
  const header = (length: string, flags: string) =>
    hex(`01 ${length} ${flags} 000118 00000000 01020304 0a0b0c0d`);
  // Origin-Host and Origin-Realm, padded to words (4.1), and Result-Code.
  const origin = bytes(
    hex("00000108 40000010"),
    "dns.test",
    hex("00000128 4000000c"),
    "test",
  );
  const success = hex("0000010c 4000000c 000007d1");
  const wires = [
    bytes(header("000030", "80"), origin), // Device-Watchdog-Request
    bytes(header("00003c", "00"), success, origin), // and its answer
  ];
  const { frame, request } = protocol("Diameter");
  checkIds(
    frame,
    request,
    wires.map((wire) => ({
      wire,
      payload: concat([wire.subarray(0, 1), wire.subarray(4)]),
      frame: wire,
      id: 0x0102_0304,
    })),
  );
});

Deno.test("Cassandra: a stream before the opcode and the length, negative for events, as its specification of version 4 has it", () => {
  const messages: [header: string, length: string, body: Uint8Array][] = [
    ["04 00 0005 05", "00000000", bytes()], // OPTIONS
    ["84 00 0005 06", "00000002", hex("0000")], // SUPPORTED: nothing
    // EVENT: the status of a node has changed.
    [
      "84 00 ffff 0c",
      "0000001f",
      bytes(
        ...[hex("000d"), "STATUS_CHANGE", hex("0002"), "UP"],
        hex("04 7f000001 00002352"),
        bytes(0, 0, 0),
      ),
    ],
  ];
  const { frame, request } = protocol("Cassandra");
  checkIds(
    frame,
    request,
    messages.map(([header, length, body]) => ({
      wire: bytes(hex(header), hex(length), body),
      payload: bytes(hex(header), body),
      frame: bytes(hex(header), hex(length), body),
      id: header.includes("ffff") ? 0xffff : 5,
    })),
  );
});

Deno.test("An RPC of one's own: four bytes, and an id that both sides put in and take out", () => {
  const { frame, request } = protocol("A protocol of your own");
  const encoder = new FrameEncoder(frame, request);
  encoder.push(bytes("hello"), 7);
  const wire = encoder.chunk()!.slice();
  assertEquals(wire, bytes(0, 0, 0, 9, 0, 0, 0, 7, "hello"));
  const decoder = new FrameDecoder(frame, request);
  decoder.push(wire);
  assertEquals(decoder.decode(), bytes("hello"));
  assertEquals(decoder.id, 7);
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
  check(protocol("Thrift, framed").frame, [
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
  const { frame: options, request, response } = protocol("MongoDB");
  const wire = concat([hex("2b 00 00 00"), message]);
  check(options, [{ wire, payload: message }, { wire, payload: message }]);
  // A BSON document has the same outer shape.
  check(options, [{ wire: document, payload: document.subarray(4) }]);
  // A request's id stands first, and a response's names it behind its own.
  const numbered = (field: string, id: number) => {
    const message = bytes(hex(field), wire.subarray(12));
    return { wire: bytes(wire.subarray(0, 4), message), payload: message, id };
  };
  checkIds(options, request, [
    numbered("04 03 02 01 00 00 00 00", 0x0102_0304),
  ]);
  checkIds(options, response, [
    numbered("ff ff 00 00 04 03 02 01", 0x0102_0304),
  ]);
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
  const options = protocol("MySQL and MariaDB").frame;
  // The sequence byte stays with the payload: a peer has to check it.
  check(options, wires.map((wire) => ({ wire, payload: wire.subarray(3) })));
  // Where it does not matter, it can be stripped.
  const decoder = new FrameDecoder({ ...options, initialBytesToStrip: 4 });
  decoder.push(concat(wires));
  assertEquals([...decoder], wires.map((wire) => wire.subarray(4)));
  decoder.finish();
});

Deno.test("MySQL: the longest packet, whose length field is full", () => {
  const options = protocol("MySQL and MariaDB").frame;
  const payload = new Uint8Array(1 + 0xffffff);
  const wire = encodeFrame(payload, options);
  assertEquals(wire.subarray(0, 4), hex("ff ff ff 00"));
  const decoder = new FrameDecoder(options);
  decoder.push(wire);
  assertEquals(decoder.decode()?.length, payload.length);
});

Deno.test("PostgreSQL: a type byte, then four bytes that count themselves and not the type", () => {
  const options = protocol("PostgreSQL").frame;
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
