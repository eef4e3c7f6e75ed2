/**
 * Requests that get no response: when they have been taken, in which order they
 * go, what becomes of those that are lost, and that what was taken arrives.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertLess,
} from "@std/assert";
import {
  Client,
  ClientClosedError,
  ConnectionLostError,
  RequestTimeoutError,
} from "../client.ts";
import { FrameReader, FrameTooLargeError } from "../codec.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { MemoryServer } from "./client_memory_support.ts";
import { newClient, StubConn, StubNetwork } from "./client_support.ts";
import { FakeTime } from "./client_time_support.ts";
import {
  immediate,
  outcomeOf,
  rejection,
  stateOf,
  ticks,
} from "./promise_support.ts";
import { eventually, sleep } from "./time_support.ts";

Deno.test("Client.notify() resolves when the transport has taken the whole frame, and not before", async () => {
  using network = new StubNetwork(() => {
    const conn = new StubConn();
    conn.hold = true;
    return conn;
  });
  const client = newClient({ maxCap: 1 });
  const notified = client.notify(new Uint8Array(100_000));
  await ticks();
  const [one] = network.conns as [StubConn];
  const length = 100_008;
  while (one.taken < length - 1) {
    assertEquals(await stateOf(notified), "pending");
    one.take(Math.min(one.offered, length - 1 - one.taken));
    await ticks();
  }
  assertEquals(await stateOf(notified), "pending");
  one.take();
  assertEquals(await stateOf(notified), undefined);
  assertEquals(client.stats().pool.idle, 1);
  await client.close();
});

Deno.test("Notifications and requests go out in the order of their calls, and no response is taken for a notification's", async () => {
  const server = new MemoryServer();
  const client = new Client({
    connect: server.connect,
    maxCap: 1,
    pipelining: 9,
  });
  const settled: string[] = [];
  const calls = [
    client.send(ascii("a")).then((r) => settled.push(textOf(r))),
    client.notify(ascii("n1")).then(() => settled.push("n1")),
    client.send(ascii("b")).then((r) => settled.push(textOf(r))),
    client.notify(ascii("n2")).then(() => settled.push("n2")),
    client.send(ascii("c")).then((r) => settled.push(textOf(r))),
  ];
  const peer = await server.peer(0);
  await peer.expect("a", "n1", "b", "n2", "c");
  for (const text of ["A", "B", "C"]) await peer.send(text);
  await Promise.all(calls);
  assertEquals(settled, ["n1", "n2", "A", "B", "C"]);
  const { requests, responses, notified, failures, inFlight } = client.stats();
  assertEquals({ requests, responses, notified, failures, inFlight }, {
    requests: 5,
    responses: 3,
    notified: 2,
    failures: 0,
    inFlight: 0,
  });
  await client.close();
});

Deno.test("Awaiting a notification is back-pressure: what is not read is not taken without end", async () => {
  const server = new MemoryServer();
  const client = new Client({ connect: server.connect, maxCap: 1 });
  server.onPeer = (peer) => peer.pause();
  let taken = 0;
  let stop = false;
  const writing = (async () => {
    while (!stop) {
      await client.notify(new Uint8Array(10_000));
      taken++;
    }
  })();
  await sleep(50);
  const before = taken;
  assertLess(before, 20);
  await sleep(50);
  assertEquals(taken, before);
  stop = true;
  server.peers[0]!.resume();
  await writing;
  await client.close();
});

Deno.test("A notification is never sent again once it may have been handed over whole, and is when it was not", async () => {
  // Over TLS, what a failed write was given may go out all the same.
  class TlsConn extends StubConn {}
  for (const tls of [true, false]) {
    using network = new StubNetwork(() => tls ? new TlsConn() : new StubConn());
    const client = newClient({ maxCap: 1, idempotent: true });
    const warm = client.send(ascii("warm"));
    await ticks();
    const [one] = network.conns as [StubConn];
    one.respond("W");
    await warm;
    one.hold = true;
    const notified = outcomeOf(client.notify(ascii("n")));
    await ticks();
    one.refuse(new Deno.errors.BrokenPipe("broken"));
    await ticks();
    if (tls) {
      const error = await notified;
      assertInstanceOf(error, ConnectionLostError);
      assert(error.requestSent);
      assertEquals(network.conns.length, 1);
    } else {
      assertEquals(await notified, undefined);
      assertEquals(network.requests, ["warm", "n"]);
      assertEquals(network.conns.length, 2);
    }
    await client.close({ signal: AbortSignal.abort() });
  }
});

Deno.test("A notification that is lost on a fresh connection fails, and says whether it was sent", async () => {
  using network = new StubNetwork(() => {
    const conn = new StubConn();
    conn.hold = true;
    return conn;
  });
  const client = newClient({ maxCap: 1 });
  const notified = outcomeOf(client.notify(ascii("n")));
  await ticks();
  network.conns[0]!.take(3);
  await ticks();
  network.conns[0]!.refuse(new Deno.errors.ConnectionReset("reset"));
  const error = await notified;
  assertInstanceOf(error, ConnectionLostError);
  assertFalse(error.requestSent);
  await client.close();
});

Deno.test("A notification meets its signal and its timeout", async () => {
  const server = new MemoryServer();
  const client = new Client({ connect: server.connect, maxCap: 1 });
  server.onPeer = (peer) => peer.pause();
  await client.notify(new Uint8Array(60_000));
  const abort = new AbortController();
  const aborted = outcomeOf(
    client.notify(new Uint8Array(200_000), { signal: abort.signal }),
  );
  await immediate();
  abort.abort("enough");
  assertEquals(await aborted, "enough");
  const late = new Client({ connect: server.connect, maxCap: 1 });
  const error = await rejection(
    late.notify(new Uint8Array(200_000), { timeout: 60 }),
  );
  assertInstanceOf(error, RequestTimeoutError);
  await client.close();
  await late.close();
});

Deno.test("A notification that cannot be framed is refused, and none is taken by a closed client", async () => {
  const server = new MemoryServer();
  const client = new Client({ connect: server.connect, maxFrameLength: 3 });
  assertInstanceOf(
    await rejection(client.notify(ascii("four"))),
    FrameTooLargeError,
  );
  await client.close();
  assertInstanceOf(
    await rejection(client.notify(ascii("a"))),
    ClientClosedError,
  );
  assertEquals(server.peers.length, 0);
});

Deno.test("close() waits for notifications under way", async () => {
  const server = new MemoryServer();
  const client = new Client({ connect: server.connect, maxCap: 1 });
  server.onPeer = (peer) => peer.pause();
  const notified = client.notify(new Uint8Array(300_000));
  await immediate();
  const closing = client.close();
  assertEquals(await stateOf(closing), "pending");
  const [peer] = server.peers;
  peer!.resume();
  await notified;
  await eventually("its end has come", () => peer!.ended);
  assertEquals(peer!.requests[0]!.text.length, 300_000);
  peer!.end();
  await closing;
});

Deno.test("After a notification close() half-closes and reads to the server's end, so that what was taken arrives", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const arrived = (async () => {
    using conn = await listener.accept();
    // Pushes that nobody reads, before anything is read: closing over them
    // would send a reset, which destroys what is on its way.
    await conn.write(new Uint8Array(1000));
    await sleep(200);
    const reader = new FrameReader(conn);
    let total = 0;
    for await (const frame of reader) total += frame.length;
    return total;
  })();
  const client = new Client({
    port,
    maxCap: 1,
    correlation: { length: 4 },
    onPush: () => {},
  });
  for (let i = 0; i < 30; i++) await client.notify(new Uint8Array(100_000));
  await client.close();
  // An id of four bytes stands before each.
  assertEquals(await arrived, 30 * 100_004);
});

Deno.test("Bytes that nobody asked for do not destroy what was taken before", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const arrived = (async () => {
    using conn = await listener.accept();
    await sleep(50);
    await conn.write(new Uint8Array(1000).fill(1));
    await sleep(100);
    let total = 0;
    for await (const frame of new FrameReader(conn)) total += frame.length;
    return total;
  })();
  const client = new Client({ port, maxCap: 1 });
  for (let i = 0; i < 3; i++) await client.notify(new Uint8Array(10_000));
  await eventually("it takes no more", () => client.stats().pool.idle === 0);
  await client.close();
  assertEquals(await arrived, 30_000);
});

Deno.test("Bytes that nobody asked for do not cut a notification that is being written", async () => {
  const server = new MemoryServer();
  const client = new Client({ connect: server.connect, maxCap: 1 });
  server.onPeer = (peer, index) => {
    if (index === 0) peer.pause();
  };
  const notified = client.notify(new Uint8Array(200_000));
  const peer = await server.peer(0);
  for (let i = 0; i < 5; i++) await immediate();
  await peer.send("nobody's");
  for (let i = 0; i < 5; i++) await immediate();
  // It takes no more requests: the next one goes elsewhere.
  const next = client.notify(ascii("next"));
  peer.resume();
  await notified;
  await next;
  await eventually(
    "all has come",
    () => server.peers[1]?.requests.length === 1,
  );
  assertEquals(peer.requests.map(({ text }) => text.length), [200_000]);
  await client.close();
});

Deno.test("close() reads to the server's end for 10 s at most", async () => {
  using time = new FakeTime();
  const server = new MemoryServer();
  server.onPeer = (peer) => peer.endsBack = false;
  const client = new Client({ connect: server.connect });
  await client.notify(ascii("n"));
  const closing = client.close();
  await ticks();
  await time.pass(9_900);
  assertEquals(await stateOf(closing), "pending");
  await time.pass(200);
  await closing;
});

Deno.test("A response behind a notification says that it has arrived: close() then waits for nothing", async () => {
  const server = new MemoryServer();
  const client = new Client({
    connect: server.connect,
    maxCap: 1,
    pipelining: 2,
  });
  await client.notify(ascii("n"));
  const sent = client.send(ascii("a"));
  const peer = await server.peer(0);
  await peer.expect("n", "a");
  await peer.send("A");
  await sent;
  const start = performance.now();
  await client.close();
  assert(performance.now() - start < 1000);
  await peer.closed();
});

Deno.test("A forced close rejects notifications and waits for nobody", async () => {
  const server = new MemoryServer();
  const client = new Client({ connect: server.connect, maxCap: 1 });
  server.onPeer = (peer) => peer.pause();
  const notified = outcomeOf(client.notify(new Uint8Array(300_000)));
  await immediate();
  await client.close({ signal: AbortSignal.abort("now") });
  assertInstanceOf(await notified, ClientClosedError);
});

Deno.test("A thousand notifications of one turn leave in few writes", async () => {
  using network = new StubNetwork(() => new StubConn());
  const client = newClient({ maxCap: 1, pipelining: 1000 });
  const all = Array.from({ length: 1000 }, () => client.notify(ascii("n")));
  await Promise.all(all);
  const [one] = network.conns as [StubConn];
  assertEquals(one.requests.length, 1000);
  assertLess(one.offers.length, 5);
  await client.close();
});
