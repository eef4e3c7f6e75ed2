// What can be seen of a pool: errors, figures, hooks and leaks.

import {
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertMatch,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Pool, PoolTimeoutError } from "../pool.ts";
import { Rig, states, watch } from "./pool_support.ts";
import { settle } from "./time_support.ts";

Deno.test("PoolTimeoutError says how full the pool was, and why the factory failed", async () => {
  const boom = new Error("refused");
  using rig = new Rig({ maxCap: 2 }, true);
  const [first] = [watch(rig.pool.get())];
  await settle();
  rig.calls[0]!.reject(boom);
  await settle();
  assertStrictEquals(first!.error, boom);
  const second = watch(rig.pool.get({ timeout: 10 }));
  await rig.clock.tick(10);
  const error = second.error;
  assertInstanceOf(error, PoolTimeoutError);
  assertEquals(error.name, "PoolTimeoutError");
  assertEquals(
    error.message,
    "No resource within 10 ms: 1 open, 0 in use, 0 waiting",
  );
  assertEquals([error.open, error.inUse, error.waiting], [1, 0, 0]);
  assertStrictEquals(error.cause, boom);
  // Once the factory has delivered, its old failure explains nothing.
  await rig.deliver(1);
  await rig.take(1);
  const gets = [rig.pool.get(), rig.pool.get({ timeout: 10 })].map(watch);
  await rig.clock.tick(10);
  assertInstanceOf(gets[1]!.error, PoolTimeoutError);
  assertEquals(gets[1]!.error.cause, undefined);
});

Deno.test("Pool.stats() is a plain snapshot of all its figures", async () => {
  using rig = new Rig({
    maxCap: 2,
    maxIdle: 1,
    idleTimeout: 1000,
    maxLifetime: 5000,
  });
  const before = rig.pool.stats();
  assertEquals(before, {
    open: 0,
    idle: 0,
    inUse: 0,
    opening: 0,
    waiting: 0,
    pending: 0,
    maxCap: 2,
    closed: false,
    getCount: 0,
    waitCount: 0,
    waitDuration: 0,
    timeoutCount: 0,
    cancelCount: 0,
    openedCount: 0,
    openFailedCount: 0,
    pingFailedCount: 0,
    resetFailedCount: 0,
    maxIdleClosed: 0,
    idleTimeoutClosed: 0,
    maxLifetimeClosed: 0,
    discardedCount: 0,
  });
  const [a, b] = await rig.take(2);
  const waits = [rig.pool.get(), rig.pool.get({ timeout: 30 })].map(watch);
  await rig.clock.tick(20);
  rig.pool.put(a!);
  await rig.clock.tick(10);
  assertEquals(states(waits), "sj");
  rig.pool.put(a!);
  rig.pool.put(b!);
  await rig.clock.tick(1000);
  const [c] = await rig.take(1);
  rig.pool.discard(c!);
  assertEquals(rig.pool.stats(), {
    ...before,
    getCount: 4,
    waitCount: 2,
    waitDuration: 20 + 30,
    timeoutCount: 1,
    openedCount: 3,
    maxIdleClosed: 1,
    idleTimeoutClosed: 1,
    discardedCount: 1,
  });
  assertEquals(before.getCount, 0);
});

Deno.test("Pool's hooks may be an object of a class, with fields of its own", async () => {
  class Metrics {
    opens = 0;
    #closes = 0;
    opened() {
      this.opens++;
    }
    closed() {
      this.#closes++;
    }
    get closes() {
      return this.#closes;
    }
  }
  const hooks = new Metrics();
  const pool = new Pool({ factory: () => ({}), hooks });
  pool.put(await pool.get());
  await pool.close();
  assertEquals([hooks.opens, hooks.closes], [1, 1]);
});

Deno.test("Pool reports a leak once with the stack of its get, and when it comes back after all", async () => {
  using rig = new Rig({ leakTimeout: 1000, maxCap: 2 });
  async function borrowAndForget() {
    return await rig.pool.get();
  }
  const a = await borrowAndForget();
  const b = await rig.pool.get();
  await rig.clock.tick(600);
  rig.pool.put(b);
  await rig.clock.tick(400);
  assertEquals(rig.errors.length, 1);
  const [error, operation] = rig.errors[0]! as [Error, string];
  assertEquals(operation, "leak");
  assertEquals(
    error.message,
    "A resource has been borrowed for 1000 ms, leakTimeout is 1000 ms",
  );
  assertStringIncludes((error.cause as Error).stack!, "borrowAndForget");
  await rig.clock.tick(5000);
  assertEquals(rig.errors.length, 1);
  rig.pool.put(a);
  assertEquals(rig.errors.length, 2);
  assertMatch((rig.errors[1]![0] as Error).message, /back after 6000 ms/);
  assertStringIncludes(
    ((rig.errors[1]![0] as Error).cause as Error).stack!,
    "borrowAndForget",
  );
  // Borrowed anew, it is watched anew; a waiter too, and until it is discarded.
  const [c, d] = [await rig.pool.get(), await rig.pool.get()];
  const waiter = watch(rig.pool.get());
  rig.pool.put(c);
  await rig.clock.tick(1000);
  assertEquals(rig.errors.length, 4);
  rig.pool.discard(waiter.value!);
  assertEquals(rig.errors.length, 5);
  rig.pool.put(d);
  assertEquals(rig.errors.length, 6);
  await rig.clock.tick(1000);
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool still reports leaks to who waits for it to close", async () => {
  using rig = new Rig({ leakTimeout: 1000 });
  const [a] = await rig.take(1);
  const closed = watch(rig.pool.close());
  await rig.clock.tick(1000);
  assertEquals(rig.errors.map(([, operation]) => operation), ["leak"]);
  rig.pool.put(a!);
  await settle();
  assertEquals(closed.state, "resolved");
  assertEquals(rig.clock.timers, 0);
});

