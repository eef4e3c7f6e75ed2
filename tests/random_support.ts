/**
 * Chance that can be repeated: the random numbers of tests, the seed that a
 * failed test names (`WIREPOOL_SEED=<seed>` draws the same again), and whether
 * long runs are asked for (`WIREPOOL_LONG=1`).
 */

/** Repeatable chance (mulberry32); the seed is printed when a test fails. */
export class Random {
  #state: number;

  constructor(readonly seed: number) {
    this.#state = seed >>> 0;
  }

  /** A number in [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  /** An integer from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  /** True once in `n`. */
  once(n: number): boolean {
    return this.between(1, n) === 1;
  }

  /** One of `items`. */
  pick<T>(items: readonly T[]): T {
    return items[this.between(0, items.length - 1)]!;
  }

  /** `length` random bytes. */
  bytes(length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i++) out[i] = this.between(0, 255);
    return out;
  }
}

/** Runs a test with a seed, and names the seed if it fails. */
export async function seeded(
  seed: number,
  test: (random: Random) => Promise<void>,
): Promise<void> {
  try {
    await test(new Random(seed));
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : cause;
    throw new Error(`With WIREPOOL_SEED=${seed}: ${message}`, { cause });
  }
}

/** True when the long runs are asked for. */
export function longRun(): boolean {
  return setting("WIREPOOL_LONG") === "1";
}

/** The seed that is asked for, or a new one. */
export function chosenSeed(): number {
  const seed = Number(setting("WIREPOOL_SEED") ?? NaN);
  return Number.isInteger(seed)
    ? seed
    : crypto.getRandomValues(new Uint32Array(1))[0]!;
}

/** An environment variable, where the tests may see it at all. */
function setting(variable: string): string | undefined {
  const asked = Deno.permissions.querySync({ name: "env", variable });
  return asked.state === "granted" ? Deno.env.get(variable) : undefined;
}
