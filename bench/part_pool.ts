// The pool with every limit on and with none, beside its peers in their own
// defaults and with the same limits, and beside a bare array.

import { Child } from "./child.ts";
import { interleave, ratesOf, ratio, spread } from "./measure.ts";
import type {
  Findings,
  Measurement,
  Part,
  Row,
  Spread,
  Step,
} from "./measure.ts";

const ROUNDS = 10;
const SECONDS = 0.1;
const PEERS = ["generic-pool", "tarn", "lightning-pool"] as const;
/** What is measured of each: as users run it, and with every limit. */
const LIMITED = PEERS.map((name) => `${name}, limits` as const);
const OURS = ["wirepool", "wirepool, no limit"] as const;

type Name = typeof OURS[number] | typeof PEERS[number] | typeof LIMITED[number];
type Samples = Partial<Record<Name | "bare", number[]>>;

export const pool: Part = {
  name: "pool",
  title: "Pool",
  steps: 2 * (ROUNDS + 1),
  run,
};

async function run(step: Step): Promise<Findings> {
  await using local = new Child("local.ts");
  const measure = (callers: number, what: string): Promise<Samples> => {
    const cycles = (name: string): Measurement => () =>
      local.call("cycles", name, callers, SECONDS);
    const all = [...OURS, "bare", ...PEERS, ...LIMITED] as const;
    const measurements = Object.fromEntries(
      all.map((name) => [name, cycles(name)]),
    ) as Record<Name | "bare", Measurement>;
    return interleave(measurements, ROUNDS, () => step(what));
  };
  const alone = await measure(1, "one caller");
  const crowd = await measure(64, "64 callers on 8 resources");

  return {
    rows: [
      ...rows("One caller", alone, { peer: 4, none: 0.7, every: 0.55 }),
      ...rows("64 callers on 8", crowd, { peer: 3, none: 0.45, every: 0.45 }),
    ],
    rates: [
      ...ratesOf("one caller", "cycles/s", alone),
      ...ratesOf("64 callers on 8", "cycles/s", crowd),
    ],
    charts: [{
      title: "Get and put, 64 callers on 8 resources",
      bars: (["wirepool", ...PEERS] as const).flatMap((who) =>
        crowd[who] === undefined
          ? []
          : [{ who, value: spread(crowd[who]), unit: "cycles/s" }]
      ),
    }],
    missing: PEERS.filter((name) => alone[name] === undefined),
  };
}

/** The ratios of one measurement, with their goals. */
function rows(
  what: string,
  samples: Samples,
  goals: { peer: number; none: number; every: number },
): Row[] {
  const unit = "×";
  const every = samples.wirepool;
  const none = samples["wirepool, no limit"];
  const row = (text: string, figure: Spread, least?: number): Row => ({
    what: `${what}, ${text}`,
    figure,
    unit,
    ...(least !== undefined && { least }),
  });
  const defaults = fastest(samples, PEERS);
  const limited = fastest(samples, LIMITED);
  return [
    row("no limit, of the fastest peer", ratio(none, defaults), goals.peer),
    row("every limit, of the same", ratio(every, defaults), goals.peer),
    row("every limit, of the fastest with limits", ratio(every, limited)),
    row("no limit, of a bare array", ratio(none, samples.bare), goals.none),
    row(
      "every limit, of a bare array",
      ratio(every, samples.bare),
      goals.every,
    ),
  ];
}

/** What the fastest of those that are there has done, round by round. */
function fastest(samples: Samples, names: readonly Name[]): number[] {
  return names.flatMap((name) => [samples[name] ?? []])
    .filter((rates) => rates.length > 0)
    .map((rates) => ({ rates, median: spread(rates).median }))
    .toSorted((a, b) => b.median - a.median)[0]?.rates ?? [];
}
