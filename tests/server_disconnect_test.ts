/**
 * How one connection ends: the peer's end, resets and bad frames, reads and
 * writes that fail, a signal; which of these are reported, and what is still
 * answered and read away.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
  fail,
} from "@std/assert";
import { concat } from "@std/bytes";
import { type FrameOptions, FrameTooLargeError } from "../codec.ts";
import { NO_RESPONSE, serve, serveConnection } from "../server.ts";
import { CountingSignal } from "./promise_support.ts";
import {
  BAD_HEADER,
  echo,
  FakeTime,
  heads,
  microtasks,
  Peer,
  range,
  Resetter,
  settle,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";

// Bad frames ------------------------------------------------------------------

Deno.test("A bad frame is reported once, and the requests before it are answered", async () => {
  const layouts: [FrameOptions, Uint8Array][] = [
    [{}, BAD_HEADER],
    [{ maxFrameLength: 10 }, wire([new Uint8Array(11)])],
    [{ lengthFieldLength: 1, lengthAdjustment: -1 }, Uint8Array.of(0)],
  ];
  for (const [layout, bad] of layouts) {
    for (const handler of ["sync", "async"]) {
      for (const concurrency of [1, 2]) {
        const conn = new StubConnection();
        const errors: unknown[] = [];
        conn.feed(concat([wire([1, 2, 3], layout), bad, wire([4], layout)]));
        await serveConnection(
          conn,
          (payload) =>
            handler === "sync" ? payload : microtasks().then(() => payload),
          {
            ...layout,
            concurrency,
            onError: (error) => void errors.push(error),
          },
        );
        assertEquals(heads(conn.answers(layout)), [1, 2, 3]);
        assertEquals(errors.length, 1);
        // A clean end: the writing side first, then everything.
        assertEquals(conn.closeWrites, 1);
        assertEquals(conn.closes, 1);
      }
    }
  }
});

Deno.test("What is read after a bad frame does not cost the responses before it", async () => {
  const conn = new StubConnection();
  const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const errors: unknown[] = [];
  const done = serveConnection(conn, async (payload) => {
    await gates[payload[0]!]!.promise;
    return payload;
  }, { concurrency: 2, onError: (error) => void errors.push(error) });

  // Both slots are taken, so a read is under way when the bad frame comes out.
  conn.feed(concat([wire([0, 1]), BAD_HEADER]));
  await settle();
  gates[0]!.resolve();
  await settle();
  conn.feed(new Uint8Array(10));
  await settle();
  gates[1]!.resolve();
  await done;

  assertEquals(heads(conn.answers()), [0, 1]);
  assertEquals(errors.length, 1);
  assertInstanceOf(errors[0], FrameTooLargeError);
  assertEquals(conn.closeWrites, 1);
});

Deno.test("A connection that reports 0 bytes for ever while it is read away ends", async () => {
  const conn: StubConnection = new StubConnection({
    closeWrite: () => Promise.resolve(),
    // Never a turn of the event loop, in which a timer could end it.
    read: (): number | Promise<never> =>
      conn.reads > 10_000 ? Promise.withResolvers<never>().promise : 0,
  });
  conn.feed(BAD_HEADER);
  await serveConnection(conn, (payload) => payload);
  assertEquals(conn.closeWrites, 1);
  assertEquals(conn.reads, 101);
  assertEquals(conn.closes, 1);
});

Deno.test("A frame larger than maxFrameLength is refused on its header alone", async () => {
  const errors: string[] = [];
  await using server = serve({
    maxFrameLength: 100,
    onError: (error) => void errors.push((error as Error).message),
  }, echo);
  using peer = await Peer.connect(server);
  await peer.write(wire([new Uint8Array(100)]));
  await peer.write(wire([new Uint8Array(101)]).subarray(0, 8));
  assertEquals((await peer.receive())?.length, 100);
  assertEquals(await peer.receive(), null);
  assertEquals(errors, ["Frame of 101 bytes exceeds the limit of 100"]);
});

Deno.test("A bad frame after good ones: these are answered, then comes a clean end", async () => {
  // The peer goes on sending, which a closed socket would answer by a reset.
  for (const concurrency of [1, 4]) {
    await using server = serve({ concurrency }, async (payload) => {
      await settle(1);
      return payload;
    });
    using peer = await Peer.connect(server);
    await peer.write(concat([wire([1, 2, 3]), BAD_HEADER]));
    await peer.write(new Uint8Array(100_000));
    assertEquals(heads(await peer.rest()), [1, 2, 3]);
    assertEquals(server.stats().errors, 1);
  }
});

// The peer's end --------------------------------------------------------------

Deno.test("An end is no error, wherever it comes, and what came whole is answered", async () => {
  const frames = wire([1, 2, 3]);
  for (let end = 0; end <= frames.length; end++) {
    for (const concurrency of [1, 2]) {
      const conn = new StubConnection();
      const errors: unknown[] = [];
      conn.feed(frames.subarray(0, end), null);
      await serveConnection(conn, async (payload) => {
        await microtasks();
        return payload;
      }, { concurrency, onError: (error) => void errors.push(error) });
      assertEquals(
        heads(conn.answers()),
        range(1, Math.floor(end / 9)),
        `end after ${end}`,
      );
      assertEquals(errors, []);
      assertEquals(conn.closes, 1);
      assertEquals(conn.closeWrites, 0);
    }
  }
});

/** Errors that say that the other side has gone, and others. */
const DISCONNECTS = [
  new Deno.errors.ConnectionReset("x"),
  new Deno.errors.BrokenPipe("x"),
  new Deno.errors.ConnectionAborted("x"),
  new Deno.errors.NotConnected("x"),
  new Deno.errors.UnexpectedEof("x"),
  new Deno.errors.Interrupted("x"),
  new Deno.errors.BadResource("x"),
];

