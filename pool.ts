/**
 * A pool of resources that are costly to open: connections, workers, handles.
 *
 * ```
 *                 get, tryGet                       put
 *   callers ───────────────────► [ idle ] ◄──────────────────┐
 *      │ nothing idle                                        │
 *      ▼                     first come, first served        │
 *   [ line of waiters ] ─────────────────────────────► borrowed
 *      │ asks for more              ▲         a put serves the line first
 *      ▼                            │
 *   factory(signal): at most `maxOpening` at once, `maxCap` in all
 * ```
 *
 * The pool knows nothing of what it holds. It uses web-standard APIs only and
 * runs wherever they exist. All durations are milliseconds of the monotonic
 * clock (`performance.now()`).
 *
 * @example Lend, and take back
 * ```ts
 * import { Pool } from "@wirepool/net/pool";
 * import { assertEquals } from "@std/assert";
 *
 * let opened = 0;
 * await using pool = new Pool({
 *   factory: () => ({ id: ++opened }),
 *   maxCap: 2,
 * });
 *
 * const first = await pool.get();
 * pool.put(first);
 *
 * const id = await pool.use((resource) => resource.id);
 *
 * assertEquals(id, 1); // the same resource, lent twice
 * assertEquals(opened, 1);
 * ```
 *
 * @module
 */

import { callDetached, ignore, isThenable } from "./_callbacks.ts";
import { bug } from "./_bug.ts";
import {
  checkFunction,
  choiceOption,
  durationOption,
  functionOption,
  integerOption,
  objectOption,
  signalOption,
} from "./_options.ts";
import { Clock, TICK } from "./_pool_clock.ts";
import { Entry } from "./_pool_entry.ts";
import { LeakDetector } from "./_pool_leaks.ts";
import { BorrowLease, type Ending } from "./_pool_lease.ts";
import { Line, type SignalGroup, type Waiter } from "./_pool_line.ts";
import { List } from "./_pool_list.ts";
import { isBounded, startTimer, type Timer, unrefTimer } from "./_timers.ts";

/** Why a resource was closed, as {@linkcode PoolHooks.closed} is told. */
export type PoolCloseReason =
  | "idleTimeout"
  | "maxLifetime"
  | "maxIdle"
  | "discard"
  | "ping"
  | "evict"
  | "resize"
  | "close"
  | "late";

/** What failed, as {@linkcode PoolOptions.onError} is told. */
export type PoolOperation = "factory" | "close" | "ping" | "leak" | "hook";

/** Observers of a {@linkcode Pool}; one that is not set costs nothing. */
export interface PoolHooks<T> {
  /** Called when the factory has delivered; `duration` is how long it took. */
  opened?: (resource: T, duration: number) => void;
  /**
   * Called when a resource's close has ended, however it ended. The reason
   * `"late"` is a resource delivered after `factoryTimeout` had cut its call.
   */
  closed?: (resource: T, reason: PoolCloseReason) => void;
  /** Called when a caller who counts in `waitCount` has left, served or not. */
  waited?: (duration: number) => void;
}

/** Options of {@linkcode Pool}. */
export interface PoolOptions<T> {
  /**
   * Opens a resource; may be async, may throw. `signal` aborts when
   * `factoryTimeout` has passed or the pool is closed, never because one caller
   * gave up: the next one can use the result. It must not deliver `undefined`,
   * nor a value that is still in the pool: a resource is known by its identity.
   */
  factory: (signal: AbortSignal) => T | PromiseLike<T>;
  /**
   * Disposes of a resource; may be async, may throw. Its place is free when this
   * has ended, so one that never ends keeps its place and holds up
   * {@linkcode Pool.close}.
   */
  close?: (resource: T) => unknown;
  /** Tells whether an idle resource lives: `false`, a throw or a rejection means dead. */
  ping?: (resource: T) => unknown;
  /**
   * Resources opened at the start; at most `maxCap` and `maxIdle`.
   *
   * @default {0}
   */
  initialCap?: number;
  /**
   * Resources the reaper keeps open and idle, as far as `maxCap` allows; at most
   * `maxCap` and `maxIdle`.
   *
   * @default {0}
   */
  minIdle?: number;
  /**
   * Most resources open at once, those being opened and closed included; at
   * least 1, `Infinity` for no limit.
   *
   * @default {10}
   */
  maxCap?: number;
  /**
   * Most resources kept idle; 0 keeps none.
   *
   * @default {maxCap}
   */
  maxIdle?: number;
  /**
   * Milliseconds since its put after which an idle resource is closed and not
   * lent again; 0 for never.
   *
   * @default {0}
   */
  idleTimeout?: number;
  /**
   * Milliseconds since its opening after which a resource is closed at the next
   * put, get or look of the reaper; 0 for never. Each resource's own lifetime is
   * shorter by up to 10 %, at random, so that not all expire at once.
   *
   * @default {0}
   */
  maxLifetime?: number;
  /**
   * Milliseconds a {@linkcode Pool.get} may take in all: in line, in the factory
   * and in the ping; 0 for ever.
   *
   * @default {0}
   */
  getTimeout?: number;
  /**
   * Milliseconds one call of the factory may take; 0 for ever. The call then
   * counts as failed, its signal aborts and its place is free at once; a factory
   * that delivers all the same has its resource closed.
   *
   * @default {0}
   */
  factoryTimeout?: number;
  /**
   * Milliseconds one ping may take before its resource counts as dead; 0 for
   * ever.
   *
   * @default {0}
   */
  pingTimeout?: number;
  /**
   * Milliseconds a resource must have been idle to be pinged when it is lent; 0
   * pings every idle one.
   *
   * @default {0}
   */
  pingAfterIdle?: number;
  /**
   * Most calls of the factory under way at once, at least 1. With a small
   * number, a burst of callers is served by what comes back before a slow
   * factory delivers, and opens few resources.
   *
   * @default {maxCap}
   */
  maxOpening?: number;
  /**
   * Most callers in line for whom nothing is being opened or pinged; one more is
   * rejected with {@linkcode PoolExhaustedError} at once.
   *
   * @default {Infinity}
   */
  maxWaiting?: number;
  /**
   * Which idle resource is lent: the one used last (`"lifo"`, so that the surplus
   * goes cold and is closed) or first (`"fifo"`, so that all stay warm).
   *
   * @default {"lifo"}
   */
  idleOrder?: "lifo" | "fifo";
  /**
   * Milliseconds between two looks of the reaper, more than 0. It looks only
   * while there is something to look at, and never keeps the process alive.
   *
   * @default {half of the shortest of idleTimeout, maxLifetime and leakTimeout; 1000 without}
   */
  reapInterval?: number;
  /**
   * Milliseconds after which a resource not yet back is reported to `onError` as
   * `"leak"`, once, and again should it come back; 0 for never. The error's
   * `cause` carries the stack of the {@linkcode Pool.get} that borrowed it, which
   * makes every get dearer: a help for finding a leak.
   *
   * @default {0}
   */
  leakTimeout?: number;
  /**
   * Called with failures nobody awaits. `operation` is `"factory"` for a call
   * that no waiter needed any more, `"close"`, `"ping"`, `"leak"`, or `"hook"`
   * for a throwing hook. What `onError` itself throws is dropped: there is nobody
   * left to tell.
   */
  onError?: (error: unknown, operation: PoolOperation) => void;
  /** Observers, for metrics and logs. */
  hooks?: PoolHooks<T>;
}

