/** The server over TLS. */
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { type HandlerContext, serve } from "../server.ts";
import { pattern } from "./bytes_support.ts";
import {
  BAD_HEADER,
  echo,
  heads,
  Peer,
  settle,
  until,
  wire,
} from "./server_support.ts";
import { CA, CERT, KEY } from "./tls_support.ts";

const caCerts = [CA];
const identity = { cert: CERT, key: KEY };

async function connectTls(
  addr: Deno.Addr,
  options: { alpnProtocols?: string[] } = {},
): Promise<Deno.TlsConn> {
  const { hostname, port } = addr as Deno.NetAddr;
  return await Deno.connectTls({ hostname, port, caCerts, ...options });
}

Deno.test("A server with cert and key speaks TLS", async () => {
  const contexts: HandlerContext[] = [];
  await using server = serve(
    { ...identity, concurrency: 2 },
    (payload, context) => {
      contexts.push(context);
      return payload[0] === 1 ? Promise.resolve(payload) : payload;
    },
  );
  using conn = await connectTls(server.addr);
  const peer = new Peer(conn);
  await peer.send(1, 2, 3);
  assertEquals(heads(await peer.receiveAll(3)), [1, 2, 3]);
  const large = pattern(1_000_000);
  const [answer] = await Promise.all([peer.receive(), peer.send(large)]);
  assertEquals(answer?.length, large.length);
  assert(answer!.every((byte, i) => byte === large[i]));
  assertEquals(contexts[0]!.remoteAddr, conn.localAddr);
  assertEquals(contexts[0]!.localAddr, server.addr);
});

Deno.test("alpnProtocols are offered in the handshake", async () => {
  await using server = serve({
    ...identity,
    alpnProtocols: ["wire/2", "wire/1"],
  }, echo);
  using one = await connectTls(server.addr, { alpnProtocols: ["wire/1"] });
  assertEquals((await one.handshake()).alpnProtocol, "wire/1");
  await using plain = serve(identity, echo);
  using two = await connectTls(plain.addr);
  assertEquals((await two.handshake()).alpnProtocol, null);
});

Deno.test("Over TLS a bad frame is a clean end, and so is a half-closed peer's", async () => {
  await using server = serve(identity, async (payload) => {
    await settle(1);
    return payload;
  });
  using bad = await connectTls(server.addr);
  const one = new Peer(bad);
  await one.send(1, 2);
  await one.write(BAD_HEADER);
  assertEquals(heads(await one.rest()), [1, 2]);
  using half = await connectTls(server.addr);
  const two = new Peer(half);
  await two.send(1, 2);
  await half.closeWrite();
  assertEquals(heads(await two.rest()), [1, 2]);
});

Deno.test("A peer that does not speak TLS costs nobody else, and is reported", async () => {
  const errors: unknown[] = [];
  await using server = serve({
    ...identity,
    onError: (error) => void errors.push(error),
  }, echo);
  using peer = await Peer.connect(server);
  await peer.write(wire([1, 2, 3]));
  await until(() => errors.length === 1, "it is reported");
  assertInstanceOf(errors[0], Deno.errors.InvalidData);
  // Gone in its handshake, which is not reported.
  using gone = await Peer.connect(server);
  await until(() => server.stats().totalConnections === 2, "it is accepted");
  gone.conn.close();
  await until(() => server.stats().connections === 0, "both have ended");
  using good = await connectTls(server.addr);
  assertEquals(await new Peer(good).ask(1), Uint8Array.of(1));
  assertEquals(errors.length, 1);
  assertEquals(server.stats().errors, 1);
});

Deno.test("handshakeTimeout cuts a handshake that hangs, while others are served", async () => {
  const errors: unknown[] = [];
  await using server = serve({
    ...identity,
    handshakeTimeout: 2500,
    onError: (error) => void errors.push(error),
  }, echo);
  const start = performance.now();
  using _silent = await Peer.connect(server);
  using good = await connectTls(server.addr);
  const peer = new Peer(good);
  assertEquals(await peer.ask(1), Uint8Array.of(1));
  // Deno itself holds on to the socket until the peer says something: that it
  // is cut shows on this side only.
  await until(() => server.stats().connections === 1, "it is cut");
  assert(performance.now() - start >= 2499);
  assertEquals(errors.length, 1);
  assertInstanceOf(errors[0], Deno.errors.TimedOut);
  assertEquals(errors[0].message, "Handshake was not complete within 2500 ms");
  assertEquals(server.stats().errors, 1);
  // It was its own handshake's limit, and not the connection's.
  assertEquals(await peer.ask(2), Uint8Array.of(2));
});

Deno.test("Server.close() does not wait for a handshake, and shutdown() no longer than its limit", async () => {
  for (const end of ["shutdown", "close"] as const) {
    const server = serve({
      ...identity,
      handshakeTimeout: 0,
      shutdownTimeout: 200,
      onError: () => assert(false),
    }, echo);
    using _silent = await Peer.connect(server);
    await until(() => server.stats().connections === 1, "it is accepted");
    const start = performance.now();
    server[end]();
    await server.finished;
    assertEquals(performance.now() - start > 190, end === "shutdown");
    assertEquals(server.stats().errors, 0);
  }
});

Deno.test("Server.shutdown() lets responses leave over TLS", async () => {
  const gate = Promise.withResolvers<void>();
  const server = serve(identity, async (payload) => {
    await gate.promise;
    return payload;
  });
  using conn = await connectTls(server.addr);
  const peer = new Peer(conn);
  await peer.send(1, 2, 3);
  await until(() => server.stats().bytesIn === 27, "all is read");
  const shutdown = server.shutdown();
  gate.resolve();
  assertEquals(heads(await peer.rest()), [1, 2, 3]);
  conn.close();
  await shutdown;
});
