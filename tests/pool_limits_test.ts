// Limits on what is kept: idleTimeout, maxLifetime, maxIdle, and the reaper.

import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertStrictEquals,
} from "@std/assert";
import { Rig, watch } from "./pool_support.ts";
import { settle } from "./time_support.ts";

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

Deno.test("Pool counts idle time from the put, also after a long borrow", async () => {
  using rig = new Rig({ idleTimeout: 1000 });
  const [a] = await rig.take(1);
  await rig.clock.tick(10_000);
  rig.pool.put(a!);
  await rig.clock.tick(999);
  assertStrictEquals(rig.pool.tryGet(), a);
});
