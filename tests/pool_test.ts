import {
  assert,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  Pool,
  PoolClosedError,
  type PoolCloseReason,
  PoolExhaustedError,
  type PoolOptions,
  type PoolStats,
  PoolTimeoutError,
} from "../pool.ts";
import { FakeClock, settle } from "./time_support.ts";

interface Resource {
  id: number;
}

interface Call {
  signal: AbortSignal;
  resolve: (resource: Resource) => void;
  reject: (error: unknown) => void;
}

/** A pool with its clock, and everything it does to the world. */
class Rig implements Disposable {
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
class Watch<T> {
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

function watch<T>(promise: Promise<T>): Watch<T> {
  return new Watch(promise);
}

function states(watches: Watch<unknown>[]): string {
  return watches.map((watch) => watch.state[2] === "n" ? "." : watch.state[2])
    .join("");
}

function never(): Promise<never> {
  return new Promise(() => {});
}

// ---- Options -----------------------------------------------------------------

Deno.test("Pool rejects options of the wrong type or range, and says what it received", () => {
  const factory = () => ({ id: 0 });
  const cases: [unknown, typeof TypeError | typeof RangeError, string][] = [
    [{}, TypeError, "Option factory must be a function, received undefined"],
    [
      { factory: 1 },
      TypeError,
      "Option factory must be a function, received 1",
    ],
    [
      { factory, close: "x" },
      TypeError,
      'Option close must be a function, received "x"',
    ],
    [
      { factory, ping: {} },
      TypeError,
      "Option ping must be a function, received an object",
    ],
    [
      { factory, onError: null },
      TypeError,
      "Option onError must be a function, received null",
    ],
    [
      { factory, hooks: 1 },
      TypeError,
      "Option hooks must be an object, received 1",
    ],
    [
      { factory, hooks: { opened: 1 } },
      TypeError,
      "Option hooks.opened must be a function, received 1",
    ],
    [
      { factory, idleOrder: "random" },
      RangeError,
      'Option idleOrder must be "lifo" or "fifo", received "random"',
    ],
    [
      { factory, maxCap: "1" },
      TypeError,
      'Option maxCap must be a number, received "1"',
    ],
    [
      { factory, maxCap: 0 },
      RangeError,
      "Option maxCap must be an integer of at least 1, received 0",
    ],
    [{ factory, maxCap: 1.5 }, RangeError, "received 1.5"],
    [{ factory, maxCap: NaN }, RangeError, "received NaN"],
    [
      { factory, maxIdle: -1 },
      RangeError,
      "Option maxIdle must be an integer of at least 0, received -1",
    ],
    [{ factory, maxOpening: 0 }, RangeError, "maxOpening"],
    [{ factory, maxWaiting: -1 }, RangeError, "maxWaiting"],
    [{ factory, maxWaiting: 0.5 }, RangeError, "maxWaiting"],
    [
      { factory, initialCap: 11 },
      RangeError,
      "Option initialCap must be an integer from 0 to 10, received 11",
    ],
    [
      { factory, initialCap: 3, maxIdle: 2 },
      RangeError,
      "Option initialCap must be an integer from 0 to 2, received 3",
    ],
    [
      { factory, initialCap: Infinity, maxCap: Infinity },
      RangeError,
      "initialCap",
    ],
    [
      { factory, minIdle: 3, maxCap: 2 },
      RangeError,
      "Option minIdle must be an integer from 0 to 2, received 3",
    ],
    [{ factory, minIdle: 1, maxIdle: 0 }, RangeError, "minIdle"],
    [
      { factory, reapInterval: 0 },
      RangeError,
      "Option reapInterval must be more than 0 ms, received 0",
    ],
  ];
  for (
    const name of [
      "idleTimeout",
      "maxLifetime",
      "getTimeout",
      "factoryTimeout",
      "pingTimeout",
      "pingAfterIdle",
      "leakTimeout",
      "reapInterval",
    ]
  ) {
    cases.push(
      [
        { factory, [name]: -1 },
        RangeError,
        `Option ${name} must be from 0 to 9007199254740991 ms, received -1`,
      ],
      [{ factory, [name]: NaN }, RangeError, `Option ${name} must be`],
      [{ factory, [name]: Infinity }, RangeError, `Option ${name} must be`],
      [
        { factory, [name]: "1" },
        TypeError,
        `Option ${name} must be a number, received "1"`,
      ],
    );
  }
  for (const [options, kind, message] of cases) {
    assertThrows(
      () => new Pool(options as PoolOptions<Resource>),
      kind,
      message,
    );
  }
});

Deno.test("Pool takes Infinity for a count that has no limit", async () => {
  using rig = new Rig({
    maxCap: Infinity,
    maxIdle: Infinity,
    maxOpening: Infinity,
    maxWaiting: Infinity,
  });
  const taken = await rig.take(100);
  for (const resource of taken) rig.pool.put(resource);
  assertEquals(rig.now, "open 100 idle 100 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool opens at most 10 and keeps them all idle by default", async () => {
  using rig = new Rig();
  const taken = await rig.take(10);
  const waiter = watch(rig.pool.get());
  await settle();
  assertEquals(rig.now, "open 10 idle 0 inUse 10 opening 0 waiting 1");
  for (const resource of taken) rig.pool.put(resource);
  await settle();
  assertStrictEquals(waiter.value, taken[0]);
  await rig.clock.tick(1e9);
  assertEquals(rig.now, "open 10 idle 9 inUse 1 opening 0 waiting 0");
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.get() rejects a bad timeout or signal, whatever is idle", async () => {
  using rig = new Rig();
  rig.pool.put(await rig.pool.get());
  for (const timeout of [-1, NaN, Infinity]) {
    await assertRejects(() => rig.pool.get({ timeout }), RangeError, "timeout");
  }
  await assertRejects(
    () => rig.pool.get({ signal: {} as AbortSignal }),
    TypeError,
    "Option signal must be an AbortSignal, received an object",
  );
  await assertRejects(
    () => rig.pool.get({ timeout: "1" as unknown as number }),
    TypeError,
  );
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

// ---- Lending -----------------------------------------------------------------

Deno.test("Pool.get() opens what is missing and lends again what was put", async () => {
  using rig = new Rig();
  const [a, b] = await rig.take(2);
  assertEquals(rig.opened, [a!, b!]);
  rig.pool.put(a!);
  assertStrictEquals(await rig.pool.get(), a);
  assertEquals(rig.opened.length, 2);
});

Deno.test("Pool.get() lends the warmest first, or the coldest with fifo", async () => {
  for (
    const [idleOrder, order] of [["lifo", [3, 2, 1]], ["fifo", [
      1,
      2,
      3,
    ]]] as const
  ) {
    using rig = new Rig({ idleOrder });
    for (const resource of await rig.take(3)) rig.pool.put(resource);
    assertEquals(
      (await rig.take(3)).map(({ id }) => id),
      [...order],
      idleOrder,
    );
  }
});

Deno.test("Pool.tryGet() lends what is idle, opens nothing and passes nobody", async () => {
  using rig = new Rig({ maxCap: 1 }, true);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.calls.length, 0);
  const first = rig.pool.get();
  const a = await rig.deliver(0);
  assertStrictEquals(await first, a);
  rig.pool.put(a);
  assertStrictEquals(rig.pool.tryGet(), a);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.stats().getCount, 2);
  await rig.pool.close({ signal: AbortSignal.abort() }).catch(() => {});
  assertStrictEquals(rig.pool.tryGet(), undefined);
});

Deno.test("Pool.tryGet() leaves to get what is due for a ping", async () => {
  using rig = new Rig({ ping: () => true, pingAfterIdle: 100 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await rig.clock.tick(99);
  assertStrictEquals(rig.pool.tryGet(), a);
  rig.pool.put(a!);
  await rig.clock.tick(100);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  assertStrictEquals(await rig.pool.get(), a);
  assertEquals(rig.pinged, [a!]);
});

Deno.test("Pool.tryGet() does not pass a waiter whose ping is under way", async () => {
  const answer = Promise.withResolvers<boolean>();
  using rig = new Rig({
    ping: () => answer.promise,
    pingAfterIdle: 10,
    idleOrder: "fifo",
  });
  const [a, b] = await rig.take(2);
  rig.pool.put(a!);
  await rig.clock.tick(10);
  rig.pool.put(b!);
  const first = watch(rig.pool.get());
  await settle();
  assertEquals(rig.pinged, [a!]);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  // Nor does a newcomer: what it finds idle goes to who is first in line.
  const second = watch(rig.pool.get());
  await settle();
  assertStrictEquals(first.value, b);
  assertEquals(second.state, "pending");
  answer.resolve(true);
  await settle();
  assertStrictEquals(second.value, a);
});

Deno.test("Pool.put() and discard() of what is not borrowed throw and change nothing", async () => {
  using rig = new Rig({ close: never, maxCap: 3 });
  const [idle, closing] = await rig.take(2);
  rig.pool.put(idle!);
  rig.pool.discard(closing!);
  const before = rig.pool.stats();
  for (
    const [resource, state] of [[idle!, "idle"], [closing!, "closing"], [{
      id: 9,
    }, "not of this pool"]] as const
  ) {
    for (const method of ["put", "discard"] as const) {
      assertThrows(
        () => rig.pool[method](resource),
        TypeError,
        `The resource is not borrowed, it is ${state}`,
      );
    }
  }
  assertEquals(rig.pool.stats(), before);
  assertEquals(rig.closed, [closing!]);
});

Deno.test("Pool.put() twice does not lend one resource to two callers", async () => {
  using rig = new Rig({ maxCap: 2 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  assertThrows(() => rig.pool.put(a!), TypeError);
  const [x, y] = await rig.take(2);
  assert(x !== y);
});

Deno.test("Pool holds primitives as well as objects", async () => {
  let next = 0;
  const pool = new Pool({ factory: () => next++, maxCap: 2 });
  const zero = await pool.get();
  assertStrictEquals(zero, 0);
  pool.put(zero);
  assertStrictEquals(pool.tryGet(), 0);
  assertStrictEquals(await pool.get(), 1);
  assertThrows(() => pool.put(2), TypeError);
  pool.put(1);
  pool.put(0);
  await pool.close();
});

Deno.test("Pool refuses a resource that the factory delivers twice, and leaves the first alone", async () => {
  const same = { id: 7 };
  using rig = new Rig({ factory: () => same });
  assertStrictEquals(await rig.pool.get(), same);
  await assertRejects(
    () => rig.pool.get(),
    TypeError,
    "The factory delivered a resource that is in the pool already",
  );
  assertEquals(rig.closed, []);
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  rig.pool.discard(same);
  await settle();
  // Once it has left the pool, it may come again.
  assertStrictEquals(await rig.pool.get(), same);
});

Deno.test("Pool refuses undefined as a resource", async () => {
  using rig = new Rig({ factory: () => undefined as unknown as Resource });
  await assertRejects(
    () => rig.pool.get(),
    TypeError,
    "The factory delivered undefined",
  );
  assertEquals(rig.now, "open 0 idle 0 inUse 0 opening 0 waiting 0");
});

// ---- 1. Places ---------------------------------------------------------------

Deno.test("Pool counts a place as taken until its close has ended, however it ends", async () => {
  const boom = new Error("boom");
  for (const how of ["resolves", "rejects", "throws", "returns"] as const) {
    const gate = Promise.withResolvers<void>();
    using rig = new Rig({
      maxCap: 1,
      close: () => {
        if (how === "throws") throw boom;
        return how === "returns" ? undefined : gate.promise;
      },
    });
    const [a] = await rig.take(1);
    const next = watch(rig.pool.get());
    rig.pool.discard(a!);
    await settle();
    if (how === "resolves" || how === "rejects") {
      assertEquals(rig.now, "open 1 idle 0 inUse 0 opening 0 waiting 1", how);
      assertEquals(rig.opened.length, 1);
      if (how === "resolves") gate.resolve();
      else gate.reject(boom);
      await settle();
    }
    assertEquals(next.value?.id, 2, how);
    assertEquals(
      rig.errors,
      how === "rejects" || how === "throws" ? [[boom, "close"]] : [],
    );
  }
});

Deno.test("Pool keeps the place of a resource whose close never ends", async () => {
  using rig = new Rig({ maxCap: 2, close: never });
  const [a] = await rig.take(1);
  rig.pool.discard(a!);
  await rig.take(1);
  await assertRejects(
    async () => {
      const get = rig.pool.get({ timeout: 10 });
      await Promise.all([get, rig.clock.tick(10)]);
    },
    PoolTimeoutError,
    "No resource within 10 ms: 2 open, 1 in use, 1 waiting",
  );
});

Deno.test("Pool never has more than maxCap open, those being opened and closed included", async () => {
  using rig = new Rig({ maxCap: 3, close: never }, true);
  const gets = Array.from({ length: 5 }, () => watch(rig.pool.get()));
  await settle();
  assertEquals(rig.calls.length, 3);
  rig.pool.discard(await rig.deliver(0));
  await settle();
  assertEquals(rig.now, "open 3 idle 0 inUse 0 opening 2 waiting 2");
  await rig.deliver(1);
  assertEquals(rig.calls.length, 3);
  assertEquals(states(gets), "ss...");
});

// ---- 2. Order ----------------------------------------------------------------

Deno.test("Pool.get() serves waiters in the order they came", async () => {
  using rig = new Rig({ maxCap: 1 });
  let [held] = await rig.take(1);
  const order: number[] = [];
  const gets = Array.from(
    { length: 20 },
    // Different timeouts stand in different queues, but in one line.
    (_, i) =>
      rig.pool.get({ timeout: [0, 50, 90][i % 3]! }).then((resource) => {
        order.push(i);
        return resource;
      }),
  );
  for (const get of gets) {
    rig.pool.put(held!);
    held = await get;
  }
  assertEquals(order, Array.from(gets, (_, i) => i));
});

Deno.test("Pool.get() does not let a newcomer pass a waiter in the turn of a put", async () => {
  using rig = new Rig({ maxCap: 1 });
  const [a] = await rig.take(1);
  const first = watch(rig.pool.get());
  rig.pool.put(a!);
  const second = watch(rig.pool.get());
  assertStrictEquals(rig.pool.tryGet(), undefined);
  await settle();
  assertEquals(states([first, second]), "s.");
});

Deno.test("Pool hands over nothing that has outlived its lifetime", async () => {
  using rig = new Rig({ maxCap: 1, maxLifetime: 1000 });
  const [a] = await rig.take(1);
  const waiter = watch(rig.pool.get());
  await rig.clock.tick(1000);
  rig.pool.put(a!);
  await settle();
  assertEquals(rig.closed, [a!]);
  assertEquals(waiter.value?.id, 2);
  assertEquals(rig.stats().maxLifetimeClosed, 1);
});

Deno.test("Pool retires by lifetime also what never becomes idle", async () => {
  using rig = new Rig({ maxCap: 2, maxLifetime: 1000 });
  let done = 0;
  const callers = Array.from({ length: 8 }, async () => {
    while (done < 3000) {
      const resource = await rig.pool.get();
      done++;
      await null;
      rig.pool.put(resource);
    }
  });
  while (done < 3000) await rig.clock.tick(1, () => settle(3));
  await Promise.all(callers);
  assertGreater(rig.clock.now, 500);
  const lifetimes = Math.floor(rig.clock.now / 1000);
  assertGreater(rig.opened.length, 2 * lifetimes);
  assertEquals(rig.closed.length, rig.opened.length - 2);
});

Deno.test("Pool.get() and tryGet() close an expired idle resource instead of lending it", async () => {
  for (const method of ["get", "tryGet"] as const) {
    // Only just before the reaper would look.
    using rig = new Rig({ idleTimeout: 1000, reapInterval: 5000 });
    const [a] = await rig.take(1);
    rig.pool.put(a!);
    await rig.clock.tick(1000);
    assertEquals(rig.closed, []);
    const b = await rig.pool[method]();
    assertEquals(b?.id, method === "get" ? 2 : undefined);
    assertEquals(rig.closed, [a!]);
    assertEquals(rig.stats().idleTimeoutClosed, 1);
  }
});

// ---- 3. Wake-ups -------------------------------------------------------------

Deno.test("Pool serves the next waiter, whatever frees a place or a resource", async (t) => {
  const boom = new Error("boom");
  const cases: Record<string, (rig: Rig, held: Resource) => void> = {
    "a put": (rig, held) => rig.pool.put(held),
    "a discard": (rig, held) => rig.pool.discard(held),
    "a larger maxCap": (rig) => rig.pool.resize({ maxCap: 2 }),
    "an evicted one that comes back": (rig, held) => {
      rig.pool.evictAll();
      rig.pool.put(held);
    },
    "an evicted single one that comes back": (rig, held) => {
      rig.pool.evict(held);
      rig.pool.put(held);
    },
  };
  for (const [name, free] of Object.entries(cases)) {
    await t.step(name, async () => {
      using rig = new Rig({
        maxCap: 1,
        close: name.includes("single")
          ? () => Promise.reject(boom)
          : () => Promise.resolve(),
      });
      const [held] = await rig.take(1);
      const gone = new AbortController();
      const aborted = watch(rig.pool.get({ signal: gone.signal }));
      const late = watch(rig.pool.get({ timeout: 10 }));
      const next = watch(rig.pool.get());
      gone.abort();
      await rig.clock.tick(10);
      free(rig, held!);
      await settle();
      assertEquals(states([aborted, late, next]), "jjs");
    });
  }
});

Deno.test("Pool serves the next waiter when the factory fails", async () => {
  using rig = new Rig({ maxCap: 1 }, true);
  const gets = Array.from({ length: 3 }, () => watch(rig.pool.get()));
  await settle();
  const boom = new Error("boom");
  rig.calls[0]!.reject(boom);
  await settle();
  assertEquals(states(gets), "j..");
  assertStrictEquals(gets[0]!.error, boom);
  await rig.deliver(1);
  assertEquals(states(gets), "js.");
  rig.pool.put(rig.opened[0]!);
  await settle();
  assertEquals(states(gets), "jss");
  assertEquals(rig.calls.length, 2);
});

Deno.test("Pool wakes a waiter also if a put or discard comes while the factory is failing", async () => {
  for (const method of ["put", "discard"] as const) {
    using rig = new Rig({ maxCap: 2 }, true);
    const first = watch(rig.pool.get());
    await settle();
    const a = await rig.deliver(0);
    const second = watch(rig.pool.get());
    const third = watch(rig.pool.get());
    await settle();
    // In one turn: the second's call fails, and the first resource comes back.
    rig.calls[1]!.reject(new Error("refused"));
    rig.pool[method](a);
    await settle();
    // A put serves the second, and the failure is the third's; after a discard
    // the second has the failure, and the third a call of its own.
    assertEquals(first.state, "resolved");
    assertEquals(second.state, method === "put" ? "resolved" : "rejected");
    if (method === "put") {
      assertEquals(third.state, "rejected");
    } else {
      await rig.deliver(rig.calls.length - 1);
      assertEquals(third.state, "resolved");
    }
  }
});

Deno.test("Pool.resize() with a larger maxIdle alone changes nothing for waiters", async () => {
  using rig = new Rig({ maxCap: 1, maxIdle: 0 });
  const [a] = await rig.take(1);
  const waiter = watch(rig.pool.get());
  rig.pool.resize({ maxIdle: 1 });
  await settle();
  assertEquals(waiter.state, "pending");
  rig.pool.put(a!);
  await settle();
  rig.pool.put(waiter.value!);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

// ---- 4. Giving up --------------------------------------------------------------

Deno.test("Pool.get() rejects with the reason of its signal, in line, in the factory and in the ping", async () => {
  for (const where of ["line", "factory", "ping"] as const) {
    using rig = new Rig({ maxCap: 1, ping: never }, true);
    if (where !== "factory") {
      const get = rig.pool.get();
      await rig.deliver(0);
      if (where === "ping") rig.pool.put(await get);
    }
    const gone = new AbortController();
    const waiter = watch(rig.pool.get({ signal: gone.signal }));
    await settle();
    const reason = { why: where };
    gone.abort(reason);
    await settle();
    assertEquals(waiter.state, "rejected");
    assertStrictEquals(waiter.error, reason);
    assertEquals(rig.stats().cancelCount, 1);
  }
});

Deno.test("Pool.get() with an aborted signal takes nothing, not even from a closed pool", async () => {
  using rig = new Rig();
  rig.pool.put(await rig.pool.get());
  const reason = new Error("gone");
  const signal = AbortSignal.abort(reason);
  assertStrictEquals(
    await assertRejects(() => rig.pool.get({ signal })),
    reason,
  );
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  await rig.pool.close();
  assertStrictEquals(
    await assertRejects(() => rig.pool.get({ signal })),
    reason,
  );
  assertEquals(rig.stats().cancelCount, 2);
});

Deno.test("Pool.get() times out in line, in the factory and in the ping", async () => {
  for (const where of ["line", "factory", "ping"] as const) {
    using rig = new Rig({
      maxCap: 1,
      ping: never,
      pingTimeout: 0,
      getTimeout: 100,
    }, true);
    if (where !== "factory") {
      const get = rig.pool.get();
      await rig.deliver(0);
      if (where === "ping") rig.pool.put(await get);
    }
    const waiter = watch(rig.pool.get());
    await rig.clock.tick(99);
    assertEquals(waiter.state, "pending");
    await rig.clock.tick(1);
    assertInstanceOf(waiter.error, PoolTimeoutError, where);
    assertEquals(rig.stats().timeoutCount, 1);
    // Nothing is left of it, neither timer nor place in line.
    assertEquals(rig.clock.timers, 0);
    assertEquals(rig.stats().waiting, 0);
  }
});

Deno.test("Pool.get() takes its own timeout over getTimeout, 0 for ever", async () => {
  using rig = new Rig({ maxCap: 1, getTimeout: 100 });
  await rig.take(1);
  const gets = [50, 0, undefined].map((timeout) =>
    watch(rig.pool.get(timeout === undefined ? {} : { timeout }))
  );
  await rig.clock.tick(50);
  assertEquals(states(gets), "j..");
  await rig.clock.tick(50);
  assertEquals(states(gets), "j.j");
  await rig.clock.tick(1e6);
  assertEquals(states(gets), "j.j");
});

Deno.test("Pool passes a delivered resource on when its waiter has given up", async () => {
  for (const how of ["abort", "timeout"] as const) {
    using rig = new Rig({ maxCap: 1 }, true);
    const gone = new AbortController();
    const first = watch(
      rig.pool.get(how === "abort" ? { signal: gone.signal } : { timeout: 5 }),
    );
    await settle();
    if (how === "abort") gone.abort();
    await rig.clock.tick(5);
    assertEquals(first.state, "rejected");
    assertEquals(rig.calls[0]!.signal.aborted, false);
    const second = watch(rig.pool.get());
    await settle();
    assertEquals(rig.calls.length, 1);
    const a = await rig.deliver(0);
    assertStrictEquals(second.value, a);
  }
});

Deno.test("Pool keeps idle what is delivered or found alive for nobody", async () => {
  const answer = Promise.withResolvers<boolean>();
  using rig = new Rig({ ping: () => answer.promise, maxCap: 1 }, true);
  const first = rig.pool.get({ timeout: 5 });
  await Promise.all([assertRejects(() => first), rig.clock.tick(5)]);
  const a = await rig.deliver(0);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  const second = rig.pool.get({ timeout: 5 });
  await Promise.all([assertRejects(() => second), rig.clock.tick(5)]);
  assertEquals(rig.pinged, [a]);
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  answer.resolve(true);
  await settle();
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  assertEquals(rig.closed, []);
});

Deno.test("Pool does not lose a resource handed over in the very turn of an abort", async () => {
  using rig = new Rig({ maxCap: 1 });
  const [a] = await rig.take(1);
  const gone = new AbortController();
  // Handed over first: the caller has it, whatever happens then.
  const before = watch(rig.pool.get({ signal: gone.signal }));
  rig.pool.put(a!);
  gone.abort();
  await settle();
  assertStrictEquals(before.value, a);
  // Aborted first: it stays idle.
  const again = new AbortController();
  const after = watch(rig.pool.get({ signal: again.signal }));
  again.abort();
  rig.pool.put(a!);
  await settle();
  assertEquals(after.state, "rejected");
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool does not let a waiter that timed out swallow a resource later", async () => {
  using rig = new Rig({ maxCap: 1 });
  const [a] = await rig.take(1);
  const gets = [5, 7, 0].map((timeout) => watch(rig.pool.get({ timeout })));
  await rig.clock.tick(10);
  assertEquals(states(gets), "jj.");
  rig.pool.put(a!);
  await settle();
  assertStrictEquals(gets[2]!.value, a);
  rig.pool.put(a!);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

// ---- 5. A failing factory ------------------------------------------------------

Deno.test("Pool rejects one waiter for each failure, and calls the factory no oftener", async () => {
  for (const how of ["throws", "rejects"] as const) {
    for (const maxOpening of [1, 4]) {
      let calls = 0;
      using rig = new Rig({
        maxCap: 4,
        maxOpening,
        factory: () => {
          const error = new Error(`failure ${++calls}`);
          if (how === "throws") throw error;
          return Promise.reject(error);
        },
      });
      const gets = Array.from({ length: 10 }, () => watch(rig.pool.get()));
      await settle(100);
      assertEquals(
        gets.map(({ error }) => (error as Error).message),
        gets.map((_, i) => `failure ${i + 1}`),
      );
      assertEquals(calls, 10);
      assertEquals(rig.errors, []);
      assertEquals(rig.stats().openFailedCount, 10);
      await rig.clock.tick(1e6);
      assertEquals(calls, 10);
    }
  }
});

Deno.test("Pool does not fail a waiter for whom something else is on its way", async () => {
  using rig = new Rig({ maxCap: 2 }, true);
  const gone = new AbortController();
  const first = watch(rig.pool.get({ signal: gone.signal }));
  const second = watch(rig.pool.get());
  await settle();
  gone.abort();
  const boom = new Error("boom");
  rig.calls[0]!.reject(boom);
  await settle();
  assertEquals(states([first, second]), "j.");
  assertEquals(rig.errors, [[boom, "factory"]]);
  await rig.deliver(1);
  assertEquals(states([first, second]), "js");
  assertEquals(rig.calls.length, 2);
});

Deno.test("Pool recovers when the factory does", async () => {
  let down = true;
  using rig = new Rig({
    factory: () => {
      if (down) throw new Error("down");
      return { id: 1 };
    },
  });
  await assertRejects(() => rig.pool.get(), Error, "down");
  down = false;
  assertEquals(await rig.pool.get(), { id: 1 });
});

// ---- 6. Pings and timeouts -----------------------------------------------------

Deno.test("Pool.get() replaces a dead resource, whatever says that it is dead", async () => {
  const boom = new Error("boom");
  const pings: Record<string, () => unknown> = {
    "false": () => false,
    "a promise of false": () => Promise.resolve(false),
    "a throw": () => {
      throw boom;
    },
    "a rejection": () => Promise.reject(boom),
  };
  for (const [name, ping] of Object.entries(pings)) {
    using rig = new Rig({ ping });
    const [a] = await rig.take(1);
    rig.pool.put(a!);
    const b = await rig.pool.get();
    assertEquals(b.id, 2, name);
    assertEquals(rig.closed, [a!]);
    assertEquals(rig.stats().pingFailedCount, 1);
    assertEquals(
      rig.errors,
      name.startsWith("a throw") || name === "a rejection"
        ? [[boom, "ping"]]
        : [],
    );
  }
});

Deno.test("Pool.get() takes any answer but false for alive", async () => {
  for (const answer of [true, undefined, 0, null, Promise.resolve()]) {
    using rig = new Rig({ ping: () => answer });
    const [a] = await rig.take(1);
    rig.pool.put(a!);
    assertStrictEquals(await rig.pool.get(), a);
    assertEquals(rig.closed, []);
  }
});

Deno.test("Pool.get() pings only what was idle for pingAfterIdle", async () => {
  using rig = new Rig({ ping: () => true, pingAfterIdle: 100 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await rig.clock.tick(99);
  assertStrictEquals(await rig.pool.get(), a);
  assertEquals(rig.pinged, []);
  rig.pool.put(a!);
  await rig.clock.tick(100);
  assertStrictEquals(await rig.pool.get(), a);
  assertEquals(rig.pinged, [a!]);
});

Deno.test("Pool.get() gets a fresh resource or the factory's error after as many dead ones as there were", async () => {
  for (const down of [false, true]) {
    let opened = 0;
    using rig = new Rig({
      maxCap: 4,
      ping: () => false,
      factory: () => {
        if (++opened > 4 && down) throw new Error("down");
        return { id: opened };
      },
    });
    for (const resource of await rig.take(4)) rig.pool.put(resource);
    const get = watch(rig.pool.get());
    await settle(60);
    assertEquals(rig.closed.map(({ id }) => id), [4, 3, 2, 1]);
    if (down) assertEquals((get.error as Error).message, "down");
    else assertEquals(get.value, { id: 5 });
  }
});

Deno.test("Pool fails no caller for dead idle resources after the far side has restarted", async () => {
  using rig = new Rig({ maxCap: 8, ping: ({ id }) => id > 8 });
  for (const resource of await rig.take(8)) rig.pool.put(resource);
  const gets = Array.from({ length: 8 }, () => watch(rig.pool.get()));
  await settle(60);
  assertEquals(states(gets), "ssssssss");
  assert(gets.every(({ value }) => value!.id > 8));
});

Deno.test("Pool cuts a hanging ping, and ignores what it says later", async () => {
  const answer = Promise.withResolvers<boolean>();
  using rig = new Rig({ ping: () => answer.promise, pingTimeout: 50 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  const get = watch(rig.pool.get());
  await rig.clock.tick(49);
  assertEquals(get.state, "pending");
  await rig.clock.tick(1);
  assertEquals(get.value?.id, 2);
  assertEquals(rig.closed, [a!]);
  assertEquals(rig.errors.length, 1);
  assertInstanceOf(rig.errors[0]![0], PoolTimeoutError);
  assertStringIncludes(
    String(rig.errors[0]![0]),
    "The ping did not end within 50 ms",
  );
  answer.reject(new Error("nobody's"));
  await settle();
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  assertEquals(rig.errors.length, 1);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool cuts a hanging factory, frees its place and closes what it delivers later", async () => {
  const reasons: PoolCloseReason[] = [];
  using rig = new Rig({
    maxCap: 1,
    factoryTimeout: 50,
    hooks: { closed: (_, reason) => reasons.push(reason) },
  }, true);
  const gets = [watch(rig.pool.get()), watch(rig.pool.get())];
  await rig.clock.tick(49);
  assertEquals(states(gets), "..");
  await rig.clock.tick(1);
  assertEquals(states(gets), "j.");
  const error = gets[0]!.error;
  assertInstanceOf(error, PoolTimeoutError);
  assertStringIncludes(
    error.message,
    "The factory did not deliver within 50 ms",
  );
  assertStrictEquals(rig.calls[0]!.signal.reason, error);
  assertEquals(rig.calls.length, 2);
  assertEquals(rig.stats().openFailedCount, 1);
  const late = await rig.deliver(0);
  assertEquals(rig.closed, [late]);
  assertEquals(reasons, ["late"]);
  assertEquals(rig.now, "open 1 idle 0 inUse 0 opening 1 waiting 0");
  await rig.deliver(1);
  assertEquals(states(gets), "js");
  assertEquals(rig.clock.timers, 0);
  assertEquals(rig.errors, []);
});

Deno.test("Pool says nothing more of a cut factory that fails later", async () => {
  using rig = new Rig({ factoryTimeout: 50 }, true);
  const get = watch(rig.pool.get());
  await rig.clock.tick(50);
  assertEquals(get.state, "rejected");
  rig.calls[0]!.reject(new Error("aborted"));
  await settle();
  assertEquals(rig.errors, []);
  assertEquals(rig.stats().openFailedCount, 1);
});

Deno.test("Pool does not close a late resource that is in the pool already", async () => {
  const same = { id: 1 };
  using rig = new Rig({ factoryTimeout: 50 }, true);
  const first = watch(rig.pool.get());
  await rig.clock.tick(50);
  assertEquals(first.state, "rejected");
  const second = rig.pool.get();
  await settle();
  rig.calls[1]!.resolve(same);
  assertStrictEquals(await second, same);
  rig.calls[0]!.resolve(same);
  await settle();
  assertEquals(rig.closed, []);
});

// ---- 7. Closing ----------------------------------------------------------------

Deno.test("Pool.close() rejects waiters and new gets at once, and waits for what is borrowed", async () => {
  using rig = new Rig({ maxCap: 2 });
  const [a, b] = await rig.take(2);
  const waiter = watch(rig.pool.get({ timeout: 100 }));
  rig.pool.put(a!);
  await settle();
  rig.pool.put(a!);
  const line = watch(rig.pool.get({ timeout: 100 }));
  const last = watch(rig.pool.get({ timeout: 100 }));
  await settle();
  const closing = rig.pool.close();
  const closed = watch(closing);
  await settle();
  assertEquals(states([waiter, line, last]), "ssj");
  assertInstanceOf(last.error, PoolClosedError);
  await assertRejects(
    () => rig.pool.get(),
    PoolClosedError,
    "The pool is closed",
  );
  assertEquals(closed.state, "pending");
  assertEquals(rig.closed, []);
  rig.pool.put(a!);
  await settle();
  assertEquals(rig.closed, [a!]);
  assertEquals(closed.state, "pending");
  rig.pool.discard(b!);
  await settle();
  assertEquals(rig.closed, [a!, b!]);
  assertEquals(closed.state, "resolved");
  assertStrictEquals(rig.pool.close(), closing);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.close() closes what is idle at once and waits for its close", async () => {
  const gate = Promise.withResolvers<void>();
  using rig = new Rig({ close: () => gate.promise });
  for (const resource of await rig.take(2)) rig.pool.put(resource);
  const closed = watch(rig.pool.close());
  assertEquals(rig.closed.length, 2);
  await settle();
  assertEquals(closed.state, "pending");
  gate.resolve();
  await settle();
  assertEquals(closed.state, "resolved");
});

Deno.test("Pool.close() aborts the factory, and closes what it delivers all the same", async () => {
  using rig = new Rig({}, true);
  const waiter = watch(rig.pool.get());
  await settle();
  const closed = watch(rig.pool.close());
  await settle();
  assertInstanceOf(waiter.error, PoolClosedError);
  assertInstanceOf(rig.calls[0]!.signal.reason, PoolClosedError);
  assertEquals(closed.state, "pending");
  const late = await rig.deliver(0);
  assertEquals(rig.closed, [late]);
  assertEquals(closed.state, "resolved");
  assertEquals(rig.errors, []);
});

Deno.test("Pool.close() resolves when the aborted factory fails, without reporting it", async () => {
  using rig = new Rig({}, true);
  const waiter = watch(rig.pool.get());
  await settle();
  const closed = watch(rig.pool.close());
  rig.calls[0]!.reject(rig.calls[0]!.signal.reason);
  await settle();
  assertEquals([waiter.state, closed.state], ["rejected", "resolved"]);
  assertEquals(rig.errors, []);
});

Deno.test("Pool.close() does not wait for a ping", async () => {
  using rig = new Rig({ ping: never, pingTimeout: 1000 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  const waiter = watch(rig.pool.get());
  await settle();
  await rig.pool.close();
  assertEquals(waiter.state, "rejected");
  assertEquals(rig.closed, [a!]);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.close() of an empty pool resolves, and so does every further call", async () => {
  using rig = new Rig({ minIdle: 1, idleTimeout: 100 });
  const first = rig.pool.close();
  assertStrictEquals(rig.pool.close(), first);
  assertStrictEquals(rig.pool[Symbol.asyncDispose](), first);
  await first;
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.close() ends its wait when a signal aborts, of whichever call, and closes the rest later", async () => {
  for (const which of ["first", "second", "aborted"] as const) {
    using rig = new Rig();
    const [forgotten] = await rig.take(1);
    const stop = new AbortController();
    const reason = new Error("long enough");
    if (which === "aborted") stop.abort(reason);
    const closing = rig.pool.close(
      which === "second" ? {} : { signal: stop.signal },
    );
    if (which === "second") {
      assertStrictEquals(rig.pool.close({ signal: stop.signal }), closing);
    }
    const closed = watch(closing);
    await settle();
    stop.abort(reason);
    await settle();
    assertEquals(closed.state, "rejected");
    assertStrictEquals(closed.error, reason);
    rig.pool.put(forgotten!);
    assertEquals(rig.closed, [forgotten!]);
    assertEquals(rig.stats().open, 0);
  }
});

Deno.test("Pool.close() opens nothing more of initialCap", async () => {
  using rig = new Rig({ initialCap: 3, maxOpening: 1 }, true);
  const closed = watch(rig.pool.close());
  await rig.deliver(0);
  assertEquals(rig.calls.length, 1);
  assertEquals(closed.state, "resolved");
});

Deno.test("Pool.close() leaves no listener on its signal, and no rejection that nobody handles", async () => {
  const stop = new AbortController();
  const listeners = countListeners(stop.signal);
  {
    using rig = new Rig();
    const [a] = await rig.take(1);
    const closing = rig.pool.close({ signal: stop.signal });
    assertEquals(listeners.count, 1);
    rig.pool.put(a!);
    await closing;
    await settle();
    assertEquals(listeners.count, 0);
  }
  using rig = new Rig();
  await rig.take(1);
  rig.pool.close({ signal: stop.signal }); // and nobody awaits it
  stop.abort();
  // Unhandled rejections are told of in a later turn of the event loop.
  const { port1, port2 } = new MessageChannel();
  await new Promise((resolve) => {
    port2.onmessage = resolve;
    port1.postMessage(0);
  });
  port1.close();
  port2.close();
  assertEquals(listeners.count, 0);
});

Deno.test("Pool lends nothing to a caller who calls back while it closes", async () => {
  const calls: (Resource | undefined | Promise<unknown>)[] = [];
  using rig = new Rig({
    close: () => {
      calls.push(rig.pool.tryGet(), rig.pool.get().catch((error) => error));
    },
  });
  for (const resource of await rig.take(3)) rig.pool.put(resource);
  await rig.pool.close();
  const results = await Promise.all(calls);
  assertEquals(results.length, 6);
  for (const result of results) {
    assert(result === undefined || result instanceof PoolClosedError);
  }
});

// ---- 8. Resizing and reaping ---------------------------------------------------

Deno.test("Pool.resize() closes idle surplus at once, the coldest first, and borrowed as it comes back", async () => {
  const reasons: [number, PoolCloseReason][] = [];
  using rig = new Rig({
    maxCap: 6,
    hooks: { closed: ({ id }, reason) => reasons.push([id, reason]) },
  });
  const taken = await rig.take(6);
  for (const resource of taken.slice(0, 3)) rig.pool.put(resource);
  rig.pool.resize({ maxCap: 2 });
  assertEquals(rig.now, "open 3 idle 0 inUse 3 opening 0 waiting 0");
  const waiter = watch(rig.pool.get());
  rig.pool.put(taken[3]!);
  await settle();
  assertEquals(waiter.state, "pending");
  rig.pool.put(taken[4]!);
  await settle();
  assertStrictEquals(waiter.value, taken[4]);
  assertEquals(rig.now, "open 2 idle 0 inUse 2 opening 0 waiting 0");
  assertEquals(reasons, [1, 2, 3, 4].map((id) => [id, "resize"]));
});

Deno.test("Pool.resize() counts what is closing already, so that a slow close does not cost another resource", async () => {
  using rig = new Rig({ maxCap: 3, close: never });
  const taken = await rig.take(3);
  rig.pool.discard(taken[0]!);
  rig.pool.resize({ maxCap: 2 });
  rig.pool.put(taken[1]!);
  rig.pool.put(taken[2]!);
  assertEquals(rig.now, "open 3 idle 2 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool.resize() closes what a factory delivers beyond the new limit", async () => {
  using rig = new Rig({ maxCap: 2 }, true);
  const gets = [watch(rig.pool.get()), watch(rig.pool.get())];
  await settle();
  rig.pool.resize({ maxCap: 1 });
  const a = await rig.deliver(0);
  assertEquals(rig.closed, [a]);
  await rig.deliver(1);
  assertEquals(states(gets), "s.");
  rig.pool.put(gets[0]!.value!);
  await settle();
  assertEquals(states(gets), "ss");
});

Deno.test("Pool.resize() of maxIdle closes the surplus; a default maxIdle follows maxCap", async () => {
  using rig = new Rig({ maxCap: 4 });
  for (const resource of await rig.take(4)) rig.pool.put(resource);
  rig.pool.resize({ maxCap: 8 });
  const more = await rig.take(8);
  for (const resource of more) rig.pool.put(resource);
  assertEquals(rig.stats().idle, 8);
  rig.pool.resize({ maxIdle: 3 });
  assertEquals(rig.stats().idle, 3);
  assertEquals(rig.stats().maxIdleClosed, 5);
  assertEquals(
    rig.closed.map(({ id }) => id),
    more.slice(0, 5).map(({ id }) => id),
  );
  rig.pool.resize({ maxCap: 20 });
  for (const resource of await rig.take(5)) rig.pool.put(resource);
  assertEquals(rig.stats().idle, 3);
});

Deno.test("Pool.resize() changes nothing if a limit is invalid", async () => {
  using rig = new Rig({ maxCap: 1 });
  await rig.take(1);
  assertThrows(() => rig.pool.resize({ maxCap: 5, maxIdle: -1 }), RangeError);
  assertThrows(() => rig.pool.resize({ maxCap: 0 }), RangeError);
  const waiter = watch(rig.pool.get());
  await settle();
  assertEquals(waiter.state, "pending");
});

Deno.test("Pool closes beyond maxIdle at put; 0 keeps nothing", async () => {
  for (const maxIdle of [0, 1]) {
    using rig = new Rig({ maxIdle });
    for (const resource of await rig.take(3)) rig.pool.put(resource);
    assertEquals(rig.stats().idle, maxIdle);
    assertEquals(rig.stats().maxIdleClosed, 3 - maxIdle);
    // Nothing idle is needed for a hand-over.
    const [a] = await rig.take(1);
    rig.pool.resize({ maxCap: 1 });
    const waiter = watch(rig.pool.get());
    rig.pool.put(a!);
    await settle();
    assertStrictEquals(waiter.value, a);
  }
});

Deno.test("Pool's reaper closes what was idle too long, counted from its put", async () => {
  using rig = new Rig({ idleTimeout: 1000 });
  const [a, b] = await rig.take(2);
  await rig.clock.tick(5000);
  rig.pool.put(a!);
  await rig.clock.tick(400);
  rig.pool.put(b!);
  // Looking does not refresh: the reaper has looked at both before.
  await rig.clock.tick(599);
  assertEquals(rig.closed, []);
  await rig.clock.tick(1);
  assertEquals(rig.closed, [a!]);
  await rig.clock.tick(499);
  assertEquals(rig.closed, [a!]);
  await rig.clock.tick(1);
  assertEquals(rig.closed, [a!, b!]);
  assertEquals(rig.stats().idleTimeoutClosed, 2);
});

Deno.test("Pool's reaper closes what is too old, idle however short", async () => {
  using rig = new Rig({ maxLifetime: 1000, maxCap: 2 });
  const [a] = await rig.take(1);
  for (let i = 0; i < 8; i++) {
    rig.pool.put(a!);
    await rig.clock.tick(100);
    assertStrictEquals(await rig.pool.get(), a);
  }
  rig.pool.put(a!);
  await rig.clock.tick(700);
  assertEquals(rig.closed, [a!]);
  assertEquals(rig.stats().maxLifetimeClosed, 1);
});

Deno.test("Pool spreads lifetimes by up to a tenth, and never beyond maxLifetime", async () => {
  const ages: number[] = [];
  using rig = new Rig({
    maxCap: 200,
    initialCap: 200,
    maxLifetime: 10_000,
    reapInterval: 10,
    hooks: { closed: () => ages.push(rig.clock.now) },
  });
  await rig.clock.tick(11_000, () => settle(1));
  assertEquals(ages.length, 200);
  assertGreater(Math.min(...ages), 8_999);
  assertLess(Math.max(...ages), 10_011);
  assertLess(Math.min(...ages), 9_300);
  assertGreater(Math.max(...ages), 9_700);
});

Deno.test("Pool's reaper runs every half of the shortest limit, only while it has something to look at", async () => {
  using rig = new Rig({ idleTimeout: 1000, maxLifetime: 4000 });
  assertEquals(rig.clock.timers, 0);
  const [a] = await rig.take(1);
  assertEquals(rig.clock.timers, 0);
  rig.pool.put(a!);
  assertEquals(rig.clock.timers, 1);
  assertEquals(rig.clock.next, 500);
  assertEquals(rig.clock.held, 0);
  await rig.clock.tick(500);
  assertEquals(rig.clock.next, 1000);
  await rig.pool.get();
  await rig.clock.tick(500);
  assertEquals(rig.clock.timers, 0);
  rig.pool.put(a!);
  assertEquals(rig.clock.timers, 1);
  rig.pool.discard(await rig.pool.get());
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool keeps minIdle open and idle: at the start, and whenever fewer are left", async () => {
  using rig = new Rig({ minIdle: 2, maxCap: 4 });
  await settle();
  assertEquals(rig.now, "open 2 idle 2 inUse 0 opening 0 waiting 0");
  // No limit needs the reaper, and minIdle needs none.
  assertEquals(rig.clock.timers, 0);
  const [a, b] = await rig.take(2);
  await settle();
  assertEquals(rig.now, "open 4 idle 2 inUse 2 opening 0 waiting 0");
  const [c] = await rig.take(1);
  // Nothing more may be opened.
  assertEquals(rig.now, "open 4 idle 1 inUse 3 opening 0 waiting 0");
  rig.pool.discard(c!);
  await settle();
  assertEquals(rig.now, "open 4 idle 2 inUse 2 opening 0 waiting 0");
  rig.pool.evictAll();
  await settle();
  assertEquals(rig.now, "open 4 idle 2 inUse 2 opening 0 waiting 0");
  rig.pool.discard(a!);
  rig.pool.discard(b!);
  await settle();
  assertEquals(rig.now, "open 2 idle 2 inUse 0 opening 0 waiting 0");
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool does not open again for minIdle what is on its way", async () => {
  using rig = new Rig({ minIdle: 2 }, true);
  assertEquals(rig.calls.length, 2);
  await rig.clock.tick(500);
  assertEquals(rig.calls.length, 2);
  // What a caller takes of it is missing again.
  const get = rig.pool.get();
  assertEquals(rig.calls.length, 3);
  await rig.deliver(0);
  await rig.deliver(1);
  await rig.deliver(2);
  await get;
  assertEquals(rig.now, "open 3 idle 2 inUse 1 opening 0 waiting 0");
});

Deno.test("Pool opens for minIdle one after another with maxOpening 1", async () => {
  using rig = new Rig({ minIdle: 3, maxOpening: 1 }, true);
  assertEquals(rig.calls.length, 1);
  await rig.deliver(0);
  assertEquals(rig.calls.length, 2);
  await rig.deliver(1);
  await rig.deliver(2);
  assertEquals(rig.now, "open 3 idle 3 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool's reaper and a get never take the same idle resource", async () => {
  using rig = new Rig({ idleTimeout: 1000, close: () => Promise.resolve() });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await rig.clock.tick(999);
  // The get comes first, in the same turn: the reaper must leave it alone.
  const get = rig.pool.get();
  await rig.clock.tick(1);
  assertStrictEquals(await get, a);
  assertEquals(rig.closed, []);
  rig.pool.put(a!);
});

Deno.test("Pool's reaper does not keep the process alive, and a waiter's timeout does", async () => {
  const url = new URL("../pool.ts", import.meta.url).href;
  const code = `
    import { Pool } from ${JSON.stringify(url)};
    const pool = new Pool({
      factory: () => ({}), maxCap: 1, idleTimeout: 3e6, minIdle: 1, leakTimeout: 3e6,
    });
    const resource = await pool.get();
    const error = await pool.get({ timeout: 50 }).catch((error) => error);
    console.log(error.name);
    pool.put(resource);
  `;
  const { success, stdout } = await new Deno.Command("deno", {
    args: [
      "run",
      "-q",
      "--no-config",
      `data:text/typescript,${encodeURIComponent(code)}`,
    ],
    signal: AbortSignal.timeout(60_000),
  }).output();
  assertEquals(new TextDecoder().decode(stdout), "PoolTimeoutError\n");
  assert(success);
});

Deno.test("Pool's limits that are longer than a runtime's timers can be are not cut short", async () => {
  const long = 2 ** 33;
  using rig = new Rig({
    maxCap: 2,
    idleTimeout: long,
    maxLifetime: long,
    leakTimeout: long,
    factoryTimeout: long,
    pingTimeout: long,
    ping: never,
  }, true);
  const lent = rig.pool.get();
  const a = await rig.deliver(0);
  await lent;
  // One waits for its ping, one for the factory, one in line.
  rig.pool.put(a);
  const waiters = Array.from(
    { length: 3 },
    () => watch(rig.pool.get({ timeout: long })),
  );
  await rig.clock.tick(2 ** 32);
  assertEquals(rig.now, "open 2 idle 0 inUse 1 opening 1 waiting 1");
  assertEquals(states(waiters), "...");
  assertLess(rig.clock.sets, 50);
  await rig.clock.tick(2 ** 32);
  assertEquals(states(waiters), "jjj");
});

// ---- 9. Clocks and callbacks ---------------------------------------------------

Deno.test("Pool does not look at the wall clock", async () => {
  const real = Date.now;
  using rig = new Rig({
    idleTimeout: 1000,
    maxLifetime: 10_000,
    getTimeout: 50,
  });
  try {
    const [a] = await rig.take(1);
    rig.pool.put(a!);
    Date.now = () => real() + 1e9;
    assertStrictEquals(rig.pool.tryGet(), a);
    rig.pool.put(a!);
    Date.now = () => 0;
    await rig.clock.tick(1500);
    assertEquals(rig.closed, [a!]);
  } finally {
    Date.now = real;
  }
});

Deno.test("Pool survives every callback that throws or rejects", async () => {
  for (const how of ["throw", "reject"] as const) {
    const bad = (): never => {
      if (how === "throw") throw new Error("bad");
      return Promise.reject(new Error("bad")) as never;
    };
    const operations: string[] = [];
    let opened = 0;
    using _clock = new FakeClock();
    const pool = new Pool<Resource>({
      factory: () => ({ id: ++opened }),
      maxCap: 1,
      close: bad,
      ping: bad,
      onError: (_, operation) => {
        operations.push(operation);
        return bad();
      },
      hooks: { opened: bad, closed: bad, waited: bad },
    });
    const a = await pool.get();
    const waiter = watch(pool.get());
    pool.put(a);
    await settle();
    assertStrictEquals(waiter.value, a);
    pool.put(a);
    const b = await pool.get();
    assertEquals(b.id, 2);
    pool.put(b);
    await pool.close();
    await settle();
    assertEquals(pool.stats().open, 0);
    assertEquals(
      operations.sort(),
      ["close", "close", "hook", "hook", "hook", "hook", "hook", "ping"],
    );
  }
});

Deno.test("Pool stays whole when its callbacks call back into it", async () => {
  const held: Resource[] = [];
  const gets: Promise<unknown>[] = [];
  let depth = 0;
  let meddled = 0;
  let pool: Pool<Resource> | undefined = undefined as
    | Pool<Resource>
    | undefined;
  const meddle = () => {
    if (pool === undefined || depth > 2 || ++meddled > 300) return;
    depth++;
    const taken = pool.tryGet();
    if (taken !== undefined) held.push(taken);
    gets.push(pool.get().then((resource) => held.push(resource), () => {}));
    const back = held.shift();
    if (back !== undefined) pool.put(back);
    pool.evictAll();
    const { open, idle, inUse, opening } = pool.stats();
    assert(open >= idle + inUse + opening);
    depth--;
  };
  let opened = 0;
  using clock = new FakeClock();
  pool = new Pool<Resource>({
    factory: () => {
      meddle();
      return { id: ++opened };
    },
    maxCap: 3,
    idleTimeout: 100,
    getTimeout: 50,
    close: meddle,
    ping: () => {
      meddle();
      return opened % 3 > 0;
    },
    onError: meddle,
    hooks: { opened: meddle, closed: meddle, waited: meddle },
  });
  for (let i = 0; i < 20; i++) {
    gets.push(pool.get().then((resource) => held.push(resource), () => {}));
    await clock.tick(20);
    const back = held.shift();
    if (back !== undefined) pool.put(back);
    const { open, waiting, idle } = pool.stats();
    assertLessOrEqual(open, 3);
    if (waiting > 0) assertEquals(idle, 0);
  }
  const closed = watch(pool.close());
  for (let i = 0; i < 50 && closed.state === "pending"; i++) {
    for (const resource of held.splice(0)) pool.put(resource);
    await clock.tick(20);
  }
  assertEquals(closed.state, "resolved");
  await Promise.all(gets);
  assertEquals(clock.timers, 0);
});

Deno.test("Pool does not take back, from a hook, what has not been lent", async () => {
  const errors: unknown[] = [];
  using rig = new Rig({
    hooks: { opened: (resource) => rig.pool.put(resource) },
    onError: (error) => errors.push(error),
  });
  const a = await rig.pool.get();
  assertInstanceOf(errors[0], TypeError);
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  rig.pool.put(a);
  assertEquals(rig.stats().idle, 1);
});

Deno.test("Pool.get() whose close callback aborts its own signal leaves", async () => {
  const gone = new AbortController();
  using rig = new Rig({
    maxCap: 1,
    idleTimeout: 100,
    reapInterval: 1e6,
    close: () => {
      gone.abort();
      return never();
    },
  });
  rig.pool.put(await rig.pool.get());
  await rig.clock.tick(100);
  const get = watch(rig.pool.get({ signal: gone.signal }));
  await settle();
  assertEquals(get.state, "rejected");
  assertEquals(rig.stats().waiting, 0);
});

Deno.test("Pool.get() that has left in a callback is not taken for those who came in it", async () => {
  const gone = new AbortController();
  const inner: Watch<Resource>[] = [];
  using _clock = new FakeClock();
  const pool = new Pool<Resource>({
    factory: () => {
      if (gone.signal.aborted) return never();
      gone.abort();
      inner.push(watch(pool.get()), watch(pool.get()));
      return never();
    },
    maxCap: 1,
  });
  const outer = watch(pool.get({ signal: gone.signal }));
  await settle();
  assertEquals(states([outer, ...inner]), "j..");
  assertEquals(pool.stats().waiting, 1);
  assertEquals(pool.stats().waitCount, 1);
});

// ---- 10. Growth ----------------------------------------------------------------

function countListeners(signal: AbortSignal): { count: number } {
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

Deno.test("Pool puts one listener on a signal, however many wait with it, and takes it away", async () => {
  using rig = new Rig({ maxCap: 1 });
  let [held] = await rig.take(1);
  const gone = new AbortController();
  const listeners = countListeners(gone.signal);
  const gets = Array.from(
    { length: 1000 },
    () => watch(rig.pool.get({ signal: gone.signal })),
  );
  assertEquals(listeners.count, 1);
  for (const get of gets.slice(0, 999)) {
    rig.pool.put(held!);
    await settle(3);
    held = get.value;
  }
  assertEquals(listeners.count, 1);
  rig.pool.put(held!);
  assertEquals(listeners.count, 0);
  // One that is served at once needs none.
  await settle();
  rig.pool.put(held!);
  await rig.pool.get({ signal: gone.signal });
  assertEquals(listeners.count, 0);
  // And all leave together.
  const more = Array.from(
    { length: 100 },
    () => watch(rig.pool.get({ signal: gone.signal })),
  );
  gone.abort();
  await settle();
  assertEquals(states(more), "j".repeat(100));
  assertEquals(listeners.count, 0);
  assertEquals(rig.stats().waiting, 0);
});

Deno.test("Pool sets one timer, however many wait, and clears it with the last", async () => {
  using rig = new Rig({ maxCap: 1, getTimeout: 1000 });
  const [a] = await rig.take(1);
  const sets = rig.clock.sets;
  const gets = Array.from({ length: 1000 }, () => watch(rig.pool.get()));
  // Somebody waits: the process must stay for it. The other is the hot clock's.
  assertEquals(rig.clock.held, 1);
  assertLessOrEqual(rig.clock.sets, sets + 2);
  for (let i = 0; i < 1000; i++) {
    rig.pool.put(a!);
    await settle(3);
  }
  assertEquals(states(gets), "s".repeat(1000));
  await rig.clock.tick(1);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool.get() is never early with many different timeouts, and late by a sixteenth at most", async () => {
  using rig = new Rig({ maxCap: 1 });
  await rig.take(1);
  const timeouts = Array.from({ length: 300 }, (_, i) => 10 + i * 3.7);
  const ends: number[] = [];
  const gets = timeouts.map((timeout, i) =>
    rig.pool.get({ timeout }).catch(() => ends[i] = rig.clock.now)
  );
  await rig.clock.tick(2000, () => settle(4));
  await Promise.all(gets);
  for (const [i, timeout] of timeouts.entries()) {
    assertGreater(ends[i]!, timeout - 1e-6);
    assertLess(ends[i]!, timeout * 17 / 16 + 1);
  }
  // Once those are gone, another timeout is kept exactly again.
  const get = watch(rig.pool.get({ timeout: 1234 }));
  await rig.clock.tick(1233);
  assertEquals(get.state, "pending");
  await rig.clock.tick(1);
  assertEquals(get.state, "rejected");
});

/** The least of several times, in milliseconds: what disturbs only adds. */
function least(runs: number, run: () => void): number {
  let least = Infinity;
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    run();
    least = Math.min(least, performance.now() - start);
  }
  return least;
}

// Ratios of real time, in a wide margin: what is linear would be far beyond it.

Deno.test("Pool's cost of a get that gives up does not grow with the line", async () => {
  const cost = async (length: number) => {
    const pool = new Pool({ factory: () => ({}), maxCap: 1 });
    await pool.get();
    const all = new AbortController();
    const gets: Promise<unknown>[] = [];
    const stand = (signal: AbortSignal) => {
      gets.push(pool.get({ signal }).catch(() => {}));
    };
    for (let i = 0; i < length; i++) stand(all.signal);
    const middle = Array.from({ length: 400 }, () => new AbortController());
    for (const { signal } of middle) stand(signal);
    for (let i = 0; i < length; i++) stand(all.signal);
    const time = least(8, () => {
      for (const controller of middle.splice(0, 50)) controller.abort();
    });
    all.abort();
    await Promise.all(gets);
    assertEquals(pool.stats().waiting, 0);
    return time;
  };
  await cost(50);
  assertLess(await cost(50_000), await cost(50) * 8);
});

Deno.test("Pool's cost of a get does not grow with the number of different timeouts", async () => {
  const cost = async (different: number) => {
    const pool = new Pool({ factory: () => ({}), maxCap: 1 });
    await pool.get();
    const all = new AbortController();
    const { signal } = all;
    const gets: Promise<unknown>[] = [];
    const stand = (i: number) => {
      const timeout = 100_000 + (i % different) * 1.5;
      gets.push(pool.get({ timeout, signal }).catch(() => {}));
    };
    for (let i = 0; i < 20_000; i++) stand(i);
    const time = least(8, () => {
      for (let i = 20_000 - 500; i < 20_000; i++) stand(i);
    });
    all.abort();
    await Promise.all(gets);
    return time;
  };
  await cost(200);
  assertLess(await cost(20_000), await cost(200) * 8);
});

// ---- Costs ---------------------------------------------------------------------

Deno.test("Pool without limits never reads the clock for what is idle, and sets no timer", async () => {
  using rig = new Rig({ ping: () => true });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await rig.pool.get();
  rig.pool.put(a!);
  assertEquals(rig.clock.reads, 0);
  assertEquals(rig.clock.sets, 0);
});

Deno.test("Pool with limits reads the clock once a get and once a put, and less when it is hot", async () => {
  using rig = new Rig({
    idleTimeout: 10_000,
    maxLifetime: 100_000,
    getTimeout: 1000,
    ping: () => true,
    pingAfterIdle: 5_000,
  });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  let before = rig.clock.reads;
  rig.pool.tryGet();
  assertEquals(rig.clock.reads, before + 1);
  rig.pool.put(a!);
  assertEquals(rig.clock.reads, before + 2);
  for (let i = 0; i < 300; i++) rig.pool.put(rig.pool.tryGet()!);
  before = rig.clock.reads;
  const sets = rig.clock.sets;
  for (let i = 0; i < 800; i++) rig.pool.put(rig.pool.tryGet()!);
  assertLessOrEqual(rig.clock.reads, before + 100);
  assertEquals(rig.clock.sets, sets);
  assertEquals(rig.clock.held, 0);
  // And is exact again a moment later.
  await rig.clock.tick(1);
  before = rig.clock.reads;
  rig.pool.put(rig.pool.tryGet()!);
  assertEquals(rig.clock.reads, before + 2);
});

Deno.test("Pool in use without a pause keeps its limits to the millisecond", async () => {
  using rig = new Rig({ idleTimeout: 1000, reapInterval: 1e6, maxCap: 2 });
  const [cold, warm] = await rig.take(2);
  rig.pool.put(cold!);
  rig.pool.put(warm!);
  const spin = () => {
    for (let i = 0; i < 100; i++) rig.pool.put(rig.pool.tryGet()!);
  };
  for (let i = 0; i < 998; i++) {
    spin();
    await rig.clock.tick(1, () => settle(1));
  }
  spin();
  rig.pool.tryGet();
  assertStrictEquals(rig.pool.tryGet(), cold);
  rig.pool.put(cold!);
  rig.pool.put(warm!);
  for (let i = 0; i < 1000; i++) {
    spin();
    await rig.clock.tick(1, () => settle(1));
  }
  spin();
  assertStrictEquals(rig.pool.tryGet(), warm);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.closed, [cold!]);
});

Deno.test("Pool that was suspended while hot soon sees what time it is", async () => {
  using rig = new Rig({ idleTimeout: 1000, maxCap: 40 });
  for (const resource of await rig.take(40)) rig.pool.put(resource);
  for (let i = 0; i < 100; i++) rig.pool.put(rig.pool.tryGet()!);
  rig.clock.freeze(1e6);
  let lent = 0;
  while (rig.pool.tryGet() !== undefined) lent++;
  assertLessOrEqual(lent, 16);
  assertEquals(rig.closed.length, 40 - lent);
});

Deno.test("Pool that is hot lends nothing that expired since it read the clock", async () => {
  using rig = new Rig({ idleTimeout: 1000, reapInterval: 1e6, maxCap: 2 });
  const [cold, warm] = await rig.take(2);
  rig.pool.put(cold!);
  await rig.clock.tick(999.4);
  rig.pool.put(warm!);
  for (let i = 0; i < 100; i++) rig.pool.put(rig.pool.tryGet()!);
  rig.clock.freeze(0.7);
  assertStrictEquals(rig.pool.tryGet(), warm);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.closed, [cold!]);
});

Deno.test("Pool whose limits are short reads the clock each time", async () => {
  using rig = new Rig({ idleTimeout: 50 });
  rig.pool.put((await rig.take(1))[0]!);
  for (let i = 0; i < 100; i++) rig.pool.put(rig.pool.tryGet()!);
  const before = rig.clock.reads;
  for (let i = 0; i < 100; i++) rig.pool.put(rig.pool.tryGet()!);
  assertEquals(rig.clock.reads, before + 200);
});

Deno.test("Pool that is not hot lends nothing stale after a suspension", async () => {
  using rig = new Rig({ idleTimeout: 1000 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  rig.clock.freeze(1e6);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.closed, [a!]);
});

Deno.test("Pool counts idle time from the put, also after a long borrow", async () => {
  using rig = new Rig({ idleTimeout: 1000 });
  const [a] = await rig.take(1);
  await rig.clock.tick(10_000);
  rig.pool.put(a!);
  await rig.clock.tick(999);
  assertStrictEquals(rig.pool.tryGet(), a);
});

// ---- Line and opening ----------------------------------------------------------

Deno.test("Pool opens no more than callers want, and not for those served by a put", async () => {
  using rig = new Rig({ maxCap: 10, maxOpening: 2 }, true);
  const gets = Array.from({ length: 6 }, () => watch(rig.pool.get()));
  await settle();
  assertEquals(rig.calls.length, 2);
  assertEquals(rig.now, "open 2 idle 0 inUse 0 opening 2 waiting 4");
  const a = await rig.deliver(0);
  assertEquals(rig.calls.length, 3);
  for (let i = 1; i < 6; i++) {
    assertEquals(gets[i - 1]!.state, "resolved");
    rig.pool.put(a);
    await settle();
  }
  assertEquals(states(gets), "ssssss");
  // What was on its way for those a put has served stays.
  assertEquals(rig.calls.length, 3);
  await rig.deliver(1);
  await rig.deliver(2);
  assertEquals(rig.now, "open 3 idle 2 inUse 1 opening 0 waiting 0");
});

Deno.test("Pool answers a spike of 50 from 5 with maxOpening 1, and opens at most one more", async () => {
  const spike = async (maxOpening?: number) => {
    using clock = new FakeClock();
    let opened = 0;
    const pool = new Pool({
      maxCap: 50,
      initialCap: 5,
      ...(maxOpening && { maxOpening }),
      factory: () => {
        const resource = { id: ++opened };
        if (opened <= 5) return resource;
        return new Promise<Resource>((resolve) =>
          setTimeout(() => resolve(resource), 150)
        );
      },
    });
    await clock.tick(0);
    let slowest = 0;
    const callers = Array.from({ length: 50 }, async () => {
      const resource = await pool.get();
      slowest = Math.max(slowest, clock.now);
      await new Promise((resolve) => setTimeout(resolve, 2));
      pool.put(resource);
    });
    await clock.tick(200);
    await Promise.all(callers);
    return { opened, slowest };
  };
  assertEquals(await spike(1), { opened: 6, slowest: 18 });
  assertLessOrEqual((await spike()).slowest, 150);
});

Deno.test("Pool rejects a caller beyond maxWaiting at once, counting only those with nothing on its way", async () => {
  using rig = new Rig({ maxCap: 2, maxWaiting: 1 }, true);
  const gets = Array.from({ length: 3 }, () => watch(rig.pool.get()));
  const error = await assertRejects(
    () => rig.pool.get(),
    PoolExhaustedError,
    "No room in line, maxWaiting is 1: 2 open, 0 in use, 1 waiting",
  );
  assertEquals([error.open, error.inUse, error.waiting], [2, 0, 1]);
  assertEquals(error.name, "PoolExhaustedError");
  assertEquals(states(gets), "...");
  await rig.deliver(0);
  await rig.deliver(1);
  assertEquals(states(gets), "ss.");
  await assertRejects(() => rig.pool.get(), PoolExhaustedError);
  rig.pool.put(rig.opened[0]!);
  await settle();
  assertEquals(states(gets), "sss");
  const next = watch(rig.pool.get());
  await settle();
  assertEquals(next.state, "pending");
});

Deno.test("Pool with maxWaiting 0 still opens", async () => {
  using rig = new Rig({ maxCap: 1, maxWaiting: 0 });
  const [a] = await rig.take(1);
  await assertRejects(() => rig.pool.get(), PoolExhaustedError);
  rig.pool.put(a!);
  assertStrictEquals(await rig.pool.get(), a);
});

// ---- Errors and figures --------------------------------------------------------

Deno.test("PoolTimeoutError says how full the pool was, and why the factory failed", async () => {
  const boom = new Error("refused");
  using rig = new Rig({ maxCap: 2 }, true);
  const [first] = [watch(rig.pool.get())];
  await settle();
  rig.calls[0]!.reject(boom);
  await settle();
  assertStrictEquals(first!.error, boom);
  const second = watch(rig.pool.get({ timeout: 10 }));
  await rig.clock.tick(10);
  const error = second.error;
  assertInstanceOf(error, PoolTimeoutError);
  assertEquals(error.name, "PoolTimeoutError");
  assertEquals(
    error.message,
    "No resource within 10 ms: 1 open, 0 in use, 0 waiting",
  );
  assertEquals([error.open, error.inUse, error.waiting], [1, 0, 0]);
  assertStrictEquals(error.cause, boom);
  // Once the factory has delivered, its old failure explains nothing.
  await rig.deliver(1);
  await rig.take(1);
  const gets = [rig.pool.get(), rig.pool.get({ timeout: 10 })].map(watch);
  await rig.clock.tick(10);
  assertInstanceOf(gets[1]!.error, PoolTimeoutError);
  assertEquals(gets[1]!.error.cause, undefined);
});

Deno.test("Pool.stats() is a plain snapshot of all its figures", async () => {
  using rig = new Rig({
    maxCap: 2,
    maxIdle: 1,
    idleTimeout: 1000,
    maxLifetime: 5000,
  });
  const before = rig.pool.stats();
  assertEquals(before, {
    open: 0,
    idle: 0,
    inUse: 0,
    opening: 0,
    waiting: 0,
    pending: 0,
    maxCap: 2,
    closed: false,
    getCount: 0,
    waitCount: 0,
    waitDuration: 0,
    timeoutCount: 0,
    cancelCount: 0,
    openedCount: 0,
    openFailedCount: 0,
    pingFailedCount: 0,
    resetFailedCount: 0,
    maxIdleClosed: 0,
    idleTimeoutClosed: 0,
    maxLifetimeClosed: 0,
    discardedCount: 0,
  });
  const [a, b] = await rig.take(2);
  const waits = [rig.pool.get(), rig.pool.get({ timeout: 30 })].map(watch);
  await rig.clock.tick(20);
  rig.pool.put(a!);
  await rig.clock.tick(10);
  assertEquals(states(waits), "sj");
  rig.pool.put(a!);
  rig.pool.put(b!);
  await rig.clock.tick(1000);
  const [c] = await rig.take(1);
  rig.pool.discard(c!);
  assertEquals(rig.pool.stats(), {
    ...before,
    getCount: 4,
    waitCount: 2,
    waitDuration: 20 + 30,
    timeoutCount: 1,
    openedCount: 3,
    maxIdleClosed: 1,
    idleTimeoutClosed: 1,
    discardedCount: 1,
  });
  assertEquals(before.getCount, 0);
});

// ---- The rest of the surface ---------------------------------------------------

Deno.test("Pool opens initialCap in the background, and reports what fails", async () => {
  using rig = new Rig({ initialCap: 3, maxOpening: 2 }, true);
  assertEquals(rig.calls.length, 2);
  await rig.deliver(0);
  assertEquals(rig.now, "open 3 idle 1 inUse 0 opening 2 waiting 0");
  const boom = new Error("boom");
  rig.calls[1]!.reject(boom);
  await settle();
  assertEquals(rig.errors, [[boom, "factory"]]);
  // A caller takes what is on its way before it opens another.
  await rig.pool.get();
  const get = watch(rig.pool.get());
  await settle();
  assertEquals(rig.calls.length, 3);
  await rig.deliver(2);
  assertEquals(get.state, "resolved");
});

Deno.test("Pool.open() resolves when initialCap resources stand", async () => {
  using clock = new FakeClock();
  let opened = 0;
  const opening = watch(Pool.open({
    factory: async () => {
      await new Promise<void>((resolve) => setTimeout(resolve, 10 * ++opened));
      return { id: opened };
    },
    initialCap: 3,
    maxOpening: 1,
  }));
  await clock.tick(10 + 20 + 29);
  assertEquals(opening.state, "pending");
  await clock.tick(1);
  assertEquals(opening.value?.stats().idle, 3);
  const none = await Pool.open({ factory: () => ({}) });
  assertEquals(none.stats().open, 0);
});

Deno.test("Pool.open() is not kept from its end by a reaper that looks meanwhile", async () => {
  using clock = new FakeClock();
  const opening = watch(Pool.open({
    factory: async () => {
      await new Promise<void>((resolve) => setTimeout(resolve, 50));
      return {};
    },
    initialCap: 3,
    maxOpening: 1,
    idleTimeout: 10_000,
    reapInterval: 20,
  }));
  await clock.tick(149);
  assertEquals(opening.state, "pending");
  await clock.tick(1);
  assertEquals(opening.value?.stats().idle, 3);
  await opening.value?.close();
});

Deno.test("Pool tries each of its initialCap resources once, though one fails", async () => {
  for (const maxOpening of [1, 3]) {
    const options = { initialCap: 3, maxOpening, reapInterval: 100 };
    using rig = new Rig({ ...options, idleTimeout: 1e6 }, true);
    rig.calls[0]!.reject(new Error("down"));
    await settle();
    await rig.deliver(1);
    await rig.deliver(2);
    await rig.clock.tick(1000);
    assertEquals(rig.calls.length, 3);
    assertEquals(rig.now, "open 2 idle 2 inUse 0 opening 0 waiting 0");
    assertEquals(rig.errors.length, 1);
  }
});

Deno.test("Pool opens for initialCap what callers at the start have not had opened", async () => {
  using rig = new Rig({ initialCap: 2, maxCap: 2, maxOpening: 1 }, true);
  const gets = [rig.pool.get(), rig.pool.get()].map(watch);
  await rig.deliver(0);
  await rig.deliver(1);
  assertEquals(states(gets), "ss");
  // Nothing is left of the wish, that would be opened in this one's place.
  rig.pool.discard(gets[0]!.value!);
  await settle();
  assertEquals(rig.calls.length, 2);
});

Deno.test("Pool forgets what it had no room for when it looked for minIdle", async () => {
  const options = { maxCap: 4, minIdle: 2, maxIdle: 2, reapInterval: 20 };
  using rig = new Rig(options);
  await rig.clock.tick(20);
  const [a, b, c] = await rig.take(4);
  await rig.clock.tick(20);
  // All places are taken; then two of them come back, and are enough.
  rig.pool.put(a!);
  rig.pool.put(b!);
  rig.pool.discard(c!);
  await rig.clock.tick(20);
  assertEquals(rig.opened.length, 4);
  assertEquals(rig.now, "open 3 idle 2 inUse 1 opening 0 waiting 0");
});

Deno.test("A ping that hangs for a caller who has left holds up nobody while another is idle", async () => {
  const hung = new Set<Resource>();
  using rig = new Rig({ ping: (r) => !hung.has(r) || never() });
  const [a, b] = await rig.take(2);
  rig.pool.put(a!);
  rig.pool.put(b!);
  hung.add(b!);
  const first = watch(rig.pool.get({ timeout: 10 }));
  await rig.clock.tick(10);
  assertEquals(first.state, "rejected");
  const second = watch(rig.pool.get());
  await settle();
  assertStrictEquals(second.value, a);
  const third = watch(rig.pool.get());
  await settle();
  // Nothing else is idle: it waits, rather than have one more opened than the
  // pings and factory calls under way may bring.
  assertEquals(third.state, "pending");
  assertEquals(rig.now, "open 2 idle 0 inUse 2 opening 0 waiting 0");
  rig.pool.put(a!);
  await settle();
  assertStrictEquals(third.value, a);
});

Deno.test("Pool's hooks may be an object of a class, with fields of its own", async () => {
  class Metrics {
    opens = 0;
    #closes = 0;
    opened() {
      this.opens++;
    }
    closed() {
      this.#closes++;
    }
    get closes() {
      return this.#closes;
    }
  }
  const hooks = new Metrics();
  const pool = new Pool({ factory: () => ({}), hooks });
  pool.put(await pool.get());
  await pool.close();
  assertEquals([hooks.opens, hooks.closes], [1, 1]);
});

Deno.test("Pool.open() rejects at once with the error of the first failure, and closes the others", async () => {
  const closed: number[] = [];
  let calls = 0;
  const errors: unknown[] = [];
  const late = Promise.withResolvers<number>();
  const error = await assertRejects(() =>
    Pool.open({
      factory: async (signal) => {
        const id = ++calls;
        if (id === 1) return id;
        if (id === 2) {
          await settle(3);
          throw new Error("second");
        }
        // A third that heeds its signal, and a fourth that does not.
        if (id === 4) return late.promise;
        return new Promise<number>((_, reject) => {
          signal.addEventListener("abort", () => reject(signal.reason));
        });
      },
      close: (id) => closed.push(id),
      initialCap: 4,
      onError: (error) => errors.push(error),
    })
  );
  assertEquals((error as Error).message, "second");
  assertEquals(closed, [1]);
  late.resolve(4);
  await settle();
  assertEquals(closed, [1, 4]);
  assertEquals(errors, []);
});

Deno.test("Pool.open() leaves later failures to onError", async () => {
  const errors: unknown[] = [];
  const boom = new Error("boom");
  let down = false;
  using clock = new FakeClock();
  const pool = await Pool.open({
    factory: () => down ? Promise.reject(boom) : Promise.resolve({}),
    initialCap: 1,
    minIdle: 1,
    onError: (error) => errors.push(error),
  });
  down = true;
  await pool.get();
  await clock.tick(99);
  assertEquals(errors, [boom]);
  await pool.close({ signal: AbortSignal.abort() }).catch(() => {});
});

Deno.test("Pool.use() puts after success and discards after failure", async () => {
  using rig = new Rig();
  assertEquals(await rig.pool.use(({ id }) => id * 10), 10);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  const boom = new Error("boom");
  for (
    const fn of [
      () => Promise.reject(boom),
      (): never => {
        throw boom;
      },
    ]
  ) {
    assertStrictEquals(await assertRejects(() => rig.pool.use(fn)), boom);
  }
  assertEquals(rig.closed.length, 2);
  assertEquals(rig.stats().discardedCount, 2);
  await assertRejects(
    () => rig.pool.use(1 as unknown as () => void),
    TypeError,
    "fn must be a function",
  );
  assertEquals(rig.stats().inUse, 0);
  await assertRejects(
    () => rig.pool.use(() => {}, { signal: AbortSignal.abort() }),
    DOMException,
  );
});

Deno.test("Pool.use() does nothing more to what its function has given back, and masks no error", async () => {
  const boom = new Error("boom");
  using rig = new Rig({ maxCap: 1 });
  await rig.pool.use((resource) => rig.pool.put(resource));
  assertEquals(rig.stats().idle, 1);
  const other = Promise.withResolvers<Resource>();
  const failed = await assertRejects(() =>
    rig.pool.use(async (resource) => {
      rig.pool.put(resource);
      // Somebody else's by now: neither to be put nor to be discarded.
      other.resolve(await rig.pool.get());
      throw boom;
    })
  );
  assertStrictEquals(failed, boom);
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  rig.pool.put(await other.promise);
  await assertRejects(() =>
    rig.pool.use((resource) => {
      rig.pool.discard(resource);
      throw boom;
    })
  );
  assertEquals(rig.stats().discardedCount, 1);
});

Deno.test("Pool.lease() puts at the end of its block, once", async () => {
  using rig = new Rig();
  {
    using lease = await rig.pool.lease();
    assertEquals(lease.value, rig.opened[0]);
    assertEquals(rig.stats().inUse, 1);
  }
  assertEquals(rig.stats().idle, 1);
  {
    await using lease = await rig.pool.lease();
    lease.discard();
    assertThrows(() => lease.put(), TypeError, "The lease is over");
    assertThrows(() => lease.discard(), TypeError, "The lease is over");
  }
  assertEquals(rig.closed.length, 1);
  const lease = await rig.pool.lease({ timeout: 5 });
  lease.put();
  lease[Symbol.dispose]();
  await lease[Symbol.asyncDispose]();
  assertEquals(rig.stats().idle, 1);
});

Deno.test("Pool.lease() that is over does not touch the next borrower's", async () => {
  using rig = new Rig({ maxCap: 1 });
  const lease = await rig.pool.lease();
  rig.pool.put(lease.value);
  const next = await rig.pool.get();
  assertStrictEquals(next, lease.value);
  assertThrows(() => lease.put(), TypeError);
  lease[Symbol.dispose]();
  assertEquals(rig.stats().inUse, 1);
});

Deno.test("Pool.evictAll() closes what is idle at once and what is borrowed at its put", async () => {
  const reasons: [number, PoolCloseReason][] = [];
  using rig = new Rig({
    maxCap: 3,
    hooks: { closed: ({ id }, reason) => reasons.push([id, reason]) },
  });
  const [a, b, c] = await rig.take(3);
  rig.pool.put(a!);
  rig.pool.put(b!);
  rig.pool.evictAll();
  assertEquals(rig.closed, [a!, b!]);
  const d = await rig.pool.get();
  rig.pool.put(c!);
  rig.pool.put(d);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
  assertEquals(reasons, [[1, "evict"], [2, "evict"], [3, "evict"]]);
});

Deno.test("Pool.evictAll() keeps nothing that was asked for before it", async () => {
  using rig = new Rig({ ping: () => answer.promise }, true);
  const answer = Promise.withResolvers<boolean>();
  // Opened for nobody any more.
  const gone = new AbortController();
  const get = watch(rig.pool.get({ signal: gone.signal }));
  await settle();
  gone.abort();
  rig.pool.evictAll();
  const a = await rig.deliver(0);
  assertEquals(get.state, "rejected");
  assertEquals(rig.closed, [a]);
  // Pinged meanwhile.
  const first = rig.pool.get();
  await settle();
  rig.pool.put(await rig.deliver(1) && await first);
  const second = watch(rig.pool.get());
  await settle();
  rig.pool.evictAll();
  answer.resolve(true);
  await settle();
  assertEquals(rig.closed.length, 2);
  assertEquals(second.state, "pending");
  await rig.deliver(2);
  assertEquals(second.state, "resolved");
});

Deno.test("Pool.evictAll() of one resource closes it idle, or at its put, and no other", async () => {
  using rig = new Rig({ maxCap: 3 });
  const [a, b, c] = await rig.take(3);
  rig.pool.put(a!);
  rig.pool.put(b!);
  rig.pool.evict(a!);
  assertEquals(rig.closed, [a!]);
  rig.pool.evict(a!);
  rig.pool.evict({ id: 9 });
  rig.pool.evict(c!);
  assertEquals(rig.now, "open 2 idle 1 inUse 1 opening 0 waiting 0");
  rig.pool.put(c!);
  assertEquals(rig.closed, [a!, c!]);
  assertStrictEquals(await rig.pool.get(), b);
});

Deno.test("Pool reports a leak once with the stack of its get, and when it comes back after all", async () => {
  using rig = new Rig({ leakTimeout: 1000, maxCap: 2 });
  async function borrowAndForget() {
    return await rig.pool.get();
  }
  const a = await borrowAndForget();
  const b = await rig.pool.get();
  await rig.clock.tick(600);
  rig.pool.put(b);
  await rig.clock.tick(400);
  assertEquals(rig.errors.length, 1);
  const [error, operation] = rig.errors[0]! as [Error, string];
  assertEquals(operation, "leak");
  assertEquals(
    error.message,
    "A resource has been borrowed for 1000 ms, leakTimeout is 1000 ms",
  );
  assertStringIncludes((error.cause as Error).stack!, "borrowAndForget");
  await rig.clock.tick(5000);
  assertEquals(rig.errors.length, 1);
  rig.pool.put(a);
  assertEquals(rig.errors.length, 2);
  assertMatch((rig.errors[1]![0] as Error).message, /back after 6000 ms/);
  assertStringIncludes(
    ((rig.errors[1]![0] as Error).cause as Error).stack!,
    "borrowAndForget",
  );
  // Borrowed anew, it is watched anew; a waiter too, and until it is discarded.
  const [c, d] = [await rig.pool.get(), await rig.pool.get()];
  const waiter = watch(rig.pool.get());
  rig.pool.put(c);
  await rig.clock.tick(1000);
  assertEquals(rig.errors.length, 4);
  rig.pool.discard(waiter.value!);
  assertEquals(rig.errors.length, 5);
  rig.pool.put(d);
  assertEquals(rig.errors.length, 6);
  await rig.clock.tick(1000);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool still reports leaks to who waits for it to close", async () => {
  using rig = new Rig({ leakTimeout: 1000 });
  const [a] = await rig.take(1);
  const closed = watch(rig.pool.close());
  await rig.clock.tick(1000);
  assertEquals(rig.errors.map(([, operation]) => operation), ["leak"]);
  rig.pool.put(a!);
  await settle();
  assertEquals(closed.state, "resolved");
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool tells its hooks of every opening, closing and wait", async () => {
  const told: unknown[] = [];
  using rig = new Rig({
    maxCap: 1,
    idleTimeout: 100,
    hooks: {
      opened: ({ id }, duration) => told.push(["opened", id, duration]),
      closed: ({ id }, reason) => told.push(["closed", id, reason]),
      waited: (duration) => told.push(["waited", duration]),
    },
  }, true);
  const first = rig.pool.get();
  const second = rig.pool.get();
  await rig.clock.tick(7);
  const a = await rig.deliver(0);
  await first;
  await rig.clock.tick(3);
  rig.pool.put(a);
  await second;
  rig.pool.put(a);
  await rig.clock.tick(100);
  assertEquals(told, [
    ["opened", 1, 7],
    ["waited", 10],
    ["closed", 1, "idleTimeout"],
  ]);
});
