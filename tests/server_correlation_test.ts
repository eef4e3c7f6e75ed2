/**
 * Requests with ids: responses as their handlers settle, failures, what is
 * ignored, concurrency and back-pressure; ids that are inserted, and ids in the
 * payload.
 */
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { type CorrelationOptions, FrameError } from "../codec.ts";
import {
  type CloseReason,
  NO_RESPONSE,
  serve,
  serveConnection,
  type ServeOptions,
} from "../server.ts";
import {
  type Numbered,
  unwireIds,
  wireIds,
} from "./server_correlated_support.ts";
import {
  microtasks,
  Peer,
  range,
  StubConnection,
  until,
} from "./server_support.ts";

const INSERTED: CorrelationOptions = { length: 4 };
const FIELD = { length: 4 } as const;
const HIGH = 2 ** 31;

/** Gates by the first byte of a request. */
class Gates {
  readonly #gates = new Map<number, PromiseWithResolvers<void>>();

  pass(name: number): Promise<void> {
    return this.#of(name).promise;
  }

  async open(...names: number[]): Promise<void> {
    for (const name of names) this.#of(name).resolve();
    await microtasks();
  }

  #of(name: number): PromiseWithResolvers<void> {
    let gate = this.#gates.get(name);
    if (gate === undefined) {
      gate = Promise.withResolvers();
      this.#gates.set(name, gate);
    }
    return gate;
  }
}

Deno.test("Responses leave as their handlers settle, each with its id", async () => {
  const conn = new StubConnection();
  const gates = new Gates();
  const done = serveConnection(conn, async (payload) => {
    await gates.pass(payload[0]!);
    return payload;
  }, { correlation: INSERTED });
  conn.feed(wireIds([[7, 1], [8, 2], [9, 3], [7, 4]], FIELD));
  await microtasks();
  assertEquals(conn.writes.length, 0);
  await gates.open(3);
  assertEquals(unwireIds(conn.written, FIELD), [[9, [3]]]);
  // One id twice: both are answered, as they settle.
  await gates.open(4);
  await gates.open(1);
  conn.feed(null);
  await gates.open(2);
  await done;
  assertEquals(unwireIds(conn.written, FIELD), [
    [9, [3]],
    [7, [4]],
    [7, [1]],
    [8, [2]],
  ]);
});

Deno.test("Responses that settle in one turn leave in one write", async () => {
  const conn = new StubConnection();
  const gates = new Gates();
  const done = serveConnection(conn, async (payload) => {
    await gates.pass(payload[0]! % 2);
    // Not all of them need the same number of turns.
    for (let i = 0; i < payload[0]! % 5; i++) await undefined;
    return payload;
  }, { correlation: INSERTED });
  conn.feed(wireIds(range(1, 40).map((i): Numbered => [i, i]), FIELD));
  await microtasks();
  await gates.open(1);
  assertEquals(conn.writes.length, 1);
  assertEquals(unwireIds(conn.writes[0]!, FIELD).length, 20);
  conn.feed(null);
  await gates.open(0);
  await done;
  assertEquals(conn.writes.length, 2);
  assertEquals(
    unwireIds(conn.written, FIELD).map(([id]) => id).toSorted((a, b) => a - b),
    range(1, 40),
  );
});

Deno.test("With correlation 128 handlers run at once, or as many as concurrency says", async () => {
  for (
    const [options, most] of [
      [{}, 128],
      [{ concurrency: 3 }, 3],
    ] as const
  ) {
    const conn = new StubConnection();
    let running = 0;
    let mostRunning = 0;
    const done = serveConnection(conn, async (payload) => {
      mostRunning = Math.max(mostRunning, ++running);
      await microtasks();
      running--;
      return payload;
    }, { correlation: INSERTED, ...options });
    conn.feed(wireIds(range(1, 300).map((i): Numbered => [i, i & 255]), FIELD));
    conn.feed(null);
    await done;
    assertEquals(mostRunning, most);
    assertEquals(unwireIds(conn.written, FIELD).length, 300);
  }
});

Deno.test("The failure of a handler concerns its own request alone where ids are inserted", async () => {
  for (const recovers of [false, true]) {
    const conn = new StubConnection();
    const errors: unknown[] = [];
    const reasons: CloseReason[] = [];
    const done = serveConnection(conn, (payload) => {
      switch (payload[0]) {
        case 2:
          throw new Error("at once");
        case 3:
          return Promise.reject(new Error("later"));
        case 4:
          return undefined as unknown as Uint8Array;
        default:
          return payload;
      }
    }, {
      correlation: INSERTED,
      onError: (error) => {
        errors.push(error);
        return recovers ? Uint8Array.of(99) : undefined;
      },
      hooks: { connectionClose: (_, reason) => void reasons.push(reason) },
    });
    conn.feed(wireIds([[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]], FIELD), null);
    await done;
    const failed = (id: number) => recovers ? [id, [99]] : [HIGH + id, []];
    assertEquals(
      unwireIds(conn.written, FIELD).toSorted(([a], [b]) =>
        a % HIGH - b % HIGH
      ),
      [[1, [1]], failed(2), failed(3), failed(4), [5, [5]]] as [
        number,
        number[],
      ][],
    );
    assertEquals(errors.length, 3);
    assertEquals(reasons, ["end"]);
  }
});

