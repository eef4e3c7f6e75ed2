/**
 * The server's limits in time, `idleTimeout`, `readTimeout` and
 * `writeTimeout`, on a clock that is wound by hand. What concerns a shutdown,
 * a handshake or accepting is in the file of that.
 */
import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLessOrEqual,
} from "@std/assert";
import {
  type ConnectionOptions,
  NO_RESPONSE,
  serve,
  serveConnection,
} from "../server.ts";
import { Random } from "./random_support.ts";
import {
  echo,
  FakeListener,
  FakeTime,
  heads,
  microtasks,
  never,
  Peer,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";

const OFF: ConnectionOptions = {
  idleTimeout: 0,
  readTimeout: 0,
  writeTimeout: 0,
};

/** How a connection comes to wait for what a timeout limits. */
const WAITS: Record<
  "idleTimeout" | "readTimeout" | "writeTimeout",
  { begin: (conn: StubConnection) => void; message: string | null }
> = {
  // One frame is answered; then there is silence. No error, so no message.
  idleTimeout: { begin: (conn) => conn.feed(wire([1])), message: null },
  readTimeout: {
    begin: (conn) => conn.feed(wire([1]).subarray(0, 3)),
    message: "Frame was not complete within $ ms",
  },
  writeTimeout: {
    begin: (conn) => conn.feed(wire([2])),
    message: "Write made no progress for $ ms",
  },
};

for (const [name, { begin, message }] of Object.entries(WAITS)) {
  Deno.test(`${name} never fires early, and at most 10 % or 50 ms late`, async () => {
    const random = new Random(1);
    for (const limit of [1, 20, 100, 499, 1000, 10_000, 300_000, 2 ** 31 - 1]) {
      for (let round = 0; round < 4; round++) {
        using time = new FakeTime();
        const errors: unknown[] = [];
        const conn = new StubConnection({
          write: (p) => p[8] === 2 ? never : p.length,
        });
        // A shorter limit of another kind makes for more looks.
        const other = name === "idleTimeout" ? "writeTimeout" : "idleTimeout";
        const otherLimit = round === 3 ? limit / 7 : 0;
        const done = serveConnection(conn, echo, {
          ...OFF,
          [name]: limit,
          [other]: otherLimit,
          onError: (error) => void errors.push(error),
        });
        // Any moment between two looks, but before it is idle for too long.
        const most = name === "idleTimeout" ? limit : otherLimit || 200_000;
        await time.advance(random.next() * 0.9 * most);
        begin(conn);
        await microtasks();
        const start = time.now;
        await time.advance(limit - 0.001);
        assertEquals(conn.closes, 0, `${limit} is early`);
        let took = Infinity;
        const close = conn.close.bind(conn);
        conn.close = () => {
          took = time.now - start;
          close();
        };
        await time.advance(2 * limit + 100);
        assertLessOrEqual(took, limit + Math.max(50, limit / 10), `${limit}`);
        assertEquals(conn.closes, 1);
        await done;
        if (message === null) {
          assertEquals(errors, []);
        } else {
          assertEquals(errors.length, 1);
          assertInstanceOf(errors[0], Deno.errors.TimedOut);
          assertEquals(errors[0].message, message.replace("$", `${limit}`));
        }
        assertEquals(time.timers, 0);
      }
    }
  });
}

Deno.test("Timeouts of 0 are none, and need no timer", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve(OFF, echo);
  const conns = ["idle", "reading", "writing"].map(() =>
    new StubConnection({ write: (p) => p[8] === 2 ? never : p.length })
  );
  listener.push(...conns);
  WAITS.readTimeout.begin(conns[1]!);
  WAITS.writeTimeout.begin(conns[2]!);
  await microtasks();
  assertEquals(server.stats().connections, 3);
  assertEquals(time.timers, 0);
  await time.advance(1e10);
  assertEquals(conns.map(({ closes }) => closes), [0, 0, 0]);
  server.close();
  await server.finished;
});

Deno.test("One timer looks after every connection, and only while there are any", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({}, echo);
  await time.advance(0);
  assertEquals(time.timers, 0);
  const conns = Array.from({ length: 50 }, () => new StubConnection());
  listener.push(...conns);
  await time.advance(0);
  assertEquals(time.timers, 1);
  // Nor does it keep the process alive.
  assertEquals(time.refed, 0);
  for (const conn of conns) conn.feed(null);
  await time.advance(0);
  assertEquals(time.timers, 0);
  const again = new StubConnection();
  listener.push(again);
  await time.advance(0);
  assertEquals(time.timers, 1);
  await time.advance(350_000);
  assertEquals(again.closes, 1);
  assertEquals(time.timers, 0);
  await time.until(server.shutdown());
});

