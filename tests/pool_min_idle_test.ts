// minIdle: what is kept open and idle, and what waits after a failure.

import { assertEquals } from "@std/assert";
import { Rig } from "./pool_support.ts";
import { settle } from "./time_support.ts";

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
