// What an idle connection costs the server, beside a loop written by hand.

import { Child } from "./child.ts";
import { interleave, ratio, spread } from "./measure.ts";
import type { Findings, Measurement, Part, Step } from "./measure.ts";

const ROUNDS = 2;
const CONNECTIONS = 8000;
/** What these cost is code, and does not count. */
const FIRST = 100;
/** For what is left to do in the background, in milliseconds. */
const REST = 700;

export const memory: Part = {
  name: "memory",
  title: "Memory",
  steps: ROUNDS + 1,
  run,
};

interface Usage {
  rss: number;
}

async function run(step: Step): Promise<Findings> {
  await using load = new Child("load.ts");
  /** Bytes of resident memory for each connection, in a server of its own. */
  const cost = (name: string): Measurement => async () => {
    await using server = new Child("servers.ts");
    const port = await server.call<number>("serve", name);
    await load.call("hold", port, FIRST);
    await rest();
    const before = await server.call<Usage>("usage");
    await load.call("hold", port, CONNECTIONS);
    await rest();
    const after = await server.call<Usage>("usage");
    return (after.rss - before.rss) / (CONNECTIONS - FIRST);
  };
  const bytes = await interleave(
    { wirepool: cost("wirepool"), raw: cost("raw 4 KiB") },
    ROUNDS,
    () => step(`${CONNECTIONS} idle connections`),
  );
  return {
    rows: [{
      what:
        `${CONNECTIONS} idle connections, of a raw loop with a 4 KiB read pending`,
      figure: ratio(bytes.wirepool, bytes.raw),
      unit: "×",
      most: 1,
    }],
    rates: [
      {
        who: "wirepool, an idle connection",
        value: spread(bytes.wirepool!),
        unit: "bytes",
      },
      {
        who: "raw loop, an idle connection",
        value: spread(bytes.raw!),
        unit: "bytes",
      },
    ],
    missing: [],
  };
}

function rest(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, REST));
}
