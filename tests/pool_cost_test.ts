// What a pool costs: it does not grow with the line, and reads the clock seldom.
//
// Ratios of real time are taken in a wide margin: what is linear would be far
// beyond it.

import {
  assertEquals,
  assertLess,
  assertLessOrEqual,
  assertStrictEquals,
} from "@std/assert";
import { Pool } from "../pool.ts";
import { Rig, states, watch } from "./pool_support.ts";
import { settle } from "./time_support.ts";

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

Deno.test("Pool that was blocked while hot times nobody out too early", async () => {
  using rig = new Rig({ idleTimeout: 10_000, maxCap: 1 });
  for (const resource of await rig.take(1)) rig.pool.put(resource);
  for (let i = 0; i < 400; i++) rig.pool.put(rig.pool.tryGet()!);
  rig.pool.tryGet();
  // The clock is shared, and three seconds behind.
  rig.clock.freeze(3000);
  const gets = [1000, 2500, 2500, 2500, 3500].map((timeout) =>
    watch(rig.pool.get({ timeout }))
  );
  await rig.clock.tick(1001);
  assertEquals(states(gets), "j....");
  await rig.clock.tick(1498);
  assertEquals(states(gets), "j....");
  await rig.clock.tick(2);
  assertEquals(states(gets), "jjjj.");
});
