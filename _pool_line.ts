// The callers in line: in the order they came, with their time limits and the
// signals that end their wait.
//
// Knows: who waits, since when, until when and with which signal. Must not know:
// what for.

import { bug } from "./_bug.ts";
import { ignore } from "./_callbacks.ts";
import type { Clock } from "./_pool_clock.ts";
import { Link, List } from "./_pool_list.ts";
import { startTimer, type Timer } from "./_timers.ts";

/** Waiters kept for use by the next callers, beside as many as are in line. */
const SPARE_WAITERS = 64;
/** Timeouts of waiters kept apart exactly before further ones are rounded up. */
const EXACT_QUEUES = 16;

type Resolve<T> = (resource: T) => void;
type Reject = (reason: unknown) => void;

/** A caller in line; used again for another when it has left. */
export class Waiter<T> extends Link {
  /** Its place in order of arrival, never given twice; 0 while out of line. */
  ticket = 0;
  /** When it came, or up to a tick after; known if it has a timeout, or if
   * somebody wants to know how long it waited. */
  since = 0;
  /** Whether it found nothing on its way for it, and so counts as waiting. */
  counts = false;
  queue: WaitQueue<T> | undefined = undefined;
  group: SignalGroup<T> | undefined = undefined;
  origin: Error | undefined = undefined;
  resolve: Resolve<T> = ignore;
  reject: Reject = ignore;
}

/** The waiters that share a signal, and their one listener. */
interface SignalGroup<T> {
  readonly signal: AbortSignal;
  readonly waiters: Set<Waiter<T>>;
  readonly abort: () => void;
}

/** Told who is to leave the line, and takes them out. Each may call back. */
export interface LineOwner<T> {
  timedOut(waiter: Waiter<T>, timeout: number): void;
  aborted(waiter: Waiter<T>, reason: unknown): void;
}

/** Waiters with the same timeout, 0 for none: in order of arrival, and of deadline. */
class WaitQueue<T> extends List<Waiter<T>> {
  constructor(readonly timeout: number) {
    super();
  }
}

/**
 * The waiters in order of arrival, and their deadlines on one timer.
 *
 * Each waiter stands in one queue, that of its timeout. The first in line and the
 * next deadline are then both among the heads of the queues, of which there is
 * seldom more than one or two: beyond `EXACT_QUEUES`, timeouts are rounded up by
 * at most 1/16, which bounds their number. Nobody's time is ever up early.
 *
 * The timer runs only while somebody waits with a timeout, and then keeps the
 * process alive as any awaited work does.
 *
 * Waiters are used again: what lives as long as a waiter in a long line has been
 * moved twice by the collector, and with 100 000 in line that would be half of
 * what a get costs.
 */
export class Line<T> {
  readonly #clock: Pick<Clock, "read">;
  readonly #owner: LineOwner<T>;
  #queues: WaitQueue<T>[] = [];
  /** One listener for all waiters that share a signal. */
  readonly #groups = new Map<AbortSignal, SignalGroup<T>>();
  readonly #spare: Waiter<T>[] = [];
  /** The place of who came last. */
  lastTicket = 0;
  /** Those in line with a timeout. */
  #timed = 0;
  #timer: Timer | undefined;
  /** When the timer fires. */
  #at = Infinity;
  /** Everybody in line. */
  size = 0;

  constructor(clock: Pick<Clock, "read">, owner: LineOwner<T>) {
    this.#clock = clock;
    this.#owner = owner;
  }

  /** Who came first. */
  first(): Waiter<T> | undefined {
    if (this.size === 0) return undefined;
    const queues = this.#queues;
    if (queues.length === 1) return queues[0]!.first();
    let first: Waiter<T> | undefined;
    for (const queue of queues) {
      const head = queue.first();
      if (head === undefined) continue;
      if (first === undefined || head.ticket < first.ticket) first = head;
    }
    return first;
  }

