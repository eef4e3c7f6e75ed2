/** The server over real sockets: options, requests, responses, failures. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";
import { Client } from "../client.ts";
import type { FrameOptions } from "../codec.ts";
import {
  type Handler,
  type HandlerContext,
  serve,
  type ServeOptions,
} from "../server.ts";
import { pattern } from "./codec_support.ts";
import {
  BAD_HEADER,
  collectGarbage,
  exitCode,
  FakeListener,
  heads,
  microtasks,
  Peer,
  Resetter,
  settle,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";
import { testUnless } from "./test_unless.ts";

const KIB = 1024;

const echo: Handler = (payload) => payload;

Deno.test("serve() listens on 127.0.0.1 and a free port, and says so", async () => {
  const told: Deno.Addr[] = [];
  const options = { onListen: (addr: Deno.Addr) => void told.push(addr) };
  await using one = serve(options, echo);
  await using two = serve({}, echo);
  const addr = one.addr as Deno.NetAddr;
  assertEquals([addr.transport, addr.hostname], ["tcp", "127.0.0.1"]);
  assert(addr.port > 0 && addr.port !== (two.addr as Deno.NetAddr).port);
  assertEquals(told, [addr]);
  using peer = await Peer.connect(one);
  assertEquals(await peer.ask(1), Uint8Array.of(1));
});

Deno.test("serve() listens where it is told to, or throws what Deno.listen throws", async () => {
  await using first = serve({ hostname: "localhost" }, echo);
  const { hostname, port } = first.addr as Deno.NetAddr;
  assertThrows(() => serve({ hostname, port }, echo), Deno.errors.AddrInUse);
  // Finished, by whatever way, means that the address is free.
  await first.shutdown();
  const second = serve({ hostname, port }, echo);
  using _peer = await Peer.connect(second);
  await until(() => second.stats().connections === 1, "it is accepted");
  second.close();
  await second.finished;
  await using third = serve({ hostname, port }, echo);
  assertEquals(third.addr, first.addr);
});

Deno.test("serve() asks for a backlog of 511, and for a shared port only when told to", async () => {
  using listener = new FakeListener();
  await serve({}, echo).shutdown();
  await serve({
    hostname: "localhost",
    port: 4711,
    tcpBacklog: 7,
    reusePort: true,
  }, echo).shutdown();
  await serve({ reusePort: false }, echo).shutdown();
  assertEquals(listener.asked, [
    { hostname: "127.0.0.1", port: 0, tcpBacklog: 511 },
    { hostname: "localhost", port: 4711, tcpBacklog: 7, reusePort: true },
    { hostname: "127.0.0.1", port: 0, tcpBacklog: 511 },
  ]);
});

testUnless(
  Deno.build.os === "windows" && "it has nothing like it",
  "reusePort shares a port where Deno allows it",
  async () => {
    const program = `
      const one = serve({ reusePort: true }, echo);
      const { port } = one.addr;
      const two = serve({ reusePort: true, port }, echo);
      await ask(one);
      one.close();
      await one.finished;
      await ask(two);
      two.close();
    `;
    assertEquals(await exitCode(program, "--unstable-net"), 0);
  },
);

Deno.test("noDelay and keepAlive are on unless switched off, and no reason to fail", async () => {
  class Tcp extends StubConnection {
    readonly set: string[] = [];
    setNoDelay() {
      this.set.push("noDelay");
    }
    setKeepAlive() {
      this.set.push("keepAlive");
    }
  }
  class Gone extends StubConnection {
    setNoDelay() {
      throw new Deno.errors.BadResource("x");
    }
  }
  const cases: [ServeOptions, string[]][] = [
    [{}, ["noDelay", "keepAlive"]],
    [{ noDelay: true, keepAlive: true }, ["noDelay", "keepAlive"]],
    [{ noDelay: false }, ["keepAlive"]],
    [{ keepAlive: false }, ["noDelay"]],
    [{ noDelay: false, keepAlive: false }, []],
  ];
  for (const [options, expected] of cases) {
    using listener = new FakeListener();
    const server = serve({ ...options, onError: () => assert(false) }, echo);
    const tcp = new Tcp();
    listener.push(tcp, new StubConnection(), new Gone());
    await microtasks();
    assertEquals(tcp.set, expected);
    assertEquals(server.stats().connections, 3);
    await server.shutdown();
  }
});

Deno.test("A server whose onListen throws does not listen", () => {
  using listener = new FakeListener();
  const error = new Error("no");
  const onListen = () => {
    throw error;
  };
  assertEquals(assertThrows(() => serve({ onListen }, echo)), error);
  assert(listener.closed);
  assertEquals(listener.accepts, 0);
});

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

Deno.test("A peer that does not read stops its own connection, and no other", async () => {
  const response = new Uint8Array(64 * KIB);
  await using server = serve({}, () => response);
  using deaf = await Peer.connect(server);
  const requests = 600;
  // The rest of it stays in this side's hands until the server reads on.
  const sending = deaf.write(
    wire(Array(requests).fill(new Uint8Array(KIB))),
  );
  let handled = -1;
  let rounds = 0;
  using other = await Peer.connect(server);
  let asked = 0;
  // It has stopped when nothing but the other's requests is handled.
  while (rounds < 10) {
    assertEquals((await other.ask(1))?.length, response.length);
    asked++;
    await settle(5);
    const now = server.stats().requests - asked;
    rounds = now === handled ? rounds + 1 : 0;
    handled = now;
  }
  assertLess(handled, requests);
  const { bytesIn, bytesOut } = server.stats();
  // Answered and not written: the bound, and the one that reached it.
  assertLessOrEqual(
    (handled + asked) * (8 + response.length) - bytesOut,
    256 * KIB + 8 + response.length,
  );
  // Read and not handled: what may be read ahead, and the last read.
  assertLessOrEqual(
    bytesIn - asked * 9 - handled * (8 + KIB),
    64 * KIB + 4 * 64 * KIB,
  );
  // When it reads, it is served to the end.
  let received = 0;
  const p = new Uint8Array(256 * KIB);
  while (received < requests * (8 + response.length)) {
    received += await deaf.conn.read(p) ?? 1e99;
  }
  await sending;
  assertEquals(received, requests * (8 + response.length));
  assertEquals(server.stats().requests, requests + asked);
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

Deno.test("A reset aborts the signal of a handler that is at work", async () => {
  const aborted = Promise.withResolvers<unknown>();
  await using server = serve(
    { onError: () => assert(false) },
    (_, { signal }) =>
      new Promise<never>((_, reject) =>
        signal.addEventListener("abort", () => {
          aborted.resolve(signal.reason);
          reject(signal.reason);
        })
      ),
  );
  const peer = new Resetter(server);
  await peer.send(2);
  await until(() => server.stats().inFlight === 1, "it is at work");
  await peer.reset();
  assertInstanceOf(await aborted.promise, Deno.errors.ConnectionReset);
  await until(() => server.stats().inFlight === 0, "it has given up");
  assertEquals(server.stats().errors, 0);
});

Deno.test("A context has both addresses, and is the same for all requests of a connection", async () => {
  const contexts: HandlerContext[] = [];
  await using server = serve({}, (_, context) => {
    contexts.push(context);
    return new Uint8Array(1);
  });
  using one = await Peer.connect(server);
  using two = await Peer.connect(server);
  for (const peer of [one, two, one]) await peer.ask(1);
  assert(contexts[0] === contexts[2] && contexts[0] !== contexts[1]);
  for (const [i, peer] of [one, two].entries()) {
    assertEquals(contexts[i]!.remoteAddr, peer.conn.localAddr);
    assertEquals(contexts[i]!.localAddr, server.addr);
    assertEquals(contexts[i]!.signal.aborted, false);
  }
  one.conn.close();
  await until(() => contexts[0]!.signal.aborted, "its signal is aborted");
  assertEquals(contexts[1]!.signal.aborted, false);
});

Deno.test("Server.stats() counts what there is and what there was", async () => {
  const gate = Promise.withResolvers<void>();
  await using server = serve({ concurrency: 2 }, async (payload) => {
    if (payload[0] === 9) throw new Error("no");
    if (payload[0] === 2) await gate.promise;
    return payload[0] === 3 ? null : concat([payload, payload]);
  });
  const nothing = {
    connections: 0,
    totalConnections: 0,
    requests: 0,
    inFlight: 0,
    bytesIn: 0,
    bytesOut: 0,
    errors: 0,
    acceptErrors: 0,
  };
  const before = server.stats();
  assertEquals(before, nothing);
  using one = await Peer.connect(server);
  using two = await Peer.connect(server);
  assertEquals(heads([(await one.ask(1))!]), [1]);
  await two.send(2, 2, 2);
  await until(() => server.stats().bytesIn === 36, "all has been read");
  assertEquals(server.stats(), {
    ...nothing,
    connections: 2,
    totalConnections: 2,
    requests: 3,
    inFlight: 2,
    bytesIn: 36,
    bytesOut: 10,
  });
  gate.resolve();
  assertEquals(heads(await two.receiveAll(3)), [2, 2, 2]);
  await one.send(3, 9);
  assertEquals(await one.receive(), null);
  one.conn.close();
  await until(() => server.stats().connections === 1, "one has ended");
  await two.write(BAD_HEADER);
  assertEquals(await two.receive(), null);
  two.conn.close();
  await until(() => server.stats().connections === 0, "both have ended");
  assertEquals(server.stats(), {
    ...nothing,
    totalConnections: 2,
    requests: 6,
    bytesIn: 36 + 18 + 8,
    bytesOut: 40,
    errors: 2,
  });
  // It was a snapshot.
  assertEquals(before, nothing);
});

Deno.test("maxConnections pauses accepting, and resumes", async () => {
  await using server = serve({ maxConnections: 2 }, echo);
  const peers: Peer[] = [];
  const gone = new Set<number>();
  // Those who wait are connected, by the system, and nobody reads them.
  for (let i = 0; i < 5; i++) {
    const peer = await Peer.connect(server);
    await peer.send(i);
    peers.push(peer);
  }
  const waiting = new Set(peers.keys());
  const answers = peers.map(async (peer, i) => {
    assertEquals(await peer.receive(), Uint8Array.of(i));
    waiting.delete(i);
  });
  for (const left of [3, 2, 1]) {
    await until(() => waiting.size <= left, `${left} are waiting`);
    await settle(3);
    assertEquals(waiting.size, left);
    assertEquals(server.stats().connections, 2);
    // One that has been served leaves, and makes room for one.
    const served = peers.findIndex((_, i) => !waiting.has(i) && !gone.has(i));
    gone.add(served);
    peers[served]!.conn.close();
  }
  await Promise.all(answers);
  const { connections, totalConnections } = server.stats();
  assertEquals([connections, totalConnections], [2, 5]);
  for (const peer of peers) peer[Symbol.dispose]();
});

Deno.test("A server at maxConnections shuts down", async () => {
  const server = serve({ maxConnections: 1 }, echo);
  using one = await Peer.connect(server);
  await one.ask(1);
  using two = await Peer.connect(server);
  await server.shutdown();
  assertEquals(await one.receive(), null);
  // Never accepted: the system ends it with the listener, and not cleanly.
  assertEquals(await two.receive().catch(() => null), null);
  assertEquals(server.stats().totalConnections, 1);
});

Deno.test("Idle connections are small, whatever they have carried", async () => {
  using listener = new FakeListener();
  const server = serve({}, echo);
  const count = 1000;
  const heap = () => {
    collectGarbage();
    return Deno.memoryUsage().heapUsed;
  };
  const stubs = Array.from({ length: count }, () => new StubConnection());
  const before = heap();
  listener.push(...stubs);
  await settle(5);
  assertEquals(server.stats().connections, count);
  // What the server, and the stub's pending read, hold in the heap.
  assertLess((heap() - before) / count, 4 * KIB);
  const pinned = () =>
    stubs.reduce((sum, { rooms }) => sum + rooms.at(-1)!.buffer.byteLength, 0);
  assertLessOrEqual(pinned(), count * 2 * KIB);

  const burst = wire(Array(50).fill(pattern(2000)));
  for (const stub of stubs.slice(0, 100)) stub.feed(burst);
  await settle(5);
  for (const stub of stubs.slice(0, 100)) stub.feed(wire([1]));
  await settle(5);
  assertEquals(server.stats().requests, 100 * 51);
  assertLessOrEqual(pinned(), 900 * 2 * KIB + 100 * 80 * KIB);
  server.close();
  await server.finished;
});

Deno.test("Server.stats() counts a request as in flight while its handler runs", async () => {
  const seen: number[] = [];
  await using server = serve({}, (payload) => {
    seen.push(server.stats().inFlight);
    return payload;
  });
  await using client = new Client({
    port: (server.addr as Deno.NetAddr).port,
  });
  await client.send(new Uint8Array(1));
  assertEquals(seen, [1]);
  assertEquals(server.stats().inFlight, 0);
});
