/** The client over TLS. The certificate is for localhost; see `testdata`. */
import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertThrows,
} from "@std/assert";
import {
  Client,
  type ClientTlsOptions,
  ConnectError,
  ConnectionLostError,
} from "../client.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { ScriptedServer } from "./client_server_support.ts";
import { outcomeOf, rejection } from "./promise_support.ts";
import { eventually, sleep } from "./time_support.ts";
import { CA, CERT, KEY } from "./tls_support.ts";

function tlsServer(alpnProtocols: string[] = []): ScriptedServer {
  const options = { hostname: "127.0.0.1", port: 0, cert: CERT, key: KEY };
  return new ScriptedServer(Deno.listenTls({ ...options, alpnProtocols }));
}

function newClient(port: number, tls: ClientTlsOptions = {}): Client {
  return new Client({
    hostname: "localhost",
    port,
    tls: { caCerts: [CA], ...tls },
    maxCap: 1,
    pipelining: 8,
  });
}

Deno.test("A client speaks TLS, and the protocols it offers are negotiated", async () => {
  for (const offered of [undefined, ["pong", "other"]]) {
    using server = tlsServer(["other", "pong"]);
    const alpnProtocols = offered && { alpnProtocols: offered };
    const client = newClient(server.port, alpnProtocols);
    const names = Array.from({ length: 20 }, (_, i) => `${i}`);
    const sent = names.map((name) => client.send(ascii(name)).then(textOf));
    const peer = await server.accept();
    const { alpnProtocol } = await (peer.conn as Deno.TlsConn).handshake();
    assert(offered === undefined || offered.includes(alpnProtocol!));
    assertEquals(alpnProtocol === null, offered === undefined);
    const serving = peer.serve();
    assertEquals(await Promise.all(sent), names.map((name) => `pong:${name}`));
    await client.close();
    await serving;
  }
});

Deno.test("A certificate that is not trusted rejects with ConnectError", async () => {
  using server = tlsServer();
  const handshakes: unknown[] = [];
  const serving = server.run(async (peer) => {
    handshakes.push(await rejection((peer.conn as Deno.TlsConn).handshake()));
  });
  const { port } = server;
  for (
    const options of [
      { hostname: "localhost", port, tls: true },
      { hostname: "localhost", port, tls: { cert: CERT, key: KEY } },
    ]
  ) {
    await using client = new Client(options);
    const error = await rejection(client.send(ascii("a")));
    assertInstanceOf(error, ConnectError);
    assertInstanceOf(error.cause, Deno.errors.InvalidData);
    assertEquals(error.message, `Cannot connect to localhost:${port}`);
    assertEquals(client.stats().pool.open, 0);
  }
  await eventually("both were tried", () => handshakes.length === 2);
  server[Symbol.dispose]();
  await serving;
});

Deno.test("A server that does not speak TLS rejects with ConnectError", async () => {
  using server = new ScriptedServer();
  const serving = server.run(async (peer) => {
    await peer.conn.read(new Uint8Array(1000));
    await peer.write(ascii("this is no TLS"));
  });
  await using client = newClient(server.port);
  assertInstanceOf(await rejection(client.send(ascii("a"))), ConnectError);
  await client.close();
  server[Symbol.dispose]();
  await serving;
});

Deno.test("A handshake that is never answered is cut by connectTimeout, and by the client's end", async () => {
  for (const killed of [false, true]) {
    for (const certificate of [{}, { cert: CERT, key: KEY }]) {
      using server = new ScriptedServer();
      const client = new Client({
        hostname: "localhost",
        port: server.port,
        tls: { caCerts: [CA], ...certificate },
        connectTimeout: killed ? 0 : 50,
      });
      const sent = outcomeOf(client.send(ascii("a")));
      using peer = await server.accept();
      const room = new Uint8Array(16 * 1024);
      assertGreater((await peer.conn.read(room))!, 0);
      if (killed) await client.close({ signal: AbortSignal.abort() });
      const error = await sent;
      if (!killed) {
        assertInstanceOf(error, ConnectError);
        assertInstanceOf(error.cause, Deno.errors.TimedOut);
      }
      // What cannot be cancelled keeps its place for as long again at most.
      await eventually(
        "its place is free",
        () => client.stats().pool.open === 0,
      );
      await client.close();
    }
  }
});

/** A server under Node, which can ask for certificates, as Deno cannot; it
 * echoes. `null` where there is no Node to run. */
