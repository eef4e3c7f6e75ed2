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

import { bug } from "./_bug.ts";
import { callDetached, ignore, isThenable } from "./_callbacks.ts";
import { defer } from "./_deferred.ts";
import {
  checkFunction,
  choiceOption,
  durationOption,
  functionOption,
  integerOption,
  objectOption,
  signalOption,
} from "./_options.ts";
import { Backoff } from "./_pool_backoff.ts";
import { PendingCall } from "./_pool_calls.ts";
import { Clock } from "./_pool_clock.ts";
import { Entry } from "./_pool_entry.ts";
import { placeHeldUntil } from "./_pool_held_places.ts";
import { LeakDetector } from "./_pool_leaks.ts";
import { BorrowLease, type Ending } from "./_pool_lease.ts";
import { Line, type Waiter } from "./_pool_line.ts";
import { WarmList } from "./_pool_list.ts";
import { type Opening, Openings } from "./_pool_openings.ts";
import { Patrol } from "./_pool_patrol.ts";
import { Reaper } from "./_pool_reaper.ts";
import { isBounded, startTimer, type Timer, unrefTimer } from "./_timers.ts";

/** Why a resource was closed, as {@linkcode PoolHooks.closed} is told. */
export type PoolCloseReason =
  | "idleTimeout"
  | "maxLifetime"
  | "maxIdle"
  | "discard"
  | "ping"
  | "reset"
  | "evict"
  | "resize"
  | "close"
  | "late";

/** What failed, as {@linkcode PoolOptions.onError} is told. */
export type PoolOperation =
  | "factory"
  | "close"
  | "ping"
  | "reset"
  | "leak"
  | "hook";

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
  /**
   * Called when a resource has been lent; `waited` is how long its borrower waited
   * in all: in line, for the factory and for the ping.
   */
  acquired?: (resource: T, waited: number) => void;
  /**
   * Called when a borrow has ended by put or discard, or with the pool, before
   * anything follows from that; `held` is how long it lasted.
   */
  released?: (resource: T, held: number) => void;
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
   * has ended, or when `releaseTimeout` has passed.
   */
  close?: (resource: T) => unknown;
  /** Tells whether an idle resource lives: `false`, a throw or a rejection means dead. */
  ping?: (resource: T) => unknown;
  /**
   * Readies a resource for its next borrower: called at its put, before it is
   * handed on or kept; may be async. `false`, a throw or a rejection means that it
   * is closed instead. While it runs, the resource counts as in use, and as on its
   * way to who is first in line. What is closed anyway is not reset: at discard, at
   * a {@linkcode Pool.use} that throws, when evicted, expired or too many.
   */
  reset?: (resource: T) => unknown;
  /**
   * Resources opened at the start; at most `maxCap` and `maxIdle`.
   *
   * @default {0}
   */
  initialCap?: number;
  /**
   * Resources kept open and idle: opened at the start and whenever fewer are left,
   * as far as `maxCap` allows; at most `maxCap` and `maxIdle`. After a failure of
   * the factory the next try waits, for 100 ms doubling to 30 s, until one succeeds
   * or somebody asks.
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
   * lent again; 0 for never. `minIdle` resources are left, however long they have
   * been idle.
   *
   * @default {0}
   */
  idleTimeout?: number;
  /**
   * Milliseconds since its opening after which a resource is closed at the next
   * put, get or look of the reaper; 0 for never. Each resource's own lifetime is
   * shorter by up to 10 %, at random, so that not all expire at once. With
   * `minIdle`, and as far as `maxCap` allows, a replacement is opened at the end of
   * its own lifetime, and the resource may be lent until that stands or
   * `maxLifetime` has passed.
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
   * @default {5000}
   */
  pingTimeout?: number;
  /**
   * Milliseconds one `reset` and one `close` may take; 0 for ever. A resource whose
   * reset takes longer is closed; a close that takes longer is reported to
   * `onError`, and its place is free.
   *
   * @default {5000}
   */
  releaseTimeout?: number;
  /**
   * Milliseconds that {@linkcode Pool.close} waits for what is borrowed before it
   * closes that, too; 0 for ever.
   *
   * @default {10000}
   */
  drainTimeout?: number;
  /**
   * Milliseconds a resource must have been idle and unpinged to be pinged when it
   * is lent; 0 pings every idle one.
   *
   * @default {0}
   */
  pingAfterIdle?: number;
  /**
   * Milliseconds after which the reaper pings what has been idle and unpinged, so
   * that what is dead is found, and replaced up to `minIdle`, before anybody asks;
   * 0 for never. At most a quarter of what is idle is pinged at a time, or one. A
   * ping does not make a resource less idle: it counts for `pingAfterIdle`, not for
   * `idleTimeout`.
   *
   * @default {0}
   */
  pingInterval?: number;
  /**
   * Most calls of the factory under way at once, at least 1. With a small
   * number, a burst of callers is served by what comes back before a slow
   * factory delivers, and opens few resources.
   *
   * @default {maxCap}
   */
  maxOpening?: number;
  /**
   * Most callers in line for whom nothing is being opened, pinged or reset; one more is
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
   * @default {half of the shortest of idleTimeout, maxLifetime, pingInterval and leakTimeout}
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
   * that no waiter needed any more, `"close"`, `"ping"`, `"reset"`, `"leak"`, or
   * `"hook"` for a throwing hook. What `onError` itself throws is dropped: there is nobody
   * left to tell.
   */
  onError?: (error: unknown, operation: PoolOperation) => void;
  /** Observers, for metrics and logs. */
  hooks?: PoolHooks<T>;
}

/** Options of {@linkcode Pool.get}, {@linkcode Pool.use} and {@linkcode Pool.lease}. */
export interface PoolGetOptions {
  /** Gives up when aborted: the get rejects with `signal.reason`. */
  signal?: AbortSignal | null | undefined;
  /**
   * Milliseconds the get may take in all; 0 for ever. While gets with 16 other
   * timeouts are in line, further ones are rounded up by at most 1/16.
   *
   * @default {getTimeout of the pool}
   */
  timeout?: number | undefined;
}

