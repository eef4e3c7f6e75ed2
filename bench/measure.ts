// Rounds, and the figures made of them.

/** A figure and its spread. */
export interface Spread {
  /** The first quartile. */
  readonly low: number;
  readonly median: number;
  /** The third quartile. */
  readonly high: number;
}

/** A figure with what it is asked to be. */
export interface Row {
  readonly what: string;
  readonly figure: Spread;
  readonly unit: string;
  /** The goal; without one, the figure is for information. */
  readonly least?: number;
  readonly most?: number;
  /** Whether the part `profile` shows what stands between it and its goal. */
  readonly profiled?: boolean;
}

/** What one contender did, for information and for the chart. */
export interface Rate {
  readonly who: string;
  readonly value: Spread;
  readonly unit: string;
}

/** What a part has found. */
export interface Findings {
  readonly rows: Row[];
  readonly rates: Rate[];
  /** Peers that could not be had. */
  readonly missing: string[];
  /** Rates worth a picture. */
  readonly charts?: Chart[];
}

/** Bars side by side. */
export interface Chart {
  readonly title: string;
  readonly bars: Rate[];
}

/** Told of each step of a part. */
export type Step = (what: string) => void;

/** A part of the benchmarks. */
export interface Part {
  readonly name: string;
  readonly title: string;
  /** How often it calls `step`. */
  readonly steps: number;
  run(step: Step): Promise<Findings>;
}

/** Measures one thing once; null if its peer is missing. */
export type Measurement = () => Promise<number | null>;

/**
 * Measures in rounds, everything once a round, so that what slows the machine
 * for a while slows all alike. The order is reversed every other round, and the
 * first round warms up and does not count.
 *
 * @returns What each gave, by round; those that are missing are left out.
 */
export async function interleave<K extends string, T = number>(
  measurements: Record<K, () => Promise<T | null>>,
  rounds: number,
  step: Step,
): Promise<Partial<Record<K, T[]>>> {
  const names = Object.keys(measurements) as K[];
  const samples: Partial<Record<K, T[]>> = {};
  for (let round = 0; round <= rounds; round++) {
    step(names.join(", "));
    for (const name of names) {
      const value = await measurements[name]();
      if (round > 0 && value !== null) (samples[name] ??= []).push(value);
    }
    names.reverse();
  }
  return samples;
}

/** The median and the quartiles. */
export function spread(samples: readonly number[]): Spread {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (part: number) => {
    const place = part * (sorted.length - 1);
    const below = sorted[Math.floor(place)] ?? NaN;
    const above = sorted[Math.ceil(place)] ?? NaN;
    return below + (above - below) * (place % 1);
  };
  return { low: at(0.25), median: at(0.5), high: at(0.75) };
}

/** The ratio of two, round by round. */
export function ratio(
  samples: readonly number[] = [],
  others: readonly number[] = [],
): Spread {
  return spread(samples.map((value, i) => value / (others[i] ?? NaN)));
}

/** What each did, of those that are there. */
export function ratesOf(
  what: string,
  unit: string,
  samples: Partial<Record<string, number[]>>,
): Rate[] {
  return Object.entries(samples).flatMap(([name, values]) =>
    values === undefined
      ? []
      : [{ who: `${name}, ${what}`, value: spread(values), unit }]
  );
}

/** Whether a row has reached its goal; undefined if it has none. */
export function reached({ figure, least, most }: Row): boolean | undefined {
  if (least !== undefined) return figure.median >= least;
  if (most !== undefined) return figure.median <= most;
  return undefined;
}
