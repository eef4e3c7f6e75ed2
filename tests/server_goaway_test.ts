/**
 * The goaway: when it is written and when not, what the connection does behind
 * it, and what must not be equal to it.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import type { CorrelationOptions, FrameOptions } from "../codec.ts";
import {
  type CloseReason,
  type ConnectionOptions,
  type HandlerContext,
  NO_RESPONSE,
  serve,
  serveConnection,
  type ServeOptions,
} from "../server.ts";
import { ascii } from "./bytes_support.ts";
import { wireIds } from "./server_correlated_support.ts";
import {
  BAD_HEADER,
  echo,
  FakeListener,
  FakeTime,
  heads,
  microtasks,
  Peer,
  settle,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";

const GOAWAY = ascii("goaway");
const GONE = [...GOAWAY];

/** Ways to end, and whether a goaway is written on the way. */
const ENDS: Record<string, { says: boolean; reason: CloseReason }> = {
  "shutdown": { says: true, reason: "shutdown" },
  "context.close": { says: true, reason: "close" },
  "idleTimeout": { says: true, reason: "idle" },
  "end of stream": { says: false, reason: "end" },
  "bad frame": { says: false, reason: "frame" },
  "handler": { says: false, reason: "handler" },
  "handler in a shutdown": { says: false, reason: "shutdown" },
  "readTimeout": { says: false, reason: "timeout" },
  "close": { says: false, reason: "forced" },
};

for (const [name, { says, reason }] of Object.entries(ENDS)) {
  Deno.test(`A goaway is ${says ? "" : "not "}written at the end by ${name}`, async () => {
    for (const correlation of [undefined, { length: 2 }] as const) {
      using time = new FakeTime();
      using listener = new FakeListener();
      const gate = Promise.withResolvers<void>();
      const reasons: CloseReason[] = [];
      const server = serve({
        ...(correlation === undefined
          ? { goaway: GOAWAY, concurrency: 2 }
          // A failure ends no such connection.
          : { correlation }),
        idleTimeout: 10_000,
        readTimeout: 1000,
        onError: () => {},
        hooks: { connectionClose: (_, reason) => void reasons.push(reason) },
      }, async (payload, context) => {
        await gate.promise;
        if (payload[0] === 2 && name === "context.close") context.close();
        if (payload[0] === 2 && name.startsWith("handler")) {
          throw new Error("no");
        }
        return payload;
      });
      const field = { length: 2 } as const;
      const conn = new StubConnection({
        // The peer ends its side a while after it has seen ours.
        closeWrite: () => new Promise((resolve) => setTimeout(resolve, 100)),
      });
      listener.push(conn);
      conn.feed(
        correlation === undefined
          ? wire([1, 2])
          : wireIds([[1, 1], [2, 2]], field),
      );
      await microtasks();
      switch (name) {
        case "end of stream":
          conn.feed(null);
          break;
        case "bad frame":
          conn.feed(BAD_HEADER);
          break;
        case "readTimeout":
          conn.feed(Uint8Array.of(0));
          break;
        case "shutdown":
        case "handler in a shutdown":
          server.shutdown();
          await time.advance(10);
      }
      gate.resolve();
      await time.advance(name === "readTimeout" ? 1100 : 0);
      if (name === "idleTimeout") await time.advance(11_000);
      if (name === "close") server.close();
      await microtasks();
      if (correlation === undefined) {
        const failed = name.startsWith("handler");
        assertEquals(conn.answers().map((f) => [...f]), [
          [1],
          ...(failed ? [] : [[2]]),
          ...(says ? [GONE] : []),
        ]);
        if (!failed || name === "handler") {
          const { closeWrites, closes } = conn;
          const cut = ["end of stream", "readTimeout", "close"].includes(name);
          assertEquals([closeWrites, closes], cut ? [0, 1] : [1, 0]);
        }
      } else if (!name.startsWith("handler")) {
        const written = [...conn.written];
        const tail = [0, 0, 0, 0, 0, 0, 0, 2, 255, 255];
        assertEquals(
          written.slice(-tail.length).join() === tail.join(),
          says,
        );
      }
      conn.feed(null);
      await time.advance(1000);
      if (correlation === undefined || name !== "handler") {
        assertEquals(conn.closes, 1);
        assertEquals(
          reasons,
          [name === "handler in a shutdown" ? "shutdown" : reason],
        );
      }
      await time.until(server.shutdown());
      assertEquals(time.timers, 0);
    }
  });
}

Deno.test("Behind a goaway the peer's end is waited for up to shutdownTimeout, and half a second otherwise", async () => {
  for (const goaway of [GOAWAY, undefined]) {
    for (const ends of [true, false]) {
      using time = new FakeTime();
      const conn = new StubConnection({ closeWrite: () => Promise.resolve() });
      let context: HandlerContext | undefined;
      const done = serveConnection(conn, (payload, its) => {
        context = its;
        return payload;
      }, {
        shutdownTimeout: 3000,
        idleTimeout: 0,
        ...(goaway === undefined ? {} : { goaway }),
      });
      conn.feed(wire([1]));
      await microtasks();
      context?.close();
      await microtasks();
      const limit = goaway === undefined ? 500 : 3000;
      // What still comes is read away.
      conn.feed(wire([2, 3]), new Uint8Array(10_000));
      await time.advance(limit - 1);
      assertEquals([conn.closes, conn.taken], [0, 9 + 18 + 10_000]);
      if (ends) conn.feed(null);
      else await time.advance(1);
      await done;
      assertEquals(conn.closes, 1);
      assertEquals(conn.writes.length, goaway === undefined ? 1 : 2);
      assertEquals(time.timers, 0);
    }
  }
});

