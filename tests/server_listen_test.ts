/** Listening: where, with which socket options, and what is told of it. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { serve, type ServeOptions } from "../server.ts";
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
