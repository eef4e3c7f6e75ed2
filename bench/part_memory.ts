// What an idle connection costs the server, beside a loop written by hand.

import { Child } from "./child.ts";
import { interleave, ratio, spread } from "./measure.ts";
import type { Findings, Measurement, Part, Step } from "./measure.ts";

const ROUNDS = 2;
/** Fewer where the system allows no more. */
const CONNECTIONS = 8000;
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
  let connections = CONNECTIONS;
  /** Bytes of resident memory for each connection, in a server of its own. */
  const cost = (name: string): Measurement => async () => {
    await using server = new Child("servers.ts");
    const port = await server.call<number>("serve", name);
    // What the first connections cost is code.
    await load.call("hold", port, 100);
    await rest();
    const before = await server.call<Usage>("usage");
    connections = await load.call<number>("hold", port, connections);
    await rest();
    const after = await server.call<Usage>("usage");
    return (after.rss - before.rss) / (connections - 100);
  };
  const bytes = await interleave(
    { wirepool: cost("wirepool"), raw: cost("raw 4 KiB") },
    ROUNDS,
    () => step(`${connections} idle connections`),
  );
  return {
    rows: [{
      what:
        `${connections} idle connections, of a raw loop with a 4 KiB read pending`,
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