Deno.test("Pool tells its hooks of every opening, closing and wait", async () => {
  const told: unknown[] = [];
  using rig = new Rig({
    maxCap: 1,
    idleTimeout: 100,
    hooks: {
      opened: ({ id }, duration) => told.push(["opened", id, duration]),
      closed: ({ id }, reason) => told.push(["closed", id, reason]),
      waited: (duration) => told.push(["waited", duration]),
    },
  }, true);
  const first = rig.pool.get();
  const second = rig.pool.get();
  await rig.clock.tick(7);
  const a = await rig.deliver(0);
  await first;
  await rig.clock.tick(3);
  rig.pool.put(a);
  await second;
  rig.pool.put(a);
  await rig.clock.tick(100);
  assertEquals(told, [
    ["opened", 1, 7],
    ["waited", 10],
    ["closed", 1, "idleTimeout"],
  ]);
});

Deno.test("Pool.stats() shows callers behind slow opens as pending, though none of them waits", async () => {
  using rig = new Rig({ maxCap: 10 }, true);
  for (let i = 0; i < 8; i++) watch(rig.pool.get());
  await rig.clock.tick(50);
  const { pending, waiting, waitCount, opening } = rig.pool.stats();
  assertEquals([pending, waiting, waitCount, opening], [8, 0, 0, 8]);
  await rig.deliver(0);
  assertEquals(rig.pool.stats().pending, 7);
});

Deno.test("Pool.stats() shows maxCap as it is, and whether the pool is closed", async () => {
  using rig = new Rig({ maxCap: 3 });
  assertEquals([rig.stats().maxCap, rig.stats().closed], [3, false]);
  rig.pool.resize({ maxCap: 5 });
  assertEquals(rig.stats().maxCap, 5);
  await rig.take(1);
  rig.pool.close();
  // At once, not when everything is back.
  assertEquals(rig.stats().closed, true);
});

Deno.test("Pool tells its hooks of every borrow, how long it was waited for and held", async () => {
  const told: unknown[] = [];
  using rig: Rig = new Rig({
    maxCap: 1,
    hooks: {
      acquired: ({ id }, waited) => told.push(["acquired", id, waited]),
      released: ({ id }, held) => {
        told.push(["released", id, held]);
        // Nothing has followed from it yet.
        assertEquals(rig.stats().idle, 0);
        assertThrows(() => rig.pool.put(rig.opened.at(-1)!), TypeError);
      },
      closed: ({ id }, reason) => told.push(["closed", id, reason]),
    },
  }, true);
  const first = watch(rig.pool.get());
  await rig.clock.tick(7);
  const a = await rig.deliver(0);
  assertStrictEquals(first.value, a);
  const second = watch(rig.pool.get({ timeout: 100 }));
  await rig.clock.tick(3);
  rig.pool.put(a);
  await settle();
  assertStrictEquals(second.value, a);
  await rig.clock.tick(5);
  rig.pool.put(a);
  await rig.clock.tick(50);
  rig.pool.tryGet();
  await rig.clock.tick(2);
  rig.pool.discard(a);
  await rig.pool.close();
  assertEquals(told, [
    ["acquired", 1, 7],
    ["released", 1, 3],
    ["acquired", 1, 3],
    ["released", 1, 5],
    ["acquired", 1, 0],
    ["released", 1, 2],
    ["closed", 1, "discard"],
  ]);
  assertEquals(rig.errors, []);
});

Deno.test("Pool tells its hooks when the drain ends a borrow", async () => {
  const told: unknown[] = [];
  using rig = new Rig({
    drainTimeout: 100,
    hooks: { released: ({ id }, held) => told.push([id, held]) },
  });
  await rig.take(1);
  rig.pool.close();
  await rig.clock.tick(100);
  assertEquals(told, [[1, 100]]);
  rig.pool.put(rig.opened[0]!);
  assertEquals(told.length, 1);
});

Deno.test("Pool survives hooks of borrows that throw, reject or call back", async () => {
  using rig: Rig = new Rig({
    maxCap: 2,
    hooks: {
      acquired: () => {
        throw new Error("acquired");
      },
      released: (resource) => {
        rig.pool.evict(resource);
        return Promise.reject(new Error("released")) as never;
      },
    },
  });
  const [a] = await rig.take(1);
  rig.pool.put(a!);
  await settle();
  // It was evicted before it had become idle.
  assertEquals(rig.closed, [a!]);
  assertEquals(
    rig.errors.map(([error, operation]) => [
      (error as Error).message,
      operation,
    ]),
    [["acquired", "hook"], ["released", "hook"]],
  );
});

Deno.test("Pool without hooks of borrows reads no clock for them", async () => {
  using rig = new Rig();
  rig.pool.put(await rig.pool.get());
  assertEquals(rig.clock.reads, 0);
  using other = new Rig({ hooks: { acquired: () => {} } });
  other.pool.put(await other.pool.get());
  assertGreater(other.clock.reads, 0);
});
