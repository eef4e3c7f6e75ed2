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

import {
  checkFunction,
  checkHooks,
  checkObject,
  choiceOption,
  durationOption,
  functionOption,
  integerOption,
  objectOption,
  signalOption,
} from "./_options.ts";
import { type CoreSettings, PoolCore } from "./_pool_core.ts";
import { BorrowLease } from "./_pool_lease.ts";

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
   * ever. Whoever waits for it is offered one more of what is idle after 100 ms.
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

/** A count that may be nothing, and may be without limit. */
const ANY_COUNT = { min: 0, max: Infinity };
const AT_LEAST_ONE = { min: 1, max: Infinity };

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
  readonly #core: PoolCore<T>;
  readonly #getTimeout: number;

  /**
   * Makes a pool and, with `initialCap` or `minIdle`, starts to open its first
   * resources in the background; their failures go to `onError`.
   * {@linkcode Pool.open} waits for them instead.
   *
   * @throws {TypeError} If an option has the wrong type.
   * @throws {RangeError} If a number is out of its range.
   */
  constructor(options: PoolOptions<T>) {
    const settings = checkOptions(options);
    this.#getTimeout = limitOption(options, "getTimeout", 0);
    this.#core = new PoolCore(settings, {
      closed: () => new PoolClosedError(),
      timedOut: (message, figures, options) =>
        new PoolTimeoutError(message, figures, options),
      exhausted: (message, figures) => new PoolExhaustedError(message, figures),
    });
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
    await pool.#core.opened();
    return pool;
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
    return options === undefined
      ? this.#core.get(undefined, this.#getTimeout)
      : this.#get(options);
  }

  /**
   * Returns an idle resource, or `undefined` if there is none to be had at once:
   * it passes no waiter, and leaves what is due for a ping to
   * {@linkcode Pool.get} (with `ping` set and `pingAfterIdle` 0, that is
   * everything). It opens nothing but what `minIdle` then asks for.
   */
  tryGet(): T | undefined {
    return this.#core.tryGet();
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
    this.#core.put(resource);
  }

  /**
   * Closes a borrowed resource instead of giving it back, and frees its place
   * when it is closed.
   *
   * @throws {TypeError} If the resource is not borrowed, as with
   * {@linkcode Pool.put}; nothing changes then.
   */
  discard(resource: T): void {
    this.#core.discard(resource);
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
    const end = this.#core.borrow(resource);
    let result: R;
    try {
      result = await fn(resource);
    } catch (error) {
      end("discard");
      throw error;
    }
    end("put");
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
    return new BorrowLease(resource, this.#core.borrow(resource));
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
    checkObject("Limits", limits);
    const { maxCap, maxIdle } = limits;
    if (maxCap !== undefined) integerOption(limits, "maxCap", 1, AT_LEAST_ONE);
    if (maxIdle !== undefined) integerOption(limits, "maxIdle", 0, ANY_COUNT);
    this.#core.resize(maxCap, maxIdle);
  }

  /**
   * Has a resource pinged before it is lent next, however short a time it has been
   * idle: for one that may have died. It need not be in the pool any more.
   */
  recheck(resource: T): void {
    this.#core.recheck(resource);
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
    this.#core.evict(resource);
  }

  /**
   * Closes everything that is open now: what is idle or being reset at once, and
   * what is borrowed, being opened or pinged as soon as it comes back. For use
   * after the far side has moved or changed its credentials.
   */
  evictAll(): void {
    this.#core.evictAll();
  }

  /** Returns a snapshot; taking it costs the same however full the pool is. */
  stats(): PoolStats {
    return this.#core.stats();
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
   * with `signal.reason`, borrowers keep what they hold, and what comes back later
   * is closed all the same. A rejection nobody handles is not reported.
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
    return this.#core.close(signal);
  }

  /** The same as {@linkcode Pool.close} without a signal: at the end of an
   * `await using` block, it takes `drainTimeout` at most, and then lets the error
   * through that may have ended the block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #get(options: PoolGetOptions | null): Promise<T> {
    let signal: AbortSignal | undefined;
    let timeout: number;
    try {
      if (options !== null) checkObject("Options", options);
      signal = signalOption(options ?? undefined);
      timeout = limitOption(options ?? {}, "timeout", this.#getTimeout);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#core.get(signal, timeout);
  }
}

/** Each option with its check and its default. */
function checkOptions<T>(options: PoolOptions<T>): CoreSettings<T> {
  const { factory, close, ping, reset, onError } = options;
  checkFunction("Option factory", factory);
  const hooks = objectOption({ hooks: options.hooks }, "hooks") ?? {};
  const { opened, closed, waited, acquired, released } = hooks;
  checkHooks("hooks", { opened, closed, waited, acquired, released });
  const maxCap = integerOption(options, "maxCap", 10, AT_LEAST_ONE);
  const maxIdle = integerOption(options, "maxIdle", maxCap, ANY_COUNT);
  const maxOpening = integerOption(options, "maxOpening", 1, AT_LEAST_ONE);
  const most = Math.min(maxCap, maxIdle, Number.MAX_SAFE_INTEGER);
  const kept = { min: 0, max: most };
  const pingInterval = limitOption(options, "pingInterval", 0);
  const reapInterval = limitOption(options, "reapInterval", 1);
  if (reapInterval === 0) {
    throw new RangeError(
      "Option reapInterval must be more than 0 ms, received 0",
    );
  }
  return {
    factory,
    close: functionOption({ close }, "close"),
    ping: functionOption({ ping }, "ping"),
    reset: functionOption({ reset }, "reset"),
    onError: functionOption({ onError }, "onError"),
    hooks,
    lifo: choiceOption(options, "idleOrder", "lifo", ["lifo", "fifo"]) ===
      "lifo",
    maxCap,
    // What is not given follows maxCap when that changes.
    maxIdle: options.maxIdle === undefined ? undefined : maxIdle,
    maxOpening: options.maxOpening === undefined ? undefined : maxOpening,
    maxWaiting: integerOption(options, "maxWaiting", Infinity, ANY_COUNT),
    initialCap: integerOption(options, "initialCap", 0, kept),
    minIdle: integerOption(options, "minIdle", 0, kept),
    idleTimeout: limitOption(options, "idleTimeout", 0) || Infinity,
    maxLifetime: limitOption(options, "maxLifetime", 0) || Infinity,
    factoryTimeout: limitOption(options, "factoryTimeout", 0),
    pingTimeout: limitOption(options, "pingTimeout", 5_000),
    releaseTimeout: limitOption(options, "releaseTimeout", 5_000),
    drainTimeout: limitOption(options, "drainTimeout", 10_000),
    pingAfterIdle: limitOption(options, "pingAfterIdle", 0),
    pingInterval: ping === undefined ? 0 : pingInterval,
    leakTimeout: limitOption(options, "leakTimeout", 0),
    reapInterval: options.reapInterval === undefined ? undefined : reapInterval,
  };
}

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