  /** Stands somebody in line; `now` matters only with a timeout. */
  push(
    resolve: Resolve<T>,
    reject: Reject,
    origin: Error | undefined,
    timeout: number,
    now: number,
  ): Waiter<T> {
    const waiter = this.#spare.pop() ?? new Waiter<T>();
    const queue = this.#queue(timeout);
    waiter.ticket = ++this.lastTicket;
    waiter.since = now;
    waiter.counts = false;
    waiter.queue = queue;
    waiter.origin = origin;
    waiter.resolve = resolve;
    waiter.reject = reject;
    queue.push(waiter);
    this.size++;
    if (timeout > 0) {
      this.#timed++;
      if (queue.size === 1) this.#wake(now + queue.timeout, now);
    }
    return waiter;
  }

  /** Has somebody in line leave when a signal aborts. */
  follow(waiter: Waiter<T>, signal: AbortSignal): void {
    let group = this.#groups.get(signal);
    if (group === undefined) {
      const waiters = new Set<Waiter<T>>();
      const abort = () => {
        for (const waiter of waiters) {
          this.#owner.aborted(waiter, signal.reason);
        }
      };
      group = { signal, waiters, abort };
      this.#groups.set(signal, group);
      signal.addEventListener("abort", abort);
    }
    group.waiters.add(waiter);
    waiter.group = group;
  }

  /** Takes somebody out; what is still needed of the waiter is read before. */
  remove(waiter: Waiter<T>): void {
    const { queue, group } = waiter;
    if (queue === undefined) bug("a waiter left the line twice");
    queue.remove(waiter);
    this.size--;
    if (queue.timeout > 0 && --this.#timed === 0) {
      clearTimeout(this.#timer);
      this.#at = Infinity;
    }
    if (group !== undefined) {
      group.waiters.delete(waiter);
      if (group.waiters.size === 0) {
        this.#groups.delete(group.signal);
        group.signal.removeEventListener("abort", group.abort);
      }
    }
    waiter.ticket = 0;
    waiter.queue = waiter.group = waiter.origin = undefined;
    waiter.resolve = waiter.reject = ignore;
    // No more than may soon be needed again.
    if (this.size === 0 && this.#spare.length > SPARE_WAITERS) {
      this.#spare.length = SPARE_WAITERS;
    }
    if (this.#spare.length <= this.size + SPARE_WAITERS) {
      this.#spare.push(waiter);
    }
  }

  /** Corrects the time of those who came when the clock was behind. */
  restamp(stamp: number, now: number): void {
    for (const queue of this.#queues) {
      if (queue.timeout === 0) continue;
      let waiter = queue.last();
      while (waiter !== undefined && waiter.since === stamp) {
        waiter.since = now;
        waiter = queue.before(waiter);
      }
    }
  }

  #queue(timeout: number): WaitQueue<T> {
    let queue = this.#find(timeout);
    if (queue !== undefined) return queue;
    if (this.#queues.length >= EXACT_QUEUES) {
      this.#queues = this.#queues.filter((queue) => queue.size > 0);
    }
    if (this.#queues.length >= EXACT_QUEUES && timeout > 0) {
      const step = 2 ** (Math.floor(Math.log2(timeout)) - 4);
      timeout = Math.ceil(timeout / step) * step;
      queue = this.#find(timeout);
    }
    if (queue === undefined) this.#queues.push(queue = new WaitQueue(timeout));
    return queue;
  }

  #find(timeout: number): WaitQueue<T> | undefined {
    for (const queue of this.#queues) {
      if (queue.timeout === timeout) return queue;
    }
    return undefined;
  }

  /** Sees to it that the timer fires no later than at `at`. */
  #wake(at: number, now: number): void {
    if (at >= this.#at) return;
    if (this.#at < Infinity) clearTimeout(this.#timer);
    this.#at = at;
    this.#timer = startTimer(() => this.#ring(), at - now);
  }

  #ring(): void {
    this.#at = Infinity;
    const now = this.#clock.read();
    // Each head is looked at anew: who times out may call back, push and remove.
    for (const queue of this.#queues) {
      if (queue.timeout === 0) continue;
      for (let head; (head = queue.first()) !== undefined;) {
        const at = head.since + queue.timeout;
        if (at > now) {
          this.#wake(at, now);
          break;
        }
        this.#owner.timedOut(head, queue.timeout);
      }
    }
  }
}