Deno.test("With ids in the payload a failure takes no more, answers the rest, and ends the connection", async () => {
  const correlation: CorrelationOptions = { length: 2, requestOffset: 0 };
  const field = { length: 2, offset: 0 } as const;
  for (const late of [false, true]) {
    const conn = new StubConnection();
    const gates = new Gates();
    const handled: number[] = [];
    const reasons: CloseReason[] = [];
    const done = serveConnection(conn, async (payload) => {
      const name = payload[2]!;
      handled.push(name);
      if (name === 2 && !late) throw new Error("no");
      await gates.pass(name);
      if (name === 2) throw new Error("no");
      return payload;
    }, {
      correlation,
      goaway: Uint8Array.of(255, 255),
      onError: () => {},
      hooks: { connectionClose: (_, reason) => void reasons.push(reason) },
    });
    const request = (name: number): Numbered => [
      name,
      Uint8Array.of(0, 0, name),
    ];
    conn.feed(wireIds([request(1), request(2), request(3)], field));
    await microtasks();
    await gates.open(2);
    conn.feed(wireIds([request(4)], field));
    await microtasks();
    await gates.open(1, 3, 4);
    await done;
    assertEquals(handled, [1, 2, 3]);
    // The rest is answered, and no goaway said: it would not be true of 2.
    assertEquals(
      unwireIds(conn.written, field).map(([id]) => id).toSorted(),
      [1, 3],
    );
    assertEquals([conn.closeWrites, conn.closes], [1, 1]);
    assertEquals(reasons, ["handler"]);
  }
});

Deno.test("onError may answer with an error of the protocol, and the connection lives", async () => {
  const field = { length: 2, offset: 0 } as const;
  const conn = new StubConnection();
  conn.feed(
    wireIds([[1, new Uint8Array(3)], [2, new Uint8Array(4)]], field),
    null,
  );
  await serveConnection(conn, (payload) => {
    if (payload.length === 3) throw new Error("no");
    return payload;
  }, {
    correlation: { length: 2, requestOffset: 0 },
    onError: () => Uint8Array.of(0, 0, 77),
  });
  assertEquals(unwireIds(conn.written, field), [
    [1, [0, 1, 77]],
    [2, [0, 2, 0, 0]],
  ]);
});

Deno.test("An id in the payload is written into the response, not into the handler's bytes", async () => {
  const table: [string, CorrelationOptions, ServeOptions, number, number][] = [
    ["Kafka", { length: 4, requestOffset: 4, responseOffset: 0 }, {}, 4, 0],
    [
      "MongoDB",
      { length: 4, requestOffset: 0, responseOffset: 4 },
      { lengthFieldLength: 4, byteOrder: "little", lengthAdjustment: -4 },
      0,
      4,
    ],
    ["only the response's", { length: 1, responseOffset: 2 }, {}, 2, 2],
  ];
  for (const [name, correlation, layout, requestAt, responseAt] of table) {
    const { length } = correlation;
    const conn = new StubConnection();
    const response = new Uint8Array(12).fill(5);
    conn.feed(
      wireIds(
        [[42, new Uint8Array(12)]],
        { length, offset: requestAt },
        layout,
      ),
      null,
    );
    await serveConnection(conn, () => response, { ...layout, correlation });
    const written = unwireIds(
      conn.written,
      { length, offset: responseAt },
      layout,
    );
    assertEquals(written.map(([id]) => id), [42], name);
    assertEquals(response, new Uint8Array(12).fill(5), name);
  }
});

Deno.test("A response too short for its id is the handler's failure", async () => {
  const errors: unknown[] = [];
  const conn = new StubConnection();
  conn.feed(wireIds([[1, new Uint8Array(4)]], { length: 4, offset: 0 }));
  await serveConnection(conn, () => new Uint8Array(3), {
    correlation: { length: 4, requestOffset: 0 },
    onError: (error) => void errors.push(error),
  });
  assertEquals(conn.writes.length, 0);
  assert(errors[0] instanceof FrameError);
});

