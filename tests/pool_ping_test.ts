// Pings: at a get, and of what is idle in the background.

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
  assertStringIncludes,
} from "@std/assert";
import { PoolTimeoutError } from "../pool.ts";
import { never, type Resource, Rig, states, watch } from "./pool_support.ts";
import { settle } from "./time_support.ts";

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

Deno.test("A factory that hangs for a caller who has left holds up nobody while another is idle", async () => {
  using rig = new Rig({ ping: () => true, maxCap: 2 }, true);
  const first = rig.pool.get();
  const a = await rig.deliver(0);
  await first;
  const gone = watch(rig.pool.get({ timeout: 10 }));
  await rig.clock.tick(10);
  assertEquals(gone.state, "rejected");
  rig.pool.put(a);
  // It is due for a ping, and a call of the factory is under way.
  assertEquals(rig.now, "open 2 idle 1 inUse 0 opening 1 waiting 0");
  const next = watch(rig.pool.get());
  await settle();
  assertStrictEquals(next.value, a);
});

Deno.test("Pool's pings may take 5 s by default", async () => {
  using rig = new Rig({ ping: never });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  const get = watch(rig.pool.get());
  await rig.clock.tick(4_999);
  assertEquals(get.state, "pending");
  await rig.clock.tick(1);
  assertEquals(get.value?.id, 2);
});

Deno.test("Pool sets no timer for a ping that answers at once", async () => {
  using rig = new Rig({ ping: () => true });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  const before = rig.clock.sets;
  assertStrictEquals(await rig.pool.get(), a);
  assertEquals(rig.clock.sets, before);
});

Deno.test("Pool.recheck() has a resource pinged before it is lent next, and once", async () => {
  using rig = new Rig({ ping: () => true, pingAfterIdle: 1000 });
  const [a, b] = await rig.take(2);
  rig.pool.put(a!);
  rig.pool.put(b!);
  rig.pool.recheck(b!);
  rig.pool.recheck({ id: 9 });
  assertStrictEquals(rig.pool.tryGet(), undefined);
  assertStrictEquals(await rig.pool.get(), b);
  assertEquals(rig.pinged, [b!]);
  rig.pool.put(b!);
  assertStrictEquals(rig.pool.tryGet(), b);
  assertStrictEquals(rig.pool.tryGet(), a);
  assertEquals(rig.pinged, [b!]);
});

// ---- In the background -------------------------------------------------------

Deno.test("Pool's reaper pings what has been idle for pingInterval, and again and again", async () => {
  using rig = new Rig({ ping: () => true, pingInterval: 100, maxCap: 3 });
  const taken = await rig.take(3);
  for (const resource of taken.slice(0, 2)) rig.pool.put(resource);
  assertEquals(rig.clock.held, 0);
  await rig.clock.tick(99);
  assertEquals(rig.pinged, []);
  await rig.clock.tick(1);
  assertEquals(rig.pinged, taken.slice(0, 2));
  assertEquals(rig.now, "open 3 idle 2 inUse 1 opening 0 waiting 0");
  await rig.clock.tick(99);
  assertEquals(rig.pinged.length, 2);
  await rig.clock.tick(1);
  assertEquals(rig.pinged.length, 4);
  // Not what is borrowed, and nothing of an empty pool.
  await rig.take(2);
  rig.pinged.length = 0;
  await rig.clock.tick(1000);
  assertEquals(rig.pinged, []);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool replaces what a background ping finds dead, before anybody asks", async () => {
  const dead = new Set<number>();
  using rig = new Rig({
    ping: ({ id }) => !dead.has(id),
    pingInterval: 100,
    minIdle: 2,
  });
  await settle();
  dead.add(1).add(2);
  await rig.clock.tick(100);
  assertEquals(rig.closed.map(({ id }) => id), [1, 2]);
  assertEquals(rig.now, "open 2 idle 2 inUse 0 opening 0 waiting 0");
  assertEquals(rig.stats().pingFailedCount, 2);
  assertEquals(rig.stats().getCount, 0);
});

Deno.test("Pool opens nothing for minIdle while an idle resource is pinged", async () => {
  const answer = Promise.withResolvers<boolean>();
  using rig = new Rig({
    ping: () => answer.promise,
    pingInterval: 100,
    minIdle: 1,
  });
  await rig.clock.tick(150);
  assertEquals(rig.now, "open 1 idle 0 inUse 1 opening 0 waiting 0");
  answer.resolve(true);
  await settle();
  assertEquals(rig.now, "open 1 idle 1 inUse 0 opening 0 waiting 0");
});

Deno.test("Pool pings at most a quarter of what is idle at a time, in one pass at a time", async () => {
  for (const [idle, most] of [[1, 1], [4, 1], [8, 2], [20, 5]] as const) {
    let now = 0;
    let highest = 0;
    using rig = new Rig({
      ping: async () => {
        highest = Math.max(highest, ++now);
        await new Promise<void>((resolve) => setTimeout(resolve, 40));
        now--;
        return true;
      },
      pingInterval: 50,
      maxCap: idle,
      initialCap: idle,
    });
    await rig.clock.tick(50);
    await rig.clock.tick(400);
    assertEquals(highest, most);
    // Nobody is left out.
    assertEquals(new Set(rig.pinged).size, idle);
  }
});

