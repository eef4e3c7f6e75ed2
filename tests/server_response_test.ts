/**
 * Requests and responses: every request gets its response, in order, in as few
 * writes as can be, whatever the layout, the sizes, the cuts and the handlers.
 */
import { assert, assertEquals } from "@std/assert";
import type { FrameOptions } from "../codec.ts";
import { NO_RESPONSE, serve, serveConnection } from "../server.ts";
import { pattern, splits } from "./bytes_support.ts";
import {
  echo,
  heads,
  microtasks,
  Peer,
  range,
  StubConnection,
  wire,
} from "./server_support.ts";

Deno.test("serve() speaks any layout of frames, both ways", async () => {
  const layouts: FrameOptions[] = [
    {},
    { lengthFieldLength: 1 },
    { lengthFieldLength: 2 },
    { lengthFieldLength: 3 },
    { lengthFieldLength: 4, byteOrder: "little" },
    { byteOrder: "little" },
    { lengthFieldLength: 4, lengthAdjustment: -4 },
    { lengthFieldOffset: 3, initialBytesToStrip: 0 },
    { lengthFieldLength: 2, initialBytesToStrip: 2 },
    { maxFrameLength: 200 },
  ];
  for (const layout of layouts) {
    let length = 0;
    const answer = pattern(100);
    await using server = serve(layout, (payload) => {
      length = payload.length;
      return answer;
    });
    using peer = await Peer.connect(server, layout);
    const received = await peer.ask(pattern(150));
    const { lengthFieldLength: width = 8, lengthFieldOffset: offset = 0 } =
      layout;
    const kept = offset + width -
      (layout.initialBytesToStrip ?? offset + width);
    assertEquals(length, 150 - offset + kept);
    assertEquals(received?.length, 100 - offset + kept);
    assertEquals(received?.slice(-50), answer.slice(-50));
  }
});

Deno.test("Payloads of every size come back whole", async () => {
  await using server = serve({}, echo);
  using peer = await Peer.connect(server);
  for (const size of [0, 1, 2039, 2040, 2041, 65_536, 300_000, 5_000_000]) {
    const payload = pattern(size);
    const [answer] = await Promise.all([peer.receive(), peer.send(payload)]);
    assertEquals(answer?.length, size);
    assert(answer!.every((byte, i) => byte === payload[i]), `${size} bytes`);
  }
});

Deno.test("serveConnection() answers frames in order, however they are cut", async () => {
  const requests = [1, 2, new Uint8Array(0), 3];
  for (const concurrency of [1, 3]) {
    for (const reads of splits(wire(requests))) {
      const conn = new StubConnection();
      conn.feed(...reads, null);
      await serveConnection(conn, (payload) => payload, { concurrency });
      assertEquals(heads(conn.answers()), [1, 2, undefined, 3]);
      assertEquals(conn.closes, 1);
    }
  }
});

Deno.test("Responses to the requests of one read leave in one write", async () => {
  // As many as the first read has room for.
  const requests = range(1, 50);
  const one = Promise.resolve();
  const handlers: Record<
    string,
    (payload: Uint8Array) => Uint8Array | Promise<Uint8Array>
  > = {
    "returns": (payload) => payload,
    "is async": async (payload) => await payload,
    "awaits what is settled": async (payload) => {
      await one;
      return payload;
    },
    "calls what is async, three deep": async (payload) =>
      await (async () => await (async () => await payload)())(),
    "is async every third time": (payload) =>
      payload[0]! % 3 === 0 ? Promise.resolve(payload) : payload,
    "returns a thenable": (payload) => ({
      then: (resolve: (value: Uint8Array) => void) => resolve(payload),
    } as Promise<Uint8Array>),
  };
  for (const [name, handler] of Object.entries(handlers)) {
    for (const concurrency of [1, 2, 7, 1000]) {
      for (const hooks of [undefined, {}]) {
        const conn = new StubConnection();
        const done = serveConnection(conn, handler, {
          concurrency,
          ...(hooks === undefined ? {} : { hooks }),
        });
        conn.feed(wire(requests));
        await microtasks();
        for (let i = 0; i < 50 && conn.writes.length === 0; i++) {
          await microtasks();
        }
        conn.feed(null);
        await done;
        const what = `a handler that ${name}, ${concurrency} at once`;
        assertEquals(heads(conn.answers()), requests, what);
        assertEquals(conn.writes.length, 1, what);
      }
    }
  }
});

Deno.test("What connections have read in one turn is handled before anything is written", async () => {
  const events: string[] = [];
  const conns = range(0, 2).map((i) =>
    new StubConnection({
      write(p) {
        events.push(`write ${i}`);
        return p.length;
      },
    })
  );
  const all = conns.map((conn, i) =>
    serveConnection(conn, (payload) => {
      events.push(`handle ${i}`);
      return payload;
    })
  );
  await microtasks();
  for (const conn of conns) conn.feed(wire([1]));
  await microtasks();
  for (const conn of conns) conn.feed(null);
  await Promise.all(all);
  assertEquals(events, [
    ...range(0, 2).map((i) => `handle ${i}`),
    ...range(0, 2).map((i) => `write ${i}`),
  ]);
});

