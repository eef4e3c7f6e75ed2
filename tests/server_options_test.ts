/**
 * The options of serve() and serveConnection(): what is refused, with which
 * error, before anything has changed; and that each is read once.
 */
import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";
import {
  type ConnectionOptions,
  type Handler,
  serve,
  serveConnection,
  type ServeOptions,
} from "../server.ts";
import { echo, FakeListener, Peer, StubConnection } from "./server_support.ts";

/** Options that are refused, and what the message must say. */
const REFUSED: Record<string, [TypeOrRange, unknown[]]> = {
  hostname: ["TypeError", [7, null, {}]],
  port: ["RangeError", [-1, 65536, 1.5, NaN, Infinity]],
  "port ": ["TypeError", ["80", null, true, 80n]],
  path: ["TypeError", [7, null]],
  cert: ["TypeError", [7, null]],
  key: ["TypeError", [7, null]],
  alpnProtocols: ["TypeError", ["h2", 7, null, [1], ["h2", null]]],
  reusePort: ["TypeError", [1, "true", null]],
  tcpBacklog: ["RangeError", [0, -1, 1.5, NaN, Infinity]],
  "tcpBacklog ": ["TypeError", ["511", null]],
  noDelay: ["TypeError", [1, "true", null]],
  keepAlive: ["TypeError", [0, {}, null]],
  proxyProtocol: ["TypeError", [1, "v1", null]],
  concurrency: ["RangeError", [0, -1, 1.5, NaN, Infinity]],
  "concurrency ": ["TypeError", ["1", null, 1n, {}]],
  maxConnections: ["RangeError", [0, -1, 1.5, NaN, -Infinity]],
  "maxConnections ": ["TypeError", ["1", null]],
  idleTimeout: ["RangeError", [-1, NaN, Infinity, 2 ** 31]],
  "idleTimeout ": ["TypeError", ["1", null, true, 1n]],
  readTimeout: ["RangeError", [-1, NaN, Infinity, 2 ** 31]],
  "readTimeout ": ["TypeError", ["1", null]],
  writeTimeout: ["RangeError", [-1, NaN, Infinity, 2 ** 31]],
  "writeTimeout ": ["TypeError", ["1", null]],
  handshakeTimeout: ["RangeError", [-1, NaN, Infinity, 2 ** 31]],
  "handshakeTimeout ": ["TypeError", ["1", null]],
  shutdownTimeout: ["RangeError", [-1, NaN, Infinity, 2 ** 31]],
  "shutdownTimeout ": ["TypeError", ["1", null]],
  signal: ["TypeError", [7, {}, new AbortController()]],
  onListen: ["TypeError", [7, null, {}]],
  onError: ["TypeError", [7, null, "console.error"]],
  hooks: ["TypeError", [7, null, "on"]],
  lengthFieldLength: ["RangeError", [0, 5, 9, NaN]],
  byteOrder: ["RangeError", ["middle"]],
  lengthFieldOffset: ["RangeError", [-1, 65536]],
  lengthAdjustment: ["RangeError", [1.5, Infinity]],
  initialBytesToStrip: ["RangeError", [-1]],
  maxFrameLength: ["RangeError", [-1, NaN]],
};

type TypeOrRange = "TypeError" | "RangeError";

Deno.test("serve() refuses an option that is of the wrong type or out of its range", () => {
  using listener = new FakeListener();
  for (const [key, [className, values]] of Object.entries(REFUSED)) {
    const name = key.trim();
    for (const value of values) {
      const options = { [name]: value } as ServeOptions;
      const tls = { cert: "x", key: "x", ...options };
      const error = assertThrows(
        () => serve(name === "alpnProtocols" ? tls : options, echo),
        Error,
      );
      const what = `${name}: ${String(value)}`;
      assertEquals(error.name, className, what);
      assertStringIncludes(error.message, `Option ${name} must be `, what);
      assert(!error.message.endsWith("."), what);
    }
  }
  assertEquals(listener.asked, []);
});

Deno.test("serve() takes every option up to its limits", async () => {
  using _listener = new FakeListener();
  const most = 2 ** 31 - 1;
  await serve({
    port: 65535,
    tcpBacklog: most,
    concurrency: Number.MAX_SAFE_INTEGER,
    maxConnections: most,
    idleTimeout: most,
    readTimeout: most,
    writeTimeout: most,
    handshakeTimeout: most,
    shutdownTimeout: most,
  }, echo).shutdown();
  await serve({
    maxConnections: Infinity,
    idleTimeout: 0.5,
    hooks: {},
    signal: new AbortController().signal,
  }, echo).shutdown();
});

Deno.test("serve() refuses options that contradict each other", () => {
  using listener = new FakeListener();
  const cases: [ServeOptions, string][] = [
    [{ cert: "x" }, "Options cert and key need each other"],
    [{ key: "x" }, "Options cert and key need each other"],
    [{ path: "x", port: 0 }, "path cannot be used with hostname, port"],
    [{ path: "x", hostname: "x" }, "path cannot be used with hostname, port"],
    [{ path: "x", cert: "x", key: "x" }, "path cannot be used with"],
    [
      { proxyProtocol: true, cert: "x", key: "x" },
      "proxyProtocol cannot be used with TLS",
    ],
  ];
  for (const [options, message] of cases) {
    assertThrows(() => serve(options, echo), TypeError, message);
  }
  for (const options of [undefined, null, 7, "text"]) {
    assertThrows(
      () => serve(options as unknown as ServeOptions, echo),
      TypeError,
      `Options must be an object, received ${Deno.inspect(options)}`,
    );
  }
  for (const handler of [undefined, null, {}, "text"]) {
    assertThrows(
      () => serve({}, handler as unknown as Handler),
      TypeError,
      "Handler must be a function, received ",
    );
  }
  assertEquals(listener.asked, []);
});

Deno.test("serve() reads its options once", async () => {
  const options: ServeOptions = { lengthFieldLength: 2 };
  await using server = serve(options, echo);
  options.lengthFieldLength = 4;
  options.maxFrameLength = NaN;
  using peer = await Peer.connect(server, { lengthFieldLength: 2 });
  assertEquals(await peer.ask(7), Uint8Array.of(7));
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

Deno.test("A signal of undefined or null is none", async () => {
  for (const signal of [undefined, null]) {
    const server = serve({ signal }, echo);
    await server.shutdown({ signal });
    const conn = new StubConnection();
    conn.feed(null);
    await serveConnection(conn, echo, { signal });
  }
});

Deno.test("Server.shutdown() refuses what is no signal, and nothing has changed then", async () => {
  await using server = serve({}, echo);
  for (const signal of [5, "x", {}, new AbortController()]) {
    const promise = server.shutdown({
      signal: signal as unknown as AbortSignal,
    });
    await assertRejects(
      () => promise,
      TypeError,
      "Option signal must be an AbortSignal, received ",
    );
  }
  using peer = await Peer.connect(server);
  assertEquals(await peer.ask(1), Uint8Array.of(1));
});
