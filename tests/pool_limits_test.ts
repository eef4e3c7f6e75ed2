// Limits on what is kept: idleTimeout, maxLifetime, maxIdle, and the reaper.

import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertLessOrEqual,
  assertStrictEquals,
} from "@std/assert";
import type { PoolOptions } from "../pool.ts";
import { type Resource, Rig, watch } from "./pool_support.ts";
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

// ---- Replacement before retirement -------------------------------------------

/** A pool whose factory takes its time, and its clock. */
function slowlyOpening(
  options: Partial<PoolOptions<Resource>>,
  opening = 20,
): Rig {
  let id = 0;
  return new Rig({
    factory: async () => {
      const resource = { id: ++id };
      await new Promise<void>((resolve) => setTimeout(resolve, opening));
      return resource;
    },
    ...options,
  });
}

Deno.test("Pool that nobody uses is never found empty because of maxLifetime", async () => {
  for (const minIdle of [1, 2, 3]) {
    // Where three of them end together, each replacement waits for the one before.
    using rig = slowlyOpening({ minIdle, maxCap: 4, maxLifetime: 1000 }, 10);
    await rig.clock.tick(10);
    for (let i = 0; i < 1000; i++) {
      await rig.clock.tick(7);
      assertGreaterOrEqual(rig.pool.stats().idle, minIdle);
    }
    const { maxLifetimeClosed } = rig.pool.stats();
    assertGreaterOrEqual(maxLifetimeClosed, 6 * minIdle);
    assertLessOrEqual(maxLifetimeClosed, 8 * minIdle);
  }
});

Deno.test("Pool lends an old resource until its replacement stands, and never after maxLifetime", async () => {
  using rig = slowlyOpening({ minIdle: 1, maxCap: 2, maxLifetime: 1000 }, 200);
  await rig.clock.tick(200);
  await rig.clock.tick(970);
  // Its replacement is on its way.
  assertEquals(rig.now, "open 2 idle 1 inUse 0 opening 1 waiting 0");
  const old = rig.pool.tryGet();
  assertEquals(old?.id, 1);
  rig.pool.put(old!);
  assertEquals(rig.closed, []);
  await rig.clock.tick(31);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.closed.map(({ id }) => id), [1]);
  await rig.clock.tick(200);
  assertEquals(rig.pool.tryGet()?.id, 2);
});

Deno.test("Pool closes an old resource as soon as its replacement stands", async () => {
  using rig = slowlyOpening({ minIdle: 1, maxCap: 2, maxLifetime: 1000 }, 1);
  await rig.clock.tick(1);
  await rig.clock.tick(890);
  assertEquals(rig.closed, []);
  await rig.clock.tick(70);
  assertEquals(rig.closed.map(({ id }) => id), [1]);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool closes an old resource at its put when minIdle does not miss it", async () => {
  using rig = slowlyOpening({ minIdle: 1, maxCap: 3, maxLifetime: 1000 }, 10);
  await rig.clock.tick(10);
  const [a] = await rig.take(1);
  await rig.clock.tick(490);
  // One that is younger by half a lifetime.
  rig.pool.evict((await rig.take(1))[0]!);
  await rig.clock.tick(480);
  rig.pool.put(a!);
  assertEquals(rig.closed, [a!]);
  assertEquals(rig.pool.stats().maxLifetimeClosed, 1);
});

Deno.test("Pool opens no replacement for what minIdle would not miss", async () => {
  using rig = slowlyOpening({ minIdle: 1, maxCap: 6, maxLifetime: 1000 }, 10);
  const taken = watch(rig.take(4));
  await rig.clock.tick(100);
  for (const resource of taken.value!) rig.pool.put(resource);
  const before = rig.pool.stats().openedCount;
  await rig.clock.tick(1200);
  // The last of them is replaced, and no other.
  assertEquals(rig.pool.stats().openedCount, before + 1);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool replaces an old resource afterwards where maxCap leaves no room before", async () => {
  using rig = slowlyOpening({ minIdle: 1, maxCap: 1, maxLifetime: 1000 }, 10);
  await rig.clock.tick(10);
  // The only one may be lent until the very end.
  await rig.clock.tick(985);
  assertEquals(rig.closed, []);
  const [a] = await rig.take(1);
  assertEquals(a?.id, 1);
  rig.pool.put(a!);
  await rig.clock.tick(500);
  assertEquals(rig.closed, [a!]);
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool with maxIdle of minIdle keeps the replacement and closes the old resource", async () => {
  using rig = slowlyOpening({
    minIdle: 2,
    maxIdle: 2,
    maxCap: 4,
    maxLifetime: 1000,
  });
  await rig.clock.tick(20);
  await rig.clock.tick(1500);
  assertEquals(rig.pool.stats().maxIdleClosed, 0);
  assertEquals(rig.pool.stats().maxLifetimeClosed, 2);
  assertEquals(rig.pool.stats().idle, 2);
});

Deno.test("Pool lends an old resource no longer when the factory fails to replace it", async () => {
  let down = false;
  let id = 0;
  using rig = new Rig({
    minIdle: 1,
    maxLifetime: 1000,
    factory: () => {
      if (down) throw new Error("down");
      return { id: ++id };
    },
  });
  await settle();
  down = true;
  await rig.clock.tick(970);
  assertEquals(rig.stats().idle, 1);
  await rig.clock.tick(40);
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertEquals(rig.closed.length, 1);
  down = false;
  await rig.clock.tick(1000);
  assertEquals(rig.stats().idle, 1);
});

Deno.test("Pool without room closes what is old before maxLifetime, so that not all end at once", async () => {
  using rig = slowlyOpening({ minIdle: 2, maxCap: 2, maxLifetime: 1000 }, 10);
  await rig.clock.tick(10);
  // They may end together: then one waits until the other is replaced.
  await rig.clock.tick(980);
  // The other could be lent meanwhile.
  assertEquals(rig.pool.stats().maxLifetimeClosed, 2);
  assertEquals(rig.pool.stats().openedCount, 4);
  // Nor is it handed over to who waits, who gets a fresh one in its place.
  const taken = watch(rig.take(2));
  await rig.clock.tick(960);
  const next = watch(rig.pool.get());
  rig.pool.put(taken.value![0]!);
  await rig.clock.tick(10);
  assertEquals(next.value?.id, 5);
});

Deno.test("Pool replaces in time what is old, however seldom its reaper looks", async () => {
  using rig = slowlyOpening({
    minIdle: 1,
    maxCap: 2,
    maxLifetime: 1000,
    reapInterval: 1e6,
  }, 10);
  await rig.clock.tick(10);
  for (let i = 0; i < 500; i++) {
    await rig.clock.tick(10);
    const resource = rig.pool.tryGet();
    assert(resource !== undefined, `empty at ${rig.clock.now}`);
    rig.pool.put(resource);
  }
  assertGreaterOrEqual(rig.pool.stats().maxLifetimeClosed, 4);
});