Deno.test("The defaults are 30 seconds to read and to write, and 5 minutes idle", async () => {
  for (
    const [name, limit] of [
      ["readTimeout", 30_000],
      ["writeTimeout", 30_000],
      ["idleTimeout", 300_000],
    ] as const
  ) {
    using time = new FakeTime();
    const conn = new StubConnection({
      write: (p) => p[8] === 2 ? never : p.length,
    });
    const done = serveConnection(conn, echo);
    WAITS[name].begin(conn);
    await time.advance(limit - 1);
    assertEquals(conn.closes, 0, name);
    await time.advance(limit / 10 + 1);
    assertEquals(conn.closes, 1, name);
    await done;
  }
});

Deno.test("readTimeout cuts a peer that sends a byte at a time", async () => {
  using time = new FakeTime();
  const conn = new StubConnection();
  let handled = 0;
  const done = serveConnection(conn, () => {
    handled++;
    return NO_RESPONSE;
  }, { readTimeout: 1000 });
  const frame = wire([new Uint8Array(1000)]);
  const start = time.now;
  for (let i = 0; conn.closes === 0; i++) {
    conn.feed(frame.subarray(i, i + 1));
    await time.advance(100);
  }
  assertGreaterOrEqual(time.now - start, 1000);
  assertLessOrEqual(time.now - start, 1200);
  await done;
  assertEquals(handled, 0);
});

Deno.test("readTimeout does not cut a peer whose frames are each in time", async () => {
  using time = new FakeTime();
  const conn = new StubConnection();
  const done = serveConnection(conn, echo, { readTimeout: 1000 });
  // Always in the middle of a frame, and each of them takes 900.
  const frames = wire([1, 2, 3, 4, 5, 6]);
  conn.feed(frames.subarray(0, 5));
  for (let i = 0; i < 5; i++) {
    await time.advance(900);
    conn.feed(frames.subarray(9 * i + 5, 9 * i + 14));
  }
  await time.advance(900);
  assertEquals(conn.closes, 0);
  conn.feed(frames.subarray(50), null);
  await done;
  assertEquals(heads(conn.answers()), [1, 2, 3, 4, 5, 6]);
});

Deno.test("A frame in progress has its full time when it waited for a handler", async () => {
  using time = new FakeTime();
  const conn = new StubConnection();
  const errors: unknown[] = [];
  const done = serveConnection(conn, async (payload) => {
    await new Promise((resolve) => setTimeout(resolve, 5000));
    return payload;
  }, { readTimeout: 1000, onError: (error) => void errors.push(error) });
  const frames = wire([1, 2]);
  conn.feed(frames.subarray(0, 12));
  await time.advance(5000 + 950);
  assertEquals(conn.closes, 0);
  conn.feed(frames.subarray(12), null);
  await time.advance(5000);
  await done;
  assertEquals(errors, []);
  assertEquals(heads(conn.answers()), [1, 2]);
});

Deno.test("readTimeout concerns a frame beside handlers that leave room for it", async () => {
  using time = new FakeTime();
  const conn = new StubConnection();
  const errors: unknown[] = [];
  const done = serveConnection(conn, () => never as Promise<never>, {
    concurrency: 2,
    readTimeout: 1000,
    onError: (error) => void errors.push(error),
  });
  conn.feed(wire([1, 2]).subarray(0, 12));
  await time.advance(1100);
  await done;
  assertEquals(errors.length, 1);
});

Deno.test("writeTimeout does not cut a peer that reads slowly and steadily", async () => {
  using time = new FakeTime();
  const conn = new StubConnection({
    write: async () => {
      await new Promise((resolve) => setTimeout(resolve, 900));
      return 1;
    },
  });
  const done = serveConnection(conn, echo, { writeTimeout: 1000 });
  conn.feed(wire([1, 2]), null);
  await time.advance(18 * 900 - 1);
  assertEquals(conn.closes, 0);
  await time.advance(1);
  await done;
  assertEquals(heads(conn.answers()), [1, 2]);
});

Deno.test("writeTimeout concerns one write: what is idle between two does not count", async () => {
  using time = new FakeTime();
  const conn = new StubConnection({
    write: async (p) => {
      await new Promise((resolve) => setTimeout(resolve, 900));
      return p.length;
    },
  });
  const done = serveConnection(conn, echo, { writeTimeout: 1000 });
  for (let i = 0; i < 5; i++) {
    conn.feed(wire([i]));
    await time.advance(901 + 10 * i);
  }
  assertEquals(conn.closes, 0);
  conn.feed(null);
  await done;
  assertEquals(heads(conn.answers()), [0, 1, 2, 3, 4]);
});

Deno.test("idleTimeout does not concern handlers at work, writes, or frames in progress", async () => {
  using time = new FakeTime();
  const late = async (payload: Uint8Array) => {
    await new Promise((resolve) => setTimeout(resolve, 5000));
    return payload;
  };
  const handling = new StubConnection();
  const writing = new StubConnection({
    write: (p) => late(p).then(({ length }) => length),
  });
  const reading = new StubConnection();
  const options = { ...OFF, idleTimeout: 1000 };
  const all = [
    serveConnection(handling, late, options),
    serveConnection(writing, echo, options),
    serveConnection(reading, echo, options),
  ];
  handling.feed(wire([1]));
  writing.feed(wire([1]));
  reading.feed(wire([1]).subarray(0, 5));
  // Idle from 5000 on, and for less than the limit.
  await time.advance(5990);
  reading.feed(wire([1]).subarray(5));
  await microtasks();
  const conns = [handling, writing, reading];
  assertEquals(conns.map(({ closes }) => closes), [0, 0, 0]);
  for (const conn of conns) assertEquals(heads(conn.answers()), [1]);
  await time.advance(1200);
  assertEquals(conns.map(({ closes }) => closes), [1, 1, 1]);
  await Promise.all(all);
  assertEquals(time.timers, 0);
});

