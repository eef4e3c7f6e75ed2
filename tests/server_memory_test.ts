/** What connections hold while they are idle. */
import { assertEquals, assertLess, assertLessOrEqual } from "@std/assert";
import { serve } from "../server.ts";
import { KIB, pattern } from "./bytes_support.ts";
import { collectGarbage } from "./memory_support.ts";
import {
  echo,
  FakeListener,
  settle,
  StubConnection,
  wire,
} from "./server_support.ts";

Deno.test("Idle connections are small, whatever they have carried", async () => {
  using listener = new FakeListener();
  const server = serve({}, echo);
  const count = 1000;
  const heap = () => {
    collectGarbage();
    return Deno.memoryUsage().heapUsed;
  };
  const stubs = Array.from({ length: count }, () => new StubConnection());
  const before = heap();
  listener.push(...stubs);
  await settle(5);
  assertEquals(server.stats().connections, count);
  // What the server, and the stub's pending read, hold in the heap.
  assertLess((heap() - before) / count, 4 * KIB);
  const pinned = () =>
    stubs.reduce((sum, { rooms }) => sum + rooms.at(-1)!.buffer.byteLength, 0);
  assertLessOrEqual(pinned(), count * 2 * KIB);

  const burst = wire(Array(50).fill(pattern(2000)));
  for (const stub of stubs.slice(0, 100)) stub.feed(burst);
  await settle(5);
  for (const stub of stubs.slice(0, 100)) stub.feed(wire([1]));
  await settle(5);
  assertEquals(server.stats().requests, 100 * 51);
  assertLessOrEqual(pinned(), 900 * 2 * KIB + 100 * 80 * KIB);
  server.close();
  await server.finished;
});
