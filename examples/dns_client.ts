// deno run --allow-net=1.1.1.1:53 examples/dns_client.ts 1.1.1.1:53 deno.com example.com
//
// Asks a DNS server for IPv4 addresses over TCP, where two bytes of length
// stand before each message: RFC 1035, section 4.2.2. All names go over one
// connection at once. A server may answer the fast ones first (RFC 7766), and
// the id that begins each message tells which answer belongs to which question.

import { Client } from "@wirepool/net";

const CODES = ["", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

const [address = "1.1.1.1:53", ...names] = Deno.args;
const { hostname, port } = new URL(`tcp://${address}`);
await using dns = new Client({
  hostname,
  port: Number(port || 53),
  lengthFieldLength: 2,
  maxFrameLength: 65_535,
  correlation: { length: 2, requestOffset: 0 },
  requestTimeout: 5_000,
  idempotent: true,
});

const answers = await Promise.allSettled(names.map(resolve));
for (const [i, answer] of answers.entries()) {
  if (answer.status === "fulfilled") console.log(names[i], ...answer.value);
  else console.error(`${names[i]}: ${answer.reason.message}`);
}

async function resolve(name: string): Promise<string[]> {
  const labels = name.split(".").flatMap((label) => [
    label.length,
    ...new TextEncoder().encode(label),
  ]);
  // Room for the id, then: recurse, one question.
  const header = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
  const question = [...labels, 0, 0, 1, 0, 1]; // Type A, class IN.
  return parse(await dns.send(Uint8Array.of(...header, ...question)));
}

function parse(message: Uint8Array): string[] {
  const view = new DataView(message.buffer, message.byteOffset, message.length);
  const code = message[3]! & 0x0f;
  if (code !== 0) throw new Error(CODES[code] ?? `DNS error ${code}`);
  let at = skipName(message, 12) + 4; // Past our own question.
  const addresses: string[] = [];
  for (let left = view.getUint16(6); left > 0; left--) {
    at = skipName(message, at);
    const data = message.subarray(at + 10, at + 10 + view.getUint16(at + 8));
    if (view.getUint16(at) === 1) addresses.push(data.join("."));
    at += 10 + data.length;
  }
  return addresses;
}

/** A name ends with an empty label, or with a reference to an earlier one. */
function skipName(message: Uint8Array, at: number): number {
  while (message[at]! > 0 && message[at]! < 0xc0) at += 1 + message[at]!;
  return at + (message[at] === 0 ? 1 : 2);
}
