// Random and exhaustive schedules against the model in pool_model_support.ts, which
// is compared with the pool after every step.
//
//   deno task test                          100 000 schedules, always the same
//   WIREPOOL_LONG=1 deno task test          20 times as many, others each time
//   WIREPOOL_SEED=123 deno test -P tests/pool_model_test.ts    one, with its steps

import { assert, assertEquals } from "@std/assert";
import type { PoolOptions } from "../pool.ts";
import { type Outcome, type Resource, World } from "./pool_model_support.ts";
import { FakeClock } from "./time_support.ts";

const LONG = Deno.env.get("WIREPOOL_LONG") === "1";
const SEED = Deno.env.get("WIREPOOL_SEED");

type Random = () => number;

/** Mulberry32: small, and the same everywhere. */
function seeded(seed: number): Random {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function pick<V>(random: Random, values: readonly V[]): V {
  return values[Math.floor(random() * values.length)]!;
}

// ---- Random schedules ----------------------------------------------------------

const OUTCOMES: readonly Outcome[] = [
  "now",
  "now",
  "now",
  "soon",
  "soon",
  "throws",
  "rejects",
  "slow",
  "slow",
  "slow",
  "slow",
];
/** Pings and resets. */
const CHECKS: readonly (Outcome | "dead")[] = [...OUTCOMES, "dead"];

function randomOptions(
  random: Random,
): Omit<PoolOptions<Resource>, "factory"> {
  const maxCap = pick(random, [1, 1, 2, 2, 3, 4]);
  const maxIdle = pick(random, [undefined, undefined, undefined, 0, 1, 2]);
  const kept = Math.min(maxCap, maxIdle ?? maxCap, 1);
  const maxOpening = pick(random, [undefined, undefined, 1, 2]);
  return {
    maxCap,
    ...(maxIdle !== undefined && { maxIdle }),
    ...(maxOpening !== undefined && { maxOpening }),
    initialCap: pick(random, [0, 0, kept]),
    minIdle: pick(random, [0, 0, 0, kept]),
    maxWaiting: pick(random, [Infinity, Infinity, Infinity, 0, 2]),
    idleTimeout: pick(random, [0, 0, 10]),
    maxLifetime: pick(random, [0, 0, 30]),
    factoryTimeout: pick(random, [0, 0, 12]),
    pingTimeout: pick(random, [0, 7]),
    pingAfterIdle: pick(random, [0, 5]),
    pingInterval: pick(random, [0, 0, 6]),
    releaseTimeout: pick(random, [0, 0, 9]),
    drainTimeout: pick(random, [0, 0, 15]),
    idleOrder: pick(random, ["lifo", "fifo"]),
    reapInterval: 4,
  };
}

function act(
  world: World,
  random: Random,
  signals: (AbortController | undefined)[],
): string {
  // What is borrowed when the drain is over is being taken from its borrowers.
  const borrowed = world.drainOver() ? [] : world.borrowed();
  const dice = random();
  if (dice < 0.34) {
    const timeout = pick(random, [0, 0, 5, 20]);
    const i = Math.floor(random() * 6);
    if (i < 3) signals[i] ??= new AbortController();
    world.get(timeout, signals[i]?.signal);
    return `get ${timeout} ${i}`;
  }
  if (dice < 0.40) {
    world.tryGet();
    return "tryGet";
  }
  if (dice < 0.58) {
    if (borrowed.length === 0) return "";
    const resource = pick(random, borrowed);
    world.put(resource);
    return `put ${resource.id}`;
  }
  if (dice < 0.64) {
    if (borrowed.length === 0) return "";
    const resource = pick(random, borrowed);
    world.discard(resource);
    return `discard ${resource.id}`;
  }
  if (dice < 0.70) {
    const i = Math.floor(random() * 3);
    const controller = signals[i];
    signals[i] = undefined;
    controller?.abort(new Error(`signal ${i}`));
    return `abort ${i}`;
  }
  if (dice < 0.90) {
    // At close, nothing tells a callback whether a call has been cut already.
    const blind = world.depth > 0 && world.closing !== undefined;
    if (world.slow.length === 0 || blind) return "";
    const i = Math.floor(random() * world.slow.length);
    const [slow] = world.slow.splice(i, 1);
    const good = random() < 0.7;
    if (good) slow!.succeed();
    else slow!.fail();
    return `${slow!.kind} ${good ? "succeeds" : "fails"}`;
  }
  if (dice < 0.94) {
    const maxCap = pick(random, [1, 2, 3, 5]);
    const maxIdle = pick(random, [undefined, undefined, 0, 1, 3]);
    world.resize(maxCap, maxIdle);
    return `resize ${maxCap} ${maxIdle}`;
  }
  if (dice < 0.955) {
    world.evictAll();
    return "evictAll";
  }
  if (dice < 0.97) {
    if (world.resources.length === 0) return "";
    const resource = pick(random, world.resources);
    world.evict(resource);
    return `evict ${resource.id}`;
  }
  if (dice < 0.98) {
    world.close();
    return "close";
  }
  const drained = world.resources.find(({ drained }) => drained);
  if (drained !== undefined && world.depth === 0) {
    world.putDrained(drained);
    return `put drained ${drained.id}`;
  }
  const other = world.resources.find(({ state }) =>
    state === "gone" || state === "closing" ||
    (state === "loose" && !world.awaited())
  );
  if (other === undefined || world.depth > 0) return "";
  world.misuse(other);
  return `misuse ${other.id}`;
}

async function schedule(seed: number, clock: FakeClock): Promise<void> {
  const random = seeded(seed);
  const options = randomOptions(random);
  const meddling = random() < 0.25;
  const signals: (AbortController | undefined)[] = [];
  Math.random = random;
  clock.reset();
  clock.now = 0;
  const world = new World(
    clock,
    options,
    {
      factory: () => pick(random, OUTCOMES),
      ping: () => pick(random, CHECKS),
      reset: () => pick(random, CHECKS),
      close: () => pick(random, OUTCOMES),
    },
    (world) => {
      if (!meddling || random() < 0.7) return;
      world.meddled++;
      world.steps.push(`  (${act(world, random, signals)})`);
    },
    random() < 0.6,
    random() < 0.4,
    random() < 0.3,
  );
  try {
    const steps = 5 + Math.floor(random() * 14);
    for (let i = 0; i < steps; i++) {
      // Often several things in one turn.
      const turn = pick(random, [1, 1, 1, 2, 3]);
      for (let j = 0; j < turn; j++) {
        world.steps.push(`${clock.now}: ${act(world, random, signals)}`);
      }
      if (random() < 0.4) {
        const ms = pick(random, [1, 2, 5, 11]);
        world.steps.push(`${clock.now}: wait ${ms}`);
        await world.wait(ms);
      } else {
        await world.rest();
      }
      world.check();
    }
    await world.end();
  } catch (error) {
    const steps = SEED === undefined ? "" : `\n${JSON.stringify(options)}\n` +
      world.steps.join("\n");
    throw new Error(`WIREPOOL_SEED=${seed} fails${steps}`, { cause: error });
  }
}

/**
 * Makes a test quick, and the same each time: most errors here are part of the
 * schedule, and their stacks half of its cost; lifetimes are spread at random.
 */
function steady(): Disposable {
  const limit = Error.stackTraceLimit;
  const { random } = Math;
  if (SEED === undefined) Error.stackTraceLimit = 0;
  return {
    [Symbol.dispose]() {
      Error.stackTraceLimit = limit;
      Math.random = random;
    },
  };
}

Deno.test("Pool keeps its promises through random schedules", async () => {
  using clock = new FakeClock();
  using _ = steady();
  if (SEED !== undefined) return await schedule(Number(SEED), clock);
  const count = LONG ? 2_000_000 : 100_000;
  const base = LONG ? Date.now() % 2 ** 31 : 1;
  for (let i = 0; i < count; i++) await schedule(base + i, clock);
});

// ---- Every combination ---------------------------------------------------------

const ENDS: readonly Outcome[] = ["now", "rejects", "slow", "never"];

/** When the first caller gives up, or the pool closes. */
const CANCELS = [
  "never",
  "abort in the turn of the get",
  "abort while all is under way",
  "abort before the slow ones end, in the same turn",
  "abort after the slow ones end, in the same turn",
  "close while all is under way",
  "close after the slow ones end, in the same turn",
] as const;

interface Combination {
  readonly maxCap: number;
  readonly factory: readonly Outcome[];
  readonly ping: readonly Outcome[];
  readonly close: Outcome;
  readonly cancel: typeof CANCELS[number];
}

function* combinations(): Generator<Combination> {
  for (const maxCap of [1, 2]) {
    for (const cancel of CANCELS) {
      for (const close of ENDS) {
        for (const first of ENDS) {
          for (const second of ENDS) {
            for (const ping of ENDS) {
              for (const other of ENDS) {
                const factory = [first, second];
                yield { maxCap, factory, ping: [ping, other], close, cancel };
              }
            }
          }
        }
      }
    }
  }
}

/** Three callers want what is idle and due for a ping. */
async function combine(
  { maxCap, factory, ping, close, cancel }: Combination,
  clock: FakeClock,
): Promise<void> {
  clock.reset();
  clock.now = 0;
  const left = { factory: [...factory], ping: [...ping], close: [close] };
  let priming = true;
  const world = new World(
    clock,
    {
      maxCap,
      initialCap: maxCap,
      factoryTimeout: 15,
      pingTimeout: 15,
      releaseTimeout: 0,
      drainTimeout: 0,
    },
    {
      factory: () => (priming ? undefined : left.factory.shift()) ?? "now",
      ping: () => left.ping.shift() ?? "now",
      reset: () => "now",
      close: () => left.close.shift() ?? "now",
    },
  );
  await world.rest();
  priming = false;

  const first = new AbortController();
  const gets = [
    world.get(40, first.signal),
    world.get(40),
    world.get(40),
  ];
  if (cancel === "abort in the turn of the get") first.abort();
  await world.rest();
  world.check();
  if (cancel === "abort while all is under way") first.abort();
  if (cancel === "close while all is under way") world.close();
  for (let time = 5; time <= 45; time += 5) {
    await world.wait(5);
    world.check();
    if (time % 10 === 0) {
      if (cancel.startsWith("abort before")) first.abort();
      for (const { succeed } of world.slow.splice(0)) succeed();
      if (cancel.startsWith("abort after")) first.abort();
      if (cancel.startsWith("close after")) world.close();
      await world.rest();
      world.check();
    }
    for (const resource of world.borrowed()) world.put(resource);
    await world.rest();
    world.check();
  }
  for (const { pending } of gets) assert(!pending, "a get never settles");
  const quick = [...factory, ...ping, close].every((end) => end === "now");
  if (quick && cancel === "never") assert(world.pool.stats().getCount === 3);
  await world.end();
}

Deno.test("Pool keeps its promises in every combination of what its callbacks do and when callers give up", async () => {
  using clock = new FakeClock();
  using _ = steady();
  let count = 0;
  for (const combination of combinations()) {
    count++;
    try {
      await combine(combination, clock);
    } catch (cause) {
      throw new Error(`fails: ${JSON.stringify(combination)}`, { cause });
    }
  }
  assertEquals(count, 2 * 7 * 4 ** 5);
});
