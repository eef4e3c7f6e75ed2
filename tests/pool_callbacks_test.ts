// Callbacks that throw, and callbacks that call back into the pool.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { Pool } from "../pool.ts";
import {
  never,
  type Resource,
  Rig,
  states,
  type Watch,
  watch,
} from "./pool_support.ts";
import { FakeClock, settle } from "./time_support.ts";

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

Deno.test("Pool does not open on and on what its own factory evicts", async () => {
  for (const isAsync of [false, true]) {
    let opened = 0;
    const pool: Pool<object> = new Pool({
      factory() {
        // Would never end by itself otherwise.
        if (++opened < 1000) pool.evictAll();
        return isAsync ? Promise.resolve({}) : {};
      },
      maxCap: 2,
    });
    for (let i = 0; i < 2; i++) {
      await assertRejects(() => pool.get(), Error, "evicted as it was opened");
      assertLess(opened, 120);
    }
    await pool.close();
  }
});

Deno.test("Who waits gets a resource, however many were on their way when all were evicted", async () => {
  const opening: (() => void)[] = [];
  const pool: Pool<object> = new Pool({
    factory: () =>
      new Promise<object>((resolve) => opening.push(() => resolve({}))),
    maxCap: 50,
  });
  const waiting = Array.from({ length: 50 }, () => pool.get());
  for (let i = 0; i < 3; i++) {
    pool.evictAll();
    for (const open of opening.splice(0)) open();
    await settle();
  }
  for (const open of opening.splice(0)) open();
  for (const resource of await Promise.all(waiting)) pool.put(resource);
  await pool.close();
});

Deno.test("Pool does not open on and on what its own hook evicts", async () => {
  for (const which of ["one", "all"]) {
    let opened = 0;
    const pool: Pool<object> = new Pool({
      factory: () => ({}),
      maxCap: 2,
      hooks: {
        opened: (resource) => {
          // Would never end by itself otherwise.
          if (++opened > 50) return;
          if (which === "one") pool.evict(resource);
          else pool.evictAll();
        },
      },
    });
    await assertRejects(() => pool.get(), Error, "evicted as it was opened");
    assertEquals(opened, 1);
    await pool.close();
  }
});
