// deno run --allow-net=127.0.0.1 examples/demo.ts
//
// The library's main job on this machine: one checked load, sent three ways
// over loopback, about ten seconds in all. `deno task demo` does the same.
//
// The exit code is 1 if one response is wrong or missing.

import { equals } from "@std/bytes";
import { Client, serve } from "@wirepool/net";

const CALLERS = 64; // each sends its next request once it has its response
const CONNECTIONS = 8; // for all callers, where connections are pooled
const PHASE_MS = 3_000;
const MAX_DIALS = 15_000; // a closed connection keeps its port for a while

const load = makeLoad(1_000);
await using server = serve({}, (request) => request);
const { hostname, port } = server.addr as Deno.NetAddr;
const shared = { hostname, port, maxCap: CONNECTIONS };
const pipelining = CALLERS / CONNECTIONS;
await using pooled = new Client(shared);
await using pipelined = new Client({ ...shared, pipelining });
let singles = 0;

const ways: [name: string, client: Client | null][] = [
  ["one each", null],
  ["pooled", pooled],
  ["pipelined", pipelined],
];
console.log(
  `${CALLERS} callers, payloads of 0 to 65536 bytes, every response compared
  one each   a connection for each request
  pooled     ${CONNECTIONS} connections
  pipelined  ${CONNECTIONS} connections, ${pipelining} requests in flight on each\n`,
);
const results: Record<string, number>[] = [];
for (const [name, client] of ways) results.push(await measure(name, client));
report();

async function sendAlone(request: Uint8Array): Promise<Uint8Array> {
  singles++;
  await using client = new Client({ hostname, port, maxCap: 1 });
  return await client.send(request);
}

async function measure(name: string, client: Client | null) {
  const latencies: number[] = [];
  let sent = 0;
  const start = performance.now();
  const elapsed = () => performance.now() - start;
  const caller = async () => {
    while (elapsed() < PHASE_MS && (client || singles < MAX_DIALS)) {
      const request = load[sent++ % load.length]!;
      const from = performance.now();
      const response = await (client?.send(request) ?? sendAlone(request));
      latencies.push(performance.now() - from);
      if (!equals(response, request)) throw new Error("Response is wrong");
    }
  };
  const show = () => {
    const done = results.length + Math.min(1, elapsed() / PHASE_MS);
    progress(done / ways.length, `${name}: ${latencies.length} responses`);
  };

  const timer = setInterval(show, Deno.stdout.isTerminal() ? 100 : 1_000);
  const callers = Array.from({ length: CALLERS }, caller);
  for (const outcome of await Promise.allSettled(callers)) {
    if (outcome.status === "fulfilled") continue;
    console.error(`\n${name}:`, outcome.reason);
    Deno.exitCode = 1;
  }
  clearInterval(timer);
  const rate = latencies.length / elapsed() * 1_000;
  show();
  latencies.sort((a, b) => a - b);
  const at = (part: number) => latencies[Math.floor(latencies.length * part)];
  return {
    "requests/s": Math.round(rate),
    "p50, ms": at(0.5) ?? NaN,
    "p99, ms": at(0.99) ?? NaN,
    "dialled": client?.stats().pool.openedCount ?? singles,
  };
}

/** A bar where someone watches, plain lines where the output is kept. */
function progress(part: number, text: string): void {
  if (!Deno.stdout.isTerminal()) return console.log(text);
  const full = "#".repeat(Math.round(part * 24)).padEnd(24, ".");
  const bar = Deno.noColor ? full : `\x1b[36m${full}\x1b[39m`;
  const line = `\r${bar} ${text.padEnd(40)}${part < 1 ? "" : "\n"}`;
  Deno.stdout.writeSync(new TextEncoder().encode(line));
}

/** Each figure, with what it is of the first way's; then the pools'. */
function report(): void {
  const row = (label: string, cells: string[]) =>
    console.log(label.padEnd(20), ...cells.map((cell) => cell.padStart(18)));
  const text = (n = NaN) =>
    n.toLocaleString("en", { maximumFractionDigits: 2 });

  row("", ways.map(([name]) => name));
  for (const [figure, first] of Object.entries(results[0]!)) {
    const cells = results.map(({ [figure]: n = NaN }) =>
      `${text(n)} ${(n / first).toFixed(3).padStart(8)}x`
    );
    row(figure, cells);
  }
  console.log("\nThe pools:");
  const stats: Record<string, unknown> = { ...pipelined.stats().pool };
  for (const [name, n] of Object.entries(pooled.stats().pool)) {
    if (typeof n !== "number") continue;
    row(name, ["", text(n), text(Number(stats[name]))]);
  }
}

/** The same requests in the same order at each run and for each way: of 0
 * bytes to 64 KiB, the small ones more often, as in most protocols. */
function makeLoad(count: number): Uint8Array[] {
  let state = 1; // of Lehmer's generator with the constants of MINSTD
  const random = () => (state = state * 48_271 % 0x7fff_ffff) / 0x7fff_ffff;
  return Array.from({ length: count }, (_, i) => {
    const length = i === 0 ? 65_536 : Math.floor(65_536 ** random()) - 1;
    return new Uint8Array(length).map(() => random() * 256);
  });
}
