/** One connection over a stub: what a socket cannot be made to do on demand. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { concat } from "@std/bytes";
import {
  type FrameOptions,
  FrameTooLargeError,
  InvalidFrameLengthError,
} from "../codec.ts";
import {
  type ConnectionOptions,
  type HandlerContext,
  serveConnection,
  type ServerHooks,
} from "../server.ts";
import { splits } from "./codec_support.ts";
import {
  BAD_HEADER,
  FakeTime,
  heads,
  microtasks,
  settle,
  StubConnection,
  wire,
} from "./server_support.ts";

const KIB = 1024;

/** What `MAX_OUTGOING` and `MAX_READ_AHEAD` promise. */
const MOST_OUTGOING = 256 * KIB;
const MOST_READ_AHEAD = 64 * KIB;

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

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
  const requests = range(1, 100);
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

Deno.test("A peer that does not read stops its connection, whatever the handlers", async () => {
  const response = new Uint8Array(10 * KIB);
  const one = wire([new Uint8Array(KIB)]);
  const cases = [
    { name: "sync", handler: () => response, concurrency: 1 },
    { name: "sync", handler: () => response, concurrency: 1000 },
    { name: "async", handler: () => Promise.resolve(response), concurrency: 1 },
    { name: "async", handler: () => Promise.resolve(response), concurrency: 8 },
  ];
  for (const { name, handler, concurrency } of cases) {
    const room = Promise.withResolvers<void>();
    const conn = new StubConnection({
      write: async (p) => {
        await room.promise;
        return p.length;
      },
    });
    let handled = 0;
    const done = serveConnection(conn, () => {
      handled++;
      return handler();
    }, { concurrency });
    conn.feed(concat(Array(300).fill(one)), null);
    await settle();
    const { reads } = conn;
    await settle();
    const what = `${name}, ${concurrency} at once`;
    assertEquals(conn.reads, reads, what);
    // What is waiting stops it; handlers at work may overshoot.
    const most = MOST_OUTGOING + concurrency * 11 * KIB;
    if (name === "async") assertLess(handled * 10 * KIB, most, what);
    else assertEquals(handled, 26, what);
    assertLess(
      conn.taken,
      handled * one.length + 6 * MOST_READ_AHEAD,
      what,
    );
    room.resolve();
    await done;
    assertEquals(handled, 300, what);
    assertEquals(conn.answers().length, 300, what);
  }
});

Deno.test("Responses that wait behind a slow handler are bounded in bytes", async () => {
  const conn = new StubConnection();
  const first = Promise.withResolvers<Uint8Array>();
  const response = new Uint8Array(50 * KIB);
  let handled = 0;
  const done = serveConnection(
    conn,
    () => handled++ === 0 ? first.promise : response,
    { concurrency: 1000 },
  );
  conn.feed(wire(Array(100).fill(1)), null);
  await settle();
  // Five are 250 KiB, the sixth is what goes over.
  assertEquals(handled, 1 + 6);
  first.resolve(response);
  await done;
  assertEquals(handled, 100);
  assertEquals(conn.answers().length, 100);
});

Deno.test("What is read ahead while handlers are busy is bounded", async () => {
  for (const length of [100, 10 * KIB, 1000 * KIB]) {
    const conn = new StubConnection();
    const gate = Promise.withResolvers<void>();
    const done = serveConnection(conn, async () => {
      await gate.promise;
    });
    const one = wire([new Uint8Array(length)]);
    const count = Math.ceil(1_500_000 / one.length);
    for (let i = 0; i < count; i++) conn.feed(one);
    conn.feed(null);
    await settle();
    const { reads } = conn;
    await settle();
    assertEquals(conn.reads, reads);
    assertLess(
      conn.taken,
      // The frame that is handled, what may be read ahead, and the last read.
      one.length + 2 * MOST_READ_AHEAD + 4 * MOST_READ_AHEAD,
      `${length} bytes each`,
    );
    gate.resolve();
    await done;
    assertEquals(conn.taken, count * one.length);
  }
});