Deno.test("Where shutdownTimeout is no limit, a peer that has gone in silence is not waited for for ever", async () => {
  using time = new FakeTime();
  const conn = new StubConnection({ closeWrite: () => Promise.resolve() });
  const done = serveConnection(conn, echo, {
    goaway: GOAWAY,
    shutdownTimeout: 0,
    idleTimeout: 100,
  });
  await time.advance(20_000);
  await done;
  assertEquals(conn.closes, 1);
});

Deno.test("A transport that cannot half-close says its goaway, and waits for the peer's end", async () => {
  for (const goaway of [GOAWAY, undefined]) {
    const conn = new StubConnection({ closeWrite: null });
    const done = serveConnection(conn, (payload, context) => {
      context.close();
      return payload;
    }, goaway === undefined ? {} : { goaway });
    conn.feed(wire([1]));
    await microtasks();
    assertEquals(conn.closes, goaway === undefined ? 1 : 0);
    conn.feed(null);
    await done;
    assertEquals(conn.closes, 1);
    assertEquals(conn.answers().length, goaway === undefined ? 1 : 2);
  }
});

Deno.test("Requests that cross the goaway on their way are neither handled nor answered", async () => {
  let handled = 0;
  const server = serve({ goaway: GOAWAY }, (payload) => {
    handled++;
    return payload;
  });
  using peer = await Peer.connect(server);
  assertEquals(await peer.ask(1), Uint8Array.of(1));
  const shutdown = server.shutdown();
  assertEquals(await peer.receive(), GOAWAY);
  await peer.send(2, 3);
  assertEquals(await peer.receive(), null);
  assertEquals(server.stats().connections, 1);
  peer.conn.close();
  await shutdown;
  assertEquals(handled, 1);
});

Deno.test("A response equal to the goaway is the handler's failure, compared as decoded", async () => {
  const layouts: [
    string,
    FrameOptions,
    CorrelationOptions | undefined,
    goaway: number[],
    good: number[][],
    bad: number[][],
  ][] = [
    ["plain", {}, undefined, [1, 2, 3], [[1, 2, 4], [1, 2], [1, 2, 3, 4], []], [
      [1, 2, 3],
    ]],
    [
      "bytes before the length are stripped",
      { lengthFieldOffset: 1, lengthFieldLength: 2 },
      undefined,
      [9, 2, 3],
      [[9, 2, 4]],
      [[9, 2, 3], [8, 2, 3]],
    ],
    [
      "the header is kept",
      { lengthFieldOffset: 1, lengthFieldLength: 2, initialBytesToStrip: 0 },
      undefined,
      [9, 2, 3],
      [[8, 2, 3]],
      [[9, 2, 3]],
    ],
    [
      "more than the header is stripped",
      { lengthFieldLength: 1, initialBytesToStrip: 3 },
      undefined,
      [9, 9, 3],
      [[9, 9, 4]],
      [[9, 9, 3], [1, 2, 3]],
    ],
    [
      // The request has the id 7, which is written into the response.
      "an id in the payload",
      { lengthFieldLength: 1 },
      { length: 1, requestOffset: 0 },
      [7, 2],
      [[7, 3]],
      [[7, 2], [0, 2]],
    ],
    [
      "another id in the payload",
      { lengthFieldLength: 1 },
      { length: 1, requestOffset: 0 },
      [0, 2],
      [[0, 2], [7, 2]],
      [],
    ],
  ];
  for (const [name, layout, correlation, goaway, good, bad] of layouts) {
    for (const response of [...good, ...bad]) {
      const conn = new StubConnection();
      const errors: unknown[] = [];
      const request = new Uint8Array(4).fill(7);
      conn.feed(wire([request], layout), null);
      await serveConnection(conn, () => Uint8Array.from(response), {
        ...layout,
        goaway: Uint8Array.from(goaway),
        onError: (error) => void errors.push(error),
        ...(correlation === undefined ? {} : { correlation }),
      });
      const isBad = bad.includes(response);
      assertEquals(errors.length, isBad ? 1 : 0, `${name}: ${response}`);
      assertEquals(conn.writes.length, isBad ? 0 : 1, name);
      if (isBad) assert(errors[0] instanceof TypeError);
    }
  }
});

Deno.test("onError cannot answer with the goaway either", async () => {
  const conn = new StubConnection();
  conn.feed(wire([1]), null);
  await serveConnection(conn, () => {
    throw new Error("no");
  }, { goaway: GOAWAY, onError: () => GOAWAY });
  assertEquals(conn.writes.length, 0);
});

