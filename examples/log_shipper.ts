// deno run --allow-net=127.0.0.1 examples/log_shipper.ts 9005
//
// Ships the lines of its standard input to `log_collector.ts`, one way. Its
// buffer is bounded: while it is full, no input is read. A collector that is
// restarted costs only lines that were on their way, and those are counted.

import { Client, ConnectionLostError } from "@wirepool/net";

const ROOM = 1_000; // Lines held while the collector is away or slow.
const CHECK = 100; // Lines after which the collector is asked what has come.
const FLUSH = 10_000; // Milliseconds to get rid of the last lines.

const buffer: Uint8Array[] = [];
let [written, arrived] = [0, 0]; // Lines, on the connection that stands.
let [shipped, doubtful] = [0, 0]; // Lines in all.
let [ended, wake] = [false, () => {}]; // Wakes who waits for room, or lines.
const changed = () => new Promise<void>((resolve) => wake = resolve);
const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

const client = new Client({
  port: Number(Deno.args[0] ?? 9005),
  maxCap: 1, // Lines and questions keep their order on one connection.
  handshake() { // Another connection: what was on the last one is in doubt.
    doubtful += written - arrived;
    [written, arrived] = [0, 0];
  },
});

/** Takes lines out of the buffer as fast as the collector reads them. */
async function ship(): Promise<void> {
  while (!ended || buffer.length > 0 || arrived < written) {
    const line = buffer[0];
    try {
      if (line !== undefined) {
        await client.notify(line); // Awaiting it is back-pressure.
        handedOver();
      }
      if (!line || written % CHECK === 0) await check();
      if (buffer.length === 0 && !ended) await changed();
    } catch (error) {
      // If it was not sent, the line stays first in the buffer.
      const sent = error instanceof ConnectionLostError && error.requestSent;
      if (sent && buffer[0] === line) handedOver();
      await sleep(100);
    }
  }
}

function handedOver(): void {
  buffer.shift();
  written++;
  wake();
}

/** Asks how many lines have come: the answer comes behind all of them. */
async function check(): Promise<void> {
  const { buffer, byteOffset } = await client.send(new Uint8Array());
  const lines = Number(new DataView(buffer, byteOffset).getBigUint64(0));
  shipped += lines - arrived;
  arrived = lines;
}

const shipping = ship();
let rest = "";
const input = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
for await (const text of input) {
  const lines = (rest + text).split("\n");
  rest = lines.pop()!;
  for (const line of lines.filter(Boolean)) {
    while (buffer.length >= ROOM) await changed();
    buffer.push(new TextEncoder().encode(line));
    wake();
  }
}
ended = true;
wake();
await Promise.race([shipping, sleep(FLUSH)]);
console.log(`${shipped} arrived, ${doubtful} in doubt, ${buffer.length} left`);
Deno.exit(shipped > 0 && buffer.length === 0 ? 0 : 1);
