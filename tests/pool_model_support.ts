// The world around a pool, as a model of what the pool owes to it: the world knows
// every resource, caller and call from outside, by the callbacks alone, and
// `check` compares the pool with it.

import { assert, assertEquals } from "@std/assert";
import {
  Pool,
  PoolClosedError,
  type PoolCloseReason,
  PoolExhaustedError,
  type PoolOptions,
  type PoolStats,
  PoolTimeoutError,
} from "../pool.ts";
import { type FakeClock, settle } from "./time_support.ts";

/**
 * A resource as the world sees it: `loose` in the pool's hands, idle once nothing
 * is running.
 */
export interface Resource {
  readonly id: number;
  readonly openedAt: number;
  state: "loose" | "borrowed" | "pinging" | "resetting" | "closing" | "gone";
  /** Delivered after its call was cut: it has no place in the pool. */
  readonly late: boolean;
  /** When it came into the pool's hands, ready to be lent. */
  since: number;
  /** When it was last known to live. */
  checkedAt: number;
  /** When it last became loose. */
  looseAt: number;
  /** Found dead, discarded or evicted: must not be lent again. */
  doomed: boolean;
  /** Found dead. */
  dead: boolean;
  /** Could not be reset: with an error, or just so. */
  unready: "false" | "error" | undefined;
  /** Evicted while it was reset. */
  evicted: boolean;
  lent: boolean;
  /** What the pool looked like when it was closed. */
  closing: Closing | undefined;
  /** Whether the pool takes its place for free. */
  freed: boolean;
  /** Closed while it was borrowed, and not put since. */
  drained: boolean;
}

/** What the pool looked like when it closed a resource, that one left out. */
interface Closing {
  readonly at: number;
  readonly idle: number;
  readonly leastIdle: number;
  readonly full: boolean;
}

interface Get {
  readonly number: number;
  readonly start: number;
  readonly timeout: number;
  readonly signal: AbortSignal | undefined;
  pending: boolean;
}

export type Outcome = "now" | "soon" | "throws" | "rejects" | "slow" | "never";

/** What callbacks do; the driver settles the slow ones. */
interface Script {
  factory(): Outcome;
  ping(): Outcome | "dead";
  reset(): Outcome | "dead";
  close(): Outcome;
}

/** A call of the factory under way. */
interface Call {
  readonly start: number;
  readonly signal: AbortSignal;
}

interface Slow {
  readonly kind: "factory" | "ping" | "reset" | "close";
  succeed(): void;
  fail(): void;
}

export class World {
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
  /** When the pool was closed. */
  #closedAt = Infinity;
  #lastResize = 0;
  /** Failures of the factory since it last delivered, and when the last was. */
  #failuresInRow = 0;
  #failedAt = 0;
  #resetFailed = 0;
  #resetErrors = 0;
  #resetErrorsTold = 0;
  /** Closes that had not ended when their places were free, and those that may
   * have ended just then. */
  #overdue = 0;
  #mayBeOverdue = 0;
  #closeOverdueTold = 0;
  #acquired = 0;
  #released = 0;
  maxCap: number;
  maxIdle: number;
  #maxIdleGiven: number | undefined;
  /** Most open since a shrinking resize. */
  #allowed: number;
  #broken: Error | undefined;
  /** What `activity` was when nothing was running. */
  #rested = -1;
  #factoryCalls = 0;
  #closedOnArrival = 0;
  /** Resets that somebody may have waited for, and that served nobody. */
  #resetInVain = 0;
  #served = 0;
  #timedOut = 0;
  #canceled = 0;
  #opened = 0;
  #openFailed = 0;
  #pingFailed = 0;
  #discarded = 0;
  #closeFailed = 0;
  /** Closes that failed just when they were overdue. */
  #mayHaveFailed = 0;
  #closeFailuresTold = 0;

