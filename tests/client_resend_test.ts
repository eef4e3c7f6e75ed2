/**
 * What becomes of a request whose connection is lost: the table of the rule,
 * every combination of it; the new connection that a request is sent again on;
 * the time that it has left; and that none is ever handled twice.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
} from "@std/assert";
import { type AddressInfo, createServer, type Socket } from "node:net";
import {
  Client,
  ClientClosedError,
  ConnectError,
  ConnectionLostError,
  RequestTimeoutError,
} from "../client.ts";
import { encodeFrame, FrameTooLargeError } from "../codec.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { pongServer, ScriptedServer } from "./client_server_support.ts";
import {
  end,
  newClient,
  PORT,
  replace,
  StubConn,
  StubNetwork,
} from "./client_support.ts";
import { assertInTime, FakeTime, fate } from "./client_time_support.ts";
import { outcomeOf, rejection, stateOf, ticks } from "./promise_support.ts";
import { eventually } from "./time_support.ts";

// The rule --------------------------------------------------------------------

/** How far the request has come when its connection is lost. */
const STAGES = ["never sent", "sent in part", "sent whole", "answer begun"];

/** How it is lost. "refused" is a write that fails, and needs one. */
const CAUSES = ["end", "reset", "bad frame", "unasked bytes", "refused"];

/** What each gives as the cause. */
const CAUSE_CLASSES: Record<string, new (...args: never[]) => Error> = {
  "end": Deno.errors.UnexpectedEof,
  "reset": Deno.errors.ConnectionReset,
  "bad frame": FrameTooLargeError,
  "unasked bytes": Deno.errors.InvalidData,
  "refused": Deno.errors.BrokenPipe,
};

/** Longer than an encoder copies, so that its frame takes two writes. */
const LARGE = "large".padEnd(100_000, ".");

/** One row of the table. */
interface Case {
  stage: string;
  cause: string;
  /** Its connection has answered before. */
  reused: boolean;
  idempotent: boolean;
}

/** What is to become of it. */
function rule({ stage, cause, reused, idempotent }: Case) {
  const sent = stage === "sent whole" || stage === "answer begun";
  const begun = stage === "answer begun" || cause === "bad frame";
  // Bytes that come after the response come too late to lose it.
  if (sent && cause === "unasked bytes") return { sent, outcome: "answered" };
  const resent = reused && (!sent || (idempotent && !begun));
  return { sent, outcome: resent ? "resent" : "rejected" };
}

for (const stage of STAGES) {
  for (const cause of CAUSES) {
    const row = { stage, cause, reused: false, idempotent: false };
    if (cause === "refused" && rule(row).sent) continue;
    Deno.test(`A request that is lost (${stage}; ${cause}) is resent or rejected by the rule`, async () => {
      for (const reused of [false, true]) {
        for (const idempotent of [false, true]) {
          await check({ ...row, reused, idempotent });
        }
      }
    });
  }
}

async function check(row: Case): Promise<void> {
  const { stage, cause, reused, idempotent } = row;
  const { sent, outcome } = rule(row);
  using network = new StubNetwork();
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 2 });
  if (reused) await client.send(ascii("first"));
  else await openUnused(client, network);
  const [one] = network.conns as [StubConn];
  one.onRequest = undefined;
  one.requests.length = 0;
  one.hold = !sent;
  // What stands before it in the stream of requests, and is sent in part.
  const blocker = stage === "never sent"
    ? outcomeOf(client.send(ascii("blocker".padEnd(LARGE.length))))
    : undefined;
  await ticks();
  const payload = stage === "sent in part" ? LARGE : "request";
  const settled = outcomeOf(client.send(ascii(payload), { idempotent }));
  await ticks();
  if (stage === "sent in part") one.take(1000);
  if (stage === "answer begun") one.deliver(new Uint8Array(1));
  await ticks();

  lose(one, row);
  await ticks();
  const result = await stateOf(settled);
  assert(one.closed);
  assertEquals(client.stats().inFlight, 0);
  const times = network.requests.filter((r) => r === payload).length;
  const { retries } = client.stats();
  if (outcome === "answered") {
    assertEquals(textOf(result as Uint8Array), "response");
    assertEquals([times, retries], [1, 0]);
  } else if (outcome === "resent") {
    assertInstanceOf(result, Uint8Array);
    assertEquals(textOf(result), `pong:${payload}`);
    assertEquals(times, sent ? 2 : 1);
    assertEquals(retries, blocker === undefined ? 1 : 2);
  } else {
    assertInstanceOf(result, ConnectionLostError);
    assertEquals(result.requestSent, sent);
    assertInstanceOf(result.cause, CAUSE_CLASSES[cause]!);
    assertEquals(times, sent ? 1 : 0);
    assertEquals(retries, 0);
  }
  if (blocker !== undefined) {
    const before = await stateOf(blocker);
    if (reused) assertInstanceOf(before, Uint8Array);
    else {
      assertInstanceOf(before, ConnectionLostError);
      assertFalse(before.requestSent);
    }
  }
  await client.close();
}