Deno.test("idleTimeout is neither reported nor counted, and is the signal's reason", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  let signal: AbortSignal | undefined;
  const server = serve({
    idleTimeout: 100,
    onError: () => assert(false),
  }, (_, context) => {
    signal = context.signal;
    return NO_RESPONSE;
  });
  const conn = new StubConnection();
  conn.feed(wire([1]));
  listener.push(conn);
  await time.advance(160);
  assertEquals(conn.closes, 1);
  assertInstanceOf(signal?.reason, Deno.errors.TimedOut);
  assertEquals(signal.reason.message, "Connection was idle for 100 ms");
  assertEquals(server.stats().errors, 0);
  await time.until(server.shutdown());
});

Deno.test("readTimeout and writeTimeout are counted, and are the signal's reason", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const signals: AbortSignal[] = [];
  const errors: unknown[] = [];
  const server = serve({
    readTimeout: 100,
    writeTimeout: 100,
    onError: (error) => void errors.push(error),
  }, (payload, { signal }) => {
    signals.push(signal);
    return payload[0] === 1 ? NO_RESPONSE : payload;
  });
  const reading = new StubConnection();
  const writing = new StubConnection({ write: () => never });
  reading.feed(wire([1, 1]).subarray(0, 12));
  writing.feed(wire([2]));
  listener.push(reading, writing);
  await time.advance(200);
  assertEquals(errors.length, 2);
  assertEquals(new Set(signals.map(({ reason }) => reason)), new Set(errors));
  assertEquals(server.stats().errors, 2);
  assertEquals([reading.closes, writing.closes], [1, 1]);
  await time.until(server.shutdown());
});

Deno.test("readTimeout does not concern what is left unread behind a failed handler", async () => {
  using time = new FakeTime();
  const errors: unknown[] = [];
  const gate = Promise.withResolvers<Uint8Array>();
  const conn = new StubConnection();
  const done = serveConnection(conn, (payload) => {
    if (payload[0] === 1) return gate.promise;
    throw new Error("no");
  }, {
    concurrency: 4,
    readTimeout: 100,
    onError: (error) => void errors.push((error as Error).message),
  });
  conn.feed(wire([1, 2, 3]));
  await time.advance(500);
  assertEquals(conn.closes, 0);
  gate.resolve(Uint8Array.of(1));
  await time.advance(0);
  await done;
  assertEquals(heads(conn.answers()), [1]);
  assertEquals(errors, ["no"]);
});

Deno.test("What came in time is not cut because the thread was busy", async () => {
  const errors: unknown[] = [];
  await using server = serve({
    idleTimeout: 400,
    readTimeout: 400,
    onError: (error) => void errors.push(error),
  }, echo);
  using idle = await Peer.connect(server);
  using slow = await Peer.connect(server);
  await slow.write(wire([1]).subarray(0, 3));
  await until(() => server.stats().bytesIn === 3, "it has begun");
  // Sweeps see what they wait for.
  await new Promise((resolve) => setTimeout(resolve, 100));
  const written = [idle.send(2), slow.write(wire([1]).subarray(3))];
  const end = performance.now() + 800;
  while (performance.now() < end);
  await Promise.all(written);
  assertEquals(await idle.receive(), Uint8Array.of(2));
  assertEquals(await slow.receive(), Uint8Array.of(1));
  assertEquals(errors, []);
});

Deno.test("On the real clock, silent, slow and deaf peers are cut", async () => {
  // A machine that stands still for so long would have the deaf one cut before
  // its request was seen.
  const limit = 1000;
  const errors: string[] = [];
  const response = new Uint8Array(8_000_000);
  await using server = serve({
    idleTimeout: limit,
    readTimeout: limit,
    writeTimeout: limit,
    onError: (error) => void errors.push((error as Error).message),
  }, (payload) => payload[0] === 2 ? response : payload);
  const start = performance.now();
  using silent = await Peer.connect(server);
  using slow = await Peer.connect(server);
  using deaf = await Peer.connect(server);
  await slow.write(wire([1]).subarray(0, 3));
  await deaf.send(2);
  await until(() => server.stats().totalConnections === 3, "all are accepted");
  await until(() => server.stats().connections === 0, "all are cut");
  assertGreaterOrEqual(performance.now() - start, limit - 1);
  assertEquals(await silent.receive(), null);
  assertEquals(errors.toSorted(), [
    `Frame was not complete within ${limit} ms`,
    `Write made no progress for ${limit} ms`,
  ]);
});