Deno.test("Without bytes to answer, nothing is written", async () => {
  const results = {
    "undefined": undefined,
    "null": null,
    "a promise of undefined": Promise.resolve(),
    "a promise of null": Promise.resolve(null),
  };
  for (const [name, result] of Object.entries(results)) {
    for (const concurrency of [1, 3]) {
      const conn = new StubConnection();
      conn.feed(wire([1, 2, 1, 1, 2, 1]), null);
      await serveConnection(
        conn,
        (payload) => payload[0] === 1 ? result : payload,
        { concurrency },
      );
      assertEquals(heads(conn.answers()), [2, 2], name);
    }
  }
  const silent = new StubConnection();
  silent.feed(wire([1, 2]), null);
  await serveConnection(silent, () => {});
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

/** Ways for a handler to fail on a request of 2. */
const FAILURES: Record<string, () => Uint8Array | Promise<Uint8Array>> = {
  "throws": () => {
    throw new Error("no");
  },
  "rejects": () => Promise.reject(new Error("no")),
  "rejects late": async () => {
    await microtasks();
    throw new Error("no");
  },
  "returns no bytes": () => 7 as unknown as Uint8Array,
  "resolves to no bytes": () => Promise.resolve("no" as unknown as Uint8Array),
  "returns too many bytes": () => new Uint8Array(101),
  "resolves to too many bytes": () => Promise.resolve(new Uint8Array(101)),
  "throws a string": () => {
    throw "no";
  },
  "throws undefined": () => {
    throw undefined;
  },
  "returns a thenable that throws": () =>
    ({
      then() {
        throw new Error("no");
      },
    }) as unknown as Promise<Uint8Array>,
  "returns a thenable whose then cannot be had": () =>
    ({
      get then() {
        throw new Error("no");
      },
    }) as unknown as Promise<Uint8Array>,
};

/** What `onError` may do, and whether it is a response. */
const RECOVERIES: Record<
  string,
  { onError?: () => unknown; answers: number[] }
> = {
  "is not set": { answers: [1] },
  "returns nothing": { onError: () => {}, answers: [1] },
  "returns null": { onError: () => null, answers: [1] },
  "returns text": { onError: () => "text", answers: [1] },
  "returns too many bytes": {
    onError: () => new Uint8Array(101),
    answers: [1],
  },
  "throws": {
    onError: () => {
      throw new Error("worse");
    },
    answers: [1],
  },
  "resolves to nothing": { onError: () => Promise.resolve(), answers: [1] },
  "resolves to text": { onError: () => Promise.resolve("text"), answers: [1] },
  "rejects": {
    onError: () => Promise.reject(new Error("worse")),
    answers: [1],
  },
  "returns bytes": { onError: () => Uint8Array.of(9), answers: [1, 9, 3, 4] },
  "resolves to bytes": {
    onError: () => Promise.resolve(Uint8Array.of(9)),
    answers: [1, 9, 3, 4],
  },
  "resolves to bytes late": {
    onError: async () => {
      await microtasks();
      return Uint8Array.of(9);
    },
    answers: [1, 9, 3, 4],
  },
};

for (const [failure, fail] of Object.entries(FAILURES)) {
  Deno.test(`A handler that ${failure} costs its connection unless onError has an answer`, async () => {
    for (const [recovery, { onError, answers }] of Object.entries(RECOVERIES)) {
      for (const concurrency of [1, 2, 4]) {
        const conn = new StubConnection();
        const told: [unknown, unknown][] = [];
        let context: HandlerContext | undefined;
        // Not the end of the stream: the connection must end of itself.
        conn.feed(wire([1, 2]), wire([3, 4]));
        const done = serveConnection(conn, (payload, itsContext) => {
          context = itsContext;
          if (payload[0] === 2) return fail();
          return payload[0] === 4 ? Promise.resolve(payload) : payload;
        }, {
          concurrency,
          maxFrameLength: 100,
          ...(onError === undefined ? {} : {
            onError(error, itsContext) {
              told.push([error, itsContext]);
              return onError();
            },
          }),
        });
        const what = `onError ${recovery}, ${concurrency} at once`;
        if (answers.length > 1) {
          for (let i = 0; i < 8; i++) await microtasks();
          assertEquals(conn.closes, 0, what);
          conn.feed(null);
        }
        await done;
        assertEquals(heads(conn.answers()), answers, what);
        assertEquals(conn.closes, 1, what);
        assertEquals(conn.closeWrites, answers.length > 1 ? 0 : 1, what);
        if (onError !== undefined) {
          assertEquals(told.length, 1, what);
          assertStrictEquals(told[0]![1], context);
        }
      }
    }
  });
}

Deno.test("Requests after a handler's failure are not handled, and those in progress not answered", async () => {
  const conn = new StubConnection();
  const gates = range(0, 3).map(() => Promise.withResolvers<Uint8Array>());
  const handled: number[] = [];
  const errors: unknown[] = [];
  const done = serveConnection(conn, (payload) => {
    handled.push(payload[0]!);
    return gates[payload[0]!]!.promise;
  }, { concurrency: 4, onError: (error) => void errors.push(error) });
  conn.feed(wire([0, 1, 2, 3, 0, 0, 0]));
  await microtasks();
  gates[1]!.reject(new Error("first"));
  await microtasks();
  gates[2]!.resolve(Uint8Array.of(2));
  await microtasks();
  assertEquals(conn.written.length, 0);
  gates[0]!.resolve(Uint8Array.of(0));
  await done;
  assertEquals(heads(conn.answers()), [0]);
  assertEquals(handled, [0, 1, 2, 3]);
  // A late failure is told, and does no more harm.
  gates[3]!.reject(new Error("second"));
  await settle();
  assertEquals(errors.map((error) => (error as Error).message), [
    "first",
    "second",
  ]);
  assertEquals(conn.closes, 1);
});

Deno.test("Requests that arrive after a handler's failure are not handled, though it waits for those before it", async () => {
  for (const how of ["rejects", "returns garbage", "throws"]) {
    const conn = new StubConnection();
    const gates = range(0, 2).map(() => Promise.withResolvers<Uint8Array>());
    const handled: number[] = [];
    const done = serveConnection(conn, (payload) => {
      handled.push(payload[0]!);
      if (payload[0] === 1 && how === "throws") throw new Error("at once");
      return gates[payload[0]!]!.promise;
    }, { concurrency: 4 });
    conn.feed(wire([0, 1]));
    await microtasks();
    if (how === "rejects") gates[1]!.reject(new Error("later"));
    else gates[1]!.resolve("garbage" as unknown as Uint8Array);
    await microtasks();
    conn.feed(wire([2, 3]));
    await microtasks();
    gates[0]!.resolve(Uint8Array.of(0));
    await done;
    assertEquals(heads(conn.answers()), [0], how);
    assertEquals(handled, [0, 1], how);
  }
});

Deno.test("A handler that gives up because its connection has gone has not failed", async () => {
  const conn = new StubConnection();
  const errors: unknown[] = [];
  const ended: unknown[] = [];
  const done = serveConnection(
    conn,
    (_, { signal }) =>
      new Promise<never>((_, reject) =>
        signal.addEventListener("abort", () => reject(signal.reason))
      ),
    {
      onError: (error) => void errors.push(error),
      hooks: { requestEnd: ({ error }) => void ended.push(error) },
    },
  );
  conn.feed(wire([1]));
  await microtasks();
  conn.feed(new Deno.errors.ConnectionReset("reset"));
  await done;
  await settle();
  assertEquals(errors, []);
  assertInstanceOf(ended[0], Deno.errors.ConnectionReset);
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

Deno.test("A response that cannot be encoded is a handler's failure also behind one that is awaited", async () => {
  for (
    const [response, ErrorClass] of [
      [new Uint8Array(101), FrameTooLargeError],
      ["text", TypeError],
      [7, TypeError],
    ] as const
  ) {
    const conn = new StubConnection();
    const first = Promise.withResolvers<Uint8Array>();
    const errors: unknown[] = [];
    const done = serveConnection(conn, (payload) => {
      if (payload[0] === 1) return first.promise;
      return payload[0] === 2 ? response as Uint8Array : payload;
    }, {
      concurrency: 3,
      maxFrameLength: 100,
      onError: (error) => void errors.push(error),
    });
    conn.feed(wire([1, 2, 3]));
    await settle();
    first.resolve(Uint8Array.of(1));
    await done;
    assertEquals(heads(conn.answers()), [1]);
    assertEquals(errors.length, 1);
    assertInstanceOf(errors[0], ErrorClass);
  }
});

Deno.test("A response that shrank while it waited costs its own connection only", async () => {
  const conn = new StubConnection();
  const first = Promise.withResolvers<Uint8Array>();
  const errors: unknown[] = [];
  const later = Uint8Array.of(2);
  const options = { lengthAdjustment: 1 };
  const done = serveConnection(
    conn,
    (payload) => payload[0] === 1 ? first.promise : later,
    { ...options, concurrency: 2, onError: (error) => void errors.push(error) },
  );
  conn.feed(wire([1, 2], options));
  await settle();
  later.buffer.transfer();
  first.resolve(Uint8Array.of(1));
  await done;
  assertEquals(errors.length, 1);
  assertInstanceOf(errors[0], InvalidFrameLengthError);
  assertEquals(conn.closes, 1);
});

Deno.test("Asynchronous callbacks that reject harm nobody, whatever they are told of", async () => {
  const told: string[] = [];
  const reject = (what: string) => {
    told.push(what);
    return Promise.reject(new Error(`rejected after ${what}`));
  };
  const conn = new StubConnection();
  conn.feed(wire([1]), BAD_HEADER);
  await serveConnection(conn, (payload) => payload, {
    onError: (error) => reject((error as Error).message),
    hooks: {
      requestStart: () => reject("start"),
      requestEnd: () => reject("end"),
    },
  });
  await settle();
  assertEquals(heads(conn.answers()), [1]);
  assertEquals(told.toSorted(), [
    "Frame of 18446744073709551615 bytes exceeds the limit of 16777216",
    "end",
    "rejected after end",
    "rejected after start",
    "start",
  ]);
});

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

Deno.test("A transport that makes figures up is an error", async () => {
  const errorsOf = async (conn: StubConnection): Promise<string[]> => {
    const errors: string[] = [];
    await serveConnection(conn, (payload) => payload, {
      onError: (error) => void errors.push(String(error)),
    });
    assertEquals(conn.closes, 1);
    return errors;
  };
  for (const n of [-1, NaN, 1.5, 1e9, "7", undefined, Infinity]) {
    const reading = new StubConnection({ read: () => n as number });
    assertEquals(await errorsOf(reading), [
      `RangeError: Advanced bytes must be an integer from 0 to 2048, received ${
        JSON.stringify(n) ?? n
      }`.replace("null", String(n)),
    ]);
    const writing = new StubConnection({ write: () => n as number });
    writing.feed(wire([1]));
    assertEquals(await errorsOf(writing), [
      `RangeError: Written bytes must be an integer from 0 to 9, received ${
        JSON.stringify(n) ?? n
      }`.replace("null", String(n)),
    ]);
  }
});

Deno.test("A transport that moves nothing a hundred times in a row is an error", async () => {
  for (const [tries, fails] of [[99, false], [100, true]] as const) {
    const reading = new StubConnection();
    reading.feed(...Array(tries).fill(0), wire([1]));
    reading.feed(...Array(tries).fill(0), wire([2]), null);
    const writing = new StubConnection({
      write: (p, call) => (call + 1) % (tries + 1) === 0 ? p.length : 0,
    });
    writing.feed(wire([1]));
    for (const [conn, what] of [[reading, "read"], [writing, "write"]]) {
      const { feed } = conn as StubConnection;
      const errors: string[] = [];
      const done = serveConnection(
        conn as StubConnection,
        (payload) => payload,
        { onError: (error) => void errors.push((error as Error).message) },
      );
      for (let i = 0; i < 20; i++) await microtasks();
      if (!fails) feed.call(conn, null);
      await done;
      assertEquals(
        errors,
        fails
          ? [`No progress: 100 calls of ${what} in a row moved 0 bytes`]
          : [],
      );
    }
    assertEquals(heads(reading.answers()), fails ? [] : [1, 2]);
  }
});

Deno.test("A close that throws is taken for a close", async () => {
  const conn = new StubConnection({
    close() {
      throw new Deno.errors.BadResource("x");
    },
  });
  const errors: unknown[] = [];
  conn.feed(wire([1]), null);
  await serveConnection(conn, (payload) => payload, {
    onError: (error) => void errors.push(error),
  });
  assertEquals(conn.closes, 1);
  assertEquals(errors, []);
});

Deno.test("A close that is asynchronous and rejects is taken for a close", async () => {
  const conn = {
    closes: 0,
    read: () => Promise.resolve(null),
    write: (p: Uint8Array) => Promise.resolve(p.length),
    close(): Promise<void> {
      this.closes++;
      return Promise.reject(new Error("closed badly"));
    },
  };
  await serveConnection(conn, () => null);
  await settle();
  assertEquals(conn.closes, 1);
});

Deno.test("An onError whose answer cannot even be asked for ends its connection", async () => {
  for (const asynchronous of [true, false]) {
    const conn = new StubConnection();
    conn.feed(wire([1, 2]));
    const answer = Object.defineProperty({}, "then", {
      get() {
        throw new Error("No then");
      },
    });
    await serveConnection(conn, (payload) => {
      if (payload[0] === 1) return payload;
      if (asynchronous) return Promise.reject(new Error("later"));
      throw new Error("now");
    }, { onError: () => answer as never });
    assertEquals(heads(conn.answers()), [1]);
    assertEquals(conn.closes, 1);
  }
});

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

Deno.test("A transport that settles nothing when it is closed holds nobody up", async () => {
  const never = Promise.withResolvers<number>().promise;
  const abort = new AbortController();
  const reading = new StubConnection({ read: () => never, close() {} });
  const writing = new StubConnection({ write: () => never, close() {} });
  writing.feed(wire([1]));
  const all = [reading, writing].map((conn) =>
    serveConnection(conn, (payload) => payload, { signal: abort.signal })
  );
  await microtasks();
  abort.abort();
  await Promise.all(all);
  assertEquals([reading.closes, writing.closes], [1, 1]);
});

Deno.test("What settles after the end changes nothing", async () => {
  const abort = new AbortController();
  const read = Promise.withResolvers<number | null>();
  const write = Promise.withResolvers<number>();
  const handler = Promise.withResolvers<Uint8Array>();
  const failing = Promise.withResolvers<Uint8Array>();
  const handled: number[] = [];
  const errors: unknown[] = [];
  const conn = new StubConnection({
    read: (p) =>
      read.promise.then((n) => {
        p.set(wire([9]));
        return n;
      }),
    write: () => write.promise,
    close() {},
  });
  conn.feed(wire([1, 2, 3]));
  const done = serveConnection(conn, (payload) => {
    handled.push(payload[0]!);
    return payload[0] === 1
      ? payload
      : payload[0] === 2
      ? handler.promise
      : failing.promise;
  }, {
    concurrency: 3,
    signal: abort.signal,
    onError: (error) => void errors.push(error),
  });
  await microtasks();
  assertEquals(conn.writes.length, 1);
  abort.abort();
  await done;
  handler.resolve(Uint8Array.of(2));
  await microtasks();
  read.resolve(9);
  write.resolve(9);
  await microtasks();
  const late = new Error("late");
  failing.reject(late);
  await settle();
  assertEquals(handled, [1, 2, 3]);
  assertEquals(conn.writes.length, 1);
  assertEquals(conn.closes, 1);
  assertEquals(conn.reads, 2);
  assertEquals(errors, [late]);
});

Deno.test("An aborted signal closes the connection now, and lets go of the signal", async () => {
  const abort = new AbortController();
  let listeners = 0;
  const { signal } = abort;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: unknown[]) => {
    listeners++;
    addEventListener.apply(signal, args as never);
  };
  signal.removeEventListener = (...args: unknown[]) => {
    listeners--;
    removeEventListener.apply(signal, args as never);
  };
  const ended = new StubConnection();
  ended.feed(null);
  await serveConnection(ended, (payload) => payload, { signal });
  assertEquals(listeners, 0);

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
  assertEquals(listeners, 0);

  const late = new StubConnection();
  late.feed(wire([1]));
  await serveConnection(late, () => assert(false), { signal });
  assertEquals([late.closes, late.reads], [1, 0]);
  assertEquals(listeners, 0);
});

Deno.test("A reset is noticed while handlers are at work, and aborts their signals", async () => {
  for (const concurrency of [1, 3]) {
    const conn = new StubConnection();
    const signals: AbortSignal[] = [];
    conn.feed(wire([1, 2, 3, 4]));
    const done = serveConnection(conn, (_, { signal }) => {
      signals.push(signal);
      return new Promise(() => {});
    }, { concurrency });
    await microtasks();
    assertEquals(signals.length, concurrency);
    conn.feed(new Deno.errors.ConnectionReset("x"));
    await done;
    assert(signals.every((signal) => signal.aborted));
    assertEquals(conn.closes, 1);
  }
});

Deno.test("The end of the stream aborts the signals of handlers at work, whose responses still leave", async () => {
  for (const concurrency of [1, 3]) {
    const conn = new StubConnection();
    const signals: AbortSignal[] = [];
    const errors: unknown[] = [];
    const gate = Promise.withResolvers<void>();
    conn.feed(wire([1, 2, 3, 4]));
    const done = serveConnection(conn, async (payload, { signal }) => {
      signals.push(signal);
      await gate.promise;
      if (payload[0] === 4) signal.throwIfAborted();
      return payload;
    }, { concurrency, onError: (error) => void errors.push(error) });
    await microtasks();
    assert(signals.every((signal) => !signal.aborted));
    conn.feed(wire([5]).subarray(0, 4), null);
    await microtasks();
    assert(signals.every((signal) => signal.aborted));
    const { reason } = signals[0]!;
    assertEquals((reason as Error).name, "AbortError");
    gate.resolve();
    await done;
    assertEquals(heads(conn.answers()), [1, 2, 3]);
    assertStrictEquals(signals.at(-1)!.reason, reason);
    // Whoever gives up for that reason has not failed.
    assertEquals(errors, []);
    assertEquals(conn.closes, 1);
  }
});

Deno.test("A connection has one context, whose signal is made when it is asked for", async () => {
  const contexts: HandlerContext[] = [];
  const { AbortController } = globalThis;
  let made = 0;
  globalThis.AbortController = class extends AbortController {
    constructor() {
      super();
      made++;
    }
  };
  try {
    for (let i = 0; i < 2; i++) {
      const conn = new StubConnection();
      conn.feed(wire([1, 2]), null);
      await serveConnection(conn, (_, context) => void contexts.push(context));
      const { remoteAddr, localAddr } = contexts[2 * i]!;
      assertStrictEquals(remoteAddr, conn.remoteAddr);
      assertStrictEquals(localAddr, conn.localAddr);
    }
    const [first, second, third] = contexts;
    assertStrictEquals(first, second);
    assertNotStrictEquals(first, third);
    assertEquals(made, 0);
    // Asked for after the end, it has been aborted.
    const { signal } = first!;
    assertEquals(made, 1);
    assertEquals(signal.aborted, true);
    assertEquals((signal.reason as Error).name, "AbortError");
    assertStrictEquals(first!.signal, signal);
  } finally {
    globalThis.AbortController = AbortController;
  }
});

Deno.test("A transport without addresses has those of an unnamed Unix socket", async () => {
  const addrs: Deno.Addr[] = [];
  const steps = [wire([1]), null];
  await serveConnection({
    read(p) {
      const step = steps.shift() ?? null;
      if (step !== null) p.set(step);
      return Promise.resolve(step?.length ?? null);
    },
    write: (p) => Promise.resolve(p.length),
    close() {},
  }, (_, { remoteAddr, localAddr }) => void addrs.push(remoteAddr, localAddr));
  const unnamed: Deno.Addr = { transport: "unix", path: "" };
  assertEquals(addrs, [unnamed, unnamed]);
});

Deno.test("hooks are told of each request before and after its handler", async () => {
  const events: unknown[] = [];
  let context: HandlerContext | undefined;
  const failure = new Error("no");
  const conn = new StubConnection();
  conn.feed(wire([1, 2, new Uint8Array(7), 4, 5, 6]), null);
  const hooks: ServerHooks = {
    requestStart(itsContext, requestBytes) {
      assertStrictEquals(this, hooks);
      context = itsContext;
      events.push(["start", requestBytes]);
    },
    requestEnd({ context: itsContext, duration, ...rest }) {
      assertStrictEquals(this, hooks);
      assertStrictEquals(itsContext, context);
      assert(duration >= 0);
      events.push(["end", rest]);
    },
  };
  let count = 0;
  await serveConnection(conn, async (payload, itsContext) => {
    events.push("handler");
    assertStrictEquals(itsContext, context);
    count++;
    if (count === 2) throw failure;
    if (count === 4) return;
    await microtasks();
    return new Uint8Array(10 * payload.length);
  }, { hooks, onError: () => new Uint8Array(100) });
  const end = (requestBytes: number, responseBytes: number) => [
    ["start", requestBytes],
    "handler",
    ["end", { requestBytes, responseBytes }],
  ];
  assertEquals(events, [
    ...end(1, 10),
    ["start", 1],
    "handler",
    ["end", { requestBytes: 1, responseBytes: 0, error: failure }],
    ...end(7, 70),
    ...end(1, 0),
    ...end(1, 10),
    ...end(1, 10),
  ]);
  assertEquals(conn.answers().map(({ length }) => length), [
    10,
    100,
    70,
    10,
    10,
  ]);
});

Deno.test("hooks see a handler that fails at once, and measure how long it takes", async () => {
  using time = new FakeTime();
  const ends: [number, unknown][] = [];
  const failure = new Error("no");
  const conn = new StubConnection();
  conn.feed(wire([1, 2]));
  const done = serveConnection(conn, async (payload) => {
    if (payload[0] === 2) throw failure;
    await new Promise((resolve) => setTimeout(resolve, 75));
    return payload;
  }, {
    hooks: {
      requestEnd: ({ duration, error }) => void ends.push([duration, error]),
    },
  });
  await time.advance(100);
  await done;
  assertEquals(ends, [[75, undefined], [0, failure]]);
});

Deno.test("hooks that throw are reported and change nothing", async () => {
  const throws = (message: string) => () => {
    throw new Error(message);
  };
  const conn = new StubConnection();
  const errors: [string, boolean][] = [];
  let context: HandlerContext | undefined;
  conn.feed(wire([1, 2]), null);
  await serveConnection(conn, (payload, itsContext) => {
    context = itsContext;
    return payload[0] === 1 ? payload : Promise.resolve(payload);
  }, {
    hooks: { requestStart: throws("start"), requestEnd: throws("end") },
    onError: (error, itsContext) =>
      void errors.push([(error as Error).message, itsContext === context]),
  });
  assertEquals(heads(conn.answers()), [1, 2]);
  // The first of all comes before the handler has seen the context.
  assertEquals(errors.map(([message]) => message), [
    "start",
    "end",
    "start",
    "end",
  ]);
  assert(errors.slice(1).every(([, same]) => same));
});

Deno.test("serveConnection() closes the connection from within a handler's signal", async () => {
  const abort = new AbortController();
  const conn = new StubConnection();
  let handled = 0;
  conn.feed(wire([1, 2, 3]));
  await serveConnection(conn, (payload) => {
    handled++;
    if (payload[0] === 2) abort.abort();
    return payload;
  }, { signal: abort.signal });
  assertEquals(handled, 2);
  assertEquals(conn.written.length, 0);
  assertEquals(conn.closes, 1);
});

Deno.test("serveConnection() rejects bad options before it touches the connection", async () => {
  const handler = (payload: Uint8Array) => payload;
  const cases: [ConnectionOptions, typeof TypeError | typeof RangeError][] = [
    [{ concurrency: 0 }, RangeError],
    [{ idleTimeout: -1 }, RangeError],
    [{ maxFrameLength: NaN }, RangeError],
    [{ signal: {} as AbortSignal }, TypeError],
    [null as unknown as ConnectionOptions, TypeError],
    ["text" as unknown as ConnectionOptions, TypeError],
  ];
  for (const [options, ErrorClass] of cases) {
    const conn = new StubConnection();
    await assertRejects(
      () => serveConnection(conn, handler, options),
      ErrorClass,
    );
    assertEquals([conn.reads, conn.closes], [0, 0]);
  }
  await assertRejects(
    () => serveConnection(new StubConnection(), 7 as unknown as typeof handler),
    TypeError,
    "Handler must be a function, received 7",
  );
});

Deno.test("Options may be a class's getters, and each is read once", async () => {
  const reads = new Map<string | symbol, number>();
  class Config {
    get lengthFieldLength() {
      return 2;
    }
    get byteOrder() {
      return "little";
    }
    get concurrency() {
      return 2;
    }
  }
  const options = new Proxy(new Config(), {
    get(target, key, receiver) {
      reads.set(key, (reads.get(key) ?? 0) + 1);
      return Reflect.get(target, key, receiver);
    },
  });
  const conn = new StubConnection();
  conn.feed(Uint8Array.of(2, 0, 7, 8), null);
  await serveConnection(conn, (p) => p, options as ConnectionOptions);
  assertEquals(concat(conn.writes), Uint8Array.of(2, 0, 7, 8));
  assert(reads.size > 6);
  for (const [key, count] of reads) assertEquals(count, 1, String(key));
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
    () => null,
    { onError: (error) => reported.push(error) },
  );
  assertEquals(reported, []);
});