/** Options of {@linkcode Pool.get}, {@linkcode Pool.use} and {@linkcode Pool.lease}. */
export interface PoolGetOptions {
  /** Gives up when aborted: the get rejects with `signal.reason`. */
  signal?: AbortSignal;
  /**
   * Milliseconds the get may take in all; 0 for ever. While gets with 16 other
   * timeouts are in line, further ones are rounded up by at most 1/16.
   *
   * @default {getTimeout of the pool}
   */
  timeout?: number;
}

/** Options of {@linkcode Pool.close}. */
export interface PoolCloseOptions {
  /** Ends the wait for what is not yet back, not the closing itself. */
  signal?: AbortSignal;
}

/** Limits that {@linkcode Pool.resize} changes; one left out stays. */
export interface PoolLimits {
  /** As {@linkcode PoolOptions.maxCap}. */
  maxCap?: number;
  /** As {@linkcode PoolOptions.maxIdle}. */
  maxIdle?: number;
}

/** How full a {@linkcode Pool} was when it failed to serve a caller. */
export interface PoolFigures {
  /** Resources open, those being opened and closed included. */
  readonly open: number;
  /** Resources borrowed or being pinged. */
  readonly inUse: number;
  /** Callers in line for whom nothing was on its way. */
  readonly waiting: number;
}

/** A snapshot of a {@linkcode Pool}, from {@linkcode Pool.stats}. */
export interface PoolStats {
  /** Places taken: idle, in use, being opened and being closed. */
  open: number;
  /** Resources ready to be lent. */
  idle: number;
  /** Resources borrowed, or being pinged for a borrower. */
  inUse: number;
  /** Calls of the factory under way. */
  opening: number;
  /** Callers in line for whom nothing is being opened or pinged. */
  waiting: number;
  /** Times a resource was lent. */
  getCount: number;
  /** Callers who found nothing idle and nothing they might have opened. */
  waitCount: number;
  /** Milliseconds those callers stood in line in all, however it ended for them. */
  waitDuration: number;
  /** Gets rejected because their time was up. */
  timeoutCount: number;
  /** Gets rejected because their signal aborted. */
  cancelCount: number;
  /** Resources the factory delivered. */
  openedCount: number;
  /** Calls of the factory that failed or were cut by `factoryTimeout`. */
  openFailedCount: number;
  /** Resources found dead. */
  pingFailedCount: number;
  /** Resources closed because `maxIdle` were idle. */
  maxIdleClosed: number;
  /** Resources closed because of `idleTimeout`. */
  idleTimeoutClosed: number;
  /** Resources closed because of `maxLifetime`. */
  maxLifetimeClosed: number;
  /** Resources closed by {@linkcode Pool.discard}. */
  discardedCount: number;
}

/** A get was rejected because the pool is closed. */
export class PoolClosedError extends Error {
  /** Makes the error. */
  constructor(message = "The pool is closed", options?: ErrorOptions) {
    super(message, options);
    this.name = "PoolClosedError";
  }
}

/**
 * A get, a factory call or a ping took longer than it may. `cause` is the last
 * failure of the factory, if it has not delivered since.
 */
export class PoolTimeoutError extends Error implements PoolFigures {
  /** Resources open at that moment, those being opened and closed included. */
  readonly open: number;
  /** Resources borrowed or being pinged at that moment. */
  readonly inUse: number;
  /** Callers in line at that moment for whom nothing was on its way. */
  readonly waiting: number;

  /** Makes the error; the figures are added to the message. */
  constructor(message: string, figures: PoolFigures, options?: ErrorOptions) {
    super(`${message}: ${describe(figures)}`, options);
    this.name = "PoolTimeoutError";
    ({ open: this.open, inUse: this.inUse, waiting: this.waiting } = figures);
  }
}

/** A get was rejected because `maxWaiting` callers were in line already. */
export class PoolExhaustedError extends Error implements PoolFigures {
  /** Resources open at that moment, those being opened and closed included. */
  readonly open: number;
  /** Resources borrowed or being pinged at that moment. */
  readonly inUse: number;
  /** Callers in line at that moment. */
  readonly waiting: number;

  /** Makes the error; the figures are added to the message. */
  constructor(message: string, figures: PoolFigures, options?: ErrorOptions) {
    super(`${message}: ${describe(figures)}`, options);
    this.name = "PoolExhaustedError";
    ({ open: this.open, inUse: this.inUse, waiting: this.waiting } = figures);
  }
}

/**
 * A borrowed resource that goes back by itself at the end of a `using` block.
 * Disposing of a lease that is over does nothing, so a resource found broken may
 * be discarded inside the block. A lease that is over never touches its resource
 * again, also when somebody else has borrowed it since.
 */
export interface Lease<T> extends Disposable, AsyncDisposable {
  /** The resource; the borrower's until the lease is over. */
  readonly value: T;
  /** Gives the resource back. Throws `TypeError` if the lease is over. */
  put(): void;
  /** Closes the resource. Throws `TypeError` if the lease is over. */
  discard(): void;
}

/** How often the reaper looks where only `minIdle` gives it work. */
const DEFAULT_REAP_INTERVAL = 1_000;
/** Lifetimes are shortened by up to this share, as the contract of `maxLifetime` says. */
const LIFETIME_SPREAD = 0.1;
/** A count that may be nothing, and may be without limit. */
const ANY_COUNT = { min: 0, max: Infinity };
const AT_LEAST_ONE = { min: 1, max: Infinity };
/** The shortest limit, in ticks, that may be judged by a shared reading. */
const SHARING_LIMIT = 100;