Deno.test("A background ping counts for pingAfterIdle, not for idleTimeout nor for the order", async () => {
  for (const idleOrder of ["lifo", "fifo"] as const) {
    using rig = new Rig({
      ping: () => true,
      pingInterval: 100,
      pingAfterIdle: 100,
      idleTimeout: 1000,
      reapInterval: 10,
      idleOrder,
    });
    const taken = await rig.take(3);
    for (const resource of taken) {
      rig.pool.put(resource);
      await rig.clock.tick(20);
    }
    await rig.clock.tick(135);
    assertEquals(rig.pinged.length, 3);
    rig.pinged.length = 0;
    const order = (await rig.take(3)).map(({ id }) => id);
    assertEquals(order, idleOrder === "lifo" ? [3, 2, 1] : [1, 2, 3]);
    assertEquals(rig.pinged, []);
    for (const resource of taken) rig.pool.put(resource);
    await rig.clock.tick(995);
    assertEquals(rig.closed, []);
    await rig.clock.tick(10);
    assertEquals(rig.closed.length, 3);
    assertEquals(rig.stats().idleTimeoutClosed, 3);
  }
});

Deno.test("Pool gives a resource back its place after a ping that nobody waited for any more", async () => {
  for (const idleOrder of ["lifo", "fifo"] as const) {
    const answers: PromiseWithResolvers<boolean>[] = [];
    using rig = new Rig({
      ping: () => {
        const answer = Promise.withResolvers<boolean>();
        answers.push(answer);
        return answer.promise;
      },
      pingAfterIdle: 50,
      maxCap: 5,
      idleOrder,
    });
    const taken = await rig.take(5);
    for (const resource of taken) rig.pool.put(resource);
    await rig.clock.tick(50);
    const gone = new AbortController();
    const gets = taken.slice(1).map(() =>
      watch(rig.pool.get({ signal: gone.signal }))
    );
    await settle();
    gone.abort();
    await settle();
    assertEquals(states(gets), "jjjj");
    // In an order of their own.
    for (const i of [2, 0, 3, 1]) {
      answers[i]!.resolve(true);
      await settle();
    }
    await rig.clock.tick(40);
    const order = (await rig.take(4)).map(({ id }) => id);
    assertEquals(order, idleOrder === "lifo" ? [5, 4, 3, 2] : [1, 2, 3, 4]);
  }
});

Deno.test("A background ping that hangs holds up nobody while something else is idle", async () => {
  using rig = new Rig({
    ping: ({ id }) => id === 1 ? never() : true,
    pingInterval: 100,
    pingAfterIdle: 100,
    pingTimeout: 1000,
    maxCap: 2,
    idleOrder: "fifo",
  });
  const [a, b] = await rig.take(2);
  rig.pool.put(a!);
  await rig.clock.tick(50);
  rig.pool.put(b!);
  await rig.clock.tick(50);
  assertEquals(rig.pinged, [a!]);
  await rig.clock.tick(60);
  // Due for a ping itself.
  const get = watch(rig.pool.get());
  await settle();
  assertStrictEquals(get.value, b);
});

Deno.test("A background ping keeps the process alive only when somebody waits for it", async () => {
  using rig = new Rig({ ping: never, pingInterval: 100, maxCap: 1 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await rig.clock.tick(100);
  assertEquals(rig.pinged, [a!]);
  assertEquals(rig.clock.held, 0);
  const get = watch(rig.pool.get());
  assertEquals(rig.clock.held, 1);
  await rig.clock.tick(5000);
  assertEquals(get.value?.id, 2);
  assertEquals(rig.clock.held, 0);
});

Deno.test("Pool closes what a background ping gives back after idleTimeout, rather than hand it over", async () => {
  const answer = Promise.withResolvers<boolean>();
  using rig = new Rig({
    ping: () => answer.promise,
    pingInterval: 100,
    idleTimeout: 150,
    maxCap: 1,
  });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await rig.clock.tick(120);
  const get = watch(rig.pool.get());
  await rig.clock.tick(40);
  answer.resolve(true);
  await settle();
  assertEquals(rig.closed, [a!]);
  assertEquals(get.value?.id, 2);
});

Deno.test("Pool.close() ends a background pass", async () => {
  using rig = new Rig({ ping: never, pingInterval: 100, maxCap: 8 });
  const taken = await rig.take(8);
  for (const resource of taken) rig.pool.put(resource);
  await rig.clock.tick(100);
  assertEquals(rig.pinged.length, 2);
  await rig.pool.close();
  assertEquals(rig.pinged.length, 2);
  assertEquals(rig.closed.length, 8);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool without a ping does nothing for pingInterval", async () => {
  using rig = new Rig({ pingInterval: 100 });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("A caller whose ping hangs is offered one more of what is idle, after a tenth of a second", async () => {
  for (const hanging of [[3], [3, 2]]) {
    using rig = new Rig({
      ping: ({ id }) => hanging.includes(id) ? never() : true,
      maxCap: 3,
    });
    const taken = await rig.take(3);
    for (const resource of taken) rig.pool.put(resource);
    const get = watch(rig.pool.get());
    await settle();
    assertEquals(rig.pinged.map(({ id }) => id), [3]);
    await rig.clock.tick(100);
    assertEquals(rig.pinged.map(({ id }) => id), [3, 2]);
    // One more and no others: of many dead ones each would cost its own time.
    await rig.clock.tick(1000);
    assertEquals(rig.pinged.map(({ id }) => id), [3, 2]);
    if (hanging.length === 1) assertStrictEquals(get.value, taken[1]);
    else assertEquals(get.state, "pending");
    await rig.pool.close({ signal: AbortSignal.abort() }).catch(() => {});
    assertEquals(rig.clock.timers, 0);
  }
});