/** Options of {@linkcode Pool.close}. */
export interface PoolCloseOptions {
  /** Ends the wait for what is not yet back, not the closing itself. */
  signal?: AbortSignal | null | undefined;
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
  /** Resources borrowed, or being pinged or reset. */
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
  /** Resources borrowed, or being pinged or reset. */
  inUse: number;
  /** Calls of the factory under way. */
  opening: number;
  /** Callers in line for whom nothing is being opened, pinged or reset. */
  waiting: number;
  /** Everybody in line. */
  pending: number;
  /** Most resources open at once, as it is now. */
  maxCap: number;
  /** Whether {@linkcode Pool.close} has been called. */
  closed: boolean;
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
  /** Resources that could not be reset. */
  resetFailedCount: number;
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
 * A get or the call of a callback took longer than it may. `cause` is the last
 * failure of the factory, if it has not delivered since.
 */
export class PoolTimeoutError extends Error implements PoolFigures {
  /** Resources open at that moment, those being opened and closed included. */
  readonly open: number;
  /** Resources borrowed, or being pinged or reset at that moment. */
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
  /** Resources borrowed, or being pinged or reset at that moment. */
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

/** Lifetimes are shortened by up to this share, as the contract of `maxLifetime` says. */
const LIFETIME_SPREAD = 0.1;
/** And by no less than this share where a replacement must stand before. */
const LEAST_LEAD = 0.05;
/** A count that may be nothing, and may be without limit. */
const ANY_COUNT = { min: 0, max: Infinity };
const AT_LEAST_ONE = { min: 1, max: Infinity };
const HOOKS = ["opened", "closed", "waited", "acquired", "released"] as const;

/**
 * Lends resources, opens them when they are missing, and closes what is broken,
 * expired or too many.
 *
 * - At most `maxCap` are open at once; a place is free only when the close of its
 *   resource has ended, or is overdue.
 * - FIFO order: waiters are served in the order they came, and a newcomer never
 *   passes one.
 * - A waiter owns no call of the factory: whichever resource comes first, by a put
 *   or by the factory, serves the first in line. A resource whose waiter gave up
 *   goes to the next waiter, or is kept idle.
 * - A failed factory rejects one waiter and lets the next one try.
 * - Every get settles once its timeout, its signal, the factory's outcome or the
 *   pool's close says so, also when a callback never ends.
 * - Nobody who uses a pool with `minIdle` below `maxCap` finds it empty because of a
 *   limit: replacements come first.
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
  //   state      event                            next
  //   (none)     factory delivers                 loose
  //   loose      passed on, at once               borrowed by the next, idle or closing
  //   borrowed   put                              resetting, or loose
  //   borrowed   discard, drained                 closing
  //   resetting  ready                            loose
  //   resetting  failed, evicted, pool closed     closing
  //   idle       lent, nothing to ask             borrowed
  //   idle       lent or patrolled, ping due      pinging
  //   idle       expired, evicted, surplus        closing
  //   pinging    alive                            loose
  //   pinging    dead, pool closed                closing
  //   closing    close has ended or is overdue    (none): its place is free
  //
  // Always: #open = idle + in use (borrowed, resetting, pinging) + opening +
  // closing, and #open <= #maxCap, but for a surplus that a resize left and nothing
  // adds to. Whenever no step is running: more callers stand in line than factory
  // calls, pings and resets are under way only if nothing is idle and nothing more
  // may be opened.
  //
  // A method marked "Calls back" may run callbacks of the user before it returns,
  // and those may call any public method. Who calls such a method must leave the
  // state whole before, and look anew after at whatever it knew.

  readonly #close: ((resource: T) => unknown) | undefined;
  /** It is also given how long the resource was idle, which a ping of the user's
   * need not know, and the client's does. */
  readonly #ping: ((resource: T, idle: number) => unknown) | undefined;
  readonly #reset: ((resource: T) => unknown) | undefined;
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
  readonly #pingInterval: number;
  readonly #releaseTimeout: number;
  readonly #drainTimeout: number;
  readonly #maxWaiting: number;
  readonly #lifo: boolean;
  /** Whether any limit needs to know when a resource was lent or put. */
  readonly #timed: boolean;
  /** Whether a limit or a hook needs to know how long anybody waited or held. */
  readonly #noting: boolean;
  /** Whether the reaper ever has work. */
  readonly #reaping: boolean;
  #maxCap: number;
  /** `undefined` follows `#maxCap`, as does `#maxOpeningGiven`. */
  #maxIdleGiven: number | undefined;
  readonly #maxOpeningGiven: number | undefined;
  /** `minIdle`, as far as the other limits allow it; 0 in a closed pool. */
  #leastIdle = 0;

  /** Places taken. Counted before anything is awaited, corrected when it fails. */
  #open = 0;
  #closing = 0;
  /** Of those closing, the places that failed calls of the factory still keep. */
  #held = 0;
  #pinging = 0;
  #resetting = 0;
  /** The time of the step under way, if there are limits; 0 if there are none. A
   * field rather than an argument: numbers with fractions cost memory to pass. */
  #now = 0;
  /** Every resource that has a place, by identity, in any state. */
  readonly #entries = new Map<T, Entry<T>>();
  #lastLent: Entry<T> | undefined;
  /** In the order of their puts: the longest idle first. */
  readonly #idle = new WarmList<Entry<T>>();
  #puts = 0;
  /** Those idle that are kept only until their replacements stand. */
  readonly #aged = new Set<Entry<T>>();
  /** How many of the idle are not among those. */
  #fresh = 0;
  readonly #openings: Openings<T>;
  /** Of `initialCap`, those that no call of the factory has been made for. */
  #initial: number;
  /** Between tries to open for `minIdle`, after a failure. */
  readonly #backoff = new Backoff(() => this.#serve());
  /** Grows with every `evictAll` and at close: what is older is not kept. */
  #generation = 0;
  #serving = false;
  #lastFailure: { error: unknown } | undefined;
  /** Whoever waits for the first resources to stand. */
  #opener: { left: number; done: () => void; failed: Reject } | undefined;

  #closed: Promise<void> | undefined;
  #resolveClosed: () => void = ignore;
  #rejectClosed: Reject = ignore;
  #drainTimer: Timer | undefined;
  /** What was closed in its borrower's hands, by its borrow, until it is put. */
  readonly #drained = new Map<T, number>();

  readonly #clock: Clock;
  /** In the order of arrival. */
  readonly #line: Line<T>;
  readonly #leaks: LeakDetector;
  readonly #reaper: Reaper;
  /** The reaper's pass over what has been idle and unpinged. */
  readonly #patrol = new Patrol<Entry<T>>((entry) => this.#visit(entry));
  /** Pings that do not keep the process alive, since nobody waits. */
  readonly #unheld = new Set<PendingCall>();

