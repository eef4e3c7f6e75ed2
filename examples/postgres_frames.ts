// deno run --allow-net=127.0.0.1 examples/postgres_frames.ts 5432 postgres
//
// Reads a PostgreSQL server's messages as frames. Each is a type byte, then
// four bytes of length that count themselves, then the rest:
//
//   +------+---------------+--------+     lengthFieldOffset     1
//   |  'D' |  00 00 00 0b  |  ...   |     lengthFieldLength     4
//   +------+---------------+--------+     lengthAdjustment     -4
//    <------- kept whole ---------->      initialBytesToStrip   0
//
// The server must let the user in without a password ("trust").

import { encodeFrame, FrameReader, FrameWriter } from "@wirepool/net";

const [port = "5432", user = "postgres"] = Deno.args;
using conn = await Deno.connect({ port: Number(port) });
const message = {
  lengthFieldOffset: 1,
  lengthFieldLength: 4,
  lengthAdjustment: -4,
} as const;
const reader = new FrameReader(conn, { ...message, initialBytesToStrip: 0 });
const writer = new FrameWriter(conn, message);
const encoder = new TextEncoder();
const decoder = new TextDecoder();

// The first message alone has no type byte: protocol 3.0, then parameters.
const startup = encoder.encode(`\0\x03\0\0user\0${user}\0\0`);
const { lengthFieldLength, lengthAdjustment } = message;
const hello = encodeFrame(startup, { lengthFieldLength, lengthAdjustment });
await conn.write(hello);
await untilReady();

await writer.write(
  encoder.encode("QSELECT 6 * 7, NULL, current_setting('server_version')\0"),
);
await untilReady();

await writer.write(encoder.encode("QSELECT nothing FROM nowhere\0"));
await untilReady();

await writer.write(encoder.encode("X"));
console.log(await reader.read() === null ? "The server hung up" : "?");

/** Prints messages up to ReadyForQuery. */
async function untilReady(): Promise<void> {
  for await (const frame of reader) {
    const type = String.fromCharCode(frame[0]!);
    const body = frame.subarray(5);
    if (type === "R") console.log("Authentication", describeAuth(body));
    if (type === "D") console.log("DataRow", ...readRow(body));
    if (type === "C") console.log("CommandComplete", readText(body));
    if (type === "E") console.log("ErrorResponse", readText(body));
    if (type === "Z") return console.log("ReadyForQuery");
  }
  throw new Deno.errors.UnexpectedEof("The server hung up");
}

function describeAuth(body: Uint8Array): string {
  if (body[3] === 0) return "ok";
  throw new Error("The server wants a password");
}

function readRow(body: Uint8Array): (string | null)[] {
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  let at = 2;
  return Array.from({ length: view.getUint16(0) }, () => {
    const length = view.getInt32(at); // -1 stands for NULL.
    at += 4 + Math.max(0, length);
    return length < 0 ? null : decoder.decode(body.subarray(at - length, at));
  });
}

function readText(body: Uint8Array): string {
  return decoder.decode(body).replaceAll("\0", " ").trimEnd();
}
