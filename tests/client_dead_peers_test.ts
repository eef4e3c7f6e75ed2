/**
 * Peers that are gone without a word: connections whose end lies in the kernel
 * of a process that was frozen, and connections that the network has dropped.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
} from "@std/assert";
import {
  Client,
  type ClientOptions,
  ConnectError,
  ConnectionLostError,
  RequestTimeoutError,
} from "../client.ts";
import { ascii, bytes, textOf } from "./bytes_support.ts";
import { type MemoryPeer, MemoryServer } from "./client_memory_support.ts";
import { FakeTime } from "./client_time_support.ts";
import { immediate, outcomeOf, rejection, ticks } from "./promise_support.ts";
import { eventually, sleep } from "./time_support.ts";

/** Keeps the thread busy. */
function freeze(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

/** Moves the wall clock, as a suspended machine's does. */
function moveWallClock(by: number): Disposable {
  const { now } = Date;
  Date.now = () => now() + by;
  return { [Symbol.dispose]: () => void (Date.now = now) };
}

/** A server in memory that answers `pong:request`, until it is `gone`: then the
 * network loses whatever is sent to its old connections. */
class Vanishing extends MemoryServer {
  gone: (peer: MemoryPeer) => boolean = () => false;
  /** Requests that got no answer. */
  readonly lost: string[] = [];

  constructor() {
    super();
    this.onPeer = (peer) =>
      peer.onRequest = ({ text }) => {
        if (this.gone(peer)) this.lost.push(text);
        else peer.send(`pong:${text}`);
      };
  }

  /** From now on the connections that stand are lost. */
  vanish(): void {
    const old = new Set(this.peers);
    this.gone = (peer) => old.has(peer);
  }
}

/** Opens so many connections and lets them become idle. */
async function warm(client: Client, count: number): Promise<void> {
  const sent = Array.from({ length: count }, () => client.send(ascii("warm")));
  await Promise.all(sent);
  assertEquals(client.stats().pool.idle, count);
}

/** Waits for a promise while fake time passes. */
async function passing<T>(
  time: FakeTime,
  promise: Promise<T>,
  step = 100,
): Promise<T> {
  let done = false;
  promise.then(() => done = true, () => done = true);
  await ticks();
  while (!done) {
    await time.pass(step);
    // A look takes turns of the real event loop.
    await sleep(12);
  }
  return await promise;
}

// Frozen processes ----------------------------------------------------------------

/** A server process that closes what has been idle for so long, and says over its
 * standard output which requests it has had. */
async function strictServer(idle: number) {
  const child = new Deno.Command("deno", {
    args: [
      "eval",
      `const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      console.log(listener.addr.port);
      for (;;) {
        const conn = await listener.accept();
        (async () => {
          const room = new Uint8Array(1024);
          for (;;) {
            const timer = setTimeout(() => conn.close(), ${idle});
            const n = await conn.read(room).catch(() => null);
            clearTimeout(timer);
            if (n === null) break;
            await conn.write(room.subarray(0, n)).catch(() => {});
          }
        })();
      }`,
    ],
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  return {
    port: parseInt(new TextDecoder().decode(value)),
    async end() {
      child.kill();
      await reader.cancel();
      await child.status;
    },
  };
}

for (const pipelining of [1, 4]) {
  Deno.test(`A process that was frozen while its idle connections were closed writes to none of them (pipelining ${pipelining})`, async () => {
    const server = await strictServer(300);
    const client = new Client({ port: server.port, maxCap: 4, pipelining });
    for (let round = 0; round < 3; round++) {
      const sent = Array.from({ length: 4 }, () => client.send(ascii("warm")));
      await Promise.all(sent);
      freeze(1500);
      const after = Array.from(
        { length: 12 },
        (_, i) => outcomeOf(client.send(ascii(`${i}`))),
      );
      for (const [i, outcome] of (await Promise.all(after)).entries()) {
        if (outcome instanceof Error) throw outcome;
        assertEquals(textOf(outcome as Uint8Array), `${i}`);
      }
    }
    assertEquals(client.stats().retries, 0);
    await client.close();
    await server.end();
  });
}

Deno.test("A machine that was suspended while its idle connections were closed writes to none of them", async () => {
  const server = await strictServer(200);
  const client = new Client({ port: server.port, maxCap: 4 });
  await Promise.all([1, 2, 3, 4].map(() => client.send(ascii("warm"))));
  // The monotonic clock stands still meanwhile: 500 ms are less than a second.
  freeze(500);
  using _suspended = moveWallClock(60_000);
  const after = [1, 2, 3, 4].map((i) => outcomeOf(client.send(ascii(`${i}`))));
  for (const outcome of await Promise.all(after)) {
    if (outcome instanceof Error) throw outcome;
  }
  assertEquals(client.stats().retries, 0);
  await client.close();
  await server.end();
});

Deno.test("What is warm is written to at once, however often the wall clock is set", async () => {
  const server = new Vanishing();
  const client = new Client({ connect: server.connect, maxCap: 1 });
  await warm(client, 1);
  for (const by of [0, -3_600_000, 50]) {
    using _wall = moveWallClock(by);
    const sent = client.send(ascii("a"));
    await ticks();
    assertEquals(server.peers[0]!.requests.at(-1)!.text, "a");
    await sent;
  }
  await client.close();
});

Deno.test("What lay idle for a second is looked at for a turn, and one that is well is used", async () => {
  using time = new FakeTime();
  const server = new Vanishing();
  const client = new Client({ connect: server.connect, maxCap: 1 });
  await warm(client, 1);
  await time.pass(999);
  let sent = client.send(ascii("a"));
  await ticks();
  assertEquals(server.peers[0]!.requests.length, 2);
  await sent;
  await time.pass(1000);
  sent = client.send(ascii("b"));
  await ticks();
  assertEquals(server.peers[0]!.requests.length, 2);
  assertEquals(textOf(await sent), "pong:b");
  assertEquals(server.peers.length, 1);
  await client.close();
});

Deno.test("A connection that is looked at is not shared, and whoever comes meanwhile waits for it rather than for a busy one", async () => {
  using time = new FakeTime();
  const server = new MemoryServer();
  const client = new Client({
    connect: server.connect,
    maxCap: 2,
    pipelining: 4,
  });
  const first = [1, 2].map((i) => client.send(ascii(`${i}`)));
  await ticks();
  for (const peer of server.peers) await peer.send("r");
  await Promise.all(first);
  await time.pass(2000);
  const busy = client.send(ascii("busy"));
  const idle = client.send(ascii("idle"));
  while (server.peers.some(({ requests }) => requests.length < 2)) {
    await immediate();
  }
  assertEquals(server.peers.map(({ requests }) => requests.length), [2, 2]);
  for (const peer of server.peers) await peer.send("r");
  await Promise.all([busy, idle]);
  await client.close();
});

// Pings ----------------------------------------------------------------------------

Deno.test("What was idle for pingAfterIdle is pinged before it is lent, and nothing warmer", async () => {
  using time = new FakeTime();
  const server = new Vanishing();
  const client = new Client({
    connect: server.connect,
    maxCap: 1,
    ping: () => ascii("ping"),
  });
  await warm(client, 1);
  const texts = () => server.peers[0]!.requests.map(({ text }) => text);
  await time.pass(14_900);
  await passing(time, client.send(ascii("a")));
  assertEquals(texts(), ["warm", "a"]);
  await time.pass(15_000);
  await passing(time, client.send(ascii("b")));
  assertEquals(texts(), ["warm", "a", "ping", "b"]);
  const { requests, responses, inFlight } = client.stats();
  assertEquals([requests, responses, inFlight], [3, 3, 0]);
  await client.close();
});

Deno.test("With pingAfterIdle 0 every idle connection is pinged", async () => {
  const server = new Vanishing();
  const client = new Client({
    connect: server.connect,
    maxCap: 1,
    ping: () => ascii("ping"),
    pingAfterIdle: 0,
  });
  for (let i = 0; i < 3; i++) await client.send(ascii("a"));
  assertEquals(
    server.peers[0]!.requests.map(({ text }) => text),
    ["a", "ping", "a", "ping", "a"],
  );
  await client.close();
});

for (const count of [1, 8]) {
  Deno.test(`With a ping, ${count} dead idle connections cost the next request one pingTimeout`, async () => {
    using time = new FakeTime();
    const server = new Vanishing();
    const client = new Client({
      connect: server.connect,
      maxCap: 10,
      ping: () => ascii("ping"),
    });
    await warm(client, count);
    await time.pass(20_000);
    server.vanish();
    const start = time.now;
    assertEquals(
      textOf(await passing(time, client.send(ascii("a")))),
      "pong:a",
    );
    assert(time.now - start >= 1000);
    assertLess(time.now - start, 1500);
    // While the first ping hangs, the pool has others pinged.
    const { lost } = server;
    assert(lost.length > 0 && lost.every((text) => text === "ping"));
    const { length } = lost;
    // All of them are gone.
    const more = Array.from({ length: 8 }, () => client.send(ascii("b")));
    await passing(time, Promise.all(more));
    assertEquals(lost.length, length);
    await client.close();
  });

  Deno.test(`Without a ping, ${count} dead idle connections cost one request its timeout, and the next dials`, async () => {
    using time = new FakeTime();
    const server = new Vanishing();
    const client = new Client({ connect: server.connect, maxCap: 10 });
    await warm(client, count);
    await time.pass(20_000);
    server.vanish();
    const failed = await passing(time, outcomeOf(client.send(ascii("a"))), 500);
    assertInstanceOf(failed, RequestTimeoutError);
    const start = time.now;
    const more = Array.from({ length: 8 }, () => client.send(ascii("b")));
    await passing(time, Promise.all(more));
    assertLess(time.now - start, 1000);
    assertEquals(server.lost, ["a"]);
    await client.close();
  });
}

Deno.test("Of what is idle only those are in doubt that have received nothing since", async () => {
  using time = new FakeTime();
  const server = new MemoryServer();
  const client = new Client({
    connect: server.connect,
    maxCap: 3,
    requestTimeout: 1000,
    idleTimeout: 0,
  });
  const sent = [1, 2, 3].map((i) => client.send(ascii(`${i}`)));
  await ticks();
  for (const peer of server.peers) await peer.send("r");
  await Promise.all(sent);
  // Two are used, and one of them answers.
  const silent = outcomeOf(client.send(ascii("silent")));
  await ticks();
  const alive = client.send(ascii("alive"));
  await ticks();
  const answering = server.peers.find(({ requests }) =>
    requests.at(-1)!.text === "alive"
  )!;
  await answering.send("r");
  await alive;
  assertInstanceOf(await passing(time, silent, 50), RequestTimeoutError);
  // Its own had not been idle for pingAfterIdle: nothing else is given up.
  const dials = server.peers.length;
  for (let i = 0; i < 2; i++) {
    const next = client.send(ascii(`next ${i}`));
    while (
      server.peers.every(({ requests }) =>
        requests.at(-1)!.text !== `next ${i}`
      )
    ) await immediate();
    server.peers.find(({ requests }) => requests.at(-1)!.text === `next ${i}`)!
      .send("r");
    await next;
  }
  assertEquals(server.peers.length, dials);
  await client.close();
});

Deno.test("Where others are heard, what was idle for as long as the silent one is in doubt, and what was warmer is not", async () => {
  using time = new FakeTime();
  const server = new Vanishing();
  const client = new Client({
    connect: server.connect,
    maxCap: 4,
    requestTimeout: 1000,
    idleTimeout: 0,
  });
  await warm(client, 4);
  await time.pass(20_000);
  // The network drops three of the four; the one that is lent first lives, and
  // has been idle for a moment only.
  const used = passing(time, client.send(ascii("used")));
  await used;
  const [fresh] = server.peers.filter(({ requests }) =>
    requests.at(-1)!.text === "used"
  );
  server.gone = (peer) => server.peers.indexOf(peer) < 4;
  const x = client.send(ascii("x"));
  await ticks();
  assertEquals(fresh!.requests.at(-1)!.text, "x");
  const silent = outcomeOf(client.send(ascii("silent")));
  while (!server.lost.includes("silent")) await immediate();
  // Something is heard after the silent request was written.
  fresh!.send("pong:x");
  await x;
  server.gone = (peer) => peer !== fresh && server.peers.indexOf(peer) < 4;
  assertInstanceOf(await passing(time, silent), RequestTimeoutError);
  server.lost.splice(0);
  const next = [1, 2, 3, 4].map((i) => client.send(ascii(`next ${i}`)));
  await passing(time, Promise.all(next));
  // The two that were as silent, and idle for as long, were closed.
  assertEquals(server.lost, []);
  assertEquals(server.peers.length, 7);
  assertEquals(fresh!.ended, false);
  await client.close();
});

Deno.test("On a healthy server slow requests give up no idle connection", async () => {
  const server = new MemoryServer();
  server.onPeer = (peer) =>
    peer.onRequest = ({ text }) => {
      if (text !== "slow") peer.send(text);
    };
  const client = new Client({
    connect: server.connect,
    maxCap: 32,
    requestTimeout: 100,
  });
  let slow = 0;
  const stop = performance.now() + 1500;
  const caller = async (number: number) => {
    for (let i = number; performance.now() < stop; i++) {
      if (i % 50 === 0) {
        slow++;
        await outcomeOf(client.send(ascii("slow")));
      } else await client.send(ascii("fast"));
      await sleep(5);
    }
  };
  await Promise.all(Array.from({ length: 32 }, (_, i) => caller(i)));
  assert(slow > 20, `${slow}`);
  // Each slow one costs its own connection, since responses come in order, and
  // no other.
  assert(server.peers.length <= 32 + slow, `${server.peers.length} ${slow}`);
  await client.close();
});

for (const failing of ["throws", "is no payload", "is too large"]) {
  Deno.test(`A ping that ${failing} closes the connection, and is reported`, async () => {
    const errors: unknown[] = [];
    const server = new Vanishing();
    const ping = () => {
      if (failing === "throws") throw new Error("no ping today");
      return failing === "is too large" ? new Uint8Array(100) : undefined;
    };
    const client = new Client(
      {
        connect: server.connect,
        maxCap: 1,
        maxFrameLength: 50,
        ping,
        pingAfterIdle: 0,
        onError: (error: unknown) => void errors.push(error),
      } as ClientOptions,
    );
    await client.send(ascii("a"));
    assertEquals(textOf(await client.send(ascii("b"))), "pong:b");
    assertEquals([server.peers.length, errors.length], [2, 1]);
    assertInstanceOf(errors[0], Error);
    await client.close();
  });
}

Deno.test("Any response to a ping but a goaway means yes", async () => {
  for (
    const [reply, dials] of [["", 1], ["whatever", 1], ["bye", 2]] as const
  ) {
    const server = new MemoryServer();
    server.onPeer = (peer) =>
      peer.onRequest = ({ text }) =>
        void peer.send(text === "ping" ? reply : text);
    const client = new Client({
      connect: server.connect,
      maxCap: 1,
      goaway: ascii("bye"),
      ping: () => ascii("ping"),
      pingAfterIdle: 0,
    });
    await client.send(ascii("a"));
    assertEquals(textOf(await client.send(ascii("b"))), "b");
    assertEquals(server.peers.length, dials);
    await client.close();
  }
});

Deno.test("A ping with an id of the protocol's keeps it, and the frame with that id answers it", async () => {
  const correlation = { length: 4, requestOffset: 0 } as const;
  const server = new MemoryServer({ correlation });
  const pings: number[] = [];
  const pushes: string[] = [];
  server.onPeer = (peer) =>
    peer.onRequest = async ({ id, text }) => {
      if (id > 2 ** 31) {
        pings.push(id);
        await peer.send("\0\0\0\0event", 0xffff_ffff);
        await peer.send("\0\0\0\0pong", id);
      } else await peer.send(text, id);
    };
  const client = new Client({
    connect: server.connect,
    correlation,
    ping: () => bytes(0xff, 0xff, 0xff, 0xfe, "ping"),
    pingAfterIdle: 0,
    onPush: (payload) => void pushes.push(textOf(payload).slice(4)),
  });
  for (const text of ["a", "b", "c"]) {
    assertEquals(
      textOf(await client.send(ascii(`\0\0\0\0${text}`))).slice(4),
      text,
    );
  }
  assertEquals(pings, [0xffff_fffe, 0xffff_fffe]);
  assertEquals(pushes, ["event", "event"]);
  assertEquals(server.peers.length, 1);
  await client.close();
});

Deno.test("pingInterval finds and replaces what is dead before anybody asks", async () => {
  const server = new Vanishing();
  const client = new Client({
    connect: server.connect,
    maxCap: 4,
    minIdle: 2,
    ping: () => ascii("ping"),
    pingInterval: 100,
    pingTimeout: 50,
  });
  await eventually("both are pinged", () =>
    server.peers.length === 2 &&
    server.peers.every(({ requests }) => requests.length > 0));
  assertEquals(server.peers.length, 2);
  server.vanish();
  await eventually("both are replaced", () => server.peers.length === 4);
  await eventually("they are idle", () => client.stats().pool.idle === 2);
  const lost = server.lost.length;
  assertEquals(textOf(await client.send(ascii("a"))), "pong:a");
  assert(server.lost.slice(lost).every((text) => text === "ping"));
  await client.close();
});

Deno.test("A ping meets its request's timeout and signal, and close() with a signal ends it", async () => {
  const server = new Vanishing();
  const client = new Client({
    connect: server.connect,
    maxCap: 1,
    ping: () => ascii("ping"),
    pingAfterIdle: 0,
    pingTimeout: 0,
  });
  await warm(client, 1);
  server.vanish();
  const start = performance.now();
  const timed = await rejection(client.send(ascii("a"), { timeout: 60 }));
  assertInstanceOf(timed, RequestTimeoutError);
  assertLess(performance.now() - start, 5000);
  const abort = new AbortController();
  const aborted = outcomeOf(client.send(ascii("b"), { signal: abort.signal }));
  abort.abort("enough");
  assertEquals(await aborted, "enough");
  const killed = outcomeOf(client.send(ascii("c")));
  await client.close({ signal: AbortSignal.abort("now") });
  assertEquals((await killed as Error).name, "ClientClosedError");
  assertEquals(server.lost, ["ping"]);
});

Deno.test("A peer that is gone for good: dials fail, and say so", async () => {
  const server = new Vanishing();
  let up = true;
  const client = new Client({
    connect: () => {
      if (!up) throw new Deno.errors.ConnectionRefused("gone");
      return server.connect();
    },
    maxCap: 2,
    ping: () => ascii("ping"),
    pingAfterIdle: 0,
    pingTimeout: 40,
  });
  await warm(client, 2);
  server.vanish();
  up = false;
  const error = await rejection(client.send(ascii("a")));
  assertInstanceOf(error, ConnectError);
  assert(!(error instanceof ConnectionLostError));
  assertEquals(server.lost, ["ping"]);
  await client.close();
});
