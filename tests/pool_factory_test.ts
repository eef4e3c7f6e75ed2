// Calls of the factory: how many, for whom, and what follows when one fails or
// hangs.

import {
  assertEquals,
  assertInstanceOf,
  assertLessOrEqual,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { Pool, type PoolCloseReason, PoolTimeoutError } from "../pool.ts";
import { never, type Resource, Rig, states, watch } from "./pool_support.ts";
import { FakeClock, settle } from "./time_support.ts";

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