async function nodeServer(): Promise<
  { port: number; end(): Promise<void> } | null
> {
  const program = `
    const [cert, key, ca] = ${JSON.stringify([CERT, KEY, CA])};
    const options = { cert, key, ca, requestCert: true };
    const server = require("node:tls").createServer(options, (socket) => {
      socket.on("error", () => {});
      socket.pipe(socket);
    });
    server.listen(0, "127.0.0.1", () => console.log(server.address().port));
    process.stdin.resume().on("end", () => process.exit());
  `;
  const asked = { name: "run", command: "node" } as const;
  if (Deno.permissions.querySync(asked).state !== "granted") return null;
  let child: Deno.ChildProcess;
  try {
    const args = ["--eval", program];
    const piped = { stdin: "piped", stdout: "piped" } as const;
    child = new Deno.Command("node", { args, ...piped }).spawn();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  const output = child.stdout.getReader();
  const { value } = await output.read();
  return {
    port: Number(textOf(value!)),
    async end() {
      await child.stdin.close();
      await output.cancel();
      assert((await child.status).success);
    },
  };
}

Deno.test("A client that has a certificate shows it", async () => {
  using server = tlsServer();
  const serving = server.run();
  await using client = newClient(server.port, { cert: CERT, key: KEY });
  assertEquals(textOf(await client.send(ascii("a"))), "pong:a");
  await client.close();
  server[Symbol.dispose]();
  await serving;

  const asking = await nodeServer();
  if (asking === null) return;
  const { port } = asking;
  await using shown = newClient(port, { cert: CERT, key: KEY });
  assertEquals(textOf(await shown.send(ascii("echo"))), "echo");
  await using hidden = newClient(port);
  const error = await rejection(hidden.send(ascii("echo")));
  assert(error instanceof ConnectionLostError || error instanceof ConnectError);
  await shown.close();
  await hidden.close();
  await asking.end();
});

Deno.test("A certificate of the client needs its key, and a key its certificate", () => {
  for (const tls of [{ cert: CERT }, { key: KEY }]) {
    assertThrows(
      () => new Client({ hostname: "localhost", port: 9, tls }),
      TypeError,
      "tls.cert and tls.key",
    );
  }
});

Deno.test("An idle TLS connection that its server ends is dropped at once", async () => {
  using server = tlsServer();
  const client = newClient(server.port);
  const a = client.send(ascii("a"));
  const peer = await server.accept();
  await peer.expect("a");
  await peer.respond("A");
  assertEquals(textOf(await a), "A");
  assertEquals(client.stats().pool.idle, 1);
  peer.conn.close();
  await eventually("it is dropped", () => client.stats().pool.open === 0);
  const controller = new AbortController();
  const { signal } = controller;
  const outcome = rejection(client.send(ascii("b"), { signal }));
  using other = await server.accept();
  await other.expect("b");
  controller.abort("enough");
  assertEquals(await outcome, "enough");
  await other.closed();
  assertEquals(client.stats().retries, 0);
  await client.close();
});

Deno.test("What a write over TLS held when it was cut short counts as sent", async () => {
  using server = tlsServer();
  const client = new Client({
    hostname: "localhost",
    port: server.port,
    tls: { caCerts: [CA] },
    maxCap: 1,
    pipelining: 2000,
  });
  const first = client.send(ascii("hello"));
  const one = await server.accept();
  await one.expect("hello");
  await one.respond("hello");
  await first;

  // More than the sockets hold, so that a write is cut short; Deno hands on
  // what that write held all the same.
  const names = Array.from({ length: 1000 }, (_, i) => `${i}`.padEnd(12_000));
  const outcomes = names.map((name) =>
    client.send(ascii(name)).then(() => "answered", (error) => error)
  );
  await sleep(50);
  await one.write(new Uint8Array(8).fill(0xff));
  const two = await server.accept();
  const serving = two.serve();
  // All that the first was given, to the last byte.
  const seen = new Set<string | null>();
  await (async () => {
    for (let r; (r = await one.receive()) !== null;) seen.add(r);
  })().catch(() => {});
  let resent = 0;
  for (const [i, outcome] of outcomes.entries()) {
    const result = await outcome;
    if (result === "answered") {
      assertFalse(seen.has(names[i]!), `Request ${i} was handled twice`);
      resent++;
    } else {
      assert(result instanceof ConnectionLostError && result.requestSent);
    }
  }
  assertEquals(two.requests.length, resent);
  assertGreater(resent, 0);
  await client.close();
  await serving;
});
