// The client, beside loops written by hand and the clients of two peers; and
// requests beside slow ones, with correlation and without.

import { Child } from "./child.ts";
import { interleave, ratio, spread } from "./measure.ts";
import type { Findings, Measurement, Part, Step } from "./measure.ts";

const ROUNDS = 11;
const SECONDS = 0.3;

/** A caller, and a request at a time, on each of so many connections. */
export const CALLERS = 32;

/** Least of a loop written by hand, with those. */
export const CALLERS_GOAL = 0.95;

/** Connections on which large responses come. */
const LARGE_CALLERS = 4;

/** Runs beside slow requests, and how long each sends. */
const SLOW_ROUNDS = 2;
const SLOW_SECONDS = 1.5;

export const client: Part = {
  name: "client",
  title: "Client",
  steps: 3 * (ROUNDS + 1) + SLOW_ROUNDS + 1,
  run,
};

async function run(step: Step): Promise<Findings> {
  await using load = new Child("load.ts");
  await using stack = new AsyncDisposableStack();
  const ports: Record<string, number | null> = {};
  const names = ["raw", "wirepool", "fetch", "grpc", "large"];
  const slowNames = ["slow, ordered", "slow, correlated", "correlated"];
  for (const name of [...names, ...slowNames]) {
    const child = stack.use(new Child("servers.ts"));
    ports[name] = await child.call("serve", name);
  }
  /** A client, and the server that it is sent to. */
  const calls = (
    name: string,
    server: string,
    callers: number,
    options = {},
  ): Measurement =>
  async () => {
    const port = ports[server];
    if (port === null) return null;
    return await load.call(name, {
      port,
      callers,
      seconds: SECONDS,
      maxCap: 1,
      pipelining: callers,
      requestTimeout: 30_000,
      ...options,
    });
  };

  // The same server for all three, one that costs next to nothing.
  const alone = await interleave(
    {
      raw: calls("raw", "raw", CALLERS),
      single: calls("wirepool", "raw", CALLERS, {
        maxCap: CALLERS,
        pipelining: 1,
      }),
      pipelined: calls("wirepool", "raw", 256),
      untimed: calls("wirepool", "raw", 256, { requestTimeout: 0 }),
      correlated: calls("wirepool", "raw", 256, { correlated: true }),
    },
    ROUNDS,
    () => step("beside a loop written by hand"),
  );
  const large = await interleave(
    {
      raw: calls("rawLarge", "large", LARGE_CALLERS),
      wirepool: calls("wirepoolLarge", "large", LARGE_CALLERS, {
        maxCap: LARGE_CALLERS,
        pipelining: 1,
      }),
    },
    ROUNDS,
    () => step("responses of 1 MiB"),
  );
  const beside = (server: string, correlated: boolean) =>
    calls("besideSlow", server, 0, {
      seconds: SLOW_SECONDS,
      maxCap: 2,
      pipelining: 128,
      correlated,
    });
  const slow = await interleave(
    {
      ordered: beside("slow, ordered", false),
      correlated: beside("slow, correlated", true),
      // What the machine alone makes of so few requests.
      alone: beside("correlated", true),
    },
    SLOW_ROUNDS,
    () => step("fast requests beside slow ones"),
  );
  // Each client with the server of its kind.
  const stacks = await interleave(
    {
      wirepool: calls("wirepool", "wirepool", 256),
      fetch: calls("fetch", "fetch", 256),
      grpc: calls("grpc", "grpc", 256),
    },
    ROUNDS,
    () => step("beside fetch and gRPC"),
  );
  const rate = (who: string, samples: number[] | undefined) =>
    samples === undefined
      ? []
      : [{ who, value: spread(samples), unit: "requests/s" }];
  const rates = [
    ...rate("wirepool, 256 callers on one connection", stacks.wirepool),
    ...rate("wirepool, the same to a raw echo", alone.pipelined),
    ...rate(
      "wirepool, the same with correlation",
      alone.correlated,
    ),
    ...rate("wirepool, responses of 1 MiB", large.wirepool),
    ...rate("raw loop, responses of 1 MiB", large.raw),
    ...rate("wirepool, 32 callers on 32 connections", alone.single),
    ...rate("raw loop, 32 connections", alone.raw),
    ...rate("fetch and Deno.serve, 256 callers", stacks.fetch),
    ...rate("@grpc/grpc-js, 256 callers", stacks.grpc),
  ];
  return {
    rows: [
      {
        what: "32 callers on 32 connections, of a loop written by hand",
        figure: ratio(alone.single, alone.raw),
        unit: "×",
        least: CALLERS_GOAL,
        profiled: true,
      },
      {
        what: "256 callers pipelined on one connection, of that loop",
        figure: ratio(alone.pipelined, alone.raw),
        unit: "×",
        least: 12,
      },
      {
        what: "The same with correlation, of without",
        figure: ratio(alone.correlated, alone.pipelined),
        unit: "×",
        least: 0.9,
      },
      {
        what: "Responses of 1 MiB, of a loop written by hand",
        figure: ratio(large.wirepool, large.raw),
        unit: "×",
        least: 0.95,
      },
      {
        what: "Request timeouts on, of off",
        figure: ratio(alone.pipelined, alone.untimed),
        unit: "×",
        least: 0.97,
      },
      {
        what: "99 of 100 fast requests beside slow ones, with correlation",
        figure: spread(slow.correlated ?? []),
        unit: " ms",
        most: 10,
      },
      {
        what: "The same on an ordered wire",
        figure: spread(slow.ordered ?? []),
        unit: " ms",
      },
      {
        what: "The same where none is slow",
        figure: spread(slow.alone ?? []),
        unit: " ms",
      },
      {
        what: "256 callers and a server, of fetch and Deno.serve",
        figure: ratio(stacks.wirepool, stacks.fetch),
        unit: "×",
        least: 40,
      },
      {
        what: "256 callers and a server, of @grpc/grpc-js",
        figure: ratio(stacks.wirepool, stacks.grpc),
        unit: "×",
        least: 100,
      },
    ],
    rates,
    charts: [{
      title: "Requests of 64 bytes, echoed",
      bars: rates.filter(({ who }) => !/the same|1 MiB/.test(who)),
    }],
    missing: ports.grpc === null ? ["@grpc/grpc-js"] : [],
  };
}
