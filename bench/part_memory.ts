// What an idle connection costs the server, beside a loop written by hand: one
// that has had a request, and one that has had a burst of them.

import { Child, sleep } from "./child.ts";
import { interleave, ratio, spread } from "./measure.ts";
import type { Findings, Part, Step } from "./measure.ts";

const ROUNDS = 1;
const CONNECTIONS = 8000;
/** What these cost is code, and does not count. */
const FIRST = 100;
/** Frames of the burst that each connection is sent. */
const BURST = 50;
/** For what is left to do in the background, in milliseconds. */
const REST = 700;
/** For what is done only once a connection has been silent for a second. */
const SILENCE = 2000;
/** Most that a connection may cost, of the loop's. */
const GOAL = 0.7;

export const memory: Part = {
  name: "memory",
  title: "Memory",
  steps: ROUNDS + 1,
  run,
};

interface Usage {
  rss: number;
}

/** Bytes for a connection. */
interface Cost {
  idle: number;
  burst: number;
}

async function run(step: Step): Promise<Findings> {
  await using load = new Child("load.ts");
  /** Bytes of resident memory for each connection, in a server of its own. */
  const cost = (name: string) => async (): Promise<Cost> => {
    await using server = new Child("servers.ts");
    const port = await server.call<number>("serve", name);
    const rss = async (rest: number) => {
      await sleep(rest);
      return (await server.call<Usage>("usage")).rss;
    };
    await load.call("hold", port, FIRST);
    await load.call("burst", BURST);
    const before = await rss(REST);
    await load.call("hold", port, CONNECTIONS);
    const idle = await rss(REST);
    await load.call("burst", BURST);
    const burst = await rss(SILENCE);
    const count = CONNECTIONS - FIRST;
    return { idle: (idle - before) / count, burst: (burst - before) / count };
  };
  const costs = await interleave<"wirepool" | "raw", Cost>(
    { wirepool: cost("wirepool"), raw: cost("raw 4 KiB") },
    ROUNDS,
    () => step(`${CONNECTIONS} idle connections`),
  );
  const of = (who: "wirepool" | "raw", what: keyof Cost) =>
    costs[who]!.map((cost) => cost[what]);
  return {
    rows: [
      {
        what:
          `${CONNECTIONS} idle connections, of a raw loop with a 4 KiB read pending`,
        figure: ratio(of("wirepool", "idle"), of("raw", "idle")),
        unit: "×",
        most: GOAL,
      },
      {
        what: `The same after a burst of ${BURST} frames on each`,
        figure: ratio(of("wirepool", "burst"), of("raw", "burst")),
        unit: "×",
        most: GOAL,
      },
    ],
    rates: (["wirepool", "raw"] as const).flatMap((who) => [
      {
        who: `${who}, an idle connection`,
        value: spread(of(who, "idle")),
        unit: "bytes",
      },
      {
        who: `${who}, the same after a burst`,
        value: spread(of(who, "burst")),
        unit: "bytes",
      },
    ]),
    missing: [],
  };
}
