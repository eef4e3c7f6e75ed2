/** The server's limits in time, on a clock that is wound by hand. */
import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLessOrEqual,
} from "@std/assert";
import {
  type ConnectionOptions,
  type Handler,
  serve,
  serveConnection,
} from "../server.ts";
import { Random } from "./codec_support.ts";
import {
  FakeListener,
  FakeTime,
  heads,
  microtasks,
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

const echo: Handler = (payload) => payload;
const never = Promise.withResolvers<number>().promise;

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
  await server.shutdown();
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
  const done = serveConnection(conn, () => void handled++, {
    readTimeout: 1000,
  });
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
  });
  const conn = new StubConnection();
  conn.feed(wire([1]));
  listener.push(conn);
  await time.advance(160);
  assertEquals(conn.closes, 1);
  assertInstanceOf(signal?.reason, Deno.errors.TimedOut);
  assertEquals(signal.reason.message, "Connection was idle for 100 ms");
  assertEquals(server.stats().errors, 0);
  await server.shutdown();
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
    return payload[0] === 1 ? undefined : payload;
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
  await server.shutdown();
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

Deno.test("shutdownTimeout forces, and aborts the handlers' signals", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({ shutdownTimeout: 2000 }, async (payload, context) => {
    if (payload[0] === 1) return payload;
    context.signal.addEventListener(
      "abort",
      () => reasons.push(context.signal.reason),
    );
    return await new Promise<never>(() => {});
  });
  const reasons: unknown[] = [];
  const conn = new StubConnection();
  conn.feed(wire([1, 2]));
  listener.push(conn);
  await microtasks();
  const shutdown = server.shutdown();
  await time.advance(1999);
  assertEquals([conn.closes, reasons.length], [0, 0]);
  assertEquals(heads(conn.answers()), [1]);
  await time.advance(1);
  assertEquals(conn.closes, 1);
  assertEquals(reasons.length, 1);
  assertEquals((reasons[0] as Error).message, "The server was closed");
  await shutdown;
  await server.finished;
  assertEquals(time.timers, 0);
});

Deno.test("shutdownTimeout is 10 seconds, and 0 is for ever", async () => {
  for (const [options, waits] of [[{}, 10_000], [{ shutdownTimeout: 0 }, 0]]) {
    using time = new FakeTime();
    using listener = new FakeListener();
    const server = serve(options as object, () => never as Promise<never>);
    const conn = new StubConnection();
    conn.feed(wire([1]));
    listener.push(conn);
    await microtasks();
    const shutdown = server.shutdown();
    await time.advance(9999);
    assertEquals(conn.closes, 0);
    await time.advance(1);
    assertEquals(conn.closes, waits === 0 ? 0 : 1);
    if (waits === 0) {
      await time.advance(1e6);
      assertEquals(conn.closes, 0);
      server.close();
    }
    await shutdown;
    assertEquals(time.timers, 0);
  }
});

Deno.test("Server.shutdown() ends in time although a peer does not end its side", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({}, echo);
  const conn = new StubConnection({ closeWrite: () => Promise.resolve() });
  // Half a frame: the peer is not idle, so it is not just closed.
  conn.feed(wire([1, 2]).subarray(0, 12));
  listener.push(conn);
  await microtasks();
  const shutdown = server.shutdown();
  await time.advance(400);
  assertEquals([conn.closeWrites, conn.closes], [1, 0]);
  await time.advance(101);
  assertEquals(conn.closes, 1);
  await shutdown;
  assertEquals(heads(conn.answers()), [1]);
  assertEquals(time.timers, 0);
});

Deno.test("Server.shutdown() reads on for two turns in which nothing comes", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({}, echo);
  const conns = [new StubConnection(), new StubConnection()];
  listener.push(...conns);
  await microtasks();
  const shutdown = server.shutdown();
  // Due in the same turn as the server's own look, and after it.
  setTimeout(() => {
    conns[0]!.feed(wire([1]));
    setTimeout(() => conns[1]!.feed(wire([2])), 0);
  }, 0);
  await time.advance(0);
  assertEquals(conns.map((conn) => heads(conn.answers())), [[1], [2]]);
  await shutdown;
  assertEquals(time.timers, 0);
});

Deno.test("Server.shutdown() does not wait for a peer that never stops sending", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({}, echo);
  const frame = wire([1]);
  const conn = new StubConnection({
    read: async (p) => {
      await new Promise((resolve) => setTimeout(resolve, 0));
      p.set(frame);
      return frame.length;
    },
  });
  listener.push(conn);
  await microtasks();
  const shutdown = server.shutdown();
  await time.advance(0);
  assertEquals(conn.closeWrites, 1);
  conn.feed(null);
  await time.advance(500);
  await shutdown;
  assertEquals(conn.closes, 1);
  assertEquals(conn.answers().length, server.stats().requests);
});

const EMFILE = Object.assign(new Error("Too many open files (os error 24)"), {
  code: "EMFILE",
});

/** Errors of accept that mean that something has run out. */
const EXHAUSTION: [string, Error][] = [
  ["EMFILE", EMFILE],
  ["ENFILE", new Error("Too many open files in system (os error 23)")],
  ["ENOBUFS", Object.assign(new Error("x"), { code: "ENOBUFS" })],
  ["ENOBUFS without a code", new Error("No buffer space (os error 105)")],
  ["ENOMEM", Object.assign(new Error("x"), { code: "ENOMEM" })],
  ["ENOMEM without a code", new Error("Cannot allocate (os error 12)")],
  ["WSAEMFILE", new Error("Too many open sockets. (os error 10024)")],
];