const FAULTS = [new Error("x"), new Deno.errors.InvalidData("x")];

Deno.test("A read that fails ends its connection, and is reported unless the peer has gone", async () => {
  for (const error of [...DISCONNECTS, ...FAULTS]) {
    for (const sync of [false, true]) {
      const conn = new StubConnection();
      const errors: unknown[] = [];
      let signal: AbortSignal | undefined;
      const throws = () => {
        throw error;
      };
      conn.feed(wire([1]), sync ? throws : error);
      await serveConnection(conn, (payload, context) => {
        signal = context.signal;
        return payload;
      }, { onError: (error) => void errors.push(error) });
      assertEquals(errors, FAULTS.includes(error) ? [error] : []);
      assertEquals(conn.closes, 1);
      assertStrictEquals(signal?.reason, error);
    }
  }
});

Deno.test("A write that fails ends its connection, and is reported unless the peer has gone", async () => {
  for (const error of [...DISCONNECTS, ...FAULTS]) {
    for (const sync of [false, true]) {
      const conn = new StubConnection({
        write() {
          if (sync) throw error;
          return Promise.reject(error);
        },
      });
      const errors: unknown[] = [];
      conn.feed(wire([1, 2]));
      await serveConnection(conn, (payload) => payload, {
        onError: (error) => void errors.push(error),
      });
      assertEquals(errors, FAULTS.includes(error) ? [error] : []);
      assertEquals([conn.closes, conn.writes.length], [1, 1]);
    }
  }
});

Deno.test("A connection whose peer no longer answers TCP's probes is no error", async () => {
  const reported: unknown[] = [];
  const gone = Object.assign(new Deno.errors.TimedOut("os error 110"), {
    code: "ETIMEDOUT",
  });
  await serveConnection(
    {
      read: () => Promise.reject(gone),
      write: (p) => Promise.resolve(p.length),
      close() {},
    },
    () => NO_RESPONSE,
    { onError: (error) => reported.push(error) },
  );
  assertEquals(reported, []);
});

Deno.test("A peer that ends its side still gets its answers", async () => {
  for (const concurrency of [1, 3]) {
    await using server = serve({
      concurrency,
      onError: () => assert(false),
    }, async (payload) => {
      await settle(1);
      return payload;
    });
    using peer = await Peer.connect(server);
    // The last one is cut, which is a disconnect as any other.
    await peer.write(wire([1, 2, 3, 4, 5, 6]).subarray(0, -1));
    await peer.conn.closeWrite();
    assertEquals(heads(await peer.rest()), [1, 2, 3, 4, 5]);
    await until(() => server.stats().connections === 0, "it has ended");
    assertEquals(server.stats().errors, 0);
  }
});

Deno.test("A peer that resets its connection is not reported, and costs no other", async () => {
  await using server = serve(
    { onError: () => assert(false) },
    (payload) => payload[0] === 1 ? payload : new Uint8Array(16_000_000),
  );
  using other = await Peer.connect(server);
  // While nothing is going on, and in the middle of a write.
  for (const request of [1, 2]) {
    const peer = new Resetter(server);
    const { bytesOut } = server.stats();
    await peer.send(request);
    await until(() => server.stats().bytesOut > bytesOut, "it is answered");
    await peer.reset();
    assertEquals(await other.ask(1), Uint8Array.of(1));
    await until(() => server.stats().connections === 1, "it has ended");
  }
  assertEquals(server.stats().errors, 0);
});

// The server's end ------------------------------------------------------------