Deno.test("A request too short for its id ends the connection, after the responses before it", async () => {
  const errors: unknown[] = [];
  const reasons: CloseReason[] = [];
  const conn = new StubConnection();
  conn.feed(wireIds([[1, 1]], FIELD));
  // Eight bytes that announce three, where an id takes four.
  conn.feed(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3));
  await serveConnection(conn, (payload) => payload, {
    correlation: INSERTED,
    onError: (error) => void errors.push(error),
    hooks: { connectionClose: (_, reason) => void reasons.push(reason) },
  });
  assertEquals(unwireIds(conn.written, FIELD), [[1, [1]]]);
  assertEquals(errors.length, 1);
  assert(errors[0] instanceof FrameError);
  assertEquals(reasons, ["frame"]);
});

Deno.test("What a handler returns for an inserted id of 0 is dropped, and its failure says nothing", async () => {
  const conn = new StubConnection();
  let errors = 0;
  conn.feed(wireIds([[0, 1], [0, 2], [0, 3], [0, 4], [5, 5]], FIELD), null);
  const handled: number[] = [];
  await serveConnection(conn, (payload) => {
    handled.push(payload[0]!);
    if (payload[0] === 2) throw new Error("no");
    if (payload[0] === 3) return Promise.resolve(payload);
    if (payload[0] === 4) return NO_RESPONSE;
    return payload;
  }, { correlation: INSERTED, onError: () => void errors++ });
  assertEquals(handled, [1, 2, 3, 4, 5]);
  assertEquals(unwireIds(conn.written, FIELD), [[5, [5]]]);
  assertEquals(errors, 1);
});

Deno.test("Requests whose id has the high bit are ignored where ids are inserted, and handled elsewhere", async () => {
  for (const [length, high] of [[1, 128], [2, 2 ** 15], [4, HIGH]] as const) {
    for (const offset of [undefined, 0]) {
      const field = offset === undefined ? { length } : { length, offset };
      const conn = new StubConnection();
      const ids = [high, 1, high + 1, 2 * high - 1, high - 1];
      conn.feed(
        wireIds(ids.map((id): Numbered => [id, new Uint8Array(6)]), field),
        null,
      );
      await serveConnection(conn, (payload) => payload, {
        correlation: offset === undefined
          ? { length }
          : { length, requestOffset: offset },
      });
      assertEquals(
        unwireIds(conn.written, field).map(([id]) => id),
        offset === undefined ? [1, high - 1] : ids,
        `${length} bytes`,
      );
    }
  }
});

Deno.test("A failure whose answer would be the goaway ends the connection instead", async () => {
  const conn = new StubConnection();
  conn.feed(wireIds([[127, 1]], { length: 1 }));
  await serveConnection(conn, () => Promise.reject(new Error("no")), {
    correlation: { length: 1 },
    onError: () => {},
  });
  assertEquals([conn.writes.length, conn.closes], [0, 1]);
});

Deno.test("A peer that reads no responses with ids is read no further", async () => {
  const response = new Uint8Array(100_000);
  let handled = 0;
  await using server = serve({ correlation: INSERTED }, () => {
    handled++;
    return response;
  });
  using deaf = await Peer.connect(server);
  let sent = 0;
  const request = wireIds([[1, new Uint8Array(1000)]], FIELD);
  const flood = (async () => {
    while (sent < 50_000) {
      await deaf.write(request);
      sent++;
    }
  })().catch(() => {});
  await until(() => handled > 3, "it begins");
  let before = -1;
  for (let still = 0; still < 10; before = handled) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    still = before === handled ? still + 1 : 0;
  }
  // What the system's buffers take, and 256 KiB of ours.
  assert(handled < 400, `${handled} were handled`);
  deaf.conn.close();
  await flood;
});

Deno.test("Server.shutdown() answers all requests with ids that were taken", async () => {
  const gates = new Gates();
  const server = serve({ correlation: INSERTED }, async (payload) => {
    await gates.pass(payload[0]!);
    return payload;
  });
  using peer = await Peer.connect(server);
  await peer.write(wireIds([[1, 1], [2, 2], [3, 3]], FIELD));
  await until(() => server.stats().inFlight === 3, "they are at work");
  const shutdown = server.shutdown();
  await gates.open(3, 2, 1);
  const frames = await peer.rest();
  peer.conn.close();
  await shutdown;
  assertEquals(frames.map((frame) => [...frame]), [
    [0, 0, 0, 3, 3],
    [0, 0, 0, 2, 2],
    [0, 0, 0, 1, 1],
    // The goaway.
    [255, 255, 255, 255],
  ]);
});

Deno.test("The option correlation is checked", () => {
  for (
    const correlation of [
      7,
      {},
      { length: 3 },
      { length: "4" },
      { length: 4, requestOffset: 0.5 },
      { length: 4, requestOffset: -2 },
      { length: 4, responseOffset: 70_000 },
    ]
  ) {
    const error = assertThrows(() =>
      serve({ correlation } as unknown as ServeOptions, (payload) => payload)
    ) as Error;
    assert(error instanceof TypeError || error instanceof RangeError);
    assertMatch(error.message, /^Option /);
  }
});