/**
 * Lends resources, opens them when they are missing, and closes what is broken,
 * expired or too many.
 *
 * - At most `maxCap` are open at once; a place is free only when the close of its
 *   resource has ended.
 * - FIFO order: waiters are served in the order they came, and a newcomer never
 *   passes one.
 * - A waiter owns no call of the factory: whichever resource comes first, by a put
 *   or by the factory, serves the first in line. A resource whose waiter gave up
 *   goes to the next waiter, or is kept idle.
 * - A failed factory rejects one waiter and lets the next one try.
 * - Every get settles once its timeout, its signal, the factory's outcome or the
 *   pool's close says so, also when a callback never ends.
 * - A callback may call any method of the pool, and may throw.
 * - Limits are kept to the millisecond. Only a pool in constant use whose process
 *   is suspended may lend a few resources, 16 at most, before it knows the time.
 *
 * The caller owns a resource from the moment the get resolves until the put or
 * discard, and must not touch it afterwards. The pool tells resources apart by
 * identity and cannot tell borrowers apart: where code may give back twice, use
 * {@linkcode Pool.use} or {@linkcode Pool.lease}, which can.
 *
 * @example Closed when the block ends
 * ```ts
 * import { Pool } from "@wirepool/net/pool";
 * import { assertEquals } from "@std/assert";
 *
 * const closed: string[] = [];
 * {
 *   await using pool = await Pool.open({
 *     factory: () => "resource",
 *     close: (resource) => closed.push(resource),
 *     initialCap: 1,
 *   });
 *   assertEquals(pool.stats().idle, 1);
 * }
 * assertEquals(closed, ["resource"]);
 * ```
 *
 * @typeParam T What is pooled: anything but `undefined` and promises.
 */
export class Pool<T> implements AsyncDisposable {
  // What a resource goes through; no step awaits between its check and its change.
  //
  //   state     event                            next
  //   (none)    factory delivers                 loose
  //   loose     settled, at once                 borrowed by the next, idle or closing
  //   borrowed  put, and so settled              borrowed by the next, idle or closing
  //   borrowed  discard                          closing
  //   idle      lent, nothing to verify          borrowed
  //   idle      lent, ping due                   pinging
  //   idle      expired, evicted, surplus        closing
  //   pinging   alive                            loose
  //   pinging   dead, pool closed                closing
  //   closing   close has ended, however         (none): its place is free
  //
  // Always: #open = idle + in use (borrowed, pinging) + opening + closing, and
  // #open <= #maxCap, but for a surplus that a resize left and nothing adds to.
  // Whenever no step is running: more callers stand in line than factory calls and
  // pings are under way only if nothing is idle and nothing more may be opened.

  readonly #factory: (signal: AbortSignal) => T | PromiseLike<T>;
  readonly #dispose: ((resource: T) => unknown) | undefined;
  readonly #ping: ((resource: T) => unknown) | undefined;
  readonly #onError:
    | ((error: unknown, operation: PoolOperation) => void)
    | undefined;
  readonly #hooks: PoolHooks<T>;
  readonly #minIdle: number;
  readonly #idleTimeout: number;
  readonly #maxLifetime: number;
  readonly #getTimeout: number;
  readonly #factoryTimeout: number;
  readonly #pingTimeout: number;
  readonly #pingAfterIdle: number;
  readonly #leaks: LeakDetector;
  readonly #maxWaiting: number;
  readonly #reapInterval: number;
  readonly #lifo: boolean;
  /** Whether any limit needs to know when a resource was lent or put. */
  readonly #timed: boolean;
  #maxCap: number;
  /** `undefined` follows `#maxCap`, as does `#maxOpeningGiven`. */
  #maxIdleGiven: number | undefined;
  readonly #maxOpeningGiven: number | undefined;

