/**
 * Mixed traffic through faults and restarts, for as long as you like:
 *
 *   deno task soak [MINUTES]
 *
 * A line of figures every five seconds; at the end, how memory went. Exits
 * with 1 if a request was lost, crossed or handled twice, if anything was left
 * behind, or if memory grew on and on. `WIREPOOL_SEED=<seed>` draws the same
 * faults again.
 */
import { Client } from "../client.ts";
import { serve, type Server } from "../server.ts";
import { MIB } from "./bytes_support.ts";
import { FaultProxy } from "./fault_proxy_support.ts";
import { chosenSeed, Random } from "./random_support.ts";
import { eventually, PATIENCE, sleep } from "./time_support.ts";
import { Ledger, requestOf, Traffic } from "./traffic_support.ts";

/** Milliseconds between two lines, and two looks at the memory. */
const INTERVAL = 5_000;
/** Milliseconds of faults before a moment of peace. */
const CYCLE = 8_000;
/** What memory may grow by between the second and the last quarter: some
 * noise, and little for each minute. Ten bytes a request would be more. */
const MAX_GROWTH = 4 * MIB;
const MAX_GROWTH_PER_MINUTE = MIB;

const minutes = Number(Deno.args[0] ?? 2);
if (!(minutes > 0)) {
  console.error("Usage: deno task soak [MINUTES]");
  Deno.exit(2);
}
const collect = (globalThis as { gc?: () => void }).gc;
if (collect === undefined) throw new Error("Needs --v8-flags=--expose-gc");

const seed = chosenSeed();
const random = new Random(seed);
const ledger = new Ledger(1 << 21);
const begun = performance.now();
const duration = minutes * 60_000;
const goesOn = () => performance.now() - begun < duration;

addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  ledger.breach(`A rejection that nobody handled: ${event.reason}`);
});

let server = startServer();
let restarts = 0;
const proxy = await FaultProxy.start(portOf(server), seed);
const clients = [1, 8].map((pipelining) =>
  new Client({
    port: proxy.port,
    pipelining,
    maxCap: 16,
    requestTimeout: 500,
    idleTimeout: 3_000,
    maxLifetime: 20_000,
  })
);
const load = clients.map((client, i) =>
  new Traffic({
    client,
    ledger,
    random,
    workers: 16 + 48 * i,
    impatient: true,
    pause: 2,
  })
);
const memory: { at: number; used: number; rss: number }[] = [];

console.log(`Seed ${seed}, ${minutes} minutes`);
tell();
const ticking = setInterval(tell, INTERVAL);
while (goesOn()) await cycle();
clearInterval(ticking);

// Everything ends, and nothing is left.
for (const client of clients) {
  await client.close();
  if (client.stats().pool.open > 0) ledger.breach("A connection is left open");
}
await eventually("the proxy is idle", () => proxy.connections === 0);
await proxy.close();
await stopServer(server);
ledger.close();
tell();
const grown = judgeMemory();

const lost = ledger.breaches.length;
console.log(
  `${ledger.issued} requests, ${ledger.handled} handled, ${proxy.accepted} ` +
    `connections, ${restarts} restarts: ${lost} lost, crossed or left behind`,
);
for (const breach of ledger.breaches.slice(0, 20)) console.error(breach);
if (lost > 0 || grown) {
  console.error(`FAILED with WIREPOOL_SEED=${seed}`);
  Deno.exitCode = 1;
}
// Whatever is left keeps the process alive, which is told from without.
Deno.unrefTimer(setTimeout(() => {
  console.error("FAILED: something is left that keeps the process alive");
  Deno.exit(1);
}, 10_000));

function startServer(): Server {
  return serve({
    concurrency: 4,
    idleTimeout: 5_000,
    onError: (error) => ledger.breach(`The server reports ${error}`),
  }, ledger.handler);
}

function portOf(server: Server): number {
  return (server.addr as Deno.NetAddr).port;
}

