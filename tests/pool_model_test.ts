// Random and exhaustive schedules against a plain model of what a pool owes the
// world: the model knows every resource, caller and call from outside, by the
// callbacks alone, and after every step compares the pool with it.
//
//   deno task test                          100 000 schedules, always the same
//   WIREPOOL_LONG=1 deno task test          20 times as many, others each time
//   WIREPOOL_SEED=123 deno test -P tests/pool_model_test.ts    one, with its steps

import { assert, assertEquals } from "@std/assert";
import {
  Pool,
  PoolClosedError,
  PoolExhaustedError,
  type PoolOptions,
  type PoolStats,
  PoolTimeoutError,
} from "../pool.ts";
import { FakeClock, settle } from "./time_support.ts";

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

/**
 * A resource as the world sees it: `loose` in the pool's hands, idle once nothing
 * is running.
 */
interface Resource {
  readonly id: number;
  readonly openedAt: number;
  state: "loose" | "borrowed" | "pinging" | "closing" | "gone";
  /** Delivered after its call was cut: it has no place in the pool. */
  readonly late: boolean;
  /** When it came into the pool's hands. */
  since: number;
  /** Found dead, discarded or evicted: must not be lent again. */
  doomed: boolean;
  /** Found dead. */
  dead: boolean;
  lent: boolean;
}

interface Get {
  readonly number: number;
  readonly start: number;
  readonly timeout: number;
  readonly signal: AbortSignal | undefined;
  pending: boolean;
}

type Outcome = "now" | "soon" | "throws" | "rejects" | "slow" | "never";

/** What callbacks do; the driver settles the slow ones. */
interface Script {
  factory(): Outcome;
  ping(): Outcome | "dead";
  close(): Outcome;
}

/** A call of the factory under way. */
interface Call {
  readonly start: number;
  readonly signal: AbortSignal;
}

interface Slow {
  readonly kind: "factory" | "ping" | "close";
  succeed(): void;
  fail(): void;
}

class World {
  readonly pool: Pool<Resource>;
  readonly resources: Resource[] = [];
  readonly gets: Get[] = [];
  readonly calls = new Set<Call>();
  readonly slow: Slow[] = [];
  readonly steps: string[] = [];
  /** How often each failure of a factory was told to somebody. */
  readonly failures = new Map<unknown, number>();
  /** Grows with everything that happens. */
  activity = 0;
  depth = 0;
  meddled = 0;
  closing: Promise<void> | undefined;
  closeState: "pending" | "resolved" | "rejected" = "pending";
  maxCap: number;
  maxIdle: number;
  /** Most open since a shrinking resize. */
  #allowed: number;
  #broken: Error | undefined;
  /** What `activity` was when nothing was running. */
  #rested = -1;
  #factoryCalls = 0;
  #closedOnArrival = 0;
  #served = 0;
  #timedOut = 0;
  #canceled = 0;
  #opened = 0;
  #openFailed = 0;
  #pingFailed = 0;
  #discarded = 0;
  #closeFailed = 0;
  #closeFailuresTold = 0;

