// The pool with every limit on, beside its peers and a bare array.

import { Child } from "./child.ts";
import { interleave, ratesOf, ratio, spread } from "./measure.ts";
import type { Findings, Measurement, Part, Step } from "./measure.ts";

const ROUNDS = 10;
const SECONDS = 0.12;
const PEERS = ["generic-pool", "tarn", "lightning-pool"] as const;

const PEERS_AND_US = ["wirepool", ...PEERS] as const;

export const pool: Part = {
  name: "pool",
  title: "Pool",
  steps: 2 * (ROUNDS + 1),
  run,
};

async function run(step: Step): Promise<Findings> {
  await using local = new Child("local.ts");
  const measure = (callers: number, what: string) => {
    const cycles = (name: string): Measurement => () =>
      local.call("cycles", name, callers, SECONDS);
    return interleave(
      {
        wirepool: cycles("wirepool"),
        bare: cycles("bare"),
        "generic-pool": cycles("generic-pool"),
        tarn: cycles("tarn"),
        "lightning-pool": cycles("lightning-pool"),
      },
      ROUNDS,
      () => step(what),
    );
  };
  const alone = await measure(1, "one caller");
  const crowd = await measure(64, "64 callers on 8 resources");

  /** Round by round, the fastest of the peers that are there. */
  const fastest = (samples: typeof alone) => {
    const present = PEERS.flatMap((name) => [samples[name] ?? []])
      .filter((rates) => rates.length > 0)
      .map((rates) => ({ rates, median: spread(rates).median }))
      .toSorted((a, b) => b.median - a.median);
    return present[0]?.rates;
  };
  return {
    rows: [
      {
        what: "One caller, of the fastest peer",
        figure: ratio(alone.wirepool, fastest(alone)),
        unit: "×",
        least: 3,
      },
      {
        what: "64 callers on 8 resources, of the fastest peer",
        figure: ratio(crowd.wirepool, fastest(crowd)),
        unit: "×",
        least: 2.5,
      },
      {
        what: "One caller, of a bare array",
        figure: ratio(alone.wirepool, alone.bare),
        unit: "×",
        least: 0.4,
      },
      {
        what: "64 callers on 8 resources, of a bare array and queue",
        figure: ratio(crowd.wirepool, crowd.bare),
        unit: "×",
        least: 0.4,
      },
    ],
    rates: [
      ...ratesOf("one caller", "cycles/s", alone),
      ...ratesOf("64 callers on 8", "cycles/s", crowd),
    ],
    charts: [{
      title: "Get and put, 64 callers on 8 resources",
      bars: PEERS_AND_US.flatMap((who) =>
        crowd[who] === undefined
          ? []
          : [{ who, value: spread(crowd[who]), unit: "cycles/s" }]
      ),
    }],
    missing: PEERS.filter((name) => alone[name] === undefined),
  };
}