/** Errors of accept that concern one connection. */
const PER_CONNECTION: [string, Error][] = [
  ["NotConnected", new Deno.errors.NotConnected("x (os error 107)")],
  ["ECONNABORTED", new Deno.errors.ConnectionAborted("x (os error 103)")],
  ["ECONNRESET", new Deno.errors.ConnectionReset("x (os error 104)")],
  ["EINVAL", Object.assign(new Error("x (os error 22)"), { code: "EINVAL" })],
  [
    "a code that counts, not its text",
    Object.assign(new Error("os error 24)"), { code: "EPERM" }),
  ],
  ["a number that only ends like one", new Error("x (os error 124)")],
];

for (const [name, error] of EXHAUSTION) {
  Deno.test(`Accepting backs off from 5 ms doubling to 1 s, reported once a spell: ${name}`, async () => {
    using time = new FakeTime();
    using listener = new FakeListener();
    const told: [unknown, unknown][] = [];
    const server = serve({
      onError: (error, context) => void told.push([error, context]),
    }, echo);
    listener.push(...Array(11).fill(error));
    const expected = [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000];
    for (const [i, delay] of expected.entries()) {
      await time.advance(0);
      assertEquals(listener.accepts, i + 1);
      await time.advance(delay - 1);
      assertEquals(listener.accepts, i + 1);
      await time.advance(1);
    }
    assertEquals(time.delays, expected);
    assertEquals(told, [[error, undefined]]);
    assertEquals(server.stats().acceptErrors, 11);
    assertEquals(server.stats().errors, 0);

    // A connection ends the spell; the next begins anew.
    const conn = new StubConnection();
    conn.feed(wire([1]), null);
    listener.push(conn, error, error);
    await time.advance(5 + 10);
    assertEquals(heads(conn.answers()), [1]);
    assertEquals(time.delays.slice(expected.length), [5, 10]);
    assertEquals(told.length, 2);
    await server.shutdown();
    assertEquals(time.timers, 0);
  });
}

for (const [name, error] of PER_CONNECTION) {
  Deno.test(`Accepting goes on at once after an error of one connection: ${name}`, async () => {
    using time = new FakeTime();
    using listener = new FakeListener();
    const server = serve({ onError: () => assert(false) }, echo);
    const conns: StubConnection[] = [];
    for (let i = 0; i < 40; i++) {
      const conn = new StubConnection();
      conn.feed(wire([i]), null);
      conns.push(conn);
      listener.push(error, error, error, conn);
    }
    // No time passes, and no timer is asked for.
    await microtasks();
    for (let i = 0; i < 30; i++) await microtasks();
    for (const [i, conn] of conns.entries()) {
      assertEquals(heads(conn.answers()), [i]);
    }
    assertEquals(time.delays, []);
    const { acceptErrors, totalConnections, errors } = server.stats();
    assertEquals([acceptErrors, totalConnections, errors], [120, 40, 0]);
    await server.shutdown();
  });
}

Deno.test("An accept that fails for ever does not spin", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const errors: unknown[] = [];
  const server = serve({
    onError: (error) => void errors.push(error),
  }, echo);
  const error = new Deno.errors.NotConnected("x");
  listener.push(...Array(103).fill(error));
  for (let i = 0; i < 20; i++) await microtasks();
  assertEquals(listener.accepts, 101);
  assertEquals(errors, [error]);
  await time.advance(15);
  assertEquals(time.delays, [5, 10, 20]);
  assertEquals(errors.length, 1);
  server.close();
  await server.finished;
});

Deno.test("Accepting does not pause for failures that each had to be waited for", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({ onError: () => assert(false) }, echo);
  for (let i = 0; i < 120; i++) {
    await time.advance(5);
    listener.push(new Deno.errors.NotConnected("x"));
    await microtasks();
    assertEquals(listener.accepts, i + 2);
  }
  assertEquals(time.delays, []);
  await server.shutdown();
});

Deno.test("A shutdown during a backoff ends it, and the end of a connection makes for another try", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({}, echo);
  const conn = new StubConnection();
  listener.push(conn, EMFILE, EMFILE);
  await time.advance(5);
  assertEquals([listener.accepts, time.delays.at(-1)], [3, 10]);
  // Its descriptor is free now.
  conn.feed(null);
  await microtasks();
  assertEquals(listener.accepts, 4);

  listener.push(EMFILE);
  await microtasks();
  assertEquals(time.timers, 1);
  await server.shutdown();
  await microtasks();
  assertEquals(time.timers, 0);
  assertEquals(listener.accepts, 4);
});

Deno.test("A backoff keeps the process alive only if the server does", async () => {
  for (const refed of [true, false]) {
    using time = new FakeTime();
    using listener = new FakeListener();
    const server = serve({}, echo);
    if (!refed) server.unref();
    listener.push(EMFILE);
    await microtasks();
    assertEquals([time.timers, time.refed], [1, refed ? 1 : 0]);
    await server.shutdown();
  }
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
