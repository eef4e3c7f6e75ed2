// deno run --allow-net=127.0.0.1 examples/demo.ts
//
// The library's main job on this machine, over loopback, about twelve seconds
// in all: one checked load sent four ways, then slow requests among fast ones.
// `deno task demo` does the same.
//
// The exit code is 1 if one answer is wrong or missing.

import { equals } from "@std/bytes";
import {
  Client,
  type ClientOptions,
  type CorrelationOptions,
  type Handler,
  serve,
} from "@wirepool/net";

const CALLERS = 64; // Each sends its next request once it has its answer.
const CONNECTIONS = 8; // For all callers, where they share connections.
const SHARE = CALLERS / CONNECTIONS; // Requests in flight on each of these.
const PHASE_MS = Number(Deno.args[0] ?? 1_700);
const MAX_DIALS = 15_000; // A closed connection keeps its port for a while.
const SLOW_MS = 100;
const SLOW_ONE_IN = 20;

/** A way to carry requests: options of both sides, and of the client alone. */
interface Way {
  name: string;
  explained: string;
  wire: { correlation?: CorrelationOptions };
  client: ClientOptions;
}

const alone: Way = {
  name: "a connection each",
  explained: "each request dials",
  wire: {},
  client: { maxCap: 1 },
};
const oneAtATime: Way = {
  name: "one at a time",
  explained: `${CONNECTIONS} connections, one request at a time on each`,
  wire: {},
  client: { maxCap: CONNECTIONS },
};
const pipelined: Way = {
  name: "pipelined",
  explained: `${SHARE} at a time on each, answered in order`,
  wire: {},
  client: { maxCap: CONNECTIONS, pipelining: SHARE },
};
const correlated: Way = {
  name: "correlated",
  explained: `${SHARE} at a time on each, with ids, answered in any order`,
  wire: { correlation: { length: 4 } },
  client: { maxCap: CONNECTIONS, pipelining: SHARE },
};
const PHASES = 7;
let phase = 0;

const mixed = makeLoad(1_000);
console.log(`${CALLERS} callers on loopback, every answer compared`);
for (const { name, explained } of [alone, oneAtATime, pipelined, correlated]) {
  console.log(`  ${name.padEnd(18)} ${explained}`);
}
console.log();
const rates = new Map<Way, Figures>();
for (const way of [alone, oneAtATime, pipelined, correlated]) {
  rates.set(way, await measure(way, mixed, (request) => request));
}
const fastAndSlow = Array.from(
  { length: SLOW_ONE_IN },
  (_, i) => new Uint8Array(64).fill(i),
);
const beside = new Map<Way, Figures>();
for (const way of [oneAtATime, pipelined, correlated]) {
  beside.set(way, await measure(way, fastAndSlow, slowNowAndThen));
}
report("payloads of 0 to 65536 bytes", rates);
report(`fast ones; 1 in ${SLOW_ONE_IN} takes ${SLOW_MS} ms`, beside);
conclude();

async function slowNowAndThen(request: Uint8Array): Promise<Uint8Array> {
  if (isSlow(request)) {
    await new Promise((wake) => setTimeout(wake, SLOW_MS));
  }
  return request;
}

function isSlow(request: Uint8Array): boolean {
  return request.length === 64 && request[0] === 0;
}

/** What a way has reached; latencies are of the fast requests. */
interface Figures {
  rate: number;
  p50: number;
  p99: number;
}

