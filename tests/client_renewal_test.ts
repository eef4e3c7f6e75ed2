/**
 * A request that is sent again goes out on a connection dialled since it was
 * lost: the others may lead to the server that has just gone, whose end on them
 * has not been read yet.
 */
import { assertEquals, assertInstanceOf } from "@std/assert";
import { Client, ConnectionLostError } from "../client.ts";
import {
  ascii,
  outcomeOf,
  replace,
  stateOf,
  StubConn,
  StubNetwork,
  textOf,
  ticks,
} from "./client_support.ts";

const PORT = 9; // Of stubs, which nobody dials.

/** Opens `count` connections that have each given a response. */
async function warm(client: Client, count: number): Promise<void> {
  await Promise.all(
    Array.from({ length: count }, () => client.send(ascii("first"))),
  );
  assertEquals(client.stats().pool.idle, count);
}

for (const pipelining of [1, 4]) {
  Deno.test(`A request is sent again on a new connection, since the idle ones may have ended too (pipelining ${pipelining})`, async () => {
    using network = new StubNetwork();
    await using client = new Client({
      port: PORT,
      maxCap: 3,
      pipelining,
      idempotent: true,
    });
    await warm(client, 3);
    const old = [...network.conns];
    for (const conn of old) conn.onRequest = undefined;
    const sending = client.send(ascii("again"));
    await ticks();
    const first = old.find((conn) => conn.requests.includes("again"))!;
    // They end in one turn: the first is noticed while the others look idle.
    first.deliver(null);
    for (const conn of old) if (conn !== first) conn.deliver(null);
    assertEquals(textOf(await sending), "pong:again");
    assertEquals(network.requests.filter((r) => r === "again").length, 2);
    assertEquals(network.conns.length, 4);
    assertEquals(client.stats().retries, 1);
  });
}

Deno.test("Requests that are sent again share a new connection, and leave busy ones alone", async () => {
  using network = new StubNetwork();
  await using client = new Client({
    port: PORT,
    maxCap: 2,
    pipelining: 3,
    idempotent: true,
  });
  await warm(client, 2);
  const [one, two] = network.conns as [StubConn, StubConn];
  one.onRequest = two.onRequest = undefined;
  const names = ["a", "b", "c", "d"];
  const sending = names.map((name) => client.send(ascii(name)));
  await ticks();
  const lost = one.requests.slice(1);
  const kept = two.requests.slice(1);
  assertEquals([lost.length, kept.length], [2, 2]);
  one.deliver(null);
  const texts = names.map((_, i) => sending[i]!.then(textOf));
  for (const name of lost) {
    assertEquals(await texts[names.indexOf(name)], `pong:${name}`);
  }
  assertEquals(network.conns[2]!.requests, lost);
  assertEquals(two.requests.slice(1), kept);
  assertEquals(two.closed, false);
  two.respond(...kept.map((name) => `pong:${name}`));
  assertEquals(await Promise.all(texts), names.map((name) => `pong:${name}`));
  assertEquals(network.conns.length, 3);
});

Deno.test("Requests that were lost together need one dial, also when it begins with the first of them", async () => {
  using network = new StubNetwork();
  await using client = new Client({ port: PORT, maxCap: 1, pipelining: 4 });
  await warm(client, 1);
  const [one] = network.conns as [StubConn];
  one.hold = true;
  const names = ["a", "b", "c", "d"];
  const sending = names.map((name) => client.send(ascii(name)));
  await ticks();
  // The write under way settles late, when the place is free again.
  one.stuck = true;
  one.deliver(null);
  await ticks();
  one.refuse(new Deno.errors.BrokenPipe("broken"));
  assertEquals(
    (await Promise.all(sending)).map(textOf),
    names.map((name) => `pong:${name}`),
  );
  assertEquals(network.conns.length, 2);
  assertEquals(network.conns[1]!.requests, names);
});

Deno.test("A request that is sent again gives up its turn on a connection older than its loss", async () => {
  const conns = Array.from({ length: 4 }, () => StubConn.pong());
  const dialled: StubConn[] = [];
  const held = Promise.withResolvers<void>();
  using _ = replace("connect", async () => {
    const conn = conns[dialled.length]!;
    dialled.push(conn);
    if (dialled.length > 2) await held.promise;
    return conn;
  });
  await using client = new Client({ port: PORT, maxCap: 2, idempotent: true });
  await warm(client, 2);
  const [one, two] = conns as [StubConn, StubConn, ...StubConn[]];
  one.onRequest = two.onRequest = undefined;
  const a = outcomeOf(client.send(ascii("a")));
  const b = outcomeOf(client.send(ascii("b")));
  await ticks();
  const [first, second] = one.requests.includes("a") ? [one, two] : [two, one];
  first.deliver(null);
  await ticks();
  assertEquals(dialled.length, 3); // And it does not come about yet.
  // The other connection is answered and free; the one in line does not take it.
  second.respond("pong:b");
  assertEquals(textOf(await b as Uint8Array), "pong:b");
  assertEquals(await stateOf(a), "pending");
  assertEquals(second.requests.includes("a"), false);
  held.resolve();
  assertEquals(textOf(await a as Uint8Array), "pong:a");
  assertEquals(client.stats().retries, 1);
});

Deno.test("A request that is lost again, on its new connection, is rejected", async () => {
  using network = new StubNetwork((index) =>
    index === 0 ? StubConn.pong() : new StubConn()
  );
  await using client = new Client({ port: PORT, maxCap: 1, idempotent: true });
  await warm(client, 1);
  network.conns[0]!.onRequest = undefined;
  const outcome = outcomeOf(client.send(ascii("twice")));
  await ticks();
  network.conns[0]!.deliver(null);
  await ticks();
  assertEquals(network.conns[1]!.requests, ["twice"]);
  network.conns[1]!.deliver(null);
  const error = await outcome;
  assertInstanceOf(error, ConnectionLostError);
  assertEquals(error.requestSent, true);
  assertEquals(network.conns.length, 2);
});

Deno.test("A connection that is declined unused, being older than the loss, fails nobody", async () => {
  const conns = Array.from({ length: 4 }, () => StubConn.pong());
  const dialled: StubConn[] = [];
  const held = Promise.withResolvers<void>();
  using _ = replace("connect", async () => {
    const conn = conns[dialled.length]!;
    dialled.push(conn);
    if (dialled.length === 2) await held.promise;
    return conn;
  });
  await using client = new Client({ port: PORT, maxCap: 2, idempotent: true });
  await warm(client, 1);
  const [first] = conns as [StubConn, ...StubConn[]];
  first.onRequest = undefined;
  const a = outcomeOf(client.send(ascii("a")));
  // Dialled before the loss, it comes about after it, for somebody who is gone.
  const controller = new AbortController();
  const { signal } = controller;
  const b = outcomeOf(client.send(ascii("b"), { signal }));
  await ticks();
  assertEquals(dialled.length, 2);
  controller.abort("gone");
  assertEquals(await b, "gone");
  first.deliver(null);
  held.resolve();
  assertEquals(textOf(await a as Uint8Array), "pong:a");
  assertEquals(conns[1]!.requests, []);
});
