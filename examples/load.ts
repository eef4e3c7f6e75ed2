// deno run --allow-net=127.0.0.1 examples/load.ts 127.0.0.1:9000 --connections=10 --pipelining=8
//
// Loads any length-prefixed service and draws how long its answers took. With a
// rate, latency counts from when a request was due, so that a service that
// stalls cannot hide it by holding the load back.

import { Client, type ClientOptions } from "@wirepool/net";

const options = {
  lengthFieldLength: 8,
  byteOrder: "big",
  lengthFieldOffset: 0,
  lengthAdjustment: 0,
  initialBytesToStrip: undefined as number | undefined,
  maxFrameLength: 16 * 1024 * 1024,
  connections: 10,
  pipelining: 1,
  ids: 0, // Width of the ids that both sides insert; 0 is none.
  rate: 0, // Requests per second; 0 is as many as are answered.
  duration: 10, // Seconds; Ctrl-C ends it sooner.
  text: "\0".repeat(64), // What to send.
};
const [address, ...flags] = Deno.args;
for (const flag of flags) {
  const [, name = "", value = ""] = /^--(\w+)=(.*)$/s.exec(flag) ?? [];
  if (!Object.hasOwn(options, name)) throw new Error(`No option ${flag}`);
  const text = name === "byteOrder" || name === "text";
  Object.assign(options, { [name]: text ? value : Number(value) });
}
const { connections, pipelining, ids, rate, text } = options;
const { hostname, port } = new URL(`tcp://${address}`);
const server = { hostname, port: Number(port), maxCap: connections };
const wire = ids > 0 ? { ...server, correlation: { length: ids } } : server;
const client = new Client({ ...options, ...wire } as ClientOptions);
const payload = new TextEncoder().encode(text);
await client.send(payload); // What fails here would fail a million times.
const FINE = 16; // Buckets to each doubling of the microseconds: 4 % apart.
const buckets: number[] = Array(36 * FINE).fill(0);
const outcomes: Record<string, number> & { answers: number } = { answers: 0 };
let { duration: end } = options, requests = 0;
Deno.addSignalListener("SIGINT", () => end = 0);
const start = performance.now();
const seconds = () => (performance.now() - start) / 1_000;
const over = Deno.stdout.isTerminal() ? "\x1b[A\x1b[K" : ""; // The line before.
const timer = setInterval(() => {
  console.log(`${over}${seconds().toFixed()} s: ${outcomes.answers} answers`);
}, 1_000);
console.log(`Loading ${address}`);
await Promise.all(Array.from({ length: connections * pipelining }, caller));
clearInterval(timer);
await client.close();
const { answers } = outcomes;
console.log(outcomes, `${Math.round(answers / seconds())} answers/s`);
const edge = (i: number) => `${(2 ** (i / FINE) / 1_000).toPrecision(3)} ms`;
for (let i = 0; i < buckets.length; i += FINE) {
  const n = buckets.slice(i, i + FINE).reduce((sum, n) => sum + n);
  const bar = "#".repeat(Math.ceil(n / answers * 60));
  if (n > 0) console.log(edge(i + FINE).padStart(12), bar, n);
}
for (const percent of [50, 90, 99, 99.9, 100]) {
  let left = answers * percent / 100;
  const i = buckets.findIndex((n) => (left -= n) <= 0);
  console.log(`${percent} % within ${edge(i + 1)}`);
}

async function caller(): Promise<void> {
  for (;;) {
    const due = rate > 0 ? requests++ / rate : seconds();
    const wait = (due - seconds()) * 1_000;
    if (wait > 0) await new Promise((wake) => setTimeout(wake, wait));
    const from = Math.min(due, seconds());
    if (seconds() >= end) return;
    const outcome = await client.send(payload).then(() => "answers", String);
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    if (outcome !== "answers") continue;
    const bucket = Math.log2((seconds() - from) * 1e6) * FINE;
    buckets[Math.max(0, Math.floor(bucket))]!++;
  }
}
