// What the pool decides: who is lent which resource, what is opened for whom, and
// what is closed when.
//
// Knows: the limits, every resource, everybody in line, and the rooms that count,
// time and call. Must not know: what is pooled, and how users write options.
//
// It is a long room, since its parts are read together: each step of lending, of
// opening and of closing ends in the others, and must find the same counts.

import { bug } from "./_bug.ts";
import { ignore, isThenable } from "./_callbacks.ts";
import { defer } from "./_deferred.ts";
import { Backoff } from "./_pool_backoff.ts";
import { PendingCall } from "./_pool_calls.ts";
import { type Check, Checks, type CheckSettings } from "./_pool_checks.ts";
import { Clock } from "./_pool_clock.ts";
import { type CloseReason, Entry } from "./_pool_entry.ts";
import { placeHeldUntil } from "./_pool_held_places.ts";
import { IdleResources } from "./_pool_idle.ts";
import { LeakDetector } from "./_pool_leaks.ts";
import type { Ending } from "./_pool_lease.ts";
import { Line, type Waiter } from "./_pool_line.ts";
import { type OpeningNotes, Openings } from "./_pool_openings.ts";
import { Patrol } from "./_pool_patrol.ts";
import { Reaper } from "./_pool_reaper.ts";
import { type Observers, type Operation, Reports } from "./_pool_reports.ts";
import { isBounded, startTimer, type Timer, unrefTimer } from "./_timers.ts";

/** Lifetimes are shortened by up to this share, as the contract of `maxLifetime` says. */
const LIFETIME_SPREAD = 0.1;
/** And by no less than this share where a replacement must stand before. */
const LEAST_LEAD = 0.05;

/** When all are evicted, at most `maxCap` calls of the factory are under way, and
 * what they deliver is closed. Where so many more in a row come to the same end,
 * the factory itself evicts. */
const MAX_OUTDATED = 100;

/** How close together the reaper looks for what needs a replacement, as a part of
 * `maxLifetime` or of its interval. */
const CLOSEST_LOOKS = 0.01;

/** Milliseconds after which who waits for a ping is offered one more of what is
 * idle. Most pings take less; one that hangs must not hold up a caller. */
const PATIENCE = 100;

/** The options, checked and completed. */
export interface CoreSettings<T> extends CheckSettings<T> {
  readonly factory: (signal: AbortSignal) => T | PromiseLike<T>;
  readonly close: ((resource: T) => unknown) | undefined;
  readonly hooks: Observers<T>;
  readonly onError:
    | ((error: unknown, operation: Operation) => void)
    | undefined;
  readonly lifo: boolean;
  readonly initialCap: number;
  readonly minIdle: number;
  readonly maxCap: number;
  /** `undefined` follows `maxCap`, as does `maxOpening`. */
  readonly maxIdle: number | undefined;
  readonly maxOpening: number | undefined;
  readonly maxWaiting: number;
  /** `Infinity` for never, as is `maxLifetime`. */
  readonly idleTimeout: number;
  readonly maxLifetime: number;
  readonly factoryTimeout: number;
  readonly drainTimeout: number;
  readonly pingAfterIdle: number;
  /** 0 without a ping. */
  readonly pingInterval: number;
  readonly leakTimeout: number;
  /** `undefined` for half of the shortest limit. */
  readonly reapInterval: number | undefined;
}

/** How full the pool is. */
interface Figures {
  readonly open: number;
  readonly inUse: number;
  readonly waiting: number;
}

/** Makes the errors that users see. */
export interface CoreErrors {
  closed(): Error;
  timedOut(message: string, figures: Figures, options?: ErrorOptions): Error;
  exhausted(message: string, figures: Figures): Error;
}

/** What has happened so far. */
class Totals {
  getCount = 0;
  waitCount = 0;
  waitDuration = 0;
  timeoutCount = 0;
  cancelCount = 0;
  openedCount = 0;
  openFailedCount = 0;
  pingFailedCount = 0;
  resetFailedCount = 0;
  maxIdleClosed = 0;
  idleTimeoutClosed = 0;
  maxLifetimeClosed = 0;
  discardedCount = 0;
}