/** Opens a connection that has had nothing on it: who it was dialled for gave
 * up. */
async function openUnused(
  client: Client,
  network: StubNetwork,
): Promise<void> {
  const controller = new AbortController();
  const { signal } = controller;
  const givenUp = rejection(client.send(ascii("given up"), { signal }));
  controller.abort("given up");
  assertEquals(await givenUp, "given up");
  await ticks();
  assertEquals(network.conns.length, 1);
  assertEquals(client.stats().pool.idle, 1);
}

function lose(conn: StubConn, row: Case): void {
  switch (row.cause) {
    case "end":
      return conn.deliver(null);
    case "reset":
      return conn.deliver(new Deno.errors.ConnectionReset("reset"));
    case "bad frame":
      return conn.deliver(new Uint8Array(8).fill(0xff));
    case "refused":
      return conn.refuse(new Deno.errors.BrokenPipe("broken"));
  }
  const response = encodeFrame(ascii("response"));
  const begun = row.stage === "answer begun" ? 1 : 0;
  conn.deliver(response.subarray(begun));
  if (rule(row).sent) conn.respond("unasked");
}

Deno.test("A request is sent again once, however often its connection is lost", async () => {
  using network = new StubNetwork(() => new StubConn());
  const options = { maxCap: 1, pipelining: 2, idempotent: true };
  const client = new Client({ port: PORT, ...options });
  const first = client.send(ascii("first"));
  await ticks();
  network.conns[0]!.respond("first");
  await first;
  const a = client.send(ascii("a"));
  const b = outcomeOf(client.send(ascii("b")));
  await ticks();
  network.conns[0]!.deliver(null);
  await ticks();
  // The second has answered as well, when it is lost.
  const two = network.conns[1]!;
  assertEquals(two.requests, ["a", "b"]);
  two.respond("A");
  assertEquals(textOf(await a), "A");
  two.deliver(null);
  const lost = await b;
  assertInstanceOf(lost, ConnectionLostError);
  assert(lost.requestSent);
  assertEquals(network.requests, ["first", "a", "b", "a", "b"]);
  assertEquals(client.stats().retries, 2);
  await client.close();
});

Deno.test("A request that was given up is never sent again", async () => {
  using network = new StubNetwork();
  const options = { maxCap: 1, pipelining: 3, idempotent: true };
  const client = new Client({ port: PORT, ...options });
  await client.send(ascii("first"));
  const [one] = network.conns as [StubConn];
  one.onRequest = undefined;
  const controller = new AbortController();
  const { signal } = controller;
  const aborted = rejection(client.send(ascii("aborted"), { signal }));
  const timedOut = rejection(client.send(ascii("timed out"), { timeout: 1 }));
  const other = client.send(ascii("other"));
  await ticks();
  controller.abort("given up");
  assertEquals(await aborted, "given up");
  assertInstanceOf(await timedOut, RequestTimeoutError);
  one.deliver(null);
  assertEquals(textOf(await other), "pong:other");
  assertEquals(network.conns[1]!.requests, ["other"]);
  assertEquals(client.stats().retries, 1);
  await client.close();
});