async function stopServer(server: Server): Promise<void> {
  await server.shutdown();
  const { connections, inFlight } = server.stats();
  if (connections + inFlight > 0) {
    ledger.breach(`Left in the server: ${JSON.stringify(server.stats())}`);
  }
}

/** Faults, in the middle of them a new server, then peace. */
async function cycle(): Promise<void> {
  proxy.harm();
  const end = performance.now() + CYCLE;
  const running = load.map((traffic) =>
    traffic.run(() => performance.now() < end && goesOn())
  );
  await sleep(CYCLE / 2);
  const old = server;
  server = startServer();
  proxy.target = portOf(server);
  await stopServer(old);
  restarts++;
  await Promise.all(running);
  await proxy.heal();
  await Promise.all(clients.map(probe));
}

/** When there are no faults, requests are answered, and nothing is left. */
async function probe(client: Client): Promise<void> {
  const { inFlight, pool } = client.stats();
  if (inFlight + pool.inUse + pool.waiting > 0) {
    ledger.breach(`Left in a client: ${JSON.stringify(client.stats())}`);
  }
  for (let i = 0; i < 20; i++) {
    const id = ledger.issue();
    try {
      const response = await client.send(requestOf(id), { timeout: PATIENCE });
      ledger.answer(id, response);
    } catch (error) {
      ledger.breach(`Request ${id} failed without a fault: ${error}`);
    }
  }
}

function tell(): void {
  collect?.();
  const { heapUsed, external, rss } = Deno.memoryUsage();
  const at = performance.now() - begun;
  memory.push({ at, used: heapUsed + external, rss });
  const settled = load.reduce((sum, traffic) => sum + traffic.settled, 0);
  const ok = load.reduce((sum, { outcomes }) => sum + (outcomes.ok ?? 0), 0);
  const { cut, reset, hold, half, slam, refuse } = proxy.counts;
  console.log([
    `${String(Math.min(100, Math.round(100 * at / duration))).padStart(3)} %`,
    `${(at / 1000).toFixed(0)} s`,
    `${settled} requests, ${settled - ok} failed`,
    `${cut + reset + hold + half + slam + refuse} faults`,
    `${clients.reduce((sum, c) => sum + c.stats().retries, 0)} sent again`,
    `${ledger.breaches.length} lost`,
    `${((heapUsed + external) / MIB).toFixed(1)} MiB used`,
    `${(rss / MIB).toFixed(0)} MiB resident`,
  ].join("  "));
}

/** Whether memory grew on after it had had time to settle. */
function judgeMemory(): boolean {
  const quarter = (n: number) =>
    memory.filter(({ at }) =>
      at >= n * duration / 4 && at < (n + 1) * duration / 4
    );
  const mean = (samples: typeof memory) =>
    samples.reduce((sum, { used }) => sum + used, 0) / samples.length;
  const growth = mean(quarter(3)) - mean(quarter(1));
  const most = MAX_GROWTH + minutes * MAX_GROWTH_PER_MINUTE;
  if (minutes < 1) {
    console.log("Too short a time to judge the memory");
    return false;
  }
  console.log(
    `Memory: ${slope(memory.slice(memory.length / 4))} MiB a minute; ` +
      `the last quarter holds ${(growth / MIB).toFixed(2)} MiB more than ` +
      `the second, of at most ${(most / MIB).toFixed(1)}`,
  );
  return growth > most;
}

/** The slope of the line that fits best, in MiB a minute. */
function slope(samples: typeof memory): string {
  const n = samples.length;
  const at = samples.reduce((sum, sample) => sum + sample.at, 0) / n;
  const used = samples.reduce((sum, sample) => sum + sample.used, 0) / n;
  let over = 0;
  let under = 0;
  for (const sample of samples) {
    over += (sample.at - at) * (sample.used - used);
    under += (sample.at - at) ** 2;
  }
  return (over / under * 60_000 / MIB).toFixed(2);
}
