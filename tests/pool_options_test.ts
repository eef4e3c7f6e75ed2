// What options are taken and what others are answered with.

import {
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { Pool, type PoolOptions } from "../pool.ts";
import { never, type Resource, Rig, states, watch } from "./pool_support.ts";
import { settle } from "./time_support.ts";

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
      "pingInterval",
      "releaseTimeout",
      "drainTimeout",
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

Deno.test("Pool.resize() changes nothing if a limit is invalid", async () => {
  using rig = new Rig({ maxCap: 1 });
  await rig.take(1);
  assertThrows(() => rig.pool.resize({ maxCap: 5, maxIdle: -1 }), RangeError);
  assertThrows(() => rig.pool.resize({ maxCap: 0 }), RangeError);
  const waiter = watch(rig.pool.get());
  await settle();
  assertEquals(waiter.state, "pending");
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

Deno.test("Pool's methods take undefined and null for no signal, and refuse whatever else is none", async () => {
  using rig = new Rig({ maxCap: 1 });
  const [a] = await rig.take(1);
  for (const signal of [undefined, null]) {
    const get = watch(rig.pool.get({ signal }));
    rig.pool.put(a!);
    await settle();
    assertStrictEquals(get.value, a);
  }
  rig.pool.put(a!);
  const before = rig.pool.stats();
  const bad = [5, "x", true, {}, [], { aborted: true }, new EventTarget()];
  for (const value of bad) {
    const options = { signal: value as unknown as AbortSignal };
    const calls: Record<string, () => Promise<unknown>> = {
      get: () => rig.pool.get(options),
      use: () => rig.pool.use(() => {}, options),
      lease: () => rig.pool.lease(options),
      close: () => rig.pool.close(options),
    };
    for (const [name, call] of Object.entries(calls)) {
      // None throws; the promise rejects.
      const error = await assertRejects(
        call,
        TypeError,
        "Option signal must be an AbortSignal, received",
        name,
      );
      assertInstanceOf(error, TypeError);
    }
  }
  assertEquals(rig.pool.stats(), before);
  await rig.pool.close({ signal: null });
});

Deno.test("Pool's methods refuse what is no object of options, before anything changes", async () => {
  await using pool = new Pool({ factory: () => ({}) });
  for (const wrong of [5, "now", true] as unknown[] as never[]) {
    await assertRejects(() => pool.get(wrong), TypeError, "must be an object");
    await assertRejects(() => pool.lease(wrong), TypeError);
    await assertRejects(() => pool.use(() => 1, wrong), TypeError);
    assertThrows(() => pool.resize(wrong), TypeError, "must be an object");
  }
  assertEquals(pool.stats().open, 0);
});