Deno.test("A response does not wait for a handler that is at work", async () => {
  for (const concurrency of [1, 4]) {
    const gate = Promise.withResolvers<void>();
    const conn = new StubConnection();
    const done = serveConnection(conn, async (payload) => {
      if (payload[0] === 3) await gate.promise;
      return payload;
    }, { concurrency });
    conn.feed(wire([1, 2, 3, 4]));
    await microtasks();
    assertEquals(heads(conn.answers()), [1, 2]);
    gate.resolve();
    conn.feed(null);
    await done;
    assertEquals(heads(conn.answers()), [1, 2, 3, 4]);
  }
});

Deno.test("A handler that returns a value costs no turn, not even a microtask", async () => {
  const conn = new StubConnection();
  let handled = 0;
  const done = serveConnection(conn, () => {
    handled++;
    queueMicrotask(() => assertEquals(handled, 50));
    return NO_RESPONSE;
  });
  conn.feed(wire(range(1, 50)), null);
  await done;
  assertEquals(handled, 50);
});

Deno.test("Responses beyond one block of memory leave in order, and whole", async () => {
  const sizes = [1, 70_000, 10, 16_384, 16_385, 0, 200_000, 3];
  const conn = new StubConnection({
    write: (p, call) => Math.min(p.length, 1 + (call * 7919) % 30_000),
  });
  conn.feed(wire(range(0, sizes.length - 1)), null);
  await serveConnection(
    conn,
    (payload) => new Uint8Array(sizes[payload[0]!]!).fill(payload[0]!),
    { concurrency: 8 },
  );
  const answers = conn.answers();
  assertEquals(answers.map((answer) => answer.length), sizes);
  for (const [i, answer] of answers.entries()) {
    assert(answer.every((byte) => byte === i));
  }
  assertEquals(conn.mostWriting, 1);
});

Deno.test("Handlers overlap up to concurrency, and responses keep the requests' order", async () => {
  for (const concurrency of [1, 2, 5]) {
    const conn = new StubConnection();
    const gates: (() => void)[] = [];
    let most = 0;
    let running = 0;
    const done = serveConnection(conn, async (payload) => {
      most = Math.max(most, ++running);
      await new Promise<void>((resolve) => gates.push(resolve));
      running--;
      return payload;
    }, { concurrency });
    conn.feed(wire(range(1, 20)), null);
    let answered = 0;
    while (answered < 20) {
      await microtasks();
      assertEquals(running, Math.min(concurrency, 20 - answered));
      // The last first: all of them wait for the first.
      for (const gate of gates.splice(0).reverse()) {
        await microtasks();
        assertEquals(heads(conn.answers()), range(1, answered));
        gate();
      }
      await microtasks();
      answered += Math.min(concurrency, 20 - answered);
    }
    await done;
    assertEquals(heads(conn.answers()), range(1, 20));
    assertEquals(most, concurrency);
  }
});

Deno.test("A handler that is done makes room only when its response can leave", async () => {
  const conn = new StubConnection();
  const first = Promise.withResolvers<Uint8Array>();
  const handled: number[] = [];
  const done = serveConnection(conn, (payload) => {
    handled.push(payload[0]!);
    return payload[0] === 1 ? first.promise : payload;
  }, { concurrency: 3 });
  conn.feed(wire(range(1, 9)), null);
  await microtasks();
  assertEquals(handled, [1, 2, 3]);
  assertEquals(conn.writes.length, 0);
  first.resolve(Uint8Array.of(1));
  await done;
  assertEquals(handled, range(1, 9));
  assertEquals(heads(conn.answers()), range(1, 9));
});

Deno.test("A handler that returns NO_RESPONSE has none written", async () => {
  for (const result of [NO_RESPONSE, Promise.resolve(NO_RESPONSE)] as const) {
    for (const concurrency of [1, 3]) {
      const conn = new StubConnection();
      conn.feed(wire([1, 2, 1, 1, 2, 1]), null);
      await serveConnection(
        conn,
        (payload) => payload[0] === 1 ? result : payload,
        { concurrency },
      );
      assertEquals(heads(conn.answers()), [2, 2]);
    }
  }
  const silent = new StubConnection();
  silent.feed(wire([1, 2]), null);
  await serveConnection(silent, () => NO_RESPONSE);
  assertEquals(silent.writes.length, 0);
});

Deno.test("A payload may be kept, and answered with", async () => {
  const conn = new StubConnection();
  const kept: Uint8Array[] = [];
  conn.feed(...range(0, 255).map((i) => wire([new Uint8Array(100).fill(i)])));
  conn.feed(null);
  await serveConnection(conn, (payload) => {
    kept.push(payload);
    return payload;
  });
  for (const [i, payload] of kept.entries()) {
    assertEquals(payload, new Uint8Array(100).fill(i));
  }
  assertEquals(conn.answers(), kept);
});
