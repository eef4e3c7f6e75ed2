// What carries TLS: Deno's own, which is faster and cannot be closed in every
// state, beside `node:tls` in two ways. The table that the choice was made by.

import { Child, sleep } from "./child.ts";
import { interleave, ratio, spread } from "./measure.ts";
import type { Findings, Part, Rate, Row, Step } from "./measure.ts";
import type { Carrier } from "./tls_child.ts";

const ROUNDS = 5;
const SECONDS = 0.4;
/** Idle connections, besides those that what is done first has cost. */
const IDLE = 600;
const FIRST = 100;

const CARRIERS: readonly Carrier[] = [
  "deno",
  "over deno",
  "over net",
  "engine",
];

const NAMES: Record<Carrier, string> = {
  "deno": "Deno's TLS",
  "over deno": "node:tls over Deno.TcpConn (wirepool)",
  "over net": "node:tls over node:net",
  "engine": "the engine behind node:tls, driven directly",
};

const SHAPES = [
  { what: "64 bytes, 1 at a time", connections: 32, batch: 1, payload: 64 },
  { what: "64 bytes, 50 at a time", connections: 32, batch: 50, payload: 64 },
  { what: "16 KiB", connections: 8, batch: 1, payload: 16 * 1024 },
  { what: "1 MiB", connections: 4, batch: 1, payload: 1024 * 1024 },
];

const SIDES = ["server", "client"] as const;

export const tls: Part = {
  name: "tls",
  title: "TLS",
  steps: (SIDES.length * SHAPES.length + 1) * (ROUNDS + 1) + 2,
  run,
};

interface Usage {
  cpu: number;
  rss: number;
}

async function run(step: Step): Promise<Findings> {
  await using stack = new AsyncDisposableStack();
  const flags = ["--v8-flags=--expose-gc"];
  const child = () => stack.use(new Child("tls_child.ts", flags));
  const load = child();
  const servers: Partial<Record<Carrier, { child: Child; port: number }>> = {};
  for (const carrier of CARRIERS) {
    const server = child();
    const port = await server.call<number>("serve", carrier);
    servers[carrier] = { child: server, port };
  }

  const rows: Row[] = [];
  const rates: Rate[] = [];
  for (const side of SIDES) {
    // Nobody drives the engine in a client here.
    const carriers = CARRIERS.filter((carrier) =>
      side === "server" || carrier !== "engine"
    );
    for (const { what, ...shape } of SHAPES) {
      const costs = new Map<Carrier, number[]>();
      const measure = (carrier: Carrier) => async (): Promise<number> => {
        // The other side is the same for all.
        const server = servers[side === "server" ? carrier : "over deno"]!;
        const measured = side === "server" ? server.child : load;
        const before = await measured.call<Usage>("usage");
        const rate = await load.call<number>("load", {
          ...shape,
          seconds: SECONDS,
          port: server.port,
          carrier: side === "server" ? "deno" : carrier,
        });
        const after = await measured.call<Usage>("usage");
        const cost = (after.cpu - before.cpu) / (rate * SECONDS);
        costs.set(carrier, [...costs.get(carrier) ?? [], cost]);
        return rate;
      };
      const found = await interleave(
        Object.fromEntries(
          carriers.map((carrier) => [carrier, measure(carrier)]),
        ) as Record<Carrier, () => Promise<number>>,
        ROUNDS,
        () => step(`${side}, ${what}`),
      );
      for (const carrier of carriers) {
        rates.push({
          who: `${NAMES[carrier]} as ${side}, ${what}`,
          value: spread(found[carrier] ?? []),
          unit: "messages/s",
        });
        if (carrier === "deno") continue;
        rows.push({
          what: `${NAMES[carrier]} as ${side}, ${what}, of Deno's TLS`,
          figure: ratio(found[carrier], found.deno),
          unit: "×",
        }, {
          what: `The same: CPU for a message`,
          // With the first round, that does not count elsewhere.
          figure: ratio(costs.get(carrier), costs.get("deno")),
          unit: "×",
        });
      }
    }
  }

  const lockstep = await interleave(
    Object.fromEntries(
      CARRIERS.map((carrier) => [
        carrier,
        () =>
          load.call<number>("lockstep", {
            port: servers[carrier]!.port,
            carrier: "deno",
            payload: 40 * 1024,
          }),
      ]),
    ) as Record<Carrier, () => Promise<number>>,
    ROUNDS,
    () => step("lockstep"),
  );
  for (const carrier of CARRIERS) {
    rates.push({
      who: `${NAMES[carrier]} as server, 40 KiB in lockstep`,
      value: spread(lockstep[carrier] ?? []),
      unit: "ms",
    });
  }

  step("memory");
  for (const carrier of CARRIERS) {
    // In a process of its own: one that has carried load has memory to spare.
    await using server = new Child("tls_child.ts", flags);
    const port = await server.call<number>("serve", carrier);
    const rss = async (connections: number) => {
      await load.call("hold", { port, carrier: "deno", connections });
      await sleep(500);
      return (await server.call<Usage>("usage")).rss;
    };
    const before = await rss(FIRST);
    const cost = (await rss(IDLE) - before) / (IDLE - FIRST);
    rates.push({
      who: `${NAMES[carrier]} as server, an idle connection`,
      value: spread([cost]),
      unit: "bytes",
    });
  }
  return { rows, rates, missing: [] };
}