  /** Places taken. Counted before anything is awaited, corrected when it fails. */
  #open = 0;
  #closing = 0;
  #pinging = 0;
  /** Every resource that has a place, by identity, in any state. */
  readonly #entries = new Map<T, Entry<T>>();
  /** In the order of their `since`: the longest idle first. */
  readonly #idle = new List<Entry<T>>();
  /** In the order of arrival. */
  readonly #line = new Line<T>((waiter, timeout) =>
    this.#timedOut(waiter, timeout)
  );
  /** One listener for all waiters that share a signal. */
  readonly #groups = new Map<AbortSignal, SignalGroup<T>>();
  readonly #openings = new Set<Opening>();
  /** Resources still to be opened for no waiter: for `initialCap` at first, of
   * which each is tried once; and then for `minIdle`, when the reaper says so. */
  #wanted = 0;
  #starting: boolean;
  /** Grows with every evict and at close: what is older is not kept. */
  #generation = 0;
  #serving = false;
  #lastFailure: { error: unknown } | undefined;
  /** Whoever waits for the first resources to stand. */
  #opener: { left: number; done: () => void; failed: Reject } | undefined;
  #closed: Promise<void> | undefined;
  #drained: () => void = ignore;
  #abandon: Reject = ignore;

  #reaper: Timer | undefined;
  /** Whether the reaper's timer runs; always true where it never has work. */
  #watching: boolean;
  readonly #clock: Clock;

  #getCount = 0;
  #waitCount = 0;
  #waitDuration = 0;
  #timeoutCount = 0;
  #cancelCount = 0;
  #openedCount = 0;
  #openFailedCount = 0;
  #pingFailedCount = 0;
  #maxIdleClosed = 0;
  #idleTimeoutClosed = 0;
  #maxLifetimeClosed = 0;
  #discardedCount = 0;

  /**
   * Makes a pool and, with `initialCap`, starts to open its first resources in
   * the background; their failures go to `onError`. {@linkcode Pool.open} waits
   * for them instead.
   *
   * @throws {TypeError} If an option has the wrong type.
   * @throws {RangeError} If a number is out of its range.
   */
  constructor(options: PoolOptions<T>) {
    checkFunction("Option factory", options.factory);
    this.#factory = options.factory;
    const { close, ping, onError, hooks } = options;
    this.#dispose = functionOption({ close }, "close");
    this.#ping = functionOption({ ping }, "ping");
    this.#onError = functionOption({ onError }, "onError");
    this.#hooks = objectOption({ hooks }, "hooks") ?? {};
    for (const name of ["opened", "closed", "waited"] as const) {
      const hook: unknown = this.#hooks[name];
      if (hook !== undefined) checkFunction(`Option hooks.${name}`, hook);
    }
    const order = choiceOption(options, "idleOrder", "lifo", ["lifo", "fifo"]);
    this.#lifo = order === "lifo";

    this.#maxCap = integerOption(options, "maxCap", 10, AT_LEAST_ONE);
    if (options.maxIdle !== undefined) {
      this.#maxIdleGiven = integerOption(options, "maxIdle", 0, ANY_COUNT);
    }
    if (options.maxOpening !== undefined) {
      this.#maxOpeningGiven = integerOption(
        options,
        "maxOpening",
        1,
        AT_LEAST_ONE,
      );
    }
    this.#maxWaiting = integerOption(
      options,
      "maxWaiting",
      Infinity,
      ANY_COUNT,
    );
    const most = Math.min(
      this.#maxCap,
      this.#maxIdle(),
      Number.MAX_SAFE_INTEGER,
    );
    const kept = { min: 0, max: most };
    const initialCap = integerOption(options, "initialCap", 0, kept);
    this.#minIdle = integerOption(options, "minIdle", 0, kept);

    this.#idleTimeout = limitOption(options, "idleTimeout") || Infinity;
    this.#maxLifetime = limitOption(options, "maxLifetime") || Infinity;
    this.#getTimeout = limitOption(options, "getTimeout");
    this.#factoryTimeout = limitOption(options, "factoryTimeout");
    this.#pingTimeout = limitOption(options, "pingTimeout");
    this.#pingAfterIdle = limitOption(options, "pingAfterIdle");
    const leakTimeout = limitOption(options, "leakTimeout");
    this.#leaks = new LeakDetector(
      leakTimeout,
      (error) => this.#report(error, "leak"),
    );
    const limits = [this.#idleTimeout, this.#maxLifetime, leakTimeout]
      .filter((limit) => limit > 0 && limit < Infinity);
    this.#reapInterval = limitOption(
      options,
      "reapInterval",
      limits.length > 0 ? Math.min(...limits) / 2 : DEFAULT_REAP_INTERVAL,
    );
    if (this.#reapInterval === 0) {
      throw new RangeError(
        "Option reapInterval must be more than 0 ms, received 0",
      );
    }
    const shortest = Math.min(
      ...limits,
      this.#ping !== undefined && this.#pingAfterIdle || Infinity,
    );
    this.#timed = shortest < Infinity;
    this.#clock = new Clock(this.#timed && shortest >= SHARING_LIMIT * TICK);
    this.#watching = limits.length === 0 && this.#minIdle === 0;

    this.#wanted = initialCap;
    this.#starting = initialCap > 0;
    this.#serve();
    if (!this.#watching) this.#watch();
  }

  /**
   * Makes a pool and resolves when its `initialCap` resources stand. If one of
   * them fails, closes the others and rejects with the error.
   *
   * @example Fail at the start, not at the first get
   * ```ts
   * import { Pool } from "@wirepool/net/pool";
   * import { assertRejects } from "@std/assert";
   *
   * const factory = () => Promise.reject(new Error("refused"));
   *
   * await assertRejects(
   *   () => Pool.open({ factory, initialCap: 2 }),
   *   Error,
   *   "refused",
   * );
   * ```
   */
  static async open<T>(options: PoolOptions<T>): Promise<Pool<T>> {
    const pool = new Pool<T>(options);
    const left = pool.#openings.size + pool.#wanted;
    if (left === 0) return pool;
    try {
      await new Promise<void>((done, failed) => {
        pool.#opener = { left, done, failed };
      });
      return pool;
    } catch (error) {
      await pool.close();
      throw error;
    } finally {
      pool.#opener = undefined;
    }
  }

  /**
   * Resolves to a resource: an idle one, or else the first to come back or to be
   * opened. An idle one that is due for a ping is pinged first and replaced if it
   * is dead, within the same get.
   *
   * The timeout and the signal bound all of it. A get that gives up takes nothing
   * with it: what was being opened or pinged goes to the next waiter or is kept.
   *
   * @throws {PoolTimeoutError} If its timeout passes, or `factoryTimeout` does.
   * @throws {PoolExhaustedError} If `maxWaiting` callers are in line already.
   * @throws {PoolClosedError} If the pool is closed, or closes meanwhile.
   * @throws The reason of the signal, or the error of the factory.
   *
   * @example Give up after a while
   * ```ts
   * import { Pool, PoolTimeoutError } from "@wirepool/net/pool";
   * import { assertRejects } from "@std/assert";
   *
   * const pool = new Pool({ factory: () => ({}), maxCap: 1 });
   * const resource = await pool.get();
   *
   * await assertRejects(() => pool.get({ timeout: 5 }), PoolTimeoutError);
   *
   * pool.put(resource);
   * await pool.close();
   * ```
   */
  get(options?: PoolGetOptions): Promise<T> {
    let signal: AbortSignal | undefined;
    let timeout = this.#getTimeout;
    if (options !== undefined) {
      try {
        signal = signalOption(options);
        timeout = limitOption(options, "timeout", timeout);
      } catch (error) {
        return Promise.reject(error);
      }
      // Before anything else: who has left already must not take anything.
      if (signal?.aborted) return this.#canceled(signal);
    }
    const origin = this.#leaks.capture();
    const entry = this.#take(origin);
    if (entry !== undefined) return Promise.resolve(entry.value);
    return this.#wait(signal, timeout, origin);
  }

  /**
   * Returns an idle resource, or `undefined` if there is none to be had at once:
   * it opens nothing, passes no waiter, and leaves what is due for a ping to
   * {@linkcode Pool.get} (with `ping` set and `pingAfterIdle` 0, that is
   * everything).
   */
  tryGet(): T | undefined {
    return this.#take(this.#leaks.capture())?.value;
  }

  /**
   * Gives a borrowed resource back. It goes to the first waiter or becomes idle;
   * it is closed if it is expired, evicted or too many, or the pool is closed.
   *
   * @throws {TypeError} If the resource is not borrowed; nothing changes then.
   */
  put(resource: T): void {
    const entry = this.#borrowed(resource);
    const { trace } = entry;
    this.#settle(entry, this.#timed ? this.#clock.atLeast() : 0);
    if (trace?.reported) {
      this.#leaks.reportReturn(trace, this.#clock.read());
    }
  }

  /**
   * Closes a borrowed resource instead of giving it back, and frees its place
   * when it is closed.
   *
   * @throws {TypeError} If the resource is not borrowed; nothing changes then.
   */
  discard(resource: T): void {
    const entry = this.#borrowed(resource);
    const { trace } = entry;
    this.#retire(entry, "discard");
    if (trace?.reported) {
      this.#leaks.reportReturn(trace, this.#clock.read());
    }
  }

  /**
   * Borrows a resource for one call of `fn`: puts it back when `fn` has returned,
   * discards it when `fn` has thrown, since nobody knows its state then. If `fn`
   * has itself put or discarded it, that is all that happens to it.
   *
   * @example Run with a resource
   * ```ts
   * import { Pool } from "@wirepool/net/pool";
   * import { assertEquals } from "@std/assert";
   *
   * await using pool = new Pool({ factory: () => new Map<string, number>() });
   *
   * const size = await pool.use((map) => map.set("a", 1).size);
   *
   * assertEquals(size, 1);
   * assertEquals(pool.stats().idle, 1);
   * ```
   */
  async use<R>(
    fn: (resource: T) => R | PromiseLike<R>,
    options?: PoolGetOptions,
  ): Promise<R> {
    checkFunction("fn", fn);
    const resource = await this.get(options);
    const entry = this.#borrowed(resource);
    const { serial } = entry;
    let result: R;
    try {
      result = await fn(resource);
    } catch (error) {
      this.#release(entry, serial, "discard");
      throw error;
    }
    this.#release(entry, serial, "put");
    return result;
  }

  /**
   * Borrows a resource for a block of code.
   *
   * @example Put back at the end of the block
   * ```ts
   * import { Pool } from "@wirepool/net/pool";
   * import { assertEquals } from "@std/assert";
   *
   * await using pool = new Pool({ factory: () => ({ name: "a" }) });
   * {
   *   using lease = await pool.lease();
   *   assertEquals(lease.value.name, "a");
   *   assertEquals(pool.stats().inUse, 1);
   * }
   * assertEquals(pool.stats().idle, 1);
   * ```
   */
  async lease(options?: PoolGetOptions): Promise<Lease<T>> {
    const resource = await this.get(options);
    const entry = this.#borrowed(resource);
    const { serial } = entry;
    return new BorrowLease(
      resource,
      (how) => this.#release(entry, serial, how),
    );
  }

  /**
   * Changes the limits while the pool runs. A larger one serves waiters at once; a
   * smaller one closes idle resources, the longest idle first, and the rest of
   * the surplus as it comes back. `maxIdle` and `maxOpening` follow `maxCap` where
   * they were never given, and `minIdle` counts only as far as they allow.
   *
   * @throws {TypeError | RangeError} As the constructor does; nothing changes then.
   */
  resize(limits: PoolLimits): void {
    const maxCap = integerOption(limits, "maxCap", this.#maxCap, AT_LEAST_ONE);
    const maxIdle = integerOption(
      limits,
      "maxIdle",
      this.#maxIdleGiven ?? Infinity,
      ANY_COUNT,
    );
    this.#maxCap = maxCap;
    if (limits.maxIdle !== undefined) this.#maxIdleGiven = maxIdle;
    // Both loops look anew each time: closing may call back into the pool.
    for (let entry; (entry = this.#idle.first()) !== undefined;) {
      if (this.#surplus()) this.#retire(entry, "resize");
      else if (this.#idle.size > this.#maxIdle()) {
        this.#retire(entry, "maxIdle");
      } else break;
    }
    this.#serve();
    if (!this.#watching) this.#watch();
  }

  /**
   * Closes everything that is open now: what is idle at once, and what is
   * borrowed, being opened or pinged as soon as it comes back. For use after the
   * far side has moved or changed its credentials.
   *
   * Given a resource, closes that one alone: for one that says by itself that it
   * has died, idle or not. It need not be in the pool any more.
   */
  evict(resource?: T): void {
    if (resource !== undefined) {
      const entry = this.#entries.get(resource);
      if (entry?.state === "idle") this.#retire(entry, "evict");
      else if (entry !== undefined) entry.generation = -1;
      return;
    }
    const generation = ++this.#generation;
    for (let entry; (entry = this.#idle.first()) !== undefined;) {
      // What is idle and newer came in through a callback, behind what is older.
      if (entry.generation >= generation) break;
      this.#retire(entry, "evict");
    }
  }

  /** Returns a snapshot; taking it costs the same however full the pool is. */
  stats(): PoolStats {
    return {
      open: this.#open,
      idle: this.#idle.size,
      inUse: this.#inUse(),
      opening: this.#openings.size,
      waiting: this.#waiting(),
      getCount: this.#getCount,
      waitCount: this.#waitCount,
      waitDuration: this.#waitDuration,
      timeoutCount: this.#timeoutCount,
      cancelCount: this.#cancelCount,
      openedCount: this.#openedCount,
      openFailedCount: this.#openFailedCount,
      pingFailedCount: this.#pingFailedCount,
      maxIdleClosed: this.#maxIdleClosed,
      idleTimeoutClosed: this.#idleTimeoutClosed,
      maxLifetimeClosed: this.#maxLifetimeClosed,
      discardedCount: this.#discardedCount,
    };
  }

  /**
   * Closes the pool: rejects waiters and further gets with
   * {@linkcode PoolClosedError} at once, aborts the factory's signals, closes what
   * is idle, and the rest as it comes back or is delivered. Resolves when nothing
   * is open any more. Every call returns the same promise.
   *
   * A borrower that never puts, a factory that ignores its signal (unless
   * `factoryTimeout` cuts it) or a close that never ends would hold it up for
   * ever. A `signal`, of any of the calls, ends the wait: the promise then rejects
   * with `signal.reason`, and what comes back later is closed all the same. A
   * rejection nobody handles is not reported.
   *
   * @example Wait for borrowers, but not for ever
   * ```ts
   * import { Pool } from "@wirepool/net/pool";
   * import { assertRejects } from "@std/assert";
   *
   * const pool = new Pool({ factory: () => ({}) });
   * await pool.get(); // and never put
   *
   * const stop = new AbortController();
   * const closing = pool.close({ signal: stop.signal });
   * stop.abort(new Error("waited long enough"));
   *
   * await assertRejects(() => closing, Error, "waited long enough");
   * ```
   */
  close(options: PoolCloseOptions = {}): Promise<void> {
    const signal = options.signal;
    const closed = this.#closed ?? this.#shut();
    if (signal !== undefined && this.#open > 0) {
      const stop = () => this.#abandon(signal.reason);
      const forget = () => signal.removeEventListener("abort", stop);
      signal.addEventListener("abort", stop);
      // Also handles the rejection, for who does not await the close.
      closed.then(forget, forget);
      if (signal.aborted) stop();
    }
    return closed;
  }

  /** The same as {@linkcode Pool.close} without a signal. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ---- Lending -------------------------------------------------------------

  /** Lends an idle resource, if there is one that may be lent as it is. */
  #take(origin: Error | undefined): Entry<T> | undefined {
    if (this.#idle.size === 0) return undefined;
    const now = this.#timed ? this.#clock.atMost() : 0;
    // Looks anew each time: closing an expired one may call back into the pool.
    while (this.#line.size === 0) {
      const entry = this.#next();
      if (entry === undefined) return undefined;
      const reason = this.#expiry(entry, now);
      if (reason === undefined) {
        if (this.#pingDue(entry, now)) return undefined;
        this.#idle.remove(entry);
        this.#lend(entry, now, origin);
        if (!this.#watching) this.#watch();
        return entry;
      }
      this.#retire(entry, reason);
    }
    return undefined;
  }

  /** Stands in line. */
  #wait(
    signal: AbortSignal | undefined,
    timeout: number,
    origin: Error | undefined,
  ): Promise<T> {
    // Again: closing an expired resource may have called back.
    if (signal?.aborted) return this.#canceled(signal);
    if (this.#closed !== undefined) {
      return Promise.reject(new PoolClosedError());
    }
    return new Promise<T>((resolve, reject) => {
      const now = timeout > 0 ? this.#clock.read() : 0;
      const waiter = this.#line.push(resolve, reject, origin, timeout, now);
      const { ticket } = waiter;
      if (signal !== undefined) this.#follow(signal, waiter);
      // A ping that others have left behind may hang: nobody who comes later is
      // to wait for it while something else is idle.
      const pinging = this.#pinging;
      while (
        pinging > 0 && pinging === this.#pinging && waiter.ticket === ticket &&
        this.#offer()
      );
      this.#serve();
      const waiting = this.#waiting();
      // Has it left already, served or turned away by a callback?
      if (waiter.ticket !== ticket || waiting === 0) return;
      if (waiting > this.#maxWaiting) {
        const message = `No room in line, maxWaiting is ${this.#maxWaiting}`;
        const figures = { ...this.#figures(), waiting: waiting - 1 };
        this.#leave(waiter, new PoolExhaustedError(message, figures));
        return;
      }
      this.#waitCount++;
      waiter.counts = true;
      if (timeout === 0) waiter.since = this.#clock.atLeast();
    });
  }

  /** Has the waiter leave when the signal aborts. */
  #follow(signal: AbortSignal, waiter: Waiter<T>): void {
    let group = this.#groups.get(signal);
    if (group === undefined) {
      const waiters = new Set<Waiter<T>>();
      const abort = () => {
        for (const waiter of waiters) {
          this.#cancelCount++;
          this.#leave(waiter, signal.reason);
        }
      };
      group = { signal, waiters, abort };
      this.#groups.set(signal, group);
      signal.addEventListener("abort", abort);
    }
    group.waiters.add(waiter);
    waiter.group = group;
  }

  /** The one way out of the line: with a resource, or else with an error. */
  #leave(waiter: Waiter<T>, error: unknown, entry?: Entry<T>): void {
    const { resolve, reject, group, counts, since } = waiter;
    this.#line.remove(waiter);
    if (group !== undefined) {
      group.waiters.delete(waiter);
      if (group.waiters.size === 0) {
        this.#groups.delete(group.signal);
        group.signal.removeEventListener("abort", group.abort);
      }
    }
    if (entry !== undefined) resolve(entry.value);
    else reject(error);
    if (!counts) return;
    const duration = Math.max(0, this.#clock.atLeast() - since);
    this.#waitDuration += duration;
    if (this.#hooks.waited !== undefined) {
      this.#callHook(() => this.#hooks.waited?.(duration));
    }
  }

  #timedOut(waiter: Waiter<T>, timeout: number): void {
    this.#timeoutCount++;
    const error = new PoolTimeoutError(
      `No resource within ${timeout} ms`,
      this.#figures(),
      this.#lastFailure && { cause: this.#lastFailure.error },
    );
    this.#leave(waiter, error);
  }

  #canceled(signal: AbortSignal): Promise<never> {
    this.#cancelCount++;
    return Promise.reject(signal.reason);
  }

  #lend(entry: Entry<T>, now: number, origin: Error | undefined): void {
    entry.state = "borrowed";
    // Tells this borrow from every other of the same resource.
    entry.serial = ++this.#getCount;
    entry.trace = origin && { origin, since: now, reported: false };
  }

  /**
   * Finds its next place for a resource in nobody's hands: put, delivered or found
   * alive. It goes through the same checks whether it is handed over or kept.
   */
  #settle(entry: Entry<T>, now: number): void {
    const reason = this.#unfit(entry, now) ??
      (this.#surplus() ? "resize" : undefined);
    if (reason !== undefined) {
      this.#retire(entry, reason);
      return;
    }
    const waiter = this.#line.first();
    if (waiter !== undefined) {
      this.#give(entry, waiter, now);
    } else if (this.#idle.size >= this.#maxIdle()) {
      this.#retire(entry, "maxIdle");
    } else {
      entry.state = "idle";
      entry.since = now;
      this.#idle.push(entry);
      if (!this.#watching) this.#watch();
    }
  }

  #give(entry: Entry<T>, waiter: Waiter<T>, now: number): void {
    this.#lend(entry, now, waiter.origin);
    if (!this.#watching) this.#watch();
    this.#leave(waiter, undefined, entry);
  }

  /** Ends one borrow, unless it is over. */
  #release(entry: Entry<T>, serial: number, how: Ending): boolean {
    if (entry.state !== "borrowed" || entry.serial !== serial) return false;
    this[how](entry.value);
    return true;
  }

  #borrowed(resource: T): Entry<T> {
    const entry = this.#entries.get(resource);
    if (entry === undefined || entry.state !== "borrowed") {
      const state = entry === undefined ? "not of this pool" : entry.state;
      throw new TypeError(`The resource is not borrowed, it is ${state}`);
    }
    return entry;
  }

  // ---- Supply --------------------------------------------------------------

  /** Sees to it that something is on its way for everyone in line, as far as may be. */
  #serve(): void {
    // A callback may lead back here; the outer loop then looks again.
    if (this.#serving) return;
    this.#serving = true;
    try {
      while (this.#supply());
    } finally {
      this.#serving = false;
    }
  }

  /** Takes one step for the line or for `minIdle`; false if there is none to take. */
  #supply(): boolean {
    if (this.#line.size <= this.#openings.size + this.#pinging) {
      if (this.#wanted === 0 || !this.#mayOpen()) return false;
      this.#launch();
      return true;
    }
    if (this.#offer()) return true;
    if (!this.#mayOpen()) return false;
    this.#launch();
    return true;
  }

  /** Takes one step with the next idle resource; false if there is none. */
  #offer(): boolean {
    const entry = this.#next();
    if (entry === undefined) return false;
    const now = this.#timed ? this.#clock.atMost() : 0;
    const reason = this.#expiry(entry, now);
    if (reason !== undefined) {
      this.#retire(entry, reason);
    } else if (this.#pingDue(entry, now)) {
      this.#verify(entry);
    } else {
      this.#idle.remove(entry);
      this.#give(entry, this.#line.first()!, now);
    }
    return true;
  }

  #mayOpen(): boolean {
    return this.#open < this.#maxCap &&
      this.#openings.size < (this.#maxOpeningGiven ?? this.#maxCap);
  }

  /** Calls the factory; its outcome arrives in a later turn, also of a synchronous one. */
  #launch(): void {
    this.#open++;
    if (this.#open > this.#maxCap) bug("more open than maxCap");
    // For whomever it is, one less is still to be opened.
    if (this.#wanted > 0) this.#wanted--;
    if (this.#wanted === 0) this.#starting = false;
    const call = new Opening(this.#generation);
    this.#openings.add(call);
    if (isBounded(this.#factoryTimeout)) {
      call.timer = startTimer(() => this.#overdue(call), this.#factoryTimeout);
    }
    if (this.#hooks.opened !== undefined) call.since = this.#clock.read();
    attempt(
      () => this.#factory(call.controller.signal),
      (value) => this.#delivered(call, value),
      (error) => this.#failed(call, error),
    );
  }

  #delivered(call: Opening, value: T): void {
    const known = value === undefined || this.#entries.has(value);
    if (known) {
      // Not to be closed: it is somebody's.
      const what = value === undefined
        ? "undefined"
        : "a resource that is in the pool already";
      this.#failed(call, new TypeError(`The factory delivered ${what}`));
      return;
    }
    if (!this.#openings.delete(call)) {
      // Cut by its timeout, and its place given away.
      this.#end(value, () => this.#tellClosed(value, "late"));
      return;
    }
    clearTimeout(call.timer);
    const now = this.#timed || call.since >= 0 ? this.#clock.read() : 0;
    const lifetime = this.#maxLifetime *
      (1 - LIFETIME_SPREAD * Math.random());
    const entry = new Entry(value, now + lifetime, call.generation);
    this.#entries.set(value, entry);
    this.#openedCount++;
    this.#lastFailure = undefined;
    if (call.since >= 0) {
      this.#callHook(() => this.#hooks.opened?.(value, now - call.since));
    }
    this.#settle(entry, now);
    this.#serve();
    if (this.#opener !== undefined && --this.#opener.left === 0) {
      this.#opener.done();
    }
  }

  #failed(call: Opening, error: unknown): void {
    // Cut by its timeout: this failure is told already.
    if (!this.#openings.delete(call)) return;
    clearTimeout(call.timer);
    this.#open--;
    this.#openFailedCount++;
    this.#lastFailure = { error };
    // Every failure is paid for: by one waiter who has nothing else on its way, or
    // by what was to be opened for no waiter, which for `minIdle` is left until the
    // reaper looks again. Neither can spin.
    const waiter = this.#waiting() > 0 ? this.#line.first() : undefined;
    if (waiter !== undefined) this.#leave(waiter, error);
    else if (!this.#starting) this.#wanted = 0;
    this.#freed();
    if (waiter !== undefined) return;
    if (this.#opener !== undefined) this.#opener.failed(error);
    // What fails after the close does as its signal told it.
    else if (this.#closed === undefined) this.#report(error, "factory");
  }

  #overdue(call: Opening): void {
    const error = new PoolTimeoutError(
      `The factory did not deliver within ${this.#factoryTimeout} ms`,
      this.#figures(),
      this.#lastFailure && { cause: this.#lastFailure.error },
    );
    call.controller.abort(error);
    this.#failed(call, error);
  }

  /** Pings an idle resource, for whoever is first in line when it has answered. */
  #verify(entry: Entry<T>): void {
    this.#idle.remove(entry);
    entry.state = "pinging";
    this.#pinging++;
    if (isBounded(this.#pingTimeout)) {
      entry.timer = startTimer(
        () => this.#unanswered(entry),
        this.#pingTimeout,
      );
    }
    attempt(
      () => this.#ping!(entry.value),
      (answer) => answer === false ? this.#dead(entry) : this.#alive(entry),
      (error) => this.#dead(entry, { error }),
    );
  }

  #alive(entry: Entry<T>): void {
    // Answered after its timeout, or after the pool was closed.
    if (entry.state !== "pinging") return;
    this.#pinging--;
    clearTimeout(entry.timer);
    entry.state = "loose";
    this.#settle(entry, this.#timed ? this.#clock.read() : 0);
    this.#serve();
  }

  #dead(entry: Entry<T>, failure?: { error: unknown }): void {
    if (entry.state !== "pinging") return;
    this.#pingFailedCount++;
    this.#retire(entry, "ping");
    this.#serve();
    if (failure !== undefined) this.#report(failure.error, "ping");
  }

  #unanswered(entry: Entry<T>): void {
    const error = new PoolTimeoutError(
      `The ping did not end within ${this.#pingTimeout} ms`,
      this.#figures(),
    );
    this.#dead(entry, { error });
  }

  // ---- Closing -------------------------------------------------------------

  #retire(entry: Entry<T>, reason: PoolCloseReason): void {
    if (entry.state === "closing") bug("a resource is closed twice");
    if (entry.state === "idle") this.#idle.remove(entry);
    if (entry.state === "pinging") {
      this.#pinging--;
      clearTimeout(entry.timer);
    }
    entry.state = "closing";
    this.#closing++;
    if (reason === "maxIdle") this.#maxIdleClosed++;
    else if (reason === "idleTimeout") this.#idleTimeoutClosed++;
    else if (reason === "maxLifetime") this.#maxLifetimeClosed++;
    else if (reason === "discard") this.#discardedCount++;
    this.#end(entry.value, () => {
      this.#entries.delete(entry.value);
      this.#closing--;
      this.#open--;
      this.#freed();
      this.#tellClosed(entry.value, reason);
    });
  }

  /** Calls the user's `close`; `ended` follows at once where that is synchronous. */
  #end(resource: T, ended: () => void): void {
    let result: unknown;
    try {
      result = this.#dispose?.(resource);
      if (isThenable(result)) {
        Promise.resolve(result).then(ended, (error) => {
          ended();
          this.#report(error, "close");
        });
        return;
      }
    } catch (error) {
      ended();
      this.#report(error, "close");
      return;
    }
    ended();
  }

  /** A place is free. */
  #freed(): void {
    if (this.#open < 0) bug("fewer than no places taken");
    this.#serve();
    if (this.#open === 0) {
      this.#stop();
      if (this.#closed !== undefined) this.#drained();
    }
    if (!this.#watching) this.#watch();
  }

  #tellClosed(resource: T, reason: PoolCloseReason): void {
    if (this.#hooks.closed === undefined) return;
    this.#callHook(() => this.#hooks.closed?.(resource, reason));
  }

  #shut(): Promise<void> {
    this.#closed = new Promise((resolve, reject) => {
      this.#drained = resolve;
      this.#abandon = reject;
    });
    const error = new PoolClosedError();
    this.#generation++;
    this.#wanted = 0;
    this.#stop();
    for (let waiter; (waiter = this.#line.first()) !== undefined;) {
      this.#leave(waiter, error);
    }
    for (const entry of [...this.#entries.values()]) {
      // What is pinged is no borrower's; nobody needs the answer any more.
      if (entry.state === "idle" || entry.state === "pinging") {
        this.#retire(entry, "close");
      }
    }
    for (const call of [...this.#openings]) {
      call.controller.abort(error);
    }
    this.#freed();
    return this.#closed;
  }

  // ---- Time ----------------------------------------------------------------

  /** Starts the reaper if there is something it will have to look at. */
  #watch(): void {
    const open = this.#closed === undefined;
    if (
      (this.#leaks.enabled && this.#inUse() > 0) ||
      (open && this.#idle.size > 0 &&
        Math.min(this.#idleTimeout, this.#maxLifetime) < Infinity) ||
      (open && this.#idle.size < this.#leastIdle() &&
        this.#open < this.#maxCap)
    ) {
      this.#watching = true;
      this.#reaper = startTimer(() => this.#reap(), this.#reapInterval);
      unrefTimer(this.#reaper);
    }
  }

  #stop(): void {
    this.#clock.stop();
    if (this.#reaper === undefined) return;
    clearTimeout(this.#reaper);
    this.#reaper = undefined;
    this.#watching = false;
  }

  #reap(): void {
    this.#reaper = undefined;
    this.#watching = false;
    const now = this.#clock.read();
    // Collected first: closing may call back and change the list.
    const expired: Entry<T>[] = [];
    for (const entry of this.#entries.values()) {
      if (entry.state === "idle" && this.#expiry(entry, now)) {
        expired.push(entry);
      }
    }
    for (const entry of expired) {
      const reason = this.#expiry(entry, now);
      if (entry.state === "idle" && reason) this.#retire(entry, reason);
    }
    if (this.#leaks.enabled) {
      this.#leaks.inspect(this.#entries.values(), now);
    }
    if (this.#closed === undefined) {
      const spare = Math.max(0, this.#openings.size - this.#line.size);
      const missing = this.#leastIdle() - this.#idle.size - spare;
      // No more than there is room for: by the time that there is, it may not be
      // missing any more.
      const room = this.#maxCap - this.#open;
      if (!this.#starting) this.#wanted = Math.max(0, Math.min(missing, room));
      this.#serve();
    }
    if (!this.#watching) this.#watch();
  }

  /** Why it may not be kept or lent, whatever state it is in. */
  #unfit(entry: Entry<T>, now: number): PoolCloseReason | undefined {
    if (entry.generation !== this.#generation) {
      return this.#closed === undefined ? "evict" : "close";
    }
    return now >= entry.expiresAt ? "maxLifetime" : undefined;
  }

  /** Why an idle one may not be lent. */
  #expiry(entry: Entry<T>, now: number): PoolCloseReason | undefined {
    if (now - entry.since >= this.#idleTimeout) return "idleTimeout";
    return this.#unfit(entry, now);
  }

  #pingDue(entry: Entry<T>, now: number): boolean {
    return this.#ping !== undefined &&
      now - entry.since >= this.#pingAfterIdle;
  }

  // ---- Figures and reports -------------------------------------------------

  #next(): Entry<T> | undefined {
    return this.#lifo ? this.#idle.last() : this.#idle.first();
  }

  /** Whether a resource that comes back is one too many since a resize. */
  #surplus(): boolean {
    return this.#open - this.#closing > this.#maxCap;
  }

  #maxIdle(): number {
    return this.#maxIdleGiven ?? this.#maxCap;
  }

  #leastIdle(): number {
    return Math.min(this.#minIdle, this.#maxIdle(), this.#maxCap);
  }

  #inUse(): number {
    return this.#open - this.#idle.size - this.#openings.size - this.#closing;
  }

  /** Callers in line for whom nothing is on its way. */
  #waiting(): number {
    return Math.max(
      0,
      this.#line.size - this.#openings.size - this.#pinging,
    );
  }

  #figures(): PoolFigures {
    return {
      open: this.#open,
      inUse: this.#inUse(),
      waiting: this.#waiting(),
    };
  }

  #report(error: unknown, operation: PoolOperation): void {
    // Of what it throws itself, nobody is left to be told.
    callDetached(() => this.#onError?.(error, operation), ignore);
  }

  #callHook(hook: () => unknown): void {
    callDetached(hook, (error) => this.#report(error, "hook"));
  }
}

type Reject = (reason: unknown) => void;

/** A call of the factory under way. */
class Opening {
  readonly controller = new AbortController();
  /** When it began; negative if nobody wants to know. */
  since = -1;
  timer: Timer | undefined = undefined;

  constructor(readonly generation: number) {}
}

/** Calls at once, and reports the outcome in a later turn however it came. */
function attempt<R>(
  call: () => R | PromiseLike<R>,
  done: (result: R) => void,
  failed: Reject,
): void {
  new Promise<R>((resolve) => resolve(call())).then(done, failed);
}

function describe({ open, inUse, waiting }: PoolFigures): string {
  return `${open} open, ${inUse} in use, ${waiting} waiting`;
}

/** A limit of time. It may be longer than a timer can be: it is then kept by
 * whoever looks at the clock. */
function limitOption<K extends string>(
  options: { readonly [P in K]?: number | undefined },
  name: K,
  fallback = 0,
): number {
  return durationOption(options, name, fallback, Number.MAX_SAFE_INTEGER);
}