for (const abandoned of [false, true]) {
  Deno.test(`Part of a response is that of the first request${abandoned ? ", which was given up," : ""} and of no other`, async () => {
    using network = new StubNetwork();
    const options = { maxCap: 1, pipelining: 3, idempotent: true };
    const client = new Client({ port: PORT, ...options });
    await client.send(ascii("first"));
    const [one] = network.conns as [StubConn];
    one.onRequest = undefined;
    const controller = new AbortController();
    const { signal } = controller;
    const a = outcomeOf(client.send(ascii("a"), { signal }));
    const b = client.send(ascii("b"));
    const c = client.send(ascii("c"), { idempotent: false });
    const lost = outcomeOf(c);
    await ticks();
    if (abandoned) controller.abort("given up");
    one.deliver(encodeFrame(ascii("response")).subarray(0, 10));
    await ticks();
    one.deliver(null);
    const result = await a;
    if (abandoned) assertEquals(result, "given up");
    else assertInstanceOf(result, ConnectionLostError);
    assertEquals(textOf(await b), "pong:b");
    assertInstanceOf(await lost, ConnectionLostError);
    assertEquals(network.conns[1]!.requests, ["b"]);
    await client.close();
  });
}

Deno.test("A request that cannot be sent again, since nobody listens any more, is told so", async () => {
  using network = new StubNetwork();
  const client = new Client({ port: PORT, maxCap: 1, idempotent: true });
  await client.send(ascii("first"));
  const [one] = network.conns as [StubConn];
  one.onRequest = undefined;
  const sent = rejection(client.send(ascii("a")));
  await ticks();
  {
    using _refused = replace("connect", () => {
      throw new Deno.errors.ConnectionRefused("refused");
    });
    one.deliver(null);
    const error = await sent;
    assertInstanceOf(error, ConnectError);
    assertInstanceOf(error.cause, Deno.errors.ConnectionRefused);
  }
  assertEquals(textOf(await client.send(ascii("b"))), "pong:b");
  await client.close();
});

Deno.test("A client that is closing still sends again, and one that is killed does not", async () => {
  for (const kill of [false, true]) {
    using network = new StubNetwork();
    const client = new Client({ port: PORT, maxCap: 1, idempotent: true });
    await client.send(ascii("first"));
    const [one] = network.conns as [StubConn];
    one.onRequest = undefined;
    const sent = outcomeOf(client.send(ascii("a")));
    await ticks();
    const controller = new AbortController();
    const closing = client.close({ signal: controller.signal });
    one.deliver(null);
    if (kill) controller.abort("now");
    const result = await sent;
    if (kill) {
      assertInstanceOf(result, ClientClosedError);
      assertEquals(result.cause, "now");
    } else {
      assertInstanceOf(result, Uint8Array);
      assertEquals(textOf(result), "pong:a");
    }
    assertEquals(network.conns.length, kill ? 1 : 2);
    await closing;
  }
});

Deno.test("Requests that time out as one of them ends their connection are not sent again", async () => {
  using time = new FakeTime();
  using network = new StubNetwork(() => new StubConn());
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 4 });
  const first = client.send(ascii("first"));
  await ticks();
  const [one] = network.conns as [StubConn];
  one.respond("FIRST");
  await first;
  const sent = outcomeOf(client.send(ascii("sent"), { timeout: 5000 }));
  await ticks();
  one.hold = true;
  const settled: string[] = [];
  for (const payload of [new Uint8Array(100_000), ascii("small")]) {
    client.send(payload, { timeout: 500 }).then(
      () => settled.push("answered"),
      (error) => settled.push(error.name),
    );
  }
  await ticks();
  await time.pass(200);
  // Nothing more can be sent; the reader still waits for "sent".
  one.refuse(new Deno.errors.BrokenPipe("broken"));
  await time.pass(500);
  assertEquals(settled, ["RequestTimeoutError", "RequestTimeoutError"]);
  assertInstanceOf(await sent, ConnectionLostError);
  assertEquals(network.conns.length, 1);
  assertEquals(client.stats().inFlight, 0);
  // Time still passes for whoever comes next.
  const late = rejection(client.send(ascii("late"), { timeout: 100 }));
  await time.pass(200);
  assertInstanceOf(await late, RequestTimeoutError);
  await client.close();
});