  constructor(
    readonly clock: FakeClock,
    readonly options: Omit<PoolOptions<Resource>, "factory">,
    readonly script: Script,
    readonly meddle: (world: World) => void = () => {},
    readonly pinging: boolean = true,
  ) {
    this.maxCap = this.#allowed = options.maxCap ?? 10;
    this.maxIdle = options.maxIdle ?? this.maxCap;
    this.pool = new Pool<Resource>({
      ...options,
      factory: (signal) => this.#factory(signal),
      close: (resource) => this.#close(resource),
      ...(pinging && { ping: (resource) => this.#ping(resource) }),
      onError: (error, operation) => {
        this.activity++;
        if (operation === "factory") this.#tell(error);
        if (operation === "close") this.#closeFailuresTold++;
        this.expect(operation !== "hook" && operation !== "leak", `${error}`);
        this.#interfere();
      },
    });
  }

  /** Like `assert`, for where the pool or a promise would swallow what is thrown. */
  expect(truth: boolean, message: string): void {
    if (!truth) this.#broken ??= new Error(message);
  }

  // ---- Callbacks of the pool -------------------------------------------------

  #factory(signal: AbortSignal): Resource | Promise<Resource> {
    this.activity++;
    this.#factoryCalls++;
    // In the constructor there is no pool to ask yet.
    if (this.pool !== undefined) {
      const { open, opening } = this.pool.stats();
      this.expect(
        open <= this.#allowed,
        `${open} open, ${this.#allowed} allowed`,
      );
      this.expect(
        opening <= (this.options.maxOpening ?? this.maxCap),
        "maxOpening",
      );
    }
    const call = { start: this.clock.now, signal };
    this.calls.add(call);
    const outcome = this.script.factory();
    this.#interfere();
    const deliver = (): Resource => {
      this.activity++;
      this.calls.delete(call);
      const late = this.#cut(call);
      const resource: Resource = {
        id: this.resources.length,
        openedAt: this.clock.now,
        state: "loose",
        late,
        since: this.clock.now,
        doomed: false,
        dead: false,
        lent: false,
      };
      this.resources.push(resource);
      if (!late) this.#opened++;
      return resource;
    };
    const fail = (): Error => {
      this.activity++;
      this.calls.delete(call);
      const error = new Error("The factory failed");
      if (!this.#cut(call)) {
        this.#openFailed++;
        this.failures.set(error, 0);
      }
      return error;
    };
    switch (outcome) {
      case "now":
        return deliver();
      case "soon":
        return Promise.resolve(deliver());
      case "throws":
        throw fail();
      case "rejects":
        return Promise.reject(fail());
      case "never":
        return new Promise(() => {});
      case "slow":
        return new Promise((resolve, reject) => {
          this.slow.push({
            kind: "factory",
            succeed: () => resolve(deliver()),
            fail: () => reject(fail()),
          });
        });
    }
  }

  /** Whether its timeout has ended a call; the close of the pool only aborts it. */
  #cut({ start, signal }: Call): boolean {
    const { factoryTimeout = 0 } = this.options;
    if (!signal.aborted || factoryTimeout === 0) return false;
    return signal.reason instanceof PoolTimeoutError ||
      this.clock.now - start >= factoryTimeout;
  }