Deno.test("A goaway is a copy: what the caller does to its bytes changes nothing", async () => {
  const goaway = GOAWAY.slice();
  const conn = new StubConnection();
  const done = serveConnection(conn, (payload, context) => {
    context.close();
    return payload;
  }, { goaway });
  goaway.fill(0);
  conn.feed(wire([1]));
  await done;
  assertEquals(conn.answers()[1], GOAWAY);
});

Deno.test("The option goaway is checked", () => {
  const cases: [Partial<ServeOptions>, string, string][] = [
    [{ goaway: "bye" as unknown as Uint8Array }, "TypeError", "Uint8Array"],
    [{ goaway: null as unknown as Uint8Array }, "TypeError", "Uint8Array"],
    [{ goaway: GOAWAY, correlation: { length: 4 } }, "TypeError", "inserted"],
    [{ goaway: new Uint8Array(9), maxFrameLength: 8 }, "RangeError", "fit"],
    [
      { goaway: GOAWAY, correlation: { length: 4, requestOffset: 4 } },
      "RangeError",
      "fit",
    ],
  ];
  for (const [options, name, text] of cases) {
    const error = assertThrows(
      () => serve(options as ServeOptions, echo),
      Error,
      text,
    );
    assertEquals(error.name, name);
    assert(error.message.startsWith("Option goaway "), error.message);
  }
});

Deno.test("context.close() takes no more requests, and answers those that were taken", async () => {
  const asked: Partial<ConnectionOptions>[] = [
    {},
    { concurrency: 3 },
    { goaway: GOAWAY },
    { correlation: { length: 4, requestOffset: 0 }, goaway: GOAWAY },
  ];
  for (const options of asked) {
    for (const late of [false, true]) {
      const conn = new StubConnection();
      const handled: number[] = [];
      const signals: boolean[] = [];
      const request = (name: number) => new Uint8Array(6).fill(name);
      conn.feed(wire([1, 2, 3, 4, 5, 6, 7, 8].map(request)));
      await serveConnection(conn, async (payload, context) => {
        handled.push(payload[0]!);
        if (payload[0] === 2 && !late) context.close();
        await settle(1);
        if (payload[0] === 2 && late) context.close();
        signals.push(context.signal.aborted);
        return payload;
      }, options);
      const says = options.goaway !== undefined;
      const answered = conn.answers().map((f) => [...f]);
      if (says) assertEquals(answered.pop(), GONE);
      assertEquals(
        answered.map(([head]) => head).toSorted(),
        handled.toSorted(),
      );
      assert(handled.length >= 2 && handled.length <= 8);
      if (options.concurrency === undefined && !options.correlation) {
        assertEquals(handled, [1, 2]);
      }
      assertEquals([conn.closeWrites, conn.closes], [1, 1]);
      assert(!signals.includes(true));
    }
  }
});

Deno.test("A handler that closes its connection at once has its response written before the goaway", async () => {
  const conn = new StubConnection();
  conn.feed(wire([1, 2]));
  await serveConnection(conn, (payload, context) => {
    context.close();
    context.close();
    return payload;
  }, { goaway: GOAWAY });
  assertEquals(conn.answers(), [Uint8Array.of(1), GOAWAY]);
  const quiet = new StubConnection();
  quiet.feed(wire([1, 2]));
  await serveConnection(quiet, (_, context) => {
    context.close();
    return NO_RESPONSE;
  });
  assertEquals([quiet.writes.length, quiet.closeWrites], [0, 1]);
});

Deno.test("A rolling end over TCP loses no response of a peer that reads late", async () => {
  // 3 MiB, read late, with a byte more sent meanwhile: over a closed socket it
  // would be answered by a reset, which destroys what lies in the kernel.
  const response = new Uint8Array(3 * 1024 * 1024).fill(7);
  const server = serve({}, () => response);
  using peer = await Peer.connect(server);
  await peer.send(1);
  await until(() => server.stats().requests === 1, "it is handled");
  const shutdown = server.shutdown();
  await new Promise((resolve) => setTimeout(resolve, 300));
  await peer.send(2);
  assertEquals((await peer.receive())?.length, response.length);
  assertEquals(await peer.receive(), null);
  peer.conn.close();
  await shutdown;
  assertEquals(heads([response]), [7]);
});

Deno.test("context.close() in connectionOpen says goodbye, unless a handshake was still to come", async () => {
  for (const handshake of [undefined, () => {}]) {
    const conn = new StubConnection();
    conn.feed(wire([1]));
    const done = serveConnection(conn, echo, {
      goaway: GOAWAY,
      hooks: { connectionOpen: (context) => context.close() },
      ...(handshake && { handshake }),
    });
    await microtasks();
    conn.feed(null);
    await done;
    assertEquals(
      conn.answers().map((answer) => [...answer]),
      handshake === undefined ? [GONE] : [],
    );
  }
});

Deno.test("An inserted id that no frame has room for is refused at once", () => {
  const options = { maxFrameLength: 3, correlation: { length: 4 } } as const;
  assertThrows(() => serve(options, echo), RangeError, "maxFrameLength");
});
