/** Balancers check a server by connections that they reset at once. */
import { assert, assertEquals } from "@std/assert";
import { serve } from "../server.ts";
import {
  FakeListener,
  FakeTime,
  heads,
  microtasks,
  StubConnection,
  wire,
} from "./server_support.ts";

Deno.test("Accepts that fail now and then do not add up to a pause, however many", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({ onError: () => assert(false) }, (payload) => payload);
  await microtasks();
  for (let i = 0; i < 500; i++) {
    await time.advance(100);
    listener.push(new Deno.errors.NotConnected("x (os error 107)"));
    await microtasks();
  }
  const conn = new StubConnection();
  conn.feed(wire([1]), null);
  listener.push(conn);
  await microtasks();
  assertEquals(heads(conn.answers()), [1]);
  assertEquals(time.delays, []);
  assertEquals(server.stats().acceptErrors, 500);
  await server.shutdown();
});