  #getCount = 0;
  #waitCount = 0;
  #waitDuration = 0;
  #timeoutCount = 0;
  #cancelCount = 0;
  #openedCount = 0;
  #openFailedCount = 0;
  #pingFailedCount = 0;
  #resetFailedCount = 0;
  #maxIdleClosed = 0;
  #idleTimeoutClosed = 0;
  #maxLifetimeClosed = 0;
  #discardedCount = 0;

  /**
   * Makes a pool and, with `initialCap` or `minIdle`, starts to open its first
   * resources in the background; their failures go to `onError`.
   * {@linkcode Pool.open} waits for them instead.
   *
   * @throws {TypeError} If an option has the wrong type.
   * @throws {RangeError} If a number is out of its range.
   */
  constructor(options: PoolOptions<T>) {
    const { factory, close, ping, reset, onError, hooks } = options;
    checkFunction("Option factory", factory);
    this.#close = functionOption({ close }, "close");
    this.#ping = functionOption({ ping }, "ping");
    this.#reset = functionOption({ reset }, "reset");
    this.#onError = functionOption({ onError }, "onError");
    this.#hooks = objectOption({ hooks }, "hooks") ?? {};
    for (const name of HOOKS) {
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
    this.#initial = integerOption(options, "initialCap", 0, kept);
    this.#minIdle = integerOption(options, "minIdle", 0, kept);
    this.#leastIdle = this.#minIdle;

    this.#idleTimeout = limitOption(options, "idleTimeout", 0) || Infinity;
    this.#maxLifetime = limitOption(options, "maxLifetime", 0) || Infinity;
    this.#getTimeout = limitOption(options, "getTimeout", 0);
    this.#factoryTimeout = limitOption(options, "factoryTimeout", 0);
    this.#pingTimeout = limitOption(options, "pingTimeout", 5_000);
    this.#releaseTimeout = limitOption(options, "releaseTimeout", 5_000);
    this.#drainTimeout = limitOption(options, "drainTimeout", 10_000);
    this.#pingAfterIdle = limitOption(options, "pingAfterIdle", 0);
    this.#pingInterval = limitOption(options, "pingInterval", 0);
    if (ping === undefined) this.#pingInterval = 0;
    const leakTimeout = limitOption(options, "leakTimeout", 0);
    const reaped = [
      this.#idleTimeout,
      this.#maxLifetime,
      this.#pingInterval,
      leakTimeout,
    ].filter((limit) => limit > 0 && limit < Infinity);
    this.#reaping = reaped.length > 0;
    const reapInterval = limitOption(
      options,
      "reapInterval",
      this.#reaping ? Math.min(...reaped) / 2 : 1_000,
    );
    if (reapInterval === 0) {
      throw new RangeError(
        "Option reapInterval must be more than 0 ms, received 0",
      );
    }
    const shortest = Math.min(
      ...reaped,
      ping !== undefined && this.#pingAfterIdle || Infinity,
    );
    this.#timed = shortest < Infinity;
    const { acquired, released } = this.#hooks;
    this.#noting = acquired !== undefined || released !== undefined;

    this.#clock = new Clock(
      shortest,
      (stamp, now) => this.#line.restamp(stamp, now),
    );
    this.#line = new Line<T>(this.#clock, {
      timedOut: (waiter, timeout) => this.#timedOut(waiter, timeout),
      aborted: (waiter, reason) => this.#aborted(waiter, reason),
    });
    this.#leaks = new LeakDetector(
      leakTimeout,
      (error) => this.#report(error, "leak"),
    );
    this.#reaper = new Reaper(reapInterval, () => this.#reap());
    this.#openings = new Openings<T>(factory, this.#factoryTimeout, {
      delivered: (value, opening) => this.#delivered(value, opening),
      failed: (error, opening) => this.#openFailed(error, opening),
      deliveredLate: (value) => this.#deliveredLate(value),
      overdue: () =>
        this.#overdue("The factory did not deliver", this.#factoryTimeout),
    });
    this.#serve();
  }

  /**
   * Makes a pool and resolves when its `initialCap` resources stand. If one of
   * them fails, rejects with its error at once; the others are closed in the
   * background.
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
    const left = options.initialCap ?? 0;
    if (left === 0) return pool;
    try {
      await new Promise<void>((done, failed) => {
        pool.#opener = { left, done, failed };
      });
      return pool;
    } catch (error) {
      // Nobody waits for that: it needs no limit.
      if (pool.#closed === undefined) pool.#shut(0);
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
   * with it: what was being opened, pinged or reset goes to the next waiter or is
   * kept.
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
    if (options !== undefined && options !== null) {
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
   * it passes no waiter, and leaves what is due for a ping to
   * {@linkcode Pool.get} (with `ping` set and `pingAfterIdle` 0, that is
   * everything). It opens nothing but what `minIdle` then asks for.
   */
  tryGet(): T | undefined {
    return this.#take(this.#leaks.capture())?.value;
  }

  /**
   * Gives a borrowed resource back, at once for the caller. After its `reset`, if
   * there is one, it goes to the first waiter or becomes idle; it is closed if it
   * is expired, evicted or too many, or the pool is closed.
   *
   * @throws {TypeError} If the resource is not borrowed; nothing changes then. One
   * that {@linkcode Pool.close} has closed in its borrower's hands may be put once.
   */
  put(resource: T): void {
    const entry = this.#borrowed(resource);
    if (entry === undefined) return;
    const { trace } = entry;
    entry.state = "loose";
    if (this.#noting) this.#tellReleased(entry);
    if (this.#timed) this.#now = this.#clock.atLeast();
    if (this.#reset !== undefined) this.#startReset(entry, this.#reset);
    else this.#passOn(entry);
    if (trace?.reported) this.#leaks.reportReturn(trace, this.#clock.read());
  }

  /**
   * Closes a borrowed resource instead of giving it back, and frees its place
   * when it is closed.
   *
   * @throws {TypeError} If the resource is not borrowed, as with
   * {@linkcode Pool.put}; nothing changes then.
   */
  discard(resource: T): void {
    const entry = this.#borrowed(resource);
    if (entry === undefined) return;
    const { trace } = entry;
    entry.state = "loose";
    if (this.#noting) this.#tellReleased(entry);
    this.#retire(entry, "discard");
    if (trace?.reported) this.#leaks.reportReturn(trace, this.#clock.read());
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
    const entry = this.#entries.get(resource);
    const serial = entry?.serial ?? 0;
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
    const entry = this.#entries.get(resource);
    const serial = entry?.serial ?? 0;
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
    if (this.#closed === undefined) {
      this.#leastIdle = Math.min(this.#minIdle, this.#maxIdle(), maxCap);
    }
    // Looks anew each time: closing may call back into the pool.
    for (let entry; (entry = this.#idle.first()) !== undefined;) {
      if (this.#surplus()) this.#retire(entry, "resize");
      else if (this.#idle.size > this.#maxIdle()) {
        this.#retire(entry, "maxIdle");
      } else break;
    }
    this.#serve();
  }

  /**
   * Has a resource pinged before it is lent next, however short a time it has been
   * idle: for one that may have died. It need not be in the pool any more.
   */
  recheck(resource: T): void {
    const entry = this.#entries.get(resource);
    if (entry?.state === "idle") entry.checkedAt = -Infinity;
  }

  /**
   * Closes one resource: at once if it is idle or being reset, and else as soon as
   * it comes back. For one that says by itself that it has died. It need not be in
   * the pool any more.
   *
   * @throws {TypeError} If it is `undefined`, which is no resource:
   * {@linkcode Pool.evictAll} closes all.
   */
  evict(resource: T): void {
    if (resource === undefined) {
      throw new TypeError(
        "The resource to evict must not be undefined: evictAll() closes all",
      );
    }
    const entry = this.#entries.get(resource);
    if (entry === undefined) return;
    if (entry.state === "idle" || entry.state === "resetting") {
      this.#retire(entry, "evict");
    } else {
      entry.generation = -1;
    }
  }

  /**
   * Closes everything that is open now: what is idle or being reset at once, and
   * what is borrowed, being opened or pinged as soon as it comes back. For use
   * after the far side has moved or changed its credentials.
   */
  evictAll(): void {
    const generation = ++this.#generation;
    for (const entry of [...this.#entries.values()]) {
      if (entry.generation === generation) continue;
      if (entry.state === "idle" || entry.state === "resetting") {
        this.#retire(entry, "evict");
      }
    }
  }

  /** Returns a snapshot; taking it costs the same however full the pool is. */
  stats(): PoolStats {
    return {
      open: this.#open,
      idle: this.#idle.size,
      inUse: this.#inUse(),
      opening: this.#openings.size,
      waiting: this.#unsupplied(),
      pending: this.#line.size,
      maxCap: this.#maxCap,
      closed: this.#closed !== undefined,
      getCount: this.#getCount,
      waitCount: this.#waitCount,
      waitDuration: this.#waitDuration,
      timeoutCount: this.#timeoutCount,
      cancelCount: this.#cancelCount,
      openedCount: this.#openedCount,
      openFailedCount: this.#openFailedCount,
      pingFailedCount: this.#pingFailedCount,
      resetFailedCount: this.#resetFailedCount,
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
   * What is not back after `drainTimeout` is closed in its borrower's hands, so
   * that a forgotten put cannot hold this up for ever; putting it later does
   * nothing. A factory that still ignores its signal then is waited for no longer.
   * A `signal`, of any of the calls, ends the wait before: the promise then rejects
   * with `signal.reason`, and what comes back later is closed all the same. A
   * rejection nobody handles is not reported.
   *
   * @throws {TypeError} If the signal is none, in a promise of its own; the pool is
   * not closed then.
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
  close(options?: PoolCloseOptions): Promise<void> {
    let signal: AbortSignal | undefined;
    try {
      signal = signalOption(options);
    } catch (error) {
      return Promise.reject(error);
    }
    const closed = this.#closed ?? this.#shut(this.#drainTimeout);
    if (signal !== undefined && this.#open > this.#held) {
      const stop = () => {
        this.#rejectClosed(signal.reason);
        this.#unholdDrain();
      };
      const forget = () => signal.removeEventListener("abort", stop);
      signal.addEventListener("abort", stop);
      // Also handles the rejection, for who does not await the close.
      closed.then(forget, forget);
      if (signal.aborted) stop();
    }
    return closed;
  }

  /** The same as {@linkcode Pool.close} without a signal: at the end of an
   * `await using` block, it takes `drainTimeout` at most, and then lets the error
   * through that may have ended the block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ---- Lending -------------------------------------------------------------

  /** Lends an idle resource, if there is one that may be lent as it is. Calls
   * back. */
  #take(origin: Error | undefined): Entry<T> | undefined {
    if (this.#idle.size === 0 || this.#line.size > 0) return undefined;
    if (this.#timed) this.#now = this.#clock.atMost();
    while (this.#closeUnfitIdle()) {
      // That may have called back.
      if (this.#line.size > 0) return undefined;
    }
    const entry = this.#nextIdle();
    if (entry === undefined || this.#pingDue(entry)) return undefined;
    this.#removeIdle(entry);
    this.#lend(entry, origin);
    if (this.#fresh < this.#leastIdle) {
      // Somebody has asked: there is no reason to wait any longer.
      this.#backoff.reset();
      this.#serve();
    }
    if (this.#noting) this.#tellAcquired(entry, 0);
    return entry;
  }

  /** Stands in line. Calls back. */
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
    const { promise, resolve, reject } = defer<T>();
    const stamped = timeout > 0 || this.#noting;
    const now = stamped ? this.#clock.stamp() : 0;
    const waiter = this.#line.push(resolve, reject, origin, timeout, now);
    const { ticket } = waiter;
    if (signal !== undefined) this.#line.follow(waiter, signal);
    this.#backoff.ask();
    if (this.#unheld.size > 0) this.#holdPings();
    // A ping or a reset that others have left behind may hang: nobody who comes
    // later is to wait for it while something else is idle.
    const checks = this.#pinging + this.#resetting;
    while (
      checks > 0 && checks === this.#pinging + this.#resetting &&
      waiter.ticket === ticket && this.#offerIdle()
    );
    this.#serve();
    const waiting = this.#unsupplied();
    // Has it left already, served or turned away by a callback?
    if (waiter.ticket !== ticket || waiting === 0) return promise;
    if (waiting > this.#maxWaiting) {
      const message = `No room in line, maxWaiting is ${this.#maxWaiting}`;
      const figures = { ...this.#figures(), waiting: waiting - 1 };
      this.#turnAway(waiter, new PoolExhaustedError(message, figures));
      return promise;
    }
    this.#waitCount++;
    waiter.counts = true;
    if (!stamped) waiter.since = this.#clock.stamp();
    return promise;
  }

  /** The way out of the line with a resource. Calls back. */
  #handOver(entry: Entry<T>, waiter: Waiter<T>): void {
    const { resolve, counts, since } = waiter;
    this.#lend(entry, waiter.origin);
    this.#line.remove(waiter);
    resolve(entry.value);
    if (!counts && !this.#noting) return;
    const end = this.#timed ? this.#now : this.#clock.atLeast();
    const duration = end > since ? end - since : 0;
    if (counts) this.#countWait(duration);
    if (this.#noting) this.#tellAcquired(entry, duration);
  }

  /** The way out of the line with an error. Calls back. */
  #turnAway(waiter: Waiter<T>, error: unknown): void {
    const { reject, counts, since } = waiter;
    this.#line.remove(waiter);
    reject(error);
    if (counts) this.#countWait(Math.max(0, this.#clock.atLeast() - since));
  }

  /** Calls back. */
  #countWait(duration: number): void {
    this.#waitDuration += duration;
    if (this.#hooks.waited !== undefined) {
      this.#callHook(() => this.#hooks.waited?.(duration));
    }
  }

  /** Calls back. */
  #timedOut(waiter: Waiter<T>, timeout: number): void {
    this.#timeoutCount++;
    this.#turnAway(waiter, this.#overdue("No resource", timeout));
  }

  /** Calls back. */
  #aborted(waiter: Waiter<T>, reason: unknown): void {
    this.#cancelCount++;
    this.#turnAway(waiter, reason);
  }

  #canceled(signal: AbortSignal): Promise<never> {
    this.#cancelCount++;
    return Promise.reject(signal.reason);
  }

  /** Notes a borrow. */
  #lend(entry: Entry<T>, origin: Error | undefined): void {
    entry.state = "borrowed";
    this.#lastLent = entry;
    // Tells this borrow from every other of the same resource.
    entry.serial = ++this.#getCount;
    if (origin !== undefined) {
      entry.trace = { origin, since: this.#now, reported: false };
      if (!this.#reaper.running) this.#startReaper();
    } else {
      entry.trace = undefined;
    }
    if (this.#noting) entry.lentAt = this.#clock.atLeast();
  }

  /**
   * Finds its next place for a resource in nobody's hands: put and reset,
   * delivered or found alive. It goes through the same checks whether it is handed
   * over or kept. Calls back.
   *
   * @param order Its place among the idle, unless it is the newest.
   */
  #passOn(entry: Entry<T>, order?: number): void {
    const reason = this.#unfit(entry) ??
      (this.#surplus() ? "resize" : undefined);
    if (reason !== undefined) {
      this.#retire(entry, reason);
      return;
    }
    const waiter = this.#line.first();
    if (waiter !== undefined) this.#handOver(entry, waiter);
    else this.#keep(entry, order);
  }

  /** Calls back. */
  #keep(entry: Entry<T>, order: number | undefined): void {
    const full = this.#idle.size >= this.#maxIdle();
    if (full && (this.#aged.size === 0 || entry.aged)) {
      this.#retire(entry, "maxIdle");
      return;
    }
    entry.state = "idle";
    entry.checkedAt = this.#now;
    if (order === undefined) {
      entry.since = this.#now;
      entry.order = ++this.#puts;
      this.#idle.push(entry);
    } else {
      this.#idle.insert(entry, (other) => other.order < order);
    }
    if (entry.aged) this.#aged.add(entry);
    else this.#fresh++;
    if (this.#reaping && !this.#reaper.running) this.#startReaper();
    if (this.#fresh < this.#idle.size) this.#closeReplaced(full);
    if (this.#fresh < this.#leastIdle) this.#serve();
  }

  /** Ends one borrow, unless it is over. Calls back. */
  #release(entry: Entry<T> | undefined, serial: number, how: Ending): boolean {
    if (entry?.serial !== serial) return false;
    const { state, value } = entry;
    if (state !== "borrowed" && this.#drained.get(value) !== serial) {
      return false;
    }
    this[how](value);
    return true;
  }

  /** What is borrowed; `undefined` for what was closed in its borrower's hands. */
  #borrowed(resource: T): Entry<T> | undefined {
    // The one lent last need not be looked up: with a single caller it is the one.
    let entry = this.#lastLent;
    if (entry === undefined || entry.value !== resource) {
      entry = this.#entries.get(resource);
    }
    if (entry !== undefined && entry.state === "borrowed") return entry;
    if (this.#drained.delete(resource)) return undefined;
    const state = entry === undefined ? "not of this pool" : entry.state;
    throw new TypeError(`The resource is not borrowed, it is ${state}`);
  }

  // ---- Idle resources --------------------------------------------------------

  #nextIdle(): Entry<T> | undefined {
    return this.#lifo ? this.#idle.last() : this.#idle.first();
  }

  #removeIdle(entry: Entry<T>): void {
    this.#idle.remove(entry);
    if (entry.aged) this.#aged.delete(entry);
    else this.#fresh--;
  }

  /** Closes one that is idle and may not be lent, before one that may; false if
   * there is none. Calls back. */
  #closeUnfitIdle(): boolean {
    const coldest = this.#idle.first();
    if (coldest === undefined) return false;
    if (
      this.#now - coldest.since >= this.#idleTimeout &&
      this.#idle.size > this.#leastIdle
    ) {
      this.#retire(coldest, "idleTimeout");
      return true;
    }
    const entry = this.#nextIdle()!;
    const reason = this.#unfit(entry);
    if (reason === undefined) return false;
    this.#retire(entry, reason);
    return true;
  }

  /** Why a resource may not be kept or lent, whatever state it is in. */
  #unfit(entry: Entry<T>): PoolCloseReason | undefined {
    if (entry.generation !== this.#generation) {
      return this.#closed === undefined ? "evict" : "close";
    }
    if (this.#now < entry.agesAt) return undefined;
    return this.#outlived(entry) ? "maxLifetime" : undefined;
  }

  /**
   * Whether a resource is to go that has come to the end of its own lifetime.
   * Where `minIdle` would miss it, it stays until its replacement stands, or until
   * `maxLifetime`.
   */
  #outlived(entry: Entry<T>): boolean {
    if (this.#now >= entry.expiresAt || this.#leastIdle === 0) return true;
    const idle = entry.state === "idle";
    const others = this.#idle.size - (idle ? 1 : 0);
    if (others >= this.#leastIdle) return true;
    if (!entry.aged) {
      entry.aged = true;
      if (idle) {
        this.#aged.add(entry);
        this.#fresh--;
      }
    }
    // There is room for its replacement, or will be.
    if (
      this.#open < this.#maxCap || this.#openings.size > 0 || this.#closing > 0
    ) return false;
    // It makes room itself, unless nobody would find anything then.
    return others > 0 || this.#line.size > 0;
  }

  /** Closes those whose replacements stand, one for each, which makes room for the
   * next replacement; and `inTheWay` one that leaves no room for its own. Calls
   * back. */
  #closeReplaced(inTheWay: boolean): void {
    while (inTheWay || this.#idle.size > this.#leastIdle) {
      const [aged] = this.#aged;
      if (aged === undefined) return;
      this.#retire(aged, "maxLifetime");
      inTheWay = false;
    }
  }

  // ---- Supply --------------------------------------------------------------

  /** Sees to it that something is on its way for everyone in line, and for
   * `minIdle`, as far as may be. Calls back. */
  #serve(): void {
    // The usual case of a busy pool: nothing is there, and nothing may be opened.
    if (this.#idle.size === 0 && this.#open >= this.#maxCap) return;
    // A callback may lead back here; the outer loop then looks again.
    if (this.#serving) return;
    this.#serving = true;
    try {
      while (this.#serveStep());
    } finally {
      this.#serving = false;
    }
  }

  /** Takes one step; false if there is none to take. Calls back. */
  #serveStep(): boolean {
    const spare = this.#onItsWay() - this.#line.size;
    if (spare >= 0) {
      if (!this.#idleMissing(spare) || !this.#mayOpen()) return false;
    } else {
      if (this.#offerIdle()) return true;
      if (!this.#mayOpen()) return false;
    }
    this.#startOpening();
    return true;
  }

  /** Takes one step with the next idle resource, for who is first in line; false
   * if there is none. Calls back. */
  #offerIdle(): boolean {
    if (this.#timed) this.#now = this.#clock.atMost();
    if (this.#closeUnfitIdle()) return true;
    const entry = this.#nextIdle();
    const waiter = this.#line.first();
    if (entry === undefined || waiter === undefined) return false;
    if (this.#pingDue(entry)) {
      this.#startPing(entry, false);
    } else {
      this.#removeIdle(entry);
      this.#handOver(entry, waiter);
    }
    return true;
  }

  /** Whether one more is to be opened for nobody; `spare` of those that are on
   * their way are for nobody already. */
  #idleMissing(spare: number): boolean {
    if (this.#initial > 0) return true;
    return this.#fresh + spare < this.#leastIdle && !this.#backoff.pausing;
  }

  #mayOpen(): boolean {
    return this.#open < this.#maxCap &&
      this.#openings.size < (this.#maxOpeningGiven ?? this.#maxCap);
  }

  /** Calls the factory, and so calls back. */
  #startOpening(): void {
    this.#open++;
    if (this.#open > this.#maxCap) bug("more open than maxCap");
    // For whomever it is, one less is still to be opened at the start.
    const initial = this.#initial > 0;
    if (initial) this.#initial--;
    const since = this.#hooks.opened === undefined ? 0 : this.#clock.read();
    this.#openings.start(since, this.#generation, initial);
  }

  /** Calls back. */
  #delivered(value: T, opening: Opening): void {
    const { since, generation, initial } = opening;
    if (value === undefined || this.#entries.has(value)) {
      // Not to be closed: it is somebody's.
      const what = value === undefined
        ? "undefined"
        : "a resource that is in the pool already";
      const error = new TypeError(`The factory delivered ${what}`);
      this.#openFailed(error, opening);
      return;
    }
    const { opened } = this.#hooks;
    const now = this.#timed || opened !== undefined ? this.#clock.read() : 0;
    if (this.#timed) this.#now = now;
    const spared = this.#minIdle > 0 ? LEAST_LEAD : 0;
    const spread = spared + (LIFETIME_SPREAD - spared) * Math.random();
    const entry = new Entry(
      value,
      now + this.#maxLifetime * (1 - spread),
      now + this.#maxLifetime,
      generation,
    );
    this.#entries.set(value, entry);
    this.#openedCount++;
    this.#lastFailure = undefined;
    this.#backoff.reset();
    if (opened !== undefined) {
      this.#callHook(() => this.#hooks.opened?.(value, now - since));
    }
    if (this.#leastIdle > 0 && this.#reaper.running) {
      this.#reaper.start(now, entry.agesAt);
    }
    this.#passOn(entry);
    this.#serve();
    if (initial && this.#opener !== undefined && --this.#opener.left === 0) {
      this.#opener.done();
    }
  }

  /** Calls back. */
  #openFailed(error: unknown, { initial }: Opening): void {
    const held = placeHeldUntil(error);
    if (held === undefined) this.#open--;
    else this.#holdPlace(held);
    this.#openFailedCount++;
    this.#lastFailure = { error };
    // Each failure costs something, so that none can spin: a waiter who has nothing
    // else on its way, or else time.
    const waiter = this.#unsupplied() > 0 ? this.#line.first() : undefined;
    if (this.#leastIdle > 0) this.#backoff.failed();
    if (waiter !== undefined) this.#turnAway(waiter, error);
    this.#placeFreed();
    if (waiter !== undefined) return;
    if (initial && this.#opener !== undefined) this.#opener.failed(error);
    // What fails after the close does as its signal told it.
    else if (this.#closed === undefined) this.#report(error, "factory");
  }

  /** Counts a place as being closed that a failed call still keeps. Who closes the
   * pool does not wait for it. */
  #holdPlace(until: Promise<void>): void {
    this.#closing++;
    this.#held++;
    until.then(() => {
      this.#closing--;
      this.#held--;
      this.#open--;
      this.#placeFreed();
    });
  }

  /** Closes what came after its call was cut, and its place given away. Calls
   * back. */
  #deliveredLate(value: T): void {
    // Not to be closed: it is somebody's.
    if (value === undefined || this.#entries.has(value)) return;
    this.#callClose(value, () => this.#tellClosed(value, "late"));
  }

  // ---- Pings -----------------------------------------------------------------

  #pingDue(entry: Entry<T>): boolean {
    return this.#ping !== undefined &&
      this.#now - entry.checkedAt >= this.#pingAfterIdle;
  }

  /** Pings an idle resource: on patrol, or for whoever is first in line when it
   * has answered. Calls back. */
  #startPing(entry: Entry<T>, patrolled: boolean): void {
    this.#removeIdle(entry);
    entry.state = "pinging";
    entry.patrolled = patrolled;
    this.#pinging++;
    const now = this.#timed ? this.#clock.read() : 0;
    const idle = now - Math.max(entry.since, entry.checkedAt);
    const call = PendingCall.start(
      () => this.#ping!(entry.value, idle),
      this.#pingTimeout,
      {
        done: (answer) =>
          answer === false ? this.#pingFailed(entry) : this.#pingPassed(entry),
        failed: (error) => this.#pingFailed(entry, { error }),
        overdue: () => {
          const message = "The ping did not end";
          const error = this.#overdue(message, this.#pingTimeout);
          this.#pingFailed(entry, { error });
        },
      },
    );
    if (entry.state as string !== "pinging") {
      // The callback has closed the pool.
      call.abandon();
      return;
    }
    entry.call = call;
    if (patrolled && this.#line.size === 0) {
      call.unref();
      this.#unheld.add(call);
    }
  }

  /** Calls back. */
  #pingPassed(entry: Entry<T>): void {
    this.#endCheck(entry);
    entry.state = "loose";
    if (this.#timed) this.#now = this.#clock.read();
    const cold = this.#now - entry.since >= this.#idleTimeout;
    if (cold && this.#idle.size >= this.#leastIdle) {
      this.#retire(entry, "idleTimeout");
    } else {
      this.#passOn(entry, entry.order);
    }
    this.#serve();
    if (entry.patrolled) this.#patrol.ended();
  }

  /** Calls back. */
  #pingFailed(entry: Entry<T>, failure?: { error: unknown }): void {
    this.#pingFailedCount++;
    this.#retire(entry, "ping");
    if (failure !== undefined) this.#report(failure.error, "ping");
  }

  /** Now that somebody waits, what they wait for keeps the process alive. */
  #holdPings(): void {
    for (const call of this.#unheld) call.ref();
    this.#unheld.clear();
  }

  /** Pings a resource on patrol; false if there is no need any more. Calls back. */
  #visit(entry: Entry<T>): boolean {
    if (entry.state !== "idle" || entry.aged) return false;
    const unpinged = this.#clock.read() - entry.checkedAt;
    if (unpinged < this.#pingInterval) return false;
    this.#startPing(entry, true);
    return true;
  }

  // ---- Resets ----------------------------------------------------------------

  /** Readies a resource for its next borrower. Calls back. */
  #startReset(entry: Entry<T>, reset: (resource: T) => unknown): void {
    if (
      this.#unfit(entry) !== undefined || this.#surplus() ||
      (this.#line.size === 0 && this.#idle.size >= this.#maxIdle())
    ) {
      // It is closed, and need not be ready for anything.
      this.#passOn(entry);
      return;
    }
    entry.state = "resetting";
    entry.trace = undefined;
    this.#resetting++;
    let result: unknown;
    try {
      result = reset(entry.value);
      if (isThenable(result)) {
        const call = PendingCall.follow<unknown>(result, this.#releaseTimeout, {
          done: (result) => this.#resetEnded(entry, result),
          failed: (error) => this.#resetFailed(entry, { error }),
          overdue: () => {
            const message = "The reset did not end";
            const error = this.#overdue(message, this.#releaseTimeout);
            this.#resetFailed(entry, { error });
          },
        });
        if (entry.state as string === "resetting") entry.call = call;
        // The callback has evicted it, or closed the pool.
        else call.abandon();
        return;
      }
    } catch (error) {
      // Unless the callback has evicted it, or closed the pool.
      if (entry.state as string === "resetting") {
        this.#resetFailed(entry, { error });
      }
      return;
    }
    if (entry.state as string === "resetting") this.#resetEnded(entry, result);
  }

  /** Calls back. */
  #resetEnded(entry: Entry<T>, result: unknown): void {
    if (result === false) {
      this.#resetFailed(entry);
      return;
    }
    this.#endCheck(entry);
    entry.state = "loose";
    if (this.#timed) this.#now = this.#clock.atLeast();
    this.#passOn(entry);
    this.#serve();
  }

  /** Calls back. */
  #resetFailed(entry: Entry<T>, failure?: { error: unknown }): void {
    this.#resetFailedCount++;
    this.#retire(entry, "reset");
    if (failure !== undefined) this.#report(failure.error, "reset");
  }

  /** A ping or a reset is over, or not wanted any more. */
  #endCheck(entry: Entry<T>): void {
    if (entry.state === "pinging") this.#pinging--;
    else this.#resetting--;
    const { call } = entry;
    if (call === undefined) return;
    call.abandon();
    this.#unheld.delete(call);
    entry.call = undefined;
  }

  // ---- Closing -------------------------------------------------------------

  /** Closes a resource that nobody has borrowed any more. Calls back. */
  #retire(entry: Entry<T>, reason: PoolCloseReason): void {
    const { state } = entry;
    if (state === "closing") bug("a resource is closed twice");
    if (state === "idle") this.#removeIdle(entry);
    else if (state === "pinging" || state === "resetting") {
      this.#endCheck(entry);
    }
    entry.state = "closing";
    this.#closing++;
    if (reason === "maxIdle") this.#maxIdleClosed++;
    else if (reason === "idleTimeout") this.#idleTimeoutClosed++;
    else if (reason === "maxLifetime") this.#maxLifetimeClosed++;
    else if (reason === "discard") this.#discardedCount++;
    this.#callClose(entry.value, () => {
      this.#entries.delete(entry.value);
      if (this.#lastLent === entry) this.#lastLent = undefined;
      this.#closing--;
      this.#open--;
      this.#placeFreed();
      this.#tellClosed(entry.value, reason);
    });
    if (state === "pinging" && entry.patrolled) this.#patrol.ended();
    // Its close may take its time, and need not be waited for where there is room.
    const expected = state === "pinging" || state === "resetting";
    if (
      expected || this.#fresh < this.#leastIdle
    ) this.#serve();
  }

  /** Calls the user's `close`; `ended` follows at once where that is synchronous,
   * and once in any case. Calls back. */
  #callClose(resource: T, ended: () => void): void {
    const failed = (error: unknown) => {
      ended();
      this.#report(error, "close");
    };
    try {
      const result = this.#close?.(resource);
      if (isThenable(result)) {
        const message = "The close did not end";
        PendingCall.follow<unknown>(result, this.#releaseTimeout, {
          done: ended,
          failed,
          overdue: () => failed(this.#overdue(message, this.#releaseTimeout)),
        });
        return;
      }
    } catch (error) {
      failed(error);
      return;
    }
    ended();
  }

  /** Calls back. */
  #placeFreed(): void {
    if (this.#open < 0) bug("fewer than no places taken");
    this.#serve();
    if (this.#open > this.#held) return;
    this.#reaper.stop();
    this.#clock.stop();
    if (this.#closed === undefined) return;
    clearTimeout(this.#drainTimer);
    this.#resolveClosed();
  }

  /** Begins to close the pool. Calls back. */
  #shut(drainTimeout: number): Promise<void> {
    const { promise, resolve, reject } = defer<void>();
    this.#closed = promise;
    this.#resolveClosed = resolve;
    this.#rejectClosed = reject;
    const error = new PoolClosedError();
    this.#generation++;
    this.#initial = this.#leastIdle = 0;
    this.#backoff.reset();
    this.#patrol.stop();
    for (let waiter; (waiter = this.#line.first()) !== undefined;) {
      this.#turnAway(waiter, error);
    }
    for (const entry of [...this.#entries.values()]) {
      // What is pinged or reset is no borrower's, and nobody needs the outcome.
      const { state } = entry;
      if (state === "idle" || state === "pinging" || state === "resetting") {
        this.#retire(entry, "close");
      }
    }
    this.#openings.abort(error);
    if (this.#open > this.#held) {
      if (isBounded(drainTimeout)) {
        this.#drainTimer = startTimer(() => this.#drain(), drainTimeout);
      }
      if (!this.#leaks.enabled) this.#reaper.stop();
    } else {
      this.#placeFreed();
    }
    return promise;
  }

  /** Closes what borrowers have not given back in time. Calls back. */
  #drain(): void {
    for (const entry of [...this.#entries.values()]) {
      if (entry.state !== "borrowed") continue;
      entry.state = "loose";
      this.#drained.set(entry.value, entry.serial);
      if (this.#noting) this.#tellReleased(entry);
      this.#retire(entry, "close");
    }
    this.#openings.cutAll(new PoolClosedError());
  }

  /** Lets the process end although borrowers are waited for. */
  #unholdDrain(): void {
    if (this.#drainTimer !== undefined) unrefTimer(this.#drainTimer);
  }

  // ---- Reaping ---------------------------------------------------------------

  /** Starts the reaper if there is something it will have to look at. */
  #startReaper(): void {
    const idle = this.#closed === undefined ? this.#idle.size : 0;
    if (
      (this.#leaks.enabled &&
        this.#inUse() > this.#pinging + this.#resetting) ||
      (idle > this.#leastIdle && this.#idleTimeout < Infinity) ||
      (idle > 0 && (this.#maxLifetime < Infinity || this.#pingInterval > 0))
    ) this.#reaper.start(this.#now, this.#nextAging());
  }

  /** When the next resource needs a replacement that is to stand in time. */
  #nextAging(): number {
    let next = Infinity;
    if (this.#leastIdle === 0 || this.#maxLifetime === Infinity) return next;
    for (const { agesAt } of this.#entries.values()) {
      if (agesAt > this.#now && agesAt < next) next = agesAt;
    }
    return next;
  }

  /** Calls back. */
  #reap(): void {
    const now = this.#now = this.#clock.read();
    while (this.#closeUnfitIdle());
    // Copied: closing may call back and change the list.
    const unpinged: Entry<T>[] = [];
    for (const entry of this.#idle.toArray()) {
      if (entry.state !== "idle") continue;
      const reason = this.#unfit(entry);
      if (reason !== undefined) this.#retire(entry, reason);
      else if (now - entry.checkedAt >= this.#pingInterval) {
        unpinged.push(entry);
      }
    }
    if (this.#leaks.enabled) this.#leaks.inspect(this.#entries.values(), now);
    if (this.#pingInterval > 0) this.#patrol.start(unpinged, this.#idle.size);
    this.#serve();
    this.#startReaper();
  }

  // ---- Figures and reports -------------------------------------------------

  /** Whether a resource that comes back is one too many since a resize. */
  #surplus(): boolean {
    return this.#open - this.#closing > this.#maxCap;
  }

  #maxIdle(): number {
    return this.#maxIdleGiven ?? this.#maxCap;
  }

  #inUse(): number {
    return this.#open - this.#idle.size - this.#openings.size - this.#closing;
  }

  /** Resources that will be there for who is first in line, if all goes well. */
  #onItsWay(): number {
    return this.#openings.size + this.#pinging + this.#resetting;
  }

  /** Callers in line for whom nothing is on its way. */
  #unsupplied(): number {
    return Math.max(0, this.#line.size - this.#onItsWay());
  }

  #figures(): PoolFigures {
    return {
      open: this.#open,
      inUse: this.#inUse(),
      waiting: this.#unsupplied(),
    };
  }

  #overdue(what: string, limit: number): PoolTimeoutError {
    return new PoolTimeoutError(
      `${what} within ${limit} ms`,
      this.#figures(),
      this.#lastFailure && { cause: this.#lastFailure.error },
    );
  }

  /** Calls back. */
  #report(error: unknown, operation: PoolOperation): void {
    // Of what it throws itself, nobody is left to be told.
    callDetached(() => this.#onError?.(error, operation), ignore);
  }

  /** Calls back. */
  #callHook(hook: () => unknown): void {
    callDetached(hook, (error) => this.#report(error, "hook"));
  }

  /** Calls back. */
  #tellClosed(resource: T, reason: PoolCloseReason): void {
    if (this.#hooks.closed === undefined) return;
    this.#callHook(() => this.#hooks.closed?.(resource, reason));
  }

  /** Calls back. */
  #tellAcquired({ value }: Entry<T>, waited: number): void {
    if (this.#hooks.acquired === undefined) return;
    this.#callHook(() => this.#hooks.acquired?.(value, waited));
  }

  /** Calls back. */
  #tellReleased({ value, lentAt }: Entry<T>): void {
    if (this.#hooks.released === undefined) return;
    const held = this.#clock.atLeast() - lentAt;
    this.#callHook(() => this.#hooks.released?.(value, held));
  }
}

type Reject = (reason: unknown) => void;

function describe({ open, inUse, waiting }: PoolFigures): string {
  return `${open} open, ${inUse} in use, ${waiting} waiting`;
}

/** A limit of time. It may be longer than a timer can be: it is then kept by
 * whoever looks at the clock. */
function limitOption<K extends string>(
  options: { readonly [P in K]?: number | undefined },
  name: K,
  fallback: number,
): number {
  return durationOption(options, name, fallback, Number.MAX_SAFE_INTEGER);
}
