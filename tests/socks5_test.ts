/**
 * socks5.ts of the examples, against a stub of a proxy that says what the test
 * wants said. The proxy that others wrote is among the peers.
 */
import { assertEquals, assertInstanceOf, assertMatch } from "@std/assert";
import { Client, ConnectError, serve } from "@wirepool/net";
import { socks5 } from "../examples/socks5.ts";
import { bytes, hex, textOf } from "./bytes_support.ts";
import { startExample } from "./programs_support.ts";
import { rejection } from "./promise_support.ts";
import { CA, CERT, KEY } from "./tls_support.ts";

/** The proxy's end of one connection. */
class Visitor {
  constructor(readonly conn: Deno.Conn) {}

  /** Reads exactly these bytes. */
  async expect(...pieces: (number | string | Uint8Array)[]): Promise<void> {
    const expected = bytes(...pieces);
    const received = new Uint8Array(expected.length);
    for (let n = 0; n < received.length;) {
      const read = await this.conn.read(received.subarray(n));
      if (read === null) throw new Error(`The client hung up after ${n} bytes`);
      n += read;
    }
    assertEquals(received, expected);
  }

  /** Says these bytes, each in a segment of its own as far as TCP allows. */
  async say(...pieces: (number | string | Uint8Array)[]): Promise<void> {
    for (const byte of bytes(...pieces)) {
      await this.conn.write(Uint8Array.of(byte));
    }
  }

  /** Connects the client to a server, both ways, until both have ended. */
  async relay(port: number): Promise<void> {
    const server = await Deno.connect({ port });
    await Promise.allSettled([
      this.conn.readable.pipeTo(server.writable),
      server.readable.pipeTo(this.conn.writable),
    ]);
  }

  /** Waits until the client has closed; it must not say anything. */
  async closed(): Promise<void> {
    const n = await this.conn.read(new Uint8Array(1)).catch(() => null);
    assertEquals(n, null);
  }
}

/** A proxy that does with each connection what it is told. */
class ProxyStub implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #running: Promise<unknown>;
  readonly port = this.#listener.addr.port;

  constructor(visit: (visitor: Visitor) => Promise<void>) {
    this.#running = this.#run(visit);
  }

  async #run(visit: (visitor: Visitor) => Promise<void>): Promise<void> {
    const visits: Promise<void>[] = [];
    for await (const conn of this.#listener) {
      conn.setNoDelay();
      const visitor = new Visitor(conn);
      visits.push(visit(visitor).finally(() => conn[Symbol.dispose]()));
    }
    await Promise.all(visits);
  }

  /** Waits for what it was told to do, and fails if that did. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#running;
  }
}

function through(proxy: string, to: string, options = {}): Client {
  return new Client({
    connect: (signal) => socks5(proxy, to, signal),
    ...options,
  });
}

/** No password is wanted, and the proxy is bound to an IPv4 address. */
const OPEN = [5, 0] as const;
const CONNECTED = [5, 0, 0, 1, 127, 0, 0, 1, 0x12, 0x34] as const;

Deno.test("socks5.ts sends its lines through a proxy, which alone it may dial", async () => {
  await using server = serve({}, (payload) => payload);
  const { port } = server.addr as Deno.NetAddr;
  await using proxy = new ProxyStub(async (visitor) => {
    await visitor.expect(5, 2, 0, 2);
    await visitor.say(5, 2);
    await visitor.expect(1, 4, "user", 9, "pass:word");
    await visitor.say(1, 0);
    await visitor.expect(5, 1, 0, 1, 127, 0, 0, 1, port >> 8, port & 0xff);
    await visitor.say(...CONNECTED);
    await visitor.relay(port);
  });
  const address = `127.0.0.1:${proxy.port}`;
  await using example = startExample("socks5.ts", [
    `user:pass%3Aword@${address}`,
    `127.0.0.1:${port}`,
    "hello",
    "wörld",
  ], { address: ["127.0.0.1:1080", address] });
  assertEquals(await example.succeeds(), "hello\nwörld\n");
});

Deno.test("socks5.ts writes IPv4, IPv6 and names as SOCKS5 has them", async () => {
  const addresses: [to: string, ...pieces: (number | string | Uint8Array)[]][] =
    [
      ["192.0.2.1:80", 1, 192, 0, 2, 1, 0, 80],
      ["server.test:9000", 3, 11, "server.test", 0x23, 0x28],
      ["[::1]:65535", 4, hex("0000 0000 0000 0000 0000 0000 0000 0001 ffff")],
      ["[::]:1", 4, hex("0000 0000 0000 0000 0000 0000 0000 0000 0001")],
      [
        "[2001:db8::a:b]:256",
        ...[4, hex("2001 0db8 0000 0000 0000 0000 000a 000b 0100")],
      ],
      [
        "[1:2:3:4:5:6:7:8]:1",
        ...[4, hex("0001 0002 0003 0004 0005 0006 0007 0008 0001")],
      ],
      [
        "[fe80::]:1",
        ...[4, hex("fe80 0000 0000 0000 0000 0000 0000 0000 0001")],
      ],
    ];
  for (const [to, ...expected] of addresses) {
    await using proxy = new ProxyStub(async (visitor) => {
      await visitor.expect(5, 1, 0);
      await visitor.say(...OPEN);
      await visitor.expect(5, 1, 0, ...expected);
      await visitor.say(...CONNECTED);
      await visitor.closed();
    });
    const { signal } = new AbortController();
    (await socks5(`127.0.0.1:${proxy.port}`, to, signal)).close();
  }
});