  constructor(
    readonly clock: FakeClock,
    readonly options: Omit<PoolOptions<Resource>, "factory">,
    readonly script: Script,
    readonly meddle: (world: World) => void = () => {},
    readonly pinging: boolean = true,
    readonly resetting: boolean = false,
    readonly observing: boolean = false,
  ) {
    this.maxCap = this.#allowed = options.maxCap ?? 10;
    this.#maxIdleGiven = options.maxIdle;
    this.maxIdle = options.maxIdle ?? this.maxCap;
    this.pool = new Pool<Resource>({
      ...options,
      factory: (signal) => this.#factory(signal),
      close: (resource) => this.#close(resource),
      ...(pinging && { ping: (resource) => this.#ping(resource) }),
      ...(resetting && { reset: (resource) => this.#reset(resource) }),
      hooks: {
        closed: (resource, reason) => this.#freed(resource, reason),
        ...(observing && {
          acquired: (_, waited) => this.#observe("acquired", waited),
          released: (_, held) => this.#observe("released", held),
        }),
      },
      onError: (error, operation) => {
        this.activity++;
        if (operation === "factory") this.#tell(error);
        if (operation === "close") {
          if (error instanceof PoolTimeoutError) this.#closeOverdueTold++;
          else this.#closeFailuresTold++;
        }
        if (operation === "reset") this.#resetErrorsTold++;
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
        checkedAt: this.clock.now,
        looseAt: this.clock.now,
        doomed: false,
        dead: false,
        unready: undefined,
        evicted: false,
        lent: false,
        closing: undefined,
        freed: false,
        drained: false,
      };
      this.resources.push(resource);
      if (!late) {
        this.#opened++;
        // What happens at the same time may reach the pool in another order.
        if (this.clock.now > this.#failedAt) this.#failuresInRow = 0;
      }
      return resource;
    };
    const fail = (): Error => {
      this.activity++;
      this.calls.delete(call);
      const error = new Error("The factory failed");
      this.#failuresInRow++;
      this.#failedAt = this.clock.now;
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

  /** Whether its timeout has ended a call, or the drain; the close of the pool
   * only aborts it. */
  #cut({ start, signal }: Call): boolean {
    if (!signal.aborted) return false;
    if (this.drainOver()) return true;
    const { factoryTimeout = 0 } = this.options;
    if (factoryTimeout === 0) return false;
    return signal.reason instanceof PoolTimeoutError ||
      this.clock.now - start >= factoryTimeout;
  }

  drainOver(): boolean {
    const { drainTimeout = 0 } = this.options;
    return drainTimeout > 0 && this.clock.now - this.#closedAt >= drainTimeout;
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
      // It has been idle all the while.
      resource.state = "loose";
      resource.checkedAt = resource.looseAt = this.clock.now;
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

  #reset(resource: Resource): boolean | Promise<boolean> {
    this.activity++;
    this.expect(resource.state === "loose", "resets what was not put");
    this.expect(!resource.doomed, "resets what is closed anyway");
    resource.state = "resetting";
    const outcome = this.script.reset();
    this.#interfere();
    const end = (ready: boolean, error: boolean) => {
      this.activity++;
      // Abandoned meanwhile: by its timeout, an eviction or the pool's close.
      if (resource.state !== "resetting") return ready;
      if (!ready) {
        resource.unready = error ? "error" : "false";
        resource.doomed = true;
      }
      this.#loosen(resource);
      return ready;
    };
    switch (outcome) {
      case "now":
        return end(true, false);
      case "soon":
        return Promise.resolve(end(true, false));
      case "dead":
        return end(false, false);
      case "throws":
        end(false, true);
        throw new Error("The reset failed");
      case "rejects":
        end(false, true);
        return Promise.reject(new Error("The reset failed"));
      case "never":
        return new Promise(() => {});
      case "slow":
        return new Promise((resolve, reject) => {
          this.slow.push({
            kind: "reset",
            succeed: () => resolve(end(true, false)),
            fail: () => {
              end(false, true);
              reject(new Error("The reset failed"));
            },
          });
        });
    }
  }

  #observe(what: "acquired" | "released", duration: number): void {
    this.activity++;
    if (what === "acquired") this.#acquired++;
    else this.#released++;
    this.expect(duration >= 0 && duration <= this.clock.now, what);
    this.#interfere();
  }

  /** The pool says that a place is free, and why the resource was closed. */
  #freed(resource: Resource, reason: PoolCloseReason): void {
    this.activity++;
    this.expect(!resource.freed, "frees a place twice");
    resource.freed = true;
    const { at, idle, leastIdle, full } = resource.closing!;
    const { maxLifetime = 0 } = this.options;
    const overdue = this.#isOverdue(resource);
    if (overdue) this.#mayBeOverdue++;
    if (resource.state !== "gone") {
      this.#overdue++;
      this.expect(overdue, "frees a place before its close has ended");
    }
    this.expect((reason === "late") === resource.late, "late");
    this.expect(
      reason !== "idleTimeout" || idle >= leastIdle,
      "idleTimeout closes what minIdle keeps",
    );
    this.expect(
      reason !== "maxLifetime" || idle >= leastIdle || full ||
        at - resource.openedAt >= maxLifetime,
      "retires before the replacement stands",
    );
  }

  #isOverdue({ closing }: Resource): boolean {
    const { releaseTimeout = 0 } = this.options;
    return releaseTimeout > 0 && this.clock.now - closing!.at >= releaseTimeout;
  }

  #close(resource: Resource): void | Promise<void> {
    this.activity++;
    const { state } = resource;
    this.expect(state !== "closing" && state !== "gone", "twice");
    if (state === "borrowed") {
      this.expect(this.drainOver(), "closes what is borrowed");
      resource.drained = true;
    }
    if (state === "resetting" || resource.unready) this.#resetInVain++;
    // A pool that closes takes no notice of resets, and nobody does of those that an eviction has abandoned.
    if (this.closing === undefined && !resource.evicted) {
      if (state === "resetting") {
        const { releaseTimeout = 0 } = this.options;
        this.expect(releaseTimeout > 0, "closes what is being reset");
      }
      if (state === "resetting" || resource.unready !== undefined) {
        this.#resetFailed++;
        if (resource.unready !== "false") this.#resetErrors++;
      }
    }
    // Nor of pings.
    if (this.closing === undefined) {
      if (state === "pinging" || resource.dead) this.#pingFailed++;
      if (state === "pinging") {
        const { pingTimeout = 0 } = this.options;
        this.expect(pingTimeout > 0, "closes what is being pinged");
      }
    }
    if (!resource.lent && resource.since === resource.openedAt) {
      this.#closedOnArrival++;
    }
    const { idle, open } = this.pool.stats();
    resource.closing = {
      at: this.clock.now,
      idle,
      leastIdle: this.leastIdle,
      full: open >= this.maxCap,
    };
    resource.state = "closing";
    const outcome = this.script.close();
    this.#interfere();
    const end = () => {
      this.activity++;
      resource.state = "gone";
    };
    const fail = () => {
      end();
      // Whoever overruns is not listened to any more.
      if (!this.#isOverdue(resource)) this.#closeFailed++;
      else if (!resource.freed) this.#mayHaveFailed++;
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
    const { now } = this.clock;
    resource.state = "loose";
    resource.since = resource.checkedAt = resource.looseAt = now;
  }

  /** Most that `minIdle` may ask for. */
  get leastIdle(): number {
    if (this.closing !== undefined) return 0;
    return Math.min(this.options.minIdle ?? 0, this.maxIdle, this.maxCap);
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
    const idle = this.resources.filter(({ state, late }) =>
      state === "loose" && !late
    ).toSorted((a, b) => a.since - b.since);
    const cold =
      idle.filter(({ since }) =>
        idleTimeout > 0 && this.clock.now - since >= idleTimeout
      ).length;
    // The coldest are closed, but for those that minIdle keeps.
    idle.splice(0, Math.max(0, Math.min(cold, idle.length - this.leastIdle)));
    const resource = this.pool.tryGet();
    if (resource === undefined) return;
    this.expect(waiting === 0, "passes a waiter");
    // Who has outlived a spread lifetime is not to be known from here.
    if (this.activity === this.#rested && !this.options.maxLifetime) {
      const next = idleOrder === "fifo" ? idle[0] : idle.at(-1);
      this.expect(resource.since === next?.since, "lends in another order");
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
    this.expect(
      idleTimeout === 0 || idle < idleTimeout ||
        (this.options.minIdle ?? 0) > 0,
      "lends what is cold",
    );
    this.expect(
      maxLifetime === 0 || this.clock.now - resource.openedAt < maxLifetime,
      "lends what is old",
    );
    if (this.pinging && pingAfterIdle > 0) {
      const unpinged = this.clock.now - resource.checkedAt;
      this.expect(unpinged < pingAfterIdle, "lends unverified");
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

  /** Gives back what was closed in its borrower's hands: nothing happens, once. */
  putDrained(resource: Resource): void {
    const before = this.pool.stats();
    this.pool.put(resource);
    assertEquals(this.pool.stats(), before);
    resource.drained = false;
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
    this.#lastResize = this.clock.now;
    this.#allowed = Math.max(maxCap, this.pool.stats().open);
    this.maxCap = maxCap;
    this.#maxIdleGiven = maxIdle ?? this.#maxIdleGiven;
    this.maxIdle = this.#maxIdleGiven ?? maxCap;
    this.pool.resize({ maxCap, ...(maxIdle !== undefined && { maxIdle }) });
  }

  evictAll(): void {
    for (const resource of this.resources) this.#condemn(resource);
    this.activity++;
    this.pool.evictAll();
  }

  evict(resource: Resource): void {
    this.#condemn(resource);
    this.activity++;
    this.pool.evict(resource);
  }

  #condemn(resource: Resource): void {
    const { state } = resource;
    if (state === "gone" || state === "closing") return;
    if (state === "resetting" || resource.unready) resource.evicted = true;
    // What is loose may have been handed over, or not yet delivered, in this turn.
    if (state !== "loose" || this.activity === this.#rested) {
      resource.doomed = true;
    }
  }

  close(signal?: AbortSignal): void {
    this.activity++;
    const first = this.closing;
    // Known before the call, for the callbacks in it.
    this.closing ??= Promise.resolve();
    this.#closedAt = Math.min(this.#closedAt, this.clock.now);
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
      this.resources.filter((r) => r.state === state && !r.late && !r.freed)
        .length;
    const opening = [...this.calls].filter((call) => !this.#cut(call))
      .length;
    const line = this.gets.filter(({ pending }) => pending);
    const supply = opening + count("pinging") + count("resetting");
    const closing = count("closing");

    // What the world has, and what the pool thinks it has.
    const cuts = stats.openFailedCount - this.#openFailed;
    const expected: PoolStats = {
      open: stats.idle + stats.inUse + stats.opening + closing,
      idle: count("loose"),
      inUse: count("borrowed") + count("pinging") + count("resetting"),
      opening,
      waiting: Math.max(0, line.length - supply),
      pending: line.length,
      maxCap: this.maxCap,
      closed: this.closing !== undefined,
      getCount: this.#served,
      waitCount: stats.waitCount,
      waitDuration: stats.waitDuration,
      timeoutCount: this.#timedOut,
      cancelCount: this.#canceled,
      openedCount: this.#opened,
      openFailedCount: this.#openFailed + cuts,
      pingFailedCount: this.#pingFailed,
      resetFailedCount: this.#resetFailed,
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
    assert(
      cuts === 0 || (options.factoryTimeout ?? 0) > 0 || this.drainOver(),
    );
    const failuresTold = this.#closeFailuresTold - this.#closeFailed;
    assert(failuresTold >= 0, "close failures");
    assert(failuresTold <= this.#mayHaveFailed, "close failures");
    assert(this.#closeOverdueTold >= this.#overdue, "overdue closes");
    assert(this.#closeOverdueTold <= this.#mayBeOverdue, "overdue closes");
    assert(this.#resetErrorsTold === this.#resetErrors, "reset failures");
    if (this.observing) {
      const borrowed = this.#acquired - this.#released;
      assert(borrowed === count("borrowed"), "acquired and released");
    }
    for (const resource of this.resources) {
      const { state, freed } = resource;
      if (state === "gone") assert(freed, "keeps the place of what is closed");
      if (state !== "closing" || freed) continue;
      assert(!this.#isOverdue(resource), "awaits a close too long");
    }
    if (this.drainOver()) assert(count("borrowed") === 0, "drains too late");

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
    const { leastIdle } = this;
    if (stats.idle + Math.max(0, supply - line.length) < leastIdle) {
      const pause = 100 * 2 ** (this.#failuresInRow - 1);
      assert(
        stats.open >= this.maxCap ||
          stats.opening >= (options.maxOpening ?? this.maxCap) ||
          (this.#failuresInRow > 0 && clock.now - this.#failedAt <= pause) ||
          cuts > 0,
        "leaves fewer than minIdle idle",
      );
    }
    if ((options.minIdle ?? 0) === 0) {
      assert(
        this.#factoryCalls <= (options.initialCap ?? 0) + this.gets.length +
            this.#closedOnArrival + this.#resetInVain,
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
    const idle = this.resources.filter(({ state }) => state === "loose");
    for (const { late, doomed } of idle) {
      assert(!late && !doomed, "keeps what it may not");
    }
    if (idle.length > leastIdle && idleTimeout > 0) {
      // The reaper may have had no reason to look before there was a surplus.
      const surplusAt = Math.max(
        this.#lastResize,
        ...idle.map(({ looseAt }) => looseAt),
      );
      const coldAt = Math.min(...idle.map(({ since }) => since)) + idleTimeout;
      assert(
        clock.now <= reapInterval +
            (leastIdle > 0 ? Math.max(coldAt, surplusAt) : coldAt),
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
    const { drainTimeout = 0, releaseTimeout = 0 } = this.options;
    this.close();
    await this.rest();
    this.check();
    for (let left = 1; left > 0;) {
      const slow = this.slow.splice(0);
      const borrowed = drainTimeout > 0 ? [] : this.borrowed();
      left = slow.length + borrowed.length;
      for (const { succeed } of slow) succeed();
      for (const resource of borrowed) {
        // A callback may have been quicker.
        if (resource.state === "borrowed") this.put(resource);
      }
      await this.rest();
      this.check();
    }
    // Borrowers that never put hold up the close until it is over for them.
    if (drainTimeout > 0) {
      await this.wait(drainTimeout);
      for (const { succeed } of this.slow.splice(0)) succeed();
      await this.rest();
      this.check();
      assert(this.borrowed().length === 0, "drains");
    }
    // Calls that never end hold it up until they are cut.
    if (this.calls.size > 0) await this.wait(this.options.factoryTimeout ?? 0);
    await this.wait(releaseTimeout);
    this.check();
    assert(this.clock.timers === 0, "leaves timers");
    for (const resource of this.resources) {
      if (resource.drained) this.putDrained(resource);
    }
    const stuck = this.resources.filter(({ state }) => state !== "gone");
    assert(stuck.every(({ state }) => state === "closing"), "leaks");
    const kept = stuck.filter(({ late, freed }) => !late && !freed).length;
    assert((this.closeState === "resolved") === (kept === 0), this.closeState);
    assert(this.pool.stats().open === kept);
    if (kept === 0) return;
    // A close that never ends holds up the pool's, and a signal ends that.
    this.close(AbortSignal.abort());
    await this.rest();
    assert(this.closeState as string === "rejected", "waits for ever");
  }
}
