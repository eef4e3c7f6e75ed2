// minIdle: what is kept open and idle, and what waits after a failure.

import {
  assertEquals,
  assertGreater,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { holdPlace } from "../_pool_held_places.ts";
import { Pool } from "../pool.ts";
import { never, type Resource, Rig, watch } from "./pool_support.ts";
import { FakeClock, settle } from "./time_support.ts";

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

Deno.test("Pool waits after a failure to open for minIdle, 100 ms doubling to 30 s", async () => {
  const tries: number[] = [];
  using rig = new Rig({
    minIdle: 1,
    factory: () => {
      tries.push(performance.now());
      throw new Error("down");
    },
  });
  await settle();
  // It does not keep the process alive.
  assertEquals([rig.clock.timers, rig.clock.held], [1, 0]);
  await rig.clock.tick(120_000);
  const pauses = tries.slice(1).map((time, i) => time - tries[i]!);
  assertEquals(
    pauses,
    [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000],
  );
  assertEquals(rig.errors.length, tries.length);
  await rig.pool.close();
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool that fails to open several for minIdle waits once for all of them", async () => {
  let calls = 0;
  using rig = new Rig({
    minIdle: 3,
    factory: () => {
      calls++;
      return Promise.reject(new Error("down"));
    },
  });
  await settle();
  assertEquals(calls, 3);
  await rig.clock.tick(99);
  assertEquals(calls, 3);
  await rig.clock.tick(1);
  assertEquals(calls, 6);
  await rig.clock.tick(199);
  assertEquals(calls, 6);
  await rig.clock.tick(1);
  assertEquals(calls, 9);
});

Deno.test("Pool opens for minIdle at once when the factory has delivered to somebody who asked", async () => {
  let down = true;
  using rig: Rig = new Rig({
    minIdle: 1,
    factory: () => {
      if (down) throw new Error("down");
      return rig.make();
    },
  });
  await rig.clock.tick(5000);
  down = false;
  // A get never waits for the pause.
  await rig.take(1);
  await settle();
  assertEquals(rig.now, "open 2 idle 1 inUse 1 opening 0 waiting 0");
  assertEquals(rig.clock.timers, 0);
  // And the next failure's pause is the shortest again.
  down = true;
  rig.pool.discard((await rig.take(1))[0]!);
  await settle();
  assertEquals(rig.clock.next - rig.clock.now, 100);
});

Deno.test("Pool begins its pauses anew when somebody has asked in vain", async () => {
  let calls = 0;
  using rig = new Rig({
    minIdle: 1,
    factory: () => {
      calls++;
      throw new Error("down");
    },
  });
  await rig.clock.tick(3100);
  assertEquals(calls, 6);
  await assertRejects(() => rig.pool.get(), Error, "down");
  assertEquals(calls, 7);
  await rig.clock.tick(99);
  assertEquals(calls, 7);
  await rig.clock.tick(1);
  assertEquals(calls, 8);
  await rig.clock.tick(200);
  assertEquals(calls, 9);
});

Deno.test("Pool tries to open for minIdle at once when somebody takes what is left", async () => {
  let calls = 0;
  using rig = new Rig({
    minIdle: 2,
    factory: () => {
      if (++calls > 1) throw new Error("down");
      return { id: calls };
    },
  });
  await rig.clock.tick(3000);
  const before = calls;
  await rig.take(1);
  assertGreater(calls, before);
});

Deno.test("Pool opens for minIdle while what it replaces is still being closed", async () => {
  using rig = new Rig({ minIdle: 1, maxCap: 3, close: never });
  await settle();
  rig.pool.evict(rig.opened[0]!);
  await settle();
  assertEquals(rig.now, "open 2 idle 1 inUse 0 opening 0 waiting 0");
  rig.pool.evictAll();
  await settle();
  assertEquals(rig.now, "open 3 idle 1 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool leaves minIdle idle, however long they have been", async () => {
  using rig = new Rig({ minIdle: 2, maxCap: 5, idleTimeout: 200 });
  const taken = await rig.take(5);
  for (const resource of taken) rig.pool.put(resource);
  await rig.clock.tick(150);
  // The warmest stay.
  const [warm] = await rig.take(1);
  rig.pool.put(warm!);
  await rig.clock.tick(10_000);
  assertEquals(rig.stats().idle, 2);
  assertEquals(rig.stats().idleTimeoutClosed, 3);
  assertEquals(rig.opened.length, 5);
  // Nothing is left to look at.
  assertEquals(rig.clock.timers, 0);
  // Nor is one closed at a get: that would find nothing.
  assertStrictEquals(rig.pool.tryGet(), warm);
});

Deno.test("Pool that nobody uses is never found empty because of idleTimeout", async () => {
  using clock = new FakeClock();
  let opened = 0;
  const pool = new Pool({
    minIdle: 2,
    idleTimeout: 200,
    factory: async () => {
      await new Promise<void>((resolve) => setTimeout(resolve, 50));
      return { id: ++opened };
    },
  });
  await clock.tick(50);
  for (let i = 0; i < 300; i++) {
    await clock.tick(10);
    assertEquals(pool.stats().idle, 2);
  }
  assertEquals(opened, 2);
});

Deno.test("Pool.open() waits for initialCap, and minIdle goes on in the background", async () => {
  using _clock = new FakeClock();
  const calls: PromiseWithResolvers<Resource>[] = [];
  const errors: unknown[] = [];
  const opening = watch(Pool.open<Resource>({
    initialCap: 1,
    minIdle: 3,
    factory: () => {
      const call = Promise.withResolvers<Resource>();
      calls.push(call);
      return call.promise;
    },
    onError: (error) => errors.push(error),
  }));
  await settle();
  assertEquals(calls.length, 3);
  const boom = new Error("boom");
  calls[1]!.reject(boom);
  await settle();
  // It was not for initialCap.
  assertEquals([opening.state, errors], ["pending", [boom]]);
  calls[0]!.resolve({ id: 1 });
  await settle();
  assertEquals(opening.value?.stats().idle, 1);
});

Deno.test("Pool does not turn a caller away for a call that had begun for minIdle before", async () => {
  using rig = new Rig({ minIdle: 1, maxCap: 1 }, true);
  const early = watch(rig.pool.get());
  await settle();
  assertEquals(rig.calls.length, 1);
  const boom = new Error("refused");
  rig.calls[0]!.reject(boom);
  await settle();
  // The caller gets a call of its own, and the failure is told.
  assertEquals([early.state, rig.calls.length], ["pending", 2]);
  assertEquals(rig.errors, [[boom, "factory"]]);
  await rig.deliver(1);
  assertEquals(early.state, "resolved");
  // The failure of that one would have been the caller's.
  rig.pool.discard(early.value!);
  await settle();
  const late = watch(rig.pool.get());
  rig.calls[2]!.reject(new Error("begun for minIdle"));
  await settle();
  rig.calls[3]!.reject(boom);
  await settle();
  assertStrictEquals(late.error, boom);
  assertEquals(rig.calls.length, 4);
});

Deno.test("Pool turns a caller away for such a call where there is no room to wait for another", async () => {
  const until = Promise.withResolvers<void>();
  const error = holdPlace(new Error("given up"), until.promise);
  const call = Promise.withResolvers<Resource>();
  using rig = new Rig({
    minIdle: 1,
    maxCap: 1,
    maxWaiting: 0,
    factory: () => call.promise,
  });
  const get = watch(rig.pool.get());
  call.reject(error);
  await settle();
  assertStrictEquals(get.error, error);
  assertEquals(rig.errors, []);
  assertEquals(rig.now, "open 1 idle 0 inUse 0 opening 0 waiting 0");
});