  #ping(resource: Resource): boolean | Promise<boolean> {
    this.activity++;
    this.expect(resource.state === "loose", "pings what is not idle");
    this.expect(!resource.doomed, "pings what is dead");
    resource.state = "pinging";
    const outcome = this.script.ping();
    this.#interfere();
    const end = (alive: boolean) => {
      this.activity++;
      // Closed meanwhile: cut by its timeout, or with the pool.
      if (resource.state !== "pinging") return alive;
      if (!alive) resource.doomed = resource.dead = true;
      this.#loosen(resource);
      return alive;
    };
    switch (outcome) {
      case "now":
        return end(true);
      case "soon":
        return Promise.resolve(end(true));
      case "dead":
        return end(false);
      case "throws":
        end(false);
        throw new Error("The ping failed");
      case "rejects":
        end(false);
        return Promise.reject(new Error("The ping failed"));
      case "never":
        return new Promise(() => {});
      case "slow":
        return new Promise((resolve) => {
          this.slow.push({
            kind: "ping",
            succeed: () => resolve(end(true)),
            fail: () => resolve(end(false)),
          });
        });
    }
  }

  #close(resource: Resource): void | Promise<void> {
    this.activity++;
    this.expect(
      resource.state !== "closing" && resource.state !== "gone",
      "twice",
    );
    this.expect(resource.state !== "borrowed", "closes what is borrowed");
    // A pool that closes takes no notice of pings any more.
    if (this.closing === undefined) {
      if (resource.state === "pinging" || resource.dead) this.#pingFailed++;
      if (resource.state === "pinging") {
        const { pingTimeout = 0 } = this.options;
        this.expect(pingTimeout > 0, "closes what is being pinged");
      }
    }
    if (!resource.lent && resource.since === resource.openedAt) {
      this.#closedOnArrival++;
    }
    resource.state = "closing";
    const outcome = this.script.close();
    this.#interfere();
    const end = () => {
      this.activity++;
      resource.state = "gone";
    };
    const fail = () => {
      end();
      this.#closeFailed++;
      return new Error("The close failed");
    };
    switch (outcome) {
      case "now":
        return end();
      case "soon":
        end();
        return Promise.resolve();
      case "throws":
        throw fail();
      case "rejects":
        return Promise.reject(fail());
      case "never":
        return new Promise(() => {});
      case "slow":
        return new Promise((resolve, reject) => {
          this.slow.push({
            kind: "close",
            succeed: () => resolve(end()),
            fail: () => reject(fail()),
          });
        });
    }
  }

  #interfere(): void {
    if (this.pool === undefined || this.depth > 1 || this.meddled > 20) return;
    this.depth++;
    this.meddle(this);
    this.depth--;
  }

  #loosen(resource: Resource): void {
    resource.state = "loose";
    resource.since = this.clock.now;
  }

  #tell(error: unknown): void {
    const told = this.failures.get(error);
    if (told !== undefined) this.failures.set(error, told + 1);
  }

  // ---- Callers ---------------------------------------------------------------

  get(timeout: number, signal?: AbortSignal): Get {
    this.activity++;
    const before = this.pool.stats();
    const quiet = this.depth === 0;
    const get: Get = {
      number: this.gets.length,
      start: this.clock.now,
      timeout,
      signal,
      pending: true,
    };
    this.gets.push(get);
    this.pool.get({ timeout, ...(signal && { signal }) }).then((resource) => {
      this.#settle(get);
      // A get within a callback of another get may stand in line before it.
      const passed = this.meddled === 0 &&
        this.gets.some((other) => other.pending && other.number < get.number);
      this.expect(!passed, "passes a waiter");
      this.#lent(resource);
    }, (error) => {
      this.#settle(get);
      if (signal?.aborted && error === signal.reason) {
        this.#canceled++;
      } else if (error instanceof PoolClosedError) {
        this.expect(this.closing !== undefined, "not closed");
      } else if (error instanceof PoolExhaustedError) {
        const { maxWaiting = Infinity } = this.options;
        this.expect(
          !quiet || before.waiting >= maxWaiting,
          "rejects too early",
        );
      } else if (
        error instanceof PoolTimeoutError && error.message.startsWith("No ")
      ) {
        this.expect(
          timeout > 0 && this.clock.now - get.start >= timeout,
          "early",
        );
        this.#timedOut++;
      } else if (error instanceof PoolTimeoutError) {
        // Its call was cut.
      } else {
        this.expect(this.failures.has(error), `${error}`);
        this.#tell(error);
      }
    });
    return get;
  }

  #settle(get: Get): void {
    this.activity++;
    this.expect(get.pending, "settles twice");
    get.pending = false;
  }

  tryGet(): void {
    const { idleTimeout = 0, idleOrder } = this.options;
    const { waiting } = this.pool.stats();
    const times = this.resources.filter(({ state, late, since }) =>
      state === "loose" && !late &&
      (idleTimeout === 0 || this.clock.now - since < idleTimeout)
    ).map(({ since }) => since);
    const resource = this.pool.tryGet();
    if (resource === undefined) return;
    this.expect(waiting === 0, "passes a waiter");
    // Who has outlived a spread lifetime is not to be known from here.
    if (this.activity === this.#rested && !this.options.maxLifetime) {
      const next = idleOrder === "fifo"
        ? Math.min(...times)
        : Math.max(...times);
      this.expect(resource.since === next, "lends in another order");
    }
    this.#lent(resource);
  }

  #lent(resource: Resource): void {
    this.activity++;
    const { idleTimeout = 0, maxLifetime = 0, pingAfterIdle = 0 } =
      this.options;
    const idle = this.clock.now - resource.since;
    this.expect(resource.state === "loose", "lends what it has not");
    this.expect(!resource.doomed && !resource.late, "lends what is dead");
    this.expect(idleTimeout === 0 || idle < idleTimeout, "lends what is cold");
    this.expect(
      maxLifetime === 0 || this.clock.now - resource.openedAt < maxLifetime,
      "lends what is old",
    );
    if (this.pinging && pingAfterIdle > 0) {
      this.expect(idle < pingAfterIdle, "lends unverified");
    }
    resource.state = "borrowed";
    resource.lent = true;
    this.#served++;
  }

  /** Whether what is loose may have been handed over in this very turn. */
  awaited(): boolean {
    return this.gets.some(({ pending }) => pending);
  }

  borrowed(): Resource[] {
    return this.resources.filter(({ state }) => state === "borrowed");
  }

  put(resource: Resource): void {
    this.activity++;
    this.#loosen(resource);
    this.pool.put(resource);
  }

  discard(resource: Resource): void {
    this.activity++;
    this.#loosen(resource);
    resource.doomed = true;
    this.#discarded++;
    this.pool.discard(resource);
  }

  /** Gives back what is not borrowed. */
  misuse(resource: Resource): void {
    const before = this.pool.stats();
    for (const method of ["put", "discard"] as const) {
      let error: unknown;
      try {
        this.pool[method](resource);
      } catch (thrown) {
        error = thrown;
      }
      assert(error instanceof TypeError, `${method} of what is not borrowed`);
    }
    assertEquals(this.pool.stats(), before);
  }

  resize(maxCap: number, maxIdle?: number): void {
    this.activity++;
    this.#allowed = Math.max(maxCap, this.pool.stats().open);
    this.maxCap = maxCap;
    if (maxIdle !== undefined) this.maxIdle = maxIdle;
    else if (this.options.maxIdle === undefined) this.maxIdle = maxCap;
    this.pool.resize({ maxCap, ...(maxIdle !== undefined && { maxIdle }) });
  }

  evict(): void {
    this.activity++;
    for (const resource of this.resources) {
      if (resource.state === "loose" && !this.awaited()) resource.doomed = true;
    }
    this.pool.evict();
  }

  close(signal?: AbortSignal): void {
    this.activity++;
    const first = this.closing;
    // Known before the call, for the callbacks in it.
    this.closing ??= Promise.resolve();
    const promise = this.pool.close(signal && { signal });
    if (first !== undefined) {
      // Within a callback of the first call, its promise is not known here yet.
      assert(promise === first || this.depth > 0, "another promise");
      return;
    }
    this.closing = promise;
    promise.then(
      () => this.closeState = "resolved",
      () => this.closeState = "rejected",
    );
  }

  // ---- Steps -----------------------------------------------------------------

  /** Lets everything happen that waits for nothing but its turn. */
  async rest(): Promise<void> {
    for (let seen = -1; seen !== this.activity;) {
      seen = this.activity;
      // The pool awaits nothing for longer than this without calling back.
      await settle(5);
    }
    this.#rested = this.activity;
  }

  async wait(ms: number): Promise<void> {
    await this.clock.tick(ms, () => this.rest());
  }

  /** Compares the pool with the world; nothing must be running. */
  check(): void {
    if (this.#broken !== undefined) throw this.#broken;
    const { pool, options, clock } = this;
    const stats = pool.stats();
    const count = (state: Resource["state"]) =>
      this.resources.filter((r) => r.state === state && !r.late).length;
    const opening = [...this.calls].filter((call) => !this.#cut(call))
      .length;
    const line = this.gets.filter(({ pending }) => pending);
    const supply = opening + count("pinging");
    const closing = count("closing");

    // What the world has, and what the pool thinks it has.
    const cuts = stats.openFailedCount - this.#openFailed;
    const expected: PoolStats = {
      open: stats.idle + stats.inUse + stats.opening + closing,
      idle: count("loose"),
      inUse: count("borrowed") + count("pinging"),
      opening,
      waiting: Math.max(0, line.length - supply),
      getCount: this.#served,
      waitCount: stats.waitCount,
      waitDuration: stats.waitDuration,
      timeoutCount: this.#timedOut,
      cancelCount: this.#canceled,
      openedCount: this.#opened,
      openFailedCount: this.#openFailed + cuts,
      pingFailedCount: this.#pingFailed,
      maxIdleClosed: stats.maxIdleClosed,
      idleTimeoutClosed: stats.idleTimeoutClosed,
      maxLifetimeClosed: stats.maxLifetimeClosed,
      discardedCount: this.#discarded,
    };
    for (const name in expected) {
      const key = name as keyof PoolStats;
      // The whole comparison, slow as it is, only for its message.
      if (stats[key] !== expected[key]) assertEquals(stats, expected);
    }
    assert(cuts === 0 || (options.factoryTimeout ?? 0) > 0);
    assert(this.#closeFailuresTold === this.#closeFailed, "close failures");

    // Never more than may be, and never less than can be.
    assert(stats.open <= this.#allowed, "more open than allowed");
    this.#allowed = Math.max(
      this.maxCap,
      Math.min(this.#allowed, stats.open),
    );
    assert(stats.idle <= this.maxIdle, "more idle than allowed");
    if (stats.waiting > 0) {
      assert(stats.idle === 0, "somebody waits while something is idle");
      assert(
        stats.open >= this.maxCap ||
          stats.opening >= (options.maxOpening ?? this.maxCap),
        "somebody waits while something may be opened",
      );
    }
    if ((options.minIdle ?? 0) === 0) {
      assert(
        this.#factoryCalls <= (options.initialCap ?? 0) + this.gets.length +
            this.#closedOnArrival,
        "calls the factory for nobody",
      );
    }

    // Nobody is kept longer than promised, and nothing.
    for (const { start, timeout, signal } of line) {
      assert(timeout === 0 || clock.now - start < timeout, "waits too long");
      assert(!signal?.aborted, "waits though its signal has aborted");
      assert(this.closing === undefined, "waits for a closed pool");
    }
    const { idleTimeout = 0, reapInterval = 0 } = options;
    for (const { state, late, doomed, since } of this.resources) {
      if (state !== "loose") continue;
      assert(!late && !doomed, "keeps what it may not");
      assert(
        idleTimeout === 0 || clock.now - since <= idleTimeout + reapInterval,
        "keeps what is cold",
      );
    }
    if (this.closing !== undefined) {
      assert(stats.idle + stats.waiting === 0, "closed with something left");
      if (this.closeState !== "rejected") {
        const closed = this.closeState === "resolved";
        assert(closed === (stats.open === 0), `closed ${closed}`);
      }
    }
  }

  /** Every failure of a factory was told once, but for those that came too late. */
  checkFailures(): void {
    for (const told of this.failures.values()) {
      assert(told === 1 || (told === 0 && this.closing !== undefined));
    }
  }

  /** Ends the schedule: nothing may remain. */
  async end(): Promise<void> {
    this.checkFailures();
    this.close();
    await this.rest();
    this.check();
    for (let left = 1; left > 0;) {
      const slow = this.slow.splice(0);
      const borrowed = this.borrowed();
      left = slow.length + borrowed.length;
      for (const { succeed } of slow) succeed();
      for (const resource of borrowed) {
        // A callback may have been quicker.
        if (resource.state === "borrowed") this.put(resource);
      }
      await this.rest();
      this.check();
    }
    // Calls that never end hold up the close until they are cut.
    if (this.calls.size > 0) await this.wait(this.options.factoryTimeout ?? 0);
    this.check();
    assert(this.clock.timers === 0, "leaves timers");
    const stuck = this.resources.filter(({ state }) => state !== "gone");
    assert(stuck.every(({ state }) => state === "closing"), "leaks");
    const kept = stuck.filter(({ late }) => !late).length;
    assert((this.closeState === "resolved") === (kept === 0), this.closeState);
    assert(this.pool.stats().open === kept);
    if (kept === 0) return;
    // A close that never ends holds up the pool's, and a signal ends that.
    this.close(AbortSignal.abort());
    await this.rest();
    assert(this.closeState as string === "rejected", "waits for ever");
  }
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
const PINGS: readonly (Outcome | "dead")[] = [...OUTCOMES, "dead"];

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
    idleOrder: pick(random, ["lifo", "fifo"]),
    reapInterval: 4,
  };
}

function act(
  world: World,
  random: Random,
  signals: (AbortController | undefined)[],
): string {
  const borrowed = world.borrowed();
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
  if (dice < 0.97) {
    world.evict();
    return "evict";
  }
  if (dice < 0.98) {
    world.close();
    return "close";
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
      ping: () => pick(random, PINGS),
      close: () => pick(random, OUTCOMES),
    },
    (world) => {
      if (!meddling || random() < 0.7) return;
      world.meddled++;
      world.steps.push(`  (${act(world, random, signals)})`);
    },
    random() < 0.6,
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
    { maxCap, initialCap: maxCap, factoryTimeout: 15, pingTimeout: 15 },
    {
      factory: () => (priming ? undefined : left.factory.shift()) ?? "now",
      ping: () => left.ping.shift() ?? "now",
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
