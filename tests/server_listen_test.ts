/** Listening: where, with which socket options, what is told of it, and a
 * listener that is handed in. */
import {
  assert,
  assertEquals,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { Client } from "../client.ts";
import { type Transport, transportPair } from "../codec.ts";
import { serve, type ServeOptions, type TransportListener } from "../server.ts";
import { testUnless } from "./machine_support.ts";
import {
  echo,
  exitCode,
  FakeListener,
  microtasks,
  Peer,
  StubConnection,
  until,
} from "./server_support.ts";
import { CA, CERT, KEY } from "./tls_support.ts";

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

// A listener that is handed in ------------------------------------------------

/** Accepts transports in memory. */
class MemoryListener implements TransportListener {
  readonly addr = { transport: "unix", path: "memory" } as const;
  closes = 0;
  readonly #queue: Transport[] = [];
  #waiting: PromiseWithResolvers<Transport> | undefined;

  connect(): Transport {
    const [here, there] = transportPair();
    if (this.#waiting === undefined) this.#queue.push(there);
    else this.#waiting.resolve(there);
    this.#waiting = undefined;
    return here;
  }

  accept(): Promise<Transport> {
    const next = this.#queue.shift();
    if (next !== undefined) return Promise.resolve(next);
    this.#waiting = Promise.withResolvers();
    return this.#waiting.promise;
  }

  close(): void {
    this.closes++;
    this.#waiting?.reject(new Error("closed"));
  }
}

Deno.test("serve() accepts from a listener in memory, which needs no ref()", async () => {
  const listener = new MemoryListener();
  const told: unknown[] = [];
  const server = serve({
    listener,
    onListen: (addr) => void told.push(addr),
  }, (payload, { remoteAddr, signal }) => {
    assertEquals(remoteAddr.transport, "unix");
    assertEquals(signal.aborted, false);
    return payload.toReversed();
  });
  assertStrictEquals(server.addr, listener.addr);
  assertEquals(told, [listener.addr]);
  server.unref();
  server.ref();
  await using client = new Client({ connect: () => listener.connect() });
  for (let i = 0; i < 3; i++) {
    const answers = await Promise.all(
      [1, 2, 3].map((n) => client.send(Uint8Array.of(n, i))),
    );
    assertEquals(answers.map((a) => [...a]), [[i, 1], [i, 2], [i, 3]]);
  }
  await client.close();
  await server.shutdown();
  assertEquals(listener.closes, 1);
  assertEquals(server.stats().acceptErrors, 0);
});

Deno.test("serve() accepts from a socket that was passed in, in clear and over TLS", async () => {
  const address = { hostname: "127.0.0.1", port: 0 };
  const clear = Deno.listen(address);
  await using server = serve({ listener: clear }, echo);
  assertStrictEquals(server.addr, clear.addr);
  using peer = await Peer.connect(server);
  assertEquals(await peer.ask(1), Uint8Array.of(1));

  const secure = Deno.listenTls({ ...address, cert: CERT, key: KEY });
  await using tls = serve({
    listener: secure,
    handshakeTimeout: 100,
    onError: () => {},
  }, echo);
  const port = (tls.addr as Deno.NetAddr).port;
  using conn = await Deno.connectTls({
    hostname: "localhost",
    port,
    caCerts: [CA],
  });
  assertEquals(await new Peer(conn).ask(1), Uint8Array.of(1));
  // A peer that says nothing holds its place for handshakeTimeout.
  using _silent = await Deno.connect({ hostname: "127.0.0.1", port });
  await until(() => tls.stats().totalConnections === 2, "it is accepted");
  await until(() => tls.stats().errors === 1, "it is cut");
});

Deno.test("The option listener is checked, and goes with no address", () => {
  using fake = new FakeListener();
  const listener = new MemoryListener();
  for (
    const value of [null, 7, {}, { accept: () => {} }, { close: () => {} }]
  ) {
    assertThrows(
      () => serve({ listener: value } as unknown as ServeOptions, echo),
      TypeError,
      "Option listener ",
    );
  }
  const addresses: ServeOptions[] = [
    { hostname: "127.0.0.1" },
    { port: 0 },
    { path: "x" },
    { cert: "x", key: "y" },
    { alpnProtocols: ["h2"] },
    { reusePort: false },
    { tcpBacklog: 1 },
  ];
  for (const options of addresses) {
    const all: ServeOptions = { ...options, listener };
    assertThrows(
      () => serve(all, echo),
      TypeError,
      `Option listener cannot be used with ${Object.keys(options)[0]}`,
    );
  }
  assertEquals([listener.closes, fake.asked.length], [0, 0]);
});

Deno.test("A listener that is handed in need not settle what is under way, nor be open still", async () => {
  for (const end of ["shutdown", "close"] as const) {
    const late = Promise.withResolvers<Transport>();
    let closes = 0;
    const server = serve({
      listener: {
        accept: () => late.promise,
        close() {
          closes++;
          throw new Deno.errors.BadResource("closed already");
        },
        addr: { transport: "unix", path: "x" },
      },
    }, echo);
    server[end]();
    await server.finished;
    assertEquals(closes, 1);
    // Whoever comes after all is sent away.
    const conn = new StubConnection();
    late.resolve(conn);
    await microtasks();
    assertEquals([conn.closes, conn.reads], [1, 0]);
    assertEquals(server.stats().totalConnections, 0);
  }
});