Deno.test("What a write took in part, after the connection was lost, counts as not sent", async () => {
  using network = new StubNetwork();
  const client = new Client({ port: PORT, maxCap: 1 });
  await client.send(ascii("first"));
  const [one] = network.conns as [StubConn];
  one.hold = true;
  const large = client.send(new Uint8Array(100_000));
  await ticks();
  one.take();
  await ticks();
  assertEquals(one.taken + one.offered, 8 + 5 + 8 + 100_000);
  one.deliver(null);
  one.take(10);
  assertEquals((await large).length, "pong:".length + 100_000);
  assertEquals(one.requests.length, 1);
  assertEquals(client.stats().retries, 1);
  await client.close();
});

// The new connection ----------------------------------------------------------

// A request that is sent again goes out on a connection dialled since it was
// lost: the others may lead to the server that has just gone, whose end on them
// has not been read yet.

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

// The time that is left -------------------------------------------------------

Deno.test("A request that is sent again has no more time than it was given", async () => {
  // The worst there is: lost just before a sweep would have seen it, and
  // dialled for past the next one.
  const timeout = 10_000;
  const sweep = timeout / 20;
  for (const lostAt of [1, sweep - 1, sweep + 1, timeout / 2]) {
    for (const dialFor of [0, sweep - 10, sweep + 10]) {
      using time = new FakeTime();
      using network = new StubNetwork();
      const client = newClient({ maxCap: 1, requestTimeout: timeout });
      await client.send(ascii("first"));
      const [one] = network.conns as [StubConn];
      one.onRequest = undefined;
      using _dial = replace("connect", async () => {
        await new Promise((resolve) => setTimeout(resolve, dialFor));
        const conn = new StubConn();
        network.conns.push(conn);
        return conn;
      });
      const start = time.now;
      const options = { idempotent: true };
      const sent = fate(client.send(ascii("a"), options), time);
      await time.pass(lostAt);
      one.deliver(null);
      await time.pass(2 * timeout);
      assertEquals(network.conns[1]!.requests, ["a"]);
      const { error, at } = await sent;
      assertInstanceOf(error, RequestTimeoutError);
      assertInTime(at - start, timeout);
      await end(client, time);
    }
  }
});

Deno.test("A request that is sent again times out no later than another", async () => {
  for (let phase = 0; phase < 50; phase += 3) {
    using time = new FakeTime();
    const conns: StubConn[] = [];
    const dials: (() => void)[] = [];
    using _dial = replace("connect", () => {
      const { promise, resolve } = Promise.withResolvers<StubConn>();
      dials.push(() => resolve(conns[conns.push(new StubConn()) - 1]!));
      return promise;
    });
    const client = new Client({ port: PORT, maxCap: 1, requestTimeout: 403 });
    const a = client.send(ascii("a"));
    await ticks();
    dials.shift()!();
    await ticks();
    conns[0]!.respond("A");
    await a;
    // It is lost before a sweep has seen it, and sent again right after one.
    conns[0]!.hold = true;
    await time.pass(1);
    const start = time.now;
    const b = fate(client.send(ascii("b")), time);
    await time.pass(23);
    conns[0]!.deliver(new Deno.errors.ConnectionReset("reset"));
    await time.pass(phase);
    dials.shift()!();
    await time.pass(600);
    assertEquals(conns[1]!.requests, ["b"]);
    assertInTime((await b).at - start, 403);
    await end(client, time);
  }
});

// On real sockets -------------------------------------------------------------

Deno.test("A large request of which the server took a part was not sent", async () => {
  using server = new ScriptedServer();
  const serving = server.run(async (peer, index) => {
    if (index === 1) {
      await peer.expect("first");
      await peer.respond("first");
    }
    // Closed with bytes unread, it resets.
    await peer.conn.read(new Uint8Array(1000));
  });
  const client = new Client({ port: server.port, maxCap: 1 });
  const large = new Uint8Array(16 * 1024 * 1024);
  const fresh = await rejection(client.send(large));
  assertInstanceOf(fresh, ConnectionLostError);
  assertFalse(fresh.requestSent);
  assertEquals(client.stats().retries, 0);
  await client.send(ascii("first"));
  // Sent again, and lost again on a connection that is fresh.
  const reused = await rejection(client.send(large));
  assertInstanceOf(reused, ConnectionLostError);
  assertFalse(reused.requestSent);
  assertEquals(client.stats().retries, 1);
  await client.close();
  server[Symbol.dispose]();
  await serving;
});

