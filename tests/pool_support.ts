// What the suites of the pool share: a pool on a clock of its own, which notes
// everything that it does to the world.

import { Pool, type PoolOptions, type PoolStats } from "../pool.ts";
import { FakeClock, settle } from "./time_support.ts";

/** What is pooled. */
export interface Resource {
  id: number;
}

/** A call of a slow factory. */
interface Call {
  signal: AbortSignal;
  resolve: (resource: Resource) => void;
  reject: (error: unknown) => void;
}

/** A pool with its clock, and everything it does to the world. */
export class Rig implements Disposable {
  readonly clock = new FakeClock();
  readonly pool: Pool<Resource>;
  /** Delivered by the factory, in order. */
  readonly opened: Resource[] = [];
  /** Passed to `close`, in order. */
  readonly closed: Resource[] = [];
  readonly pinged: Resource[] = [];
  readonly errors: [unknown, string][] = [];
  /** Calls of a slow factory, in order. */
  readonly calls: Call[] = [];

  constructor(options: Partial<PoolOptions<Resource>> = {}, slow = false) {
    const { close, ping } = options;
    this.pool = new Pool<Resource>({
      factory: slow ? (signal) => this.#call(signal) : () => this.make(),
      onError: (error, operation) => this.errors.push([error, operation]),
      ...options,
      close: (resource) => {
        this.closed.push(resource);
        return close?.(resource);
      },
      ...(ping && {
        ping: (resource) => {
          this.pinged.push(resource);
          return ping(resource);
        },
      }),
    });
  }

  make(): Resource {
    const resource = { id: this.opened.length + 1 };
    this.opened.push(resource);
    return resource;
  }

  #call(signal: AbortSignal): Promise<Resource> {
    const { promise, resolve, reject } = Promise.withResolvers<Resource>();
    this.calls.push({ signal, resolve, reject });
    return promise;
  }

  /** Lets the slow factory's call deliver. */
  async deliver(call: number): Promise<Resource> {
    const resource = this.make();
    this.calls[call]!.resolve(resource);
    await settle();
    return resource;
  }

  /** Borrows so many. */
  async take(count: number): Promise<Resource[]> {
    const taken: Resource[] = [];
    for (let i = 0; i < count; i++) taken.push(await this.pool.get());
    return taken;
  }

  stats(): Partial<PoolStats> {
    return this.pool.stats();
  }

  /** The five figures of the present. */
  get now(): string {
    const { open, idle, inUse, opening, waiting } = this.pool.stats();
    return `open ${open} idle ${idle} inUse ${inUse} opening ${opening} waiting ${waiting}`;
  }

  [Symbol.dispose](): void {
    this.clock[Symbol.dispose]();
  }
}

/** What has become of a promise, without waiting for it. */
export class Watch<T> {
  state: "pending" | "resolved" | "rejected" = "pending";
  value: T | undefined;
  error: unknown;

  constructor(promise: Promise<T>) {
    promise.then((value) => {
      this.state = "resolved";
      this.value = value;
    }, (error) => {
      this.state = "rejected";
      this.error = error;
    });
  }
}

/** Follows a promise. */
export function watch<T>(promise: Promise<T>): Watch<T> {
  return new Watch(promise);
}

/** What has become of each: `s` for resolved, `j` for rejected, `.` for neither. */
export function states(watches: Watch<unknown>[]): string {
  return watches.map((watch) => watch.state[2] === "n" ? "." : watch.state[2])
    .join("");
}

/** What never ends. */
export function never(): Promise<never> {
  return new Promise(() => {});
}

/** Counts the listeners on a signal from now on. */
export function countListeners(signal: AbortSignal): { count: number } {
  const listeners = { count: 0 };
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (...args: Parameters<typeof add>) => {
    listeners.count++;
    add(...args);
  };
  signal.removeEventListener = (...args: Parameters<typeof remove>) => {
    listeners.count--;
    remove(...args);
  };
  return listeners;
}