/** What is, and what has happened so far. */
export interface CoreStats extends Figures, Totals {
  idle: number;
  opening: number;
  pending: number;
  maxCap: number;
  closed: boolean;
}

type Reject = (reason: unknown) => void;

/** The pool without its doc page. */
export class PoolCore<T> {
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

  readonly #settings: CoreSettings<T>;
  readonly #errors: CoreErrors;
  // What each get or put asks of the settings.
  readonly #idleTimeout: number;
  /** `Infinity` without a ping. */
  readonly #pingAfterIdle: number;
  readonly #resetting: boolean;
  readonly #tracing: boolean;
  /** Whether a hook wants to know of borrows. */
  readonly #noting: boolean;
  /** Whether any limit needs to know when a resource was lent or put. */
  readonly #timed: boolean;
  /** Whether the reaper ever has work. */
  readonly #reaping: boolean;
  #maxCap: number;
  #maxIdleGiven: number | undefined;
  /** `minIdle`, as far as the other limits allow it; 0 in a closed pool. */
  #leastIdle: number;

  /** Places taken. Counted before anything is awaited, corrected when it fails. */
  #open = 0;
  #closing = 0;
  /** Of those closing, the places that failed calls of the factory still keep. */
  #held = 0;
  /** The time of the step under way, if there are limits; 0 if there are none. A
   * field rather than an argument: numbers with fractions cost memory to pass. */
  #now = 0;
  /** Every resource that has a place, by identity, in any state. */
  readonly #entries = new Map<T, Entry<T>>();
  #lastLent: Entry<T> | undefined;
  readonly #idle: IdleResources<T>;
  /** In the order of arrival. */
  readonly #line: Line<T>;
  readonly #openings: Openings<T>;
  /** The pings and resets under way. */
  readonly #checks: Checks<T>;
  /** Of `initialCap`, those that no call of the factory has been made for. */
  #initial: number;
  /** Between tries to open for `minIdle`, after a failure. */
  readonly #backoff = new Backoff(() => this.#serve());
  /** Grows with every `evictAll` and at close: what is older is not kept. */
  #generation = 0;
  /** Resources in a row that were evicted before they were delivered. */
  #outdated = 0;
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

  /** Runs while somebody is in line although something is idle. */
  #impatience: Timer | undefined;
  /** The ticket of the last waiter who was offered one more. Each is so once: of
   * many dead resources, pinging one after the other would cost more time than
   * waiting for the first to be known as dead. */
  #offeredMore = 0;

  readonly #clock: Clock;
  readonly #leaks: LeakDetector;
  readonly #reaper: Reaper;
  /** The reaper's pass over what has been idle and unpinged. */
  readonly #patrol = new Patrol<Entry<T>>((entry) => this.#visit(entry));
  readonly #reports: Reports<T>;
  readonly #totals = new Totals();