Deno.test("socks5.ts leaves what comes behind the proxy's answer to the client", async () => {
  const greeting = bytes(0, 0, 0, 0, 0, 0, 0, 2, "hi");
  const bound = {
    "an IPv4 address": bytes(1, 10, 0, 0, 1, 0, 80),
    "an IPv6 address": bytes(4, new Uint8Array(16), 0, 80),
    "a name": bytes(3, 5, "proxy", 0, 80),
    "an empty name": bytes(3, 0, 0, 80),
  };
  for (const [what, address] of Object.entries(bound)) {
    await using proxy = new ProxyStub(async (visitor) => {
      await visitor.expect(5, 1, 0);
      await visitor.say(...OPEN);
      await visitor.expect(5, 1, 0, 1, 192, 0, 2, 1, 0, 80);
      await visitor.conn.write(bytes(5, 0, 0, address, greeting));
      await visitor.closed();
    });
    const { signal } = new AbortController();
    using conn = await socks5(
      `127.0.0.1:${proxy.port}`,
      "192.0.2.1:80",
      signal,
    );
    const read = new Uint8Array(100);
    const n = await conn.read(read);
    assertEquals(read.subarray(0, n!), greeting, what);
  }
});

Deno.test("socks5.ts fails a dial that the proxy refuses, and closes its connection", async () => {
  const refusals: [RegExp, string, number[], ...[number[], number[]][]][] = [
    [/No login in common/, "", [5, 1, 0], [[5, 0xff], []]],
    [/No login in common/, "", [5, 1, 0], [[5, 2], []]],
    [/refuses the password/, "me:no@", [5, 2, 0, 2], [[5, 2], [
      ...bytes(1, 2, "me", 2, "no"),
    ]], [[1, 1], []]],
    [/cannot connect: code 5/, "", [5, 1, 0], [[5, 0], [
      ...[5, 1, 0, 1, 192, 0, 2, 1, 0, 80],
    ]], [[5, 5, 0, 1, 0, 0, 0, 0, 0, 0], []]],
    [/hung up/, "", [5, 1, 0], [[5], []]],
  ];
  for (const [message, login, hello, ...steps] of refusals) {
    await using proxy = new ProxyStub(async (visitor) => {
      await visitor.expect(...hello);
      for (const [answer, next] of steps) {
        await visitor.say(...answer);
        await visitor.expect(...next);
      }
      // Here the client waits for more.
      if (message.source === "hung up") await visitor.conn.closeWrite();
      await visitor.closed();
    });
    const address = `${login}127.0.0.1:${proxy.port}`;
    await using client = through(address, "192.0.2.1:80");
    const error = await rejection(client.send(new Uint8Array()));
    assertInstanceOf(error, ConnectError);
    assertMatch(String(error.cause), message);
  }
});

Deno.test("socks5.ts gives up on a proxy that is silent, and closes its connection", async () => {
  for (const step of [0, 1]) {
    await using proxy = new ProxyStub(async (visitor) => {
      await visitor.expect(5, 1, 0);
      if (step === 1) {
        await visitor.say(...OPEN);
        await visitor.expect(5, 1, 0, 1, 192, 0, 2, 1, 0, 80);
      }
      await visitor.closed();
    });
    const address = `127.0.0.1:${proxy.port}`;
    await using client = through(address, "192.0.2.1:80", {
      connectTimeout: 150,
    });
    const error = await rejection(client.send(new Uint8Array()));
    assertInstanceOf(error, ConnectError);
    assertEquals((error.cause as Error).name, "TimedOut");
  }
});

Deno.test("socks5.ts carries TLS, which the proxy cannot read", async () => {
  await using server = serve({ cert: CERT, key: KEY }, (payload) => payload);
  const { port } = server.addr as Deno.NetAddr;
  await using proxy = new ProxyStub(async (visitor) => {
    await visitor.expect(5, 1, 0);
    await visitor.say(...OPEN);
    await visitor.expect(5, 1, 0, 3, 9, "localhost", port >> 8, port & 0xff);
    await visitor.say(...CONNECTED);
    await visitor.relay(port);
  });
  await using client = through(`127.0.0.1:${proxy.port}`, `localhost:${port}`, {
    tls: { caCerts: [CA] },
    hostname: "localhost",
  });
  assertEquals(textOf(await client.send(bytes("secret"))), "secret");
});
