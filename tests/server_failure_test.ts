/**
 * Handlers that fail, at once or later, and what counts as a failure: `onError`
 * and the response that it may give, the responses before and after, the
 * connection's end, and what is printed.
 */
import {
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import {
  FrameTooLargeError,
  InvalidFrameLengthError,
  type TransportAddress,
} from "../codec.ts";
import {
  type Handler,
  type HandlerContext,
  serve,
  serveConnection,
  type ServerHooks,
} from "../server.ts";
import {
  BAD_HEADER,
  heads,
  microtasks,
  Peer,
  range,
  settle,
  StubConnection,
  wire,
} from "./server_support.ts";

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

Deno.test("A handler that fails costs its own connection, after the responses before it", async () => {
  const told: [unknown, HandlerContext | undefined][] = [];
  await using server = serve({
    onError: (...args) => void told.push(args),
  }, (payload) => {
    if (payload[0] === 0) throw new Error("no");
    return payload;
  });
  using other = await Peer.connect(server);
  using peer = await Peer.connect(server);
  assertEquals(await other.ask(5), Uint8Array.of(5));
  await peer.send(1, 2, 0, 3);
  assertEquals(heads(await peer.rest()), [1, 2]);
  assertEquals(await other.ask(6), Uint8Array.of(6));
  assertEquals(told.length, 1);
  assertEquals((told[0]![0] as Error).message, "no");
  const local = peer.conn.localAddr as Deno.NetAddr;
  assertEquals((told[0]![1]?.remoteAddr as Deno.NetAddr).port, local.port);
  assertEquals(server.stats().errors, 1);
});

Deno.test("What is neither bytes nor NO_RESPONSE is the handler's failure, which says what to return", async () => {
  const values: [unknown, string][] = [
    [undefined, "undefined"],
    [null, "null"],
    [7, "7"],
    ["text", '"text"'],
    [{}, "an object"],
    [[1], "an array"],
    [new ArrayBuffer(1), "ArrayBuffer"],
    [Symbol("NO_RESPONSE"), "Symbol(NO_RESPONSE)"],
  ];
  for (const [value, shown] of values) {
    for (const later of [false, true]) {
      const conn = new StubConnection();
      const errors: Error[] = [];
      conn.feed(wire([1, 2, 3]), null);
      await serveConnection(
        conn,
        (payload) => {
          const result = payload[0] === 2 ? value as Uint8Array : payload;
          return later ? Promise.resolve(result) : result;
        },
        { onError: (error) => void errors.push(error as Error) },
      );
      assertEquals(heads(conn.answers()), [1], shown);
      assertEquals(errors.map(({ name, message }) => [name, message]), [[
        "TypeError",
        `Handler returned ${shown}; return a Uint8Array, or NO_RESPONSE for a request that gets no response`,
      ]]);
    }
  }
});

// What is printed -------------------------------------------------------------

/** What is printed with `console.error` while something runs. */
async function printed(run: () => Promise<unknown>): Promise<unknown[][]> {
  const lines: unknown[][] = [];
  const { error } = console;
  // The server's own timers keep nothing alive.
  using alive = new DisposableStack();
  alive.adopt(setInterval(() => {}, 1000), clearInterval);
  console.error = (...args: unknown[]) => void lines.push(args);
  try {
    await run();
    await settle();
  } finally {
    console.error = error;
  }
  return lines;
}

Deno.test("Without onError, failures of handlers and hooks are printed with the peer's address", async () => {
  const failure = new Error("no");
  const fails = () => {
    throw failure;
  };
  const handler = "A handler failed for 192.0.2.1:1:";
  const hook = "A hook failed for 192.0.2.1:1:";
  const cases: [string, Handler, ServerHooks, unknown[][]][] = [
    ["a handler that throws", fails, {}, [[handler, failure]]],
    [
      "a handler that rejects",
      () => Promise.reject(failure),
      {},
      [[handler, failure]],
    ],
    [
      "hooks that throw",
      (payload) => payload,
      {
        connectionOpen: fails,
        requestStart: fails,
        requestEnd: fails,
        connectionClose: fails,
      },
      Array(4).fill([hook, failure]),
    ],
    [
      "a hook that rejects",
      (payload) => payload,
      { connectionOpen: (() => Promise.reject(failure)) as () => void },
      [[hook, failure]],
    ],
  ];
  for (const [name, handler, hooks, expected] of cases) {
    const serveOne = async (onError?: () => void) => {
      const conn = new StubConnection();
      conn.feed(wire([1]), null);
      await serveConnection(conn, handler, {
        hooks,
        ...(onError === undefined ? {} : { onError }),
      });
    };
    assertEquals(await printed(() => serveOne()), expected, name);
    assertEquals(await printed(() => serveOne(() => {})), [], name);
  }
});

Deno.test("Printed failures name whatever address a peer has", async () => {
  const addresses: [TransportAddress | undefined, string][] = [
    [{ transport: "tcp", hostname: "::1", port: 7 }, "[::1]:7"],
    [{ transport: "unix", path: "/run/x" }, "/run/x"],
    [{ transport: "unix", path: "" }, "an unnamed peer"],
    [undefined, "an unnamed peer"],
    [{ transport: "vsock", cid: 3, port: 7 }, "vsock 3:7"],
  ];
  for (const [remoteAddr, name] of addresses) {
    const frames = [wire([1])];
    const lines = await printed(() =>
      serveConnection({
        read(p) {
          const frame = frames.pop();
          if (frame !== undefined) p.set(frame);
          return Promise.resolve(frame?.length ?? null);
        },
        write: (p) => Promise.resolve(p.length),
        close() {},
        ...(remoteAddr === undefined ? {} : { remoteAddr }),
      }, () => Promise.reject(new Error("no")))
    );
    assertEquals(lines.map(([line]) => line), [
      `A handler failed for ${name}:`,
    ]);
  }
});

Deno.test("What a peer can provoke is never printed", async () => {
  const lines = await printed(async () => {
    const steps: Parameters<StubConnection["feed"]>[] = [
      [BAD_HEADER],
      [wire([1]).subarray(0, 3), null],
      [wire([1]).subarray(0, 12)],
      [new Deno.errors.ConnectionReset("x")],
      [new Error("broken")],
      [null],
      [],
    ];
    for (const step of steps) {
      for (const refuses of [undefined, true, false]) {
        const conn = new StubConnection();
        conn.feed(...step);
        await serveConnection(conn, async (payload, { signal }) => {
          // A handler that gives up with its connection has not failed.
          await microtasks();
          signal.throwIfAborted();
          return payload;
        }, {
          readTimeout: 60,
          idleTimeout: 60,
          handshakeTimeout: 60,
          ...(refuses === undefined ? {} : {
            handshake: async (conn) => {
              if (refuses) throw new Error("Refused");
              await conn.read();
            },
          }),
        });
      }
    }
  });
  assertEquals(lines, []);
});

Deno.test("A console that throws changes nothing", async () => {
  const { error } = console;
  console.error = () => {
    throw new Error("no console");
  };
  try {
    const conn = new StubConnection();
    conn.feed(wire([1, 2]), null);
    await serveConnection(conn, (payload) => {
      if (payload[0] === 2) throw new Error("no");
      return payload;
    });
    assertEquals(heads(conn.answers()), [1]);
  } finally {
    console.error = error;
  }
});