/** What a server does to an idle connection. */
const IDLE_ENDS: Record<string, (socket: Socket) => void> = {
  "ends": (socket) => void socket.end(),
  "resets": (socket) => void socket.resetAndDestroy(),
  "sends an unasked byte": (socket) => void socket.write(new Uint8Array(1)),
  "sends an unasked frame": (socket) =>
    void socket.write(encodeFrame(ascii("unasked"))),
  "sends an unasked empty frame": (socket) =>
    void socket.write(encodeFrame(new Uint8Array())),
  "sends no frame": (socket) => void socket.write(new Uint8Array(8).fill(255)),
};

for (const [what, act] of Object.entries(IDLE_ENDS)) {
  Deno.test(`An idle connection whose server ${what} is dropped at once, and no request fails`, async () => {
    const sockets: Socket[] = [];
    let requests = 0;
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => {});
      // Each of these requests comes in one piece.
      socket.on("data", (request) => {
        requests++;
        socket.write(request);
      });
    });
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    const { port } = server.address() as AddressInfo;
    // Without it, idleness would drop them in the end, whatever came.
    const idleTimeout = 0;
    const client = new Client({ port, maxCap: 3, initialCap: 1, idleTimeout });
    // Two that have answered, and one that has never been used.
    await Promise.all([client.send(ascii("a")), client.send(ascii("b"))]);
    await client.send(ascii("c"));
    await eventually("they are idle", () => client.stats().pool.idle >= 2);
    for (const socket of sockets) act(socket);
    await eventually("they are dropped", () => client.stats().pool.open === 0);
    const before = sockets.length;
    assertEquals(textOf(await client.send(ascii("d"))), "d");
    assertEquals(sockets.length, before + 1);
    assertEquals(requests, 4);
    const { failures, retries } = client.stats();
    assertEquals({ failures, retries }, { failures: 0, retries: 0 });
    await client.close();
    await new Promise((resolve) => server.close(resolve));
  });
}

Deno.test("A server that is restarted costs no request", async () => {
  const client = await (async () => {
    using server = pongServer();
    const client = new Client({ port: server.port, maxCap: 20 });
    const names = Array.from({ length: 20 }, (_, i) => `${i}`);
    await Promise.all(names.map((name) => client.send(ascii(name))));
    assertEquals(client.stats().pool.idle, 20);
    return Object.assign(client, { port: server.port });
  })();
  await eventually("all are gone", () => client.stats().pool.open === 0);
  const error = await assertRejects(
    () => client.send(ascii("nobody listens")),
    ConnectError,
    `Cannot connect to 127.0.0.1:${client.port}`,
  );
  assertInstanceOf(error.cause, Deno.errors.ConnectionRefused);
  const { port } = client;
  using server = new ScriptedServer(
    Deno.listen({ hostname: "127.0.0.1", port }),
  );
  const serving = server.run();
  for (let i = 0; i < 20; i++) await client.send(ascii(`${i}`));
  const { failures, retries } = client.stats();
  assertEquals({ failures, retries }, { failures: 1, retries: 0 });
  await client.close();
  server[Symbol.dispose]();
  await serving;
});

Deno.test("A request whose connection ends on the server's side is sent again if it is idempotent", async () => {
  for (const idempotent of [false, true]) {
    using server = new ScriptedServer();
    const serving = server.run(async (peer, index) => {
      if (index > 0) return await peer.serve();
      await peer.expect("first");
      await peer.respond("first");
      await peer.expect("second"); // And ends.
    });
    const client = new Client({ port: server.port, maxCap: 1 });
    await client.send(ascii("first"));
    const result = await outcomeOf(
      client.send(ascii("second"), { idempotent }),
    );
    if (idempotent) {
      assertInstanceOf(result, Uint8Array);
      assertEquals(textOf(result), "pong:second");
    } else {
      assertInstanceOf(result, ConnectionLostError);
      assert(result.requestSent);
      assertInstanceOf(result.cause, Deno.errors.UnexpectedEof);
    }
    assertEquals(server.peers.length, idempotent ? 2 : 1);
    await client.close();
    server[Symbol.dispose]();
    await serving;
  }
});