Deno.test("Without a good closeWrite, a connection is closed at once", async () => {
  const variants: (() => Promise<void>)[] = [
    () => Promise.reject(new Deno.errors.NotConnected("x")),
    () => {
      throw new TypeError("x");
    },
  ];
  for (const closeWrite of [null, ...variants]) {
    using time = new FakeTime();
    const conn = new StubConnection({ closeWrite });
    conn.feed(wire([1]), BAD_HEADER);
    const done = serveConnection(conn, (payload) => payload);
    await microtasks();
    assertEquals(heads(conn.answers()), [1]);
    assertEquals(conn.closes, 1);
    await done;
    assertEquals(time.timers, 0);
  }
});

Deno.test("A connection that the server ends is read away for half a second at most", async () => {
  using time = new FakeTime();
  for (
    const closeWrite of [
      () => Promise.resolve(),
      () => Promise.withResolvers<void>().promise,
    ]
  ) {
    const conn = new StubConnection({ closeWrite });
    let handled = 0;
    const done = serveConnection(conn, (payload) => {
      handled++;
      return payload;
    });
    conn.feed(wire([1]), BAD_HEADER);
    await time.advance(0);
    assertEquals([conn.closeWrites, conn.closes], [1, 0]);
    conn.feed(wire([2, 3]));
    await time.advance(400);
    conn.feed(wire([4, 5]));
    await time.advance(99);
    assertEquals(conn.closes, 0);
    assertEquals(conn.taken, 9 + 8 + 2 * 18);
    await time.advance(1);
    assertEquals(conn.closes, 1);
    await done;
    assertEquals(handled, 1);
    assertEquals(heads(conn.answers()), [1]);
  }
  // The other side's end, or its reset, makes it shorter.
  for (const end of [null, new Deno.errors.ConnectionReset("x")]) {
    const conn = new StubConnection({ closeWrite: () => Promise.resolve() });
    conn.feed(BAD_HEADER);
    const done = serveConnection(conn, (payload) => payload);
    await time.advance(100);
    assertEquals(conn.closes, 0);
    conn.feed(end);
    await done;
    assertEquals(conn.closes, 1);
  }
  assertEquals(time.timers, 0);
});

Deno.test("An aborted signal closes the connection now, and lets go of the signal", async () => {
  const abort = new CountingSignal();
  const { signal } = abort;
  const ended = new StubConnection();
  ended.feed(null);
  await serveConnection(ended, (payload) => payload, { signal });
  assertEquals(abort.listeners, 0);

  const conn = new StubConnection();
  let its: AbortSignal | undefined;
  const done = serveConnection(conn, (_, context) => {
    its = context.signal;
    return new Promise(() => {});
  }, { signal });
  conn.feed(wire([1]));
  await microtasks();
  const reason = new Error("enough");
  assertEquals(its?.aborted, false);
  abort.abort(reason);
  assertStrictEquals(its?.reason, reason);
  assertEquals(conn.closes, 1);
  await done;
  assertEquals(abort.listeners, 0);

  const late = new StubConnection();
  late.feed(wire([1]));
  await serveConnection(late, () => fail("handled"), { signal });
  assertEquals([late.closes, late.reads], [1, 0]);
  assertEquals(abort.listeners, 0);
});

Deno.test("Connections that share a signal share its listener", async () => {
  const abort = new CountingSignal();
  const conns = Array.from({ length: 500 }, () => new StubConnection());
  const all = conns.map((conn) =>
    serveConnection(conn, echo, { signal: abort.signal })
  );
  assertEquals([abort.listeners, abort.added], [1, 1]);
  // Some end before it aborts, and one as it aborts.
  for (const conn of conns.slice(0, 250)) conn.feed(null);
  await Promise.all(all.slice(0, 250));
  assertEquals([abort.listeners, abort.added], [1, 1]);
  abort.abort(new Error("enough"));
  await Promise.all(all);
  assertEquals(conns.map(({ closes }) => closes), Array(500).fill(1));
  assertEquals(abort.listeners, 0);
});

Deno.test("Connections under one signal cost the same however many there are", async () => {
  const { signal } = new AbortController();
  /** Milliseconds for each of so many. */
  const measure = async (count: number) => {
    const conns = Array.from({ length: count }, () => new StubConnection());
    const start = performance.now();
    const all = conns.map((conn) => serveConnection(conn, echo, { signal }));
    for (const conn of conns) conn.feed(null);
    await Promise.all(all);
    return (performance.now() - start) / count;
  };
  await measure(500);
  const few = Math.min(await measure(500), await measure(500));
  const many = Math.min(await measure(8000), await measure(8000));
  // With a listener each it was ten times as much, and more.
  assert(many < 5 * few, `${many} ms each, and ${few} ms with a 16th of them`);
});
