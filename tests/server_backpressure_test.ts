/**
 * Peers that do not read and handlers that are slow: what is read ahead and
 * what waits to be written stays bounded.
 */
import { assertEquals, assertLess, assertLessOrEqual } from "@std/assert";
import { concat } from "@std/bytes";
import { NO_RESPONSE, serve, serveConnection } from "../server.ts";
import { KIB } from "./bytes_support.ts";
import { Peer, settle, StubConnection, wire } from "./server_support.ts";

/** What `MAX_OUTGOING` and `MAX_READ_AHEAD` promise. */
const MOST_OUTGOING = 256 * KIB;

const MOST_READ_AHEAD = 64 * KIB;

Deno.test("A peer that does not read stops its connection, whatever the handlers", async () => {
  const response = new Uint8Array(10 * KIB);
  const one = wire([new Uint8Array(KIB)]);
  const cases = [
    { name: "sync", handler: () => response, concurrency: 1 },
    { name: "sync", handler: () => response, concurrency: 1000 },
    { name: "async", handler: () => Promise.resolve(response), concurrency: 1 },
    { name: "async", handler: () => Promise.resolve(response), concurrency: 8 },
  ];
  for (const { name, handler, concurrency } of cases) {
    const room = Promise.withResolvers<void>();
    const conn = new StubConnection({
      write: async (p) => {
        await room.promise;
        return p.length;
      },
    });
    let handled = 0;
    const done = serveConnection(conn, () => {
      handled++;
      return handler();
    }, { concurrency });
    conn.feed(concat(Array(300).fill(one)), null);
    await settle();
    const { reads } = conn;
    await settle();
    const what = `${name}, ${concurrency} at once`;
    assertEquals(conn.reads, reads, what);
    // What is waiting stops it; handlers at work may overshoot.
    const most = MOST_OUTGOING + concurrency * 11 * KIB;
    if (name === "async") assertLess(handled * 10 * KIB, most, what);
    else assertEquals(handled, 26, what);
    assertLess(
      conn.taken,
      handled * one.length + 6 * MOST_READ_AHEAD,
      what,
    );
    room.resolve();
    await done;
    assertEquals(handled, 300, what);
    assertEquals(conn.answers().length, 300, what);
  }
});

Deno.test("Responses that wait behind a slow handler are bounded in bytes", async () => {
  const conn = new StubConnection();
  const first = Promise.withResolvers<Uint8Array>();
  const response = new Uint8Array(50 * KIB);
  let handled = 0;
  const done = serveConnection(
    conn,
    () => handled++ === 0 ? first.promise : response,
    { concurrency: 1000 },
  );
  conn.feed(wire(Array(100).fill(1)), null);
  await settle();
  // Five are 250 KiB, the sixth is what goes over.
  assertEquals(handled, 1 + 6);
  first.resolve(response);
  await done;
  assertEquals(handled, 100);
  assertEquals(conn.answers().length, 100);
});

Deno.test("What is read ahead while handlers are busy is bounded", async () => {
  for (const length of [100, 10 * KIB, 1000 * KIB]) {
    const conn = new StubConnection();
    const gate = Promise.withResolvers<void>();
    const done = serveConnection(conn, async () => {
      await gate.promise;
      return NO_RESPONSE;
    });
    const one = wire([new Uint8Array(length)]);
    const count = Math.ceil(1_500_000 / one.length);
    for (let i = 0; i < count; i++) conn.feed(one);
    conn.feed(null);
    await settle();
    const { reads } = conn;
    await settle();
    assertEquals(conn.reads, reads);
    assertLess(
      conn.taken,
      // The frame that is handled, what may be read ahead, and the last read.
      one.length + 2 * MOST_READ_AHEAD + 4 * MOST_READ_AHEAD,
      `${length} bytes each`,
    );
    gate.resolve();
    await done;
    assertEquals(conn.taken, count * one.length);
  }
});

Deno.test("A peer that does not read stops its own connection, and no other", async () => {
  const response = new Uint8Array(64 * KIB);
  await using server = serve({}, () => response);
  using deaf = await Peer.connect(server);
  const requests = 600;
  // The rest of it stays in this side's hands until the server reads on.
  const sending = deaf.write(
    wire(Array(requests).fill(new Uint8Array(KIB))),
  );
  let handled = -1;
  let rounds = 0;
  using other = await Peer.connect(server);
  let asked = 0;
  // It has stopped when nothing but the other's requests is handled.
  while (rounds < 10) {
    assertEquals((await other.ask(1))?.length, response.length);
    asked++;
    await settle(5);
    const now = server.stats().requests - asked;
    rounds = now === handled ? rounds + 1 : 0;
    handled = now;
  }
  assertLess(handled, requests);
  const { bytesIn, bytesOut } = server.stats();
  // Answered and not written: the bound, and the one that reached it.
  assertLessOrEqual(
    (handled + asked) * (8 + response.length) - bytesOut,
    256 * KIB + 8 + response.length,
  );
  // Read and not handled: what may be read ahead, and the last read.
  assertLessOrEqual(
    bytesIn - asked * 9 - handled * (8 + KIB),
    64 * KIB + 4 * 64 * KIB,
  );
  // When it reads, it is served to the end.
  let received = 0;
  const p = new Uint8Array(256 * KIB);
  while (received < requests * (8 + response.length)) {
    received += await deaf.conn.read(p) ?? 1e99;
  }
  await sending;
  assertEquals(received, requests * (8 + response.length));
  assertEquals(server.stats().requests, requests + asked);
});
