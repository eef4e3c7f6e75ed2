// Borrows that end by themselves: use() and lease().

import {
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { type Resource, Rig } from "./pool_support.ts";

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
