// deno run --allow-net=127.0.0.1 examples/metrics.ts 9003 9103
//
// A service, a client of it, and on another port the page that Prometheus
// reads: figures from `stats`, times and reasons from the hooks, no library.

import { Client, serve } from "@wirepool/net";

const [port = 9003, metricsPort = 9103] = Deno.args.map(Number);
const BOUNDS = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, Infinity]; // Seconds.

class Histogram {
  readonly #counts = BOUNDS.map(() => 0);
  #sum = 0;

  observe(ms: number): void {
    this.#sum += ms / 1_000;
    BOUNDS.forEach((bound, i) => this.#counts[i]! += +(ms <= bound * 1_000));
  }

  lines(name: string): string[] {
    const buckets = BOUNDS.map((bound, i) =>
      `${name}_bucket{le="${bound}"} ${this.#counts[i]}`
    ).map((line) => line.replace("Infinity", "+Inf"));
    const sum = [`${name}_sum ${this.#sum}`];
    const count = [`${name}_count ${this.#counts.at(-1)}`];
    return [`# TYPE ${name} histogram`, ...buckets, ...sum, ...count];
  }
}

const handled = new Histogram();
const settled = new Histogram();
const dialled = new Histogram();
const closed: Record<string, number> = {};

const server = serve({
  port,
  hooks: { requestEnd: ({ duration }) => handled.observe(duration) },
}, (payload) => payload);
await using client = new Client({
  port,
  maxLifetime: 1_000,
  hooks: {
    dial: ({ duration }) => dialled.observe(duration),
    settle: ({ duration }) => settled.observe(duration),
    pool: { closed: (_, why) => closed[why] = (closed[why] ?? 0) + 1 },
  },
});

/** Figures of now; the others are totals since the start. */
const GAUGE =
  /^(connections|inFlight|open|idle|inUse|opening|waiting|pending|maxCap|closed)$/;

function lines(prefix: string, stats: object): string[] {
  return Object.entries(stats).flatMap(([key, value]) => {
    if (typeof value === "object") return lines(`${prefix}_${key}`, value);
    const snake = key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const total = `${snake.replace(/^total_|_count$/, "")}_total`;
    const type = GAUGE.test(key) ? "gauge" : "counter";
    const name = `${prefix}_${type === "gauge" ? snake : total}`;
    return [`# TYPE ${name} ${type}`, `${name} ${Number(value)}`];
  });
}

Deno.serve({ port: metricsPort, hostname: "127.0.0.1" }, () => {
  const page = [
    ...lines("server", server.stats()),
    ...lines("client", client.stats()),
    ...lines("client_closed", closed), // By reason.
    ...handled.lines("server_request_seconds"),
    ...settled.lines("client_request_seconds"),
    ...dialled.lines("client_dial_seconds"),
  ];
  const headers = { "content-type": "text/plain; version=0.0.4" };
  return new Response(`${page.join("\n")}\n`, { headers });
});

for (;; await new Promise((wake) => setTimeout(wake, 100))) {
  await client.send(new Uint8Array(100)); // Something to measure.
}
