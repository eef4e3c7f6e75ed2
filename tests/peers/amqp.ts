/**
 * AMQP 0-9-1, which is no protocol of requests and responses: a broker of a few
 * lines reads and writes its frames, and librabbitmq's tools publish to it.
 */
import { assert, assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { FrameReader, FrameWriter } from "@wirepool/net/codec";
import { bytes, pattern } from "../bytes_support.ts";
import { Program, testPeers } from "../programs_support.ts";
import { PROTOCOLS } from "../protocols_support.ts";

const AMQP = PROTOCOLS["AMQP 0-9-1"];

/** Types of frames, and the octet that ends each. */
const METHOD = 1, HEADER = 2, BODY = 3, END = 0xce;

/** Methods, by class and number. */
const START = "10.10", START_OK = "10.11", TUNE = "10.30", TUNE_OK = "10.31";
const OPEN = "10.40", OPEN_OK = "10.41", CLOSE = "10.50", CLOSE_OK = "10.51";
const CHANNEL_OPEN = "20.10", CHANNEL_OPEN_OK = "20.11";
const CHANNEL_CLOSE = "20.40", CHANNEL_CLOSE_OK = "20.41";
const PUBLISH = "60.40";

/** The most bytes of a frame that the broker agrees to, end octet included: the
 * least that the specification allows. */
const FRAME_MAX = 4096;

const short = (value: number) => bytes(value >> 8, value & 0xff);
const long = (value: number) => bytes(0, 0, short(value));
const text = (value: string) => bytes(long(value.length), value);

/** What is framed: without the size, and with the end octet. */
function method(channel: number, name: string, ...args: Uint8Array[]) {
  const ids = name.split(".").map((id) => short(Number(id)));
  return concat([bytes(METHOD), short(channel), ...ids, ...args, bytes(END)]);
}

interface Published {
  exchange: string;
  key: string;
  body: Uint8Array;
  /** Frames that its body came in. */
  frames: number;
}

/** Serves one connection to its end. */
async function serveBroker(conn: Deno.Conn): Promise<Published[]> {
  // The protocol's name is no frame.
  const name = new Uint8Array(8);
  for (let n = 0; n < 8;) n += (await conn.read(name.subarray(n)))!;
  assertEquals(name, bytes("AMQP", 0, 0, 9, 1));

  const published: Published[] = [];
  let left = 0;
  const reader = new FrameReader(conn, AMQP);
  const writer = new FrameWriter(conn, AMQP);
  const noTable = long(0);
  const version = bytes(0, 9);
  await writer.write(
    method(0, START, version, noTable, text("PLAIN"), text("en_US")),
  );
  for await (const frame of reader) {
    assertEquals(frame.at(-1), END);
    const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
    const channel = view.getUint16(1);
    const payload = frame.subarray(7, -1);
    assert(frame.length <= FRAME_MAX);
    if (frame[0] === HEADER) {
      left = Number(view.getBigUint64(7 + 4));
      continue;
    }
    if (frame[0] === BODY) {
      const message = published.at(-1)!;
      message.body = concat([message.body, payload]);
      message.frames++;
      left -= payload.length;
      continue;
    }
    assertEquals([frame[0], left], [METHOD, 0]);
    const name = `${view.getUint16(7)}.${view.getUint16(9)}`;
    if (name === START_OK) {
      await writer.write(method(0, TUNE, short(0), long(FRAME_MAX), short(0)));
    } else if (name === OPEN) {
      await writer.write(method(0, OPEN_OK, bytes(0)));
    } else if (name === CHANNEL_OPEN) {
      await writer.write(method(channel, CHANNEL_OPEN_OK, noTable));
    } else if (name === PUBLISH) {
      const exchange = readShort(payload, 6);
      const key = readShort(payload, 7 + exchange.length);
      published.push({ exchange, key, body: bytes(), frames: 0 });
    } else if (name === CHANNEL_CLOSE) {
      await writer.write(method(channel, CHANNEL_CLOSE_OK));
    } else if (name === CLOSE) {
      await writer.write(method(0, CLOSE_OK));
    } else assertEquals(name, TUNE_OK);
  }
  return published;
}

/** A text with its length in one byte. */
function readShort(payload: Uint8Array, at: number): string {
  const end = at + 1 + payload[at]!;
  return String.fromCharCode(...payload.subarray(at + 1, end));
}

testPeers(
  "amqp-publish sends its messages to a broker made of FrameReader and FrameWriter",
  ["amqp-publish"],
  async ({ "amqp-publish": publish }) => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    for (const length of [0, 5, FRAME_MAX, 300_000]) {
      const body = pattern(length);
      await using program = new Program(publish, [
        "--url",
        `amqp://guest:guest@127.0.0.1:${listener.addr.port}`,
        ...["--exchange", "wires", "--routing-key", "a.key"],
      ], { input: body });
      using conn = await listener.accept();
      const published = await serveBroker(conn);
      await program.succeeds();
      // What a frame has besides: type, channel and size, and the end octet.
      const frames = Math.ceil(length / (FRAME_MAX - 8));
      assertEquals(published, [{
        exchange: "wires",
        key: "a.key",
        body,
        frames,
      }]);
    }
  },
);
