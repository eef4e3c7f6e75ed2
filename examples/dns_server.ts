// deno run --allow-net=127.0.0.1 examples/dns_server.ts 5300
//
// Answers DNS queries over TCP from a small table:
//
//   dig @127.0.0.1 -p 5300 +tcp +keepopen one.test A two.test A
//
// The server frames; all that is left is the message of RFC 1035, section 4.1.

import { serve } from "@wirepool/net";

const TTL = 60; // Seconds that an answer may be kept.
const hosts = new Map([
  ["one.test", [192, 0, 2, 1]],
  ["two.test", [192, 0, 2, 2]],
]);

const server = serve({
  port: Number(Deno.args[0] ?? 5300),
  lengthFieldLength: 2,
  maxFrameLength: 65_535,
  // The id, which begins each message: an answer gets that of its query, and may
  // overtake others.
  correlation: { length: 2, requestOffset: 0 },
  idleTimeout: 10_000, // RFC 7766 asks for a few seconds at least.
  // What is no query costs its sender the connection.
  onError: (error, context) => console.error(context?.remoteAddr, error),
}, (query, { remoteAddr }) => {
  const { name, type, end } = readQuestion(query);
  if (remoteAddr.transport === "tcp") console.log(remoteAddr.port, name);
  const address = hosts.get(name.toLowerCase());
  const data = type === 1 ? address : undefined;
  const header = Uint8Array.of(
    ...[0, 0], // Room for the query's id,
    0x84 | (query[2]! & 1), // an authoritative answer, "recursion desired" as asked,
    address === undefined ? 3 : 0, // NXDOMAIN or no error,
    ...[0, 1, 0, data ? 1 : 0, 0, 0, 0, 0], // and the numbers of records.
  );
  // The name is the question's, 12 bytes from the start; type A, class IN.
  const answer = data
    ? [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, TTL, 0, 4, ...data]
    : [];
  return Uint8Array.of(...header, ...query.subarray(12, end), ...answer);
});

function readQuestion(query: Uint8Array) {
  const view = new DataView(query.buffer, query.byteOffset, query.length);
  if ((query[2]! & 0x80) !== 0 || view.getUint16(4) !== 1) {
    throw new TypeError("Not a query with one question");
  }
  const labels: string[] = [];
  let at = 12;
  for (let length = view.getUint8(at); length > 0; length = view.getUint8(at)) {
    labels.push(
      new TextDecoder().decode(query.subarray(at + 1, at + 1 + length)),
    );
    at += 1 + length;
  }
  return { name: labels.join("."), type: view.getUint16(at + 1), end: at + 5 };
}

console.log(`Listening on port ${server.addr.port}`);
Deno.addSignalListener("SIGINT", () => server.shutdown());
await server.finished;
