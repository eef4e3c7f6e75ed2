/**
 * What becomes of a request whose connection is lost: the table of the rule,
 * every combination of it, and that none is ever handled twice.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
} from "@std/assert";
import { createServer, type Socket } from "node:net";
import type { AddressInfo } from "node:net";
import {
  Client,
  ClientClosedError,
  ConnectError,
  ConnectionLostError,
  RequestTimeoutError,
} from "../client.ts";
import { encodeFrame, FrameTooLargeError } from "../codec.ts";
import {
  ascii,
  outcomeOf,
  pongServer,
  rejection,
  replace,
  ScriptedServer,
  stateOf,
  StubConn,
  StubNetwork,
  textOf,
  ticks,
} from "./client_support.ts";
import { eventually } from "./traffic.ts";

const PORT = 9; // Of stubs, which nobody dials.

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

// On real sockets.

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