  /** Starts to open what is to stand at the start. Calls back. */
  constructor(settings: CoreSettings<T>, errors: CoreErrors) {
    this.#settings = settings;
    this.#errors = errors;
    this.#maxCap = settings.maxCap;
    this.#maxIdleGiven = settings.maxIdle;
    this.#initial = settings.initialCap;
    this.#leastIdle = settings.minIdle;

    const { idleTimeout, maxLifetime, pingInterval, leakTimeout } = settings;
    const { ping, pingAfterIdle } = settings;
    this.#idleTimeout = idleTimeout;
    this.#pingAfterIdle = ping === undefined ? Infinity : pingAfterIdle;
    this.#resetting = settings.reset !== undefined;
    this.#tracing = leakTimeout > 0;
    const reaped = [idleTimeout, maxLifetime, pingInterval, leakTimeout]
      .filter((limit) => limit > 0 && limit < Infinity);
    this.#reaping = reaped.length > 0;
    const shortest = Math.min(...reaped, this.#pingAfterIdle || Infinity);
    this.#timed = shortest < Infinity;

    this.#idle = new IdleResources(settings.lifo);
    this.#reports = new Reports(settings.hooks, settings.onError);
    this.#noting = this.#reports.ofBorrows;
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
      (error) => this.#reports.failed(error, "leak"),
    );
    const interval = settings.reapInterval ?? Math.min(...reaped) / 2;
    const closest = Math.min(interval, maxLifetime) * CLOSEST_LOOKS;
    this.#reaper = new Reaper(interval, closest, () => this.#reap());
    const { factory, factoryTimeout } = settings;
    this.#openings = new Openings<T>(factory, factoryTimeout, {
      delivered: (value, opening) => this.#delivered(value, opening),
      failed: (error, opening) => this.#openFailed(error, opening),
      deliveredLate: (value) => this.#deliveredLate(value),
      overdue: () =>
        this.#overdue("The factory did not deliver", factoryTimeout),
    });
    this.#checks = new Checks<T>(settings, {
      passed: (entry, check) => this.#checkPassed(entry, check),
      failed: (entry, check, failure) =>
        this.#checkFailed(entry, check, failure),
      overdue: (what, limit) => this.#overdue(what, limit),
    });
    this.#serve();
  }

  /** Resolves when what is to be opened at the start stands; if some of it fails,
   * closes the pool and rejects. */
  async opened(): Promise<void> {
    const left = this.#settings.initialCap;
    if (left === 0) return;
    try {
      await new Promise<void>((done, failed) => {
        this.#opener = { left, done, failed };
      });
    } catch (error) {
      // Nobody waits for that: it needs no limit.
      if (this.#closed === undefined) this.#shut(0);
      throw error;
    } finally {
      this.#opener = undefined;
    }
  }

  // ---- What users call -------------------------------------------------------

  /** Lends a resource, now or later. Calls back. */
  get(signal: AbortSignal | undefined, timeout: number): Promise<T> {
    // Before anything else: who has left already must not take anything.
    if (signal?.aborted) return this.#canceled(signal);
    const origin = this.#tracing ? this.#leaks.capture() : undefined;
    const entry = this.#take(origin);
    if (entry !== undefined) return Promise.resolve(entry.value);
    return this.#wait(signal, timeout, origin);
  }

  /** Lends an idle resource, if there is one that may be lent as it is. Calls
   * back. */
  tryGet(): T | undefined {
    const origin = this.#tracing ? this.#leaks.capture() : undefined;
    return this.#take(origin)?.value;
  }

  /** Takes a resource back. Calls back. */
  put(resource: T): void {
    const entry = this.#borrowed(resource);
    if (entry === undefined) return;
    const { trace } = entry;
    entry.state = "loose";
    if (this.#noting) this.#tellReleased(entry);
    if (this.#timed) this.#now = this.#clock.atLeast();
    if (this.#resetting) this.#reset(entry);
    else this.#passOn(entry);
    if (trace?.reported) this.#leaks.reportReturn(trace, this.#clock.read());
  }

  /** Takes a resource back to close it. Calls back. */
  discard(resource: T): void {
    const entry = this.#borrowed(resource);
    if (entry === undefined) return;
    const { trace } = entry;
    entry.state = "loose";
    if (this.#noting) this.#tellReleased(entry);
    this.#retire(entry, "discard");
    if (trace?.reported) this.#leaks.reportReturn(trace, this.#clock.read());
  }

  /** What ends the present borrow of a resource, once: it says whether it did. */
  borrow(resource: T): (how: Ending) => boolean {
    const entry = this.#entries.get(resource);
    const serial = entry?.serial ?? 0;
    return (how) => this.#release(entry, serial, how);
  }

  /** Changes limits. Calls back. */
  resize(maxCap: number | undefined, maxIdle: number | undefined): void {
    this.#maxCap = maxCap ?? this.#maxCap;
    this.#maxIdleGiven = maxIdle ?? this.#maxIdleGiven;
    if (this.#closed === undefined) {
      const { minIdle } = this.#settings;
      this.#leastIdle = Math.min(minIdle, this.#maxIdle(), this.#maxCap);
    }
    // Looks anew each time: closing may call back into the pool.
    for (let entry; (entry = this.#idle.coldest()) !== undefined;) {
      if (this.#surplus()) this.#retire(entry, "resize");
      else if (this.#idle.size > this.#maxIdle()) {
        this.#retire(entry, "maxIdle");
      } else break;
    }
    this.#serve();
  }

  /** Has a resource pinged before it is lent next. */
  recheck(resource: T): void {
    const entry = this.#entries.get(resource);
    const pings = this.#settings.ping !== undefined;
    if (pings && entry?.state === "idle") entry.checkedAt = -Infinity;
  }

  /** Closes one resource, or marks it to be closed. Calls back. */
  evict(resource: T): void {
    const entry = this.#entries.get(resource);
    if (entry === undefined) return;
    if (entry.state === "idle" || entry.state === "resetting") {
      this.#retire(entry, "evict");
    } else {
      entry.generation = -1;
    }
  }

  /** Closes all resources, or marks them to be closed. Calls back. */
  evictAll(): void {
    const generation = ++this.#generation;
    for (const entry of [...this.#entries.values()]) {
      if (entry.generation === generation) continue;
      if (entry.state === "idle" || entry.state === "resetting") {
        this.#retire(entry, "evict");
      }
    }
  }

  /** A snapshot. */
  stats(): CoreStats {
    return {
      open: this.#open,
      idle: this.#idle.size,
      inUse: this.#inUse(),
      opening: this.#openings.size,
      waiting: this.#unsupplied(),
      pending: this.#line.size,
      maxCap: this.#maxCap,
      closed: this.#closed !== undefined,
      ...this.#totals,
    };
  }

  /** Closes the pool; every call returns the same promise. Calls back. */
  close(signal: AbortSignal | undefined): Promise<void> {
    const closed = this.#closed ?? this.#shut(this.#settings.drainTimeout);
    if (signal !== undefined && this.#open > this.#held) {
      const stop = () => {
        this.#rejectClosed(signal.reason);
        // Nobody waits for borrowers any more, who keep what they hold.
        clearTimeout(this.#drainTimer);
      };
      const forget = () => signal.removeEventListener("abort", stop);
      signal.addEventListener("abort", stop);
      // Also handles the rejection, for who does not await the close.
      closed.then(forget, forget);
      if (signal.aborted) stop();
    }
    return closed;
  }

  // ---- Lending ---------------------------------------------------------------

  /** Lends an idle resource, if there is one that may be lent as it is. Calls
   * back. */
  #take(origin: Error | undefined): Entry<T> | undefined {
    if (this.#idle.size === 0 || this.#line.size > 0) return undefined;
    if (this.#timed) this.#now = this.#clock.atMost();
    while (this.#closeUnfitIdle()) {
      // That may have called back.
      if (this.#line.size > 0) return undefined;
    }
    const entry = this.#idle.next();
    if (entry === undefined || this.#pingDue(entry)) return undefined;
    this.#idle.remove(entry);
    this.#lend(entry, origin);
    if (this.#idle.fresh < this.#leastIdle) {
      // Somebody has asked: there is no reason to wait any longer.
      this.#backoff.reset();
      this.#serve();
    }
    if (this.#noting) this.#reports.acquired(entry.value, 0);
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
      return Promise.reject(this.#errors.closed());
    }
    const { promise, resolve, reject } = defer<T>();
    const stamped = timeout > 0 || this.#noting;
    const now = stamped ? this.#clock.stamp() : 0;
    const waiter = this.#line.push(resolve, reject, origin, timeout, now);
    const { ticket } = waiter;
    if (signal !== undefined) this.#line.follow(waiter, signal);
    this.#backoff.ask();
    this.#checks.hold();
    // What others have left behind, a ping, a reset or a call of the factory, may
    // hang: nobody who comes later is to wait for it while something else is idle.
    const underWay = this.#onItsWay();
    while (
      underWay > 0 && underWay === this.#onItsWay() &&
      waiter.ticket === ticket && this.#offerIdle()
    );
    this.#serve();
    if (this.#idle.size > 0) this.#watchPatience();
    const waiting = this.#unsupplied();
    // Has it left already, served or turned away by a callback?
    if (waiter.ticket !== ticket || waiting === 0) return promise;
    if (waiting > this.#settings.maxWaiting) {
      const message =
        `No room in line, maxWaiting is ${this.#settings.maxWaiting}`;
      const figures = { ...this.#figures(), waiting: waiting - 1 };
      this.#turnAway(waiter, this.#errors.exhausted(message, figures));
      return promise;
    }
    this.#totals.waitCount++;
    waiter.counts = true;
    if (!stamped) waiter.since = this.#clock.stamp();
    return promise;
  }

  /** Sees to it that who waits for a ping that hangs is offered what else is
   * idle. */
  #watchPatience(): void {
    const first = this.#line.first();
    if (
      this.#impatience !== undefined || first === undefined ||
      first.ticket === this.#offeredMore || this.#idle.size === 0
    ) return;
    this.#impatience = startTimer(() => {
      this.#impatience = undefined;
      const waiter = this.#line.first();
      if (waiter === undefined) return;
      this.#offeredMore = waiter.ticket;
      if (this.#offerIdle()) this.#serve();
      this.#watchPatience();
    }, PATIENCE);
    unrefTimer(this.#impatience);
  }

  /** Takes somebody out of the line. */
  #leaveLine(waiter: Waiter<T>): void {
    this.#line.remove(waiter);
    if (this.#line.size === 0) {
      clearTimeout(this.#impatience);
      this.#impatience = undefined;
    } else if (this.#idle.size > 0) this.#watchPatience();
  }

  /** The way out of the line with a resource. Calls back. */
  #handOver(entry: Entry<T>, waiter: Waiter<T>): void {
    const { resolve, counts, since } = waiter;
    this.#lend(entry, waiter.origin);
    this.#leaveLine(waiter);
    resolve(entry.value);
    if (!counts && !this.#noting) return;
    const end = this.#timed ? this.#now : this.#clock.atLeast();
    const duration = end > since ? end - since : 0;
    if (counts) this.#countWait(duration);
    this.#reports.acquired(entry.value, duration);
  }

  /** The way out of the line with an error. Calls back. */
  #turnAway(waiter: Waiter<T>, error: unknown): void {
    const { reject, counts, since } = waiter;
    this.#leaveLine(waiter);
    reject(error);
    if (counts) this.#countWait(Math.max(0, this.#clock.atLeast() - since));
  }

  /** Calls back. */
  #countWait(duration: number): void {
    this.#totals.waitDuration += duration;
    this.#reports.waited(duration);
  }

  /** Calls back. */
  #timedOut(waiter: Waiter<T>, timeout: number): void {
    this.#totals.timeoutCount++;
    this.#turnAway(waiter, this.#overdue("No resource", timeout));
  }

  /** Calls back. */
  #aborted(waiter: Waiter<T>, reason: unknown): void {
    this.#totals.cancelCount++;
    this.#turnAway(waiter, reason);
  }

  #canceled(signal: AbortSignal): Promise<never> {
    this.#totals.cancelCount++;
    return Promise.reject(signal.reason);
  }

  /** Notes a borrow. */
  #lend(entry: Entry<T>, origin: Error | undefined): void {
    entry.state = "borrowed";
    this.#lastLent = entry;
    // Tells this borrow from every other of the same resource.
    entry.serial = ++this.#totals.getCount;
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
   * @param looked Whether it was only looked at, and has been idle all the while.
   */
  #passOn(entry: Entry<T>, looked = false): void {
    const reason = this.#unfit(entry) ??
      (this.#surplus() ? "resize" : undefined);
    if (reason !== undefined) {
      this.#retire(entry, reason);
      return;
    }
    const waiter = this.#line.first();
    if (waiter !== undefined) this.#handOver(entry, waiter);
    else this.#keep(entry, looked);
  }

  /** Calls back. */
  #keep(entry: Entry<T>, looked: boolean): void {
    const full = this.#idle.size >= this.#maxIdle();
    if (full && (this.#idle.firstAged() === undefined || entry.aged)) {
      this.#retire(entry, "maxIdle");
      return;
    }
    entry.checkedAt = this.#now;
    if (looked) this.#idle.restore(entry);
    else {
      entry.since = this.#now;
      this.#idle.add(entry);
    }
    if (this.#reaping && !this.#reaper.running) this.#startReaper();
    if (this.#idle.fresh < this.#idle.size) this.#closeReplaced(full);
    if (this.#idle.fresh < this.#leastIdle) this.#serve();
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

  // ---- What may be lent ------------------------------------------------------

  /** Closes one that is idle and may not be lent, before one that may; false if
   * there is none. Calls back. */
  #closeUnfitIdle(): boolean {
    const coldest = this.#idle.coldest();
    if (coldest === undefined) return false;
    if (
      this.#now - coldest.since >= this.#idleTimeout &&
      this.#idle.size > this.#leastIdle
    ) {
      this.#retire(coldest, "idleTimeout");
      return true;
    }
    const entry = this.#idle.next()!;
    const reason = this.#unfit(entry);
    if (reason === undefined) return false;
    this.#retire(entry, reason);
    return true;
  }

  /** Why a resource may not be kept or lent, whatever state it is in. */
  #unfit(entry: Entry<T>): CloseReason | undefined {
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
    if (!entry.aged && idle) this.#idle.age(entry);
    entry.aged = true;
    // There is room for its replacement, or will be.
    if (
      this.#open < this.#maxCap || this.#openings.size > 0 || this.#closing > 0
    ) return false;
    // It makes room itself, unless nobody would find anything then.
    return others > 0 || this.#line.size > 0;
  }

  /** Closes those that need not be kept any more: one for each replacement that
   * stands, which makes room for the next; and `inTheWay` one that leaves no room
   * for its own. Calls back. */
  #closeReplaced(inTheWay: boolean): void {
    for (let aged; (aged = this.#idle.firstAged()) !== undefined;) {
      if (!inTheWay && !this.#outlived(aged)) return;
      this.#retire(aged, "maxLifetime");
      inTheWay = false;
    }
  }

  // ---- Supply ----------------------------------------------------------------

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
    this.#startOpening(spare >= 0);
    return true;
  }

  /** Takes one step with the next idle resource, for who is first in line; false
   * if there is none. Calls back. */
  #offerIdle(): boolean {
    if (this.#timed) this.#now = this.#clock.atMost();
    if (this.#closeUnfitIdle()) return true;
    const entry = this.#idle.next();
    const waiter = this.#line.first();
    if (entry === undefined || waiter === undefined) return false;
    if (this.#pingDue(entry)) {
      this.#ping(entry, false);
    } else {
      this.#idle.remove(entry);
      this.#handOver(entry, waiter);
    }
    return true;
  }

  /** Whether one more is to be opened for nobody; `spare` of those that are on
   * their way are for nobody already. */
  #idleMissing(spare: number): boolean {
    if (this.#initial > 0) return true;
    return this.#idle.fresh + spare < this.#leastIdle && !this.#backoff.pausing;
  }

  #mayOpen(): boolean {
    return this.#open < this.#maxCap &&
      this.#openings.size < (this.#settings.maxOpening ?? this.#maxCap);
  }

  /** Calls the factory, and so calls back. */
  #startOpening(forNobody: boolean): void {
    this.#open++;
    if (this.#open > this.#maxCap) bug("more open than maxCap");
    // For whomever it is, one less is still to be opened at the start.
    const initial = this.#initial > 0;
    if (initial) this.#initial--;
    const since = this.#reports.ofOpenings ? this.#clock.read() : 0;
    this.#openings.start({
      since,
      generation: this.#generation,
      initial,
      concerns: forNobody ? this.#line.lastTicket : Infinity,
    });
  }

  /** Calls back. */
  #delivered(value: T, opening: OpeningNotes): void {
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
    const { ofOpenings } = this.#reports;
    const now = this.#timed || ofOpenings ? this.#clock.read() : 0;
    if (this.#timed) this.#now = now;
    const spared = this.#settings.minIdle > 0 ? LEAST_LEAD : 0;
    const spread = spared + (LIFETIME_SPREAD - spared) * Math.random();
    const { maxLifetime } = this.#settings;
    const entry = new Entry(
      value,
      now + maxLifetime * (1 - spread),
      now + maxLifetime,
      generation,
    );
    this.#entries.set(value, entry);
    this.#totals.openedCount++;
    this.#lastFailure = undefined;
    this.#backoff.reset();
    const isOutdated = generation !== this.#generation;
    this.#outdated = isOutdated ? this.#outdated + 1 : 0;
    const mayCharge = this.#outdated === 0 ||
      this.#outdated > this.#maxCap + MAX_OUTDATED;
    if (ofOpenings) this.#reports.opened(value, now - since);
    if (mayCharge) this.#chargeEviction(entry);
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
  #openFailed(error: unknown, { initial, concerns }: OpeningNotes): void {
    const held = placeHeldUntil(error);
    if (held === undefined) this.#open--;
    else this.#holdPlace(held);
    this.#totals.openFailedCount++;
    this.#lastFailure = { error };
    // Each failure costs something, so that none can spin: a waiter who has nothing
    // else on its way, or else time.
    const first = this.#unsupplied() > 0 ? this.#line.first() : undefined;
    const ticket = first?.ticket ?? 0;
    const waiter = ticket <= concerns ? first : undefined;
    if (this.#leastIdle > 0) this.#backoff.failed();
    if (waiter !== undefined) this.#turnAway(waiter, error);
    this.#placeFreed();
    if (waiter !== undefined) return;
    // Who came after a call for nobody had begun gets one of its own, since what it
    // asks for may be there by now; or waits for that, where there is room in line.
    if (
      first !== undefined && first.ticket === ticket &&
      this.#unsupplied() > this.#settings.maxWaiting
    ) {
      this.#turnAway(first, error);
      return;
    }
    if (initial && this.#opener !== undefined) this.#opener.failed(error);
    // What fails after the close does as its signal told it.
    else if (this.#closed === undefined) this.#reports.failed(error, "factory");
  }

  /** Lets a waiter, or else time, pay for a resource that was evicted by the hook
   * which was told of its opening, or by its own factory: another would be opened,
   * and evicted, on and on. */
  #chargeEviction(entry: Entry<T>): void {
    if (entry.generation === this.#generation || this.#closed !== undefined) {
      return;
    }
    if (this.#leastIdle > 0) this.#backoff.failed();
    const waiter = this.#unsupplied() > 0 ? this.#line.first() : undefined;
    if (waiter === undefined) return;
    const message = "The resource was evicted as it was opened";
    this.#turnAway(waiter, new Error(message));
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
    this.#callClose(value, () => this.#reports.closed(value, "late"));
  }

  // ---- Pings and resets --------------------------------------------------------

  #pingDue(entry: Entry<T>): boolean {
    return this.#now - entry.checkedAt >= this.#pingAfterIdle;
  }

  /** Pings an idle resource: on patrol, or for whoever is first in line when it
   * has answered. Calls back. */
  #ping(entry: Entry<T>, patrolled: boolean): void {
    this.#idle.remove(entry);
    entry.patrolled = patrolled;
    const now = this.#timed ? this.#clock.read() : 0;
    const awaited = !patrolled || this.#line.size > 0;
    const idle = now - Math.max(entry.since, entry.checkedAt);
    this.#checks.ping(entry, idle, awaited);
  }

  /** Pings a resource on patrol; false if there is no need any more. Calls back. */
  #visit(entry: Entry<T>): boolean {
    if (entry.state !== "idle" || entry.aged) return false;
    const unpinged = this.#clock.read() - entry.checkedAt;
    if (unpinged < this.#settings.pingInterval) return false;
    this.#ping(entry, true);
    return true;
  }

  /** Readies a resource for its next borrower. Calls back. */
  #reset(entry: Entry<T>): void {
    if (
      this.#unfit(entry) !== undefined || this.#surplus() ||
      (this.#line.size === 0 && this.#idle.size >= this.#maxIdle())
    ) {
      // It is closed, and need not be ready for anything.
      this.#passOn(entry);
      return;
    }
    this.#checks.reset(entry);
  }

  /** Calls back. */
  #checkPassed(entry: Entry<T>, check: Check): void {
    this.#checks.end(entry);
    entry.state = "loose";
    if (check === "reset") {
      if (this.#timed) this.#now = this.#clock.atLeast();
      this.#passOn(entry);
    } else {
      if (this.#timed) this.#now = this.#clock.read();
      const idle = this.#now - entry.since;
      if (
        idle >= this.#idleTimeout &&
        this.#idle.size >= this.#leastIdle
      ) this.#retire(entry, "idleTimeout");
      else this.#passOn(entry, true);
    }
    this.#serve();
    if (check === "ping" && entry.patrolled) this.#patrol.ended();
  }

  /** Calls back. */
  #checkFailed(
    entry: Entry<T>,
    check: Check,
    failure: { error: unknown } | undefined,
  ): void {
    if (check === "ping") this.#totals.pingFailedCount++;
    else this.#totals.resetFailedCount++;
    this.#retire(entry, check);
    if (failure !== undefined) this.#reports.failed(failure.error, check);
  }

  // ---- Closing -----------------------------------------------------------------

  /** Closes a resource that nobody has borrowed any more. Calls back. */
  #retire(entry: Entry<T>, reason: CloseReason): void {
    const { state } = entry;
    if (state === "closing") bug("a resource is closed twice");
    if (state === "idle") this.#idle.remove(entry);
    else if (state === "pinging" || state === "resetting") {
      this.#checks.end(entry);
    }
    entry.state = "closing";
    this.#closing++;
    if (reason === "maxIdle") this.#totals.maxIdleClosed++;
    else if (reason === "idleTimeout") this.#totals.idleTimeoutClosed++;
    else if (reason === "maxLifetime") this.#totals.maxLifetimeClosed++;
    else if (reason === "discard") this.#totals.discardedCount++;
    this.#callClose(entry.value, () => {
      this.#entries.delete(entry.value);
      if (this.#lastLent === entry) this.#lastLent = undefined;
      this.#closing--;
      this.#open--;
      this.#placeFreed();
      this.#reports.closed(entry.value, reason);
    });
    if (state === "pinging" && entry.patrolled) this.#patrol.ended();
    // Its close may take its time, and need not be waited for where there is room.
    const expected = state === "pinging" || state === "resetting";
    if (
      expected || this.#idle.fresh < this.#leastIdle
    ) this.#serve();
  }

  /** Calls the user's `close`; `ended` follows at once where that is synchronous,
   * and once in any case. Calls back. */
  #callClose(resource: T, ended: () => void): void {
    const failed = (error: unknown) => {
      ended();
      this.#reports.failed(error, "close");
    };
    try {
      const result = this.#settings.close?.(resource);
      if (isThenable(result)) {
        const message = "The close did not end";
        PendingCall.follow<unknown>(result, this.#settings.releaseTimeout, {
          done: ended,
          failed,
          overdue: () =>
            failed(this.#overdue(message, this.#settings.releaseTimeout)),
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
    const error = this.#errors.closed();
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
    this.#openings.cutAll(this.#errors.closed());
  }

  // ---- Reaping -----------------------------------------------------------------

  /** Starts the reaper if there is something it will have to look at. */
  #startReaper(): void {
    const idle = this.#closed === undefined ? this.#idle.size : 0;
    if (
      (this.#leaks.enabled &&
        this.#inUse() > this.#checks.size) ||
      (idle > this.#leastIdle && this.#idleTimeout < Infinity) ||
      (idle > 0 &&
        (this.#settings.maxLifetime < Infinity ||
          this.#settings.pingInterval > 0))
    ) this.#reaper.start(this.#now, this.#nextAging());
  }

  /** When the next resource needs a replacement that is to stand in time. */
  #nextAging(): number {
    let next = Infinity;
    if (this.#leastIdle === 0 || this.#settings.maxLifetime === Infinity) {
      return next;
    }
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
      else if (now - entry.checkedAt >= this.#settings.pingInterval) {
        unpinged.push(entry);
      }
    }
    if (this.#leaks.enabled) this.#leaks.inspect(this.#entries.values(), now);
    if (this.#settings.pingInterval > 0) {
      this.#patrol.start(unpinged, this.#idle.size);
    }
    this.#serve();
    this.#startReaper();
  }

  // ---- Figures -----------------------------------------------------------------

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
    return this.#openings.size + this.#checks.size;
  }

  /** Callers in line for whom nothing is on its way. */
  #unsupplied(): number {
    return Math.max(0, this.#line.size - this.#onItsWay());
  }

  #figures(): Figures {
    return {
      open: this.#open,
      inUse: this.#inUse(),
      waiting: this.#unsupplied(),
    };
  }

  #overdue(what: string, limit: number): Error {
    return this.#errors.timedOut(
      `${what} within ${limit} ms`,
      this.#figures(),
      this.#lastFailure && { cause: this.#lastFailure.error },
    );
  }

  /** Calls back. */
  #tellReleased({ value, lentAt }: Entry<T>): void {
    this.#reports.released(value, this.#clock.atLeast() - lentAt);
  }
}