async function measure(
  way: Way,
  load: Uint8Array[],
  handler: Handler,
): Promise<Figures> {
  // Handlers of one connection run at once, whatever the order of answers.
  await using server = serve({ ...way.wire, concurrency: SHARE }, handler);
  const { port } = server.addr;
  const options = { ...way.wire, ...way.client, port };
  await using shared = new Client(options);
  const send = async (request: Uint8Array) => {
    if (way !== alone) return await shared.send(request);
    await using client = new Client(options);
    return await client.send(request);
  };
  const latencies: number[] = [];
  let sent = 0;
  const start = performance.now();
  const elapsed = () => performance.now() - start;
  const caller = async () => {
    while (elapsed() < PHASE_MS && (way !== alone || sent < MAX_DIALS)) {
      const request = load[sent++ % load.length]!;
      const from = performance.now();
      const answer = await send(request);
      if (!equals(answer, request)) throw new Error("The answer is wrong");
      if (handler === slowNowAndThen && isSlow(request)) continue;
      latencies.push(performance.now() - from);
    }
  };
  const show = (part: number) => {
    const text = `${way.name}: ${latencies.length} answers`;
    progress((phase + part) / PHASES, text);
  };
  const timer = setInterval(
    () => show(Math.min(1, elapsed() / PHASE_MS)),
    Deno.stdout.isTerminal() ? 100 : 1_000,
  );
  const callers = Array.from({ length: CALLERS }, caller);
  const outcomes = await Promise.allSettled(callers);
  const failed = outcomes.filter(({ status }) => status === "rejected");
  if (failed.length > 0) {
    console.error(`\n${way.name}: ${failed.length} callers failed`, failed[0]);
    Deno.exitCode = 1;
  }
  clearInterval(timer);
  const rate = latencies.length / elapsed() * 1_000;
  show(1);
  phase++;
  latencies.sort((a, b) => a - b);
  const at = (part: number) =>
    latencies[Math.floor(latencies.length * part)] ?? NaN;
  return { rate, p50: at(0.5), p99: at(0.99) };
}

/** A bar where someone watches, plain lines where the output is kept. */
function progress(part: number, text: string): void {
  if (!Deno.stdout.isTerminal()) return console.log(text);
  const full = "#".repeat(Math.round(part * 24)).padEnd(24, ".");
  const bar = Deno.noColor ? full : `\x1b[36m${full}\x1b[39m`;
  const line = `\r${bar} ${text.padEnd(40)}${part < 1 ? "" : "\n"}`;
  Deno.stdout.writeSync(new TextEncoder().encode(line));
}

/** A row for each way: its figures, and what they are beside the first's. */
function report(title: string, figures: Map<Way, Figures>): void {
  const [first] = figures.values();
  const row = (cells: string[]) => console.log(cells.join("  ").trimEnd());
  const heads = ["answers/s", "p50, ms", "p99, ms"];
  console.log(`\n${title}`);
  row(["".padEnd(17), ...heads.map((head) => head.padStart(9).padEnd(28))]);
  for (const [way, { rate, p50, p99 }] of figures) {
    const cells = [[rate, first!.rate], [p50, first!.p50], [p99, first!.p99]]
      .map(([n, other]) => {
        const beside = way === figures.keys().next().value
          ? ""
          : compare(n!, other!);
        return `${format(n!, 3).padStart(9)} ${beside.padEnd(18)}`;
      });
    row([way.name.padEnd(17), ...cells]);
  }
}

function format(n: number, digits: number): string {
  return n.toLocaleString("en", { maximumSignificantDigits: digits });
}

function compare(n: number, other: number): string {
  const ratio = format(Math.max(n / other, other / n), 2);
  if (ratio === "1") return "about the same";
  return `${ratio} times ${n < other ? "lower" : "higher"}`;
}

/** What was seen, and what to try next. */
function conclude(): void {
  const [one, shared, piped] = [...rates.values()].map(({ rate }) => rate);
  const [, inOrder, anyOrder] = [...beside.values()].map(({ p99 }) => p99);
  const times = (a = NaN, b = NaN) => `${format(a / b, 2)} times`;
  console.log(
    `\n${CONNECTIONS} shared connections carried ${times(shared, one)} as ` +
      `much as a connection each, ${times(piped, one)} when pipelined, and ` +
      `beside slow requests the fast ones had a p99 ${
        times(inOrder, anyOrder)
      } lower with ids than in order; next, load a service of your own with ` +
      "examples/load.ts.",
  );
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
