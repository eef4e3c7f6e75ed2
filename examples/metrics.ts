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
    const count = `${name}_count ${this.#counts.at(-1)}`;
    buckets.push(`${name}_sum ${this.#sum}`, count);
    return [`# TYPE ${name} histogram`, ...buckets];
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
const NOW = /^(connections|in(Flight|Use)|open|idle|maxCap|[a-z]+ing)$/;

function lines(prefix: string, stats: object): string[] {
  return Object.entries(stats).flatMap(([key, value]) => {
    if (typeof value === "object") return lines(`${prefix}_${key}`, value);
    if (typeof value === "boolean") return [];
    const snake = key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const total = `${snake.replace(/^total_|_count$/, "")}_total`;
    const [type, end] = NOW.test(key) ? ["gauge", snake] : ["counter", total];
    return [`# TYPE ${prefix}_${end} ${type}`, `${prefix}_${end} ${value}`];
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

for (;;) {
  await client.send(new Uint8Array(100)); // Something to measure.
  await new Promise((wake) => setTimeout(wake, 100));
}
