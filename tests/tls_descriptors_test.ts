/**
 * Over TLS every limit frees the descriptor, whatever state the peer has left
 * the connection in. The descriptors of a process are counted, since a
 * connection that has gone for the library may be there for the system.
 */
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { encodeFrame } from "../codec.ts";
import { testUnless } from "./machine_support.ts";
import { PATIENCE, sleep } from "./time_support.ts";
import { CA, CERT, KEY } from "./tls_support.ts";

const identity = { cert: CERT, key: KEY };
const caCerts = [CA];
/** Peers of each test. */
const PEERS = 10;
/** The limits that are tried, in milliseconds, and how long what they end may
 * keep its descriptor. */
const LIMIT = 300;
const GRACE = 1000;

interface Counts {
  sockets: number;
  accepted: number;
  connections: number;
  open: number;
  failures: number;
}

/** The process whose descriptors are counted. */
class Child implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #rest = "";

  constructor() {
    const script = new URL("descriptors_support.ts", import.meta.url).href;
    this.#process = new Deno.Command("deno", {
      args: ["run", "--quiet", "--no-check", "-A", script],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#output = this.#process.stdout
      .pipeThrough(new TextDecoderStream()).getReader();
  }

  async call<R>(name: string, argument?: unknown): Promise<R> {
    const line = JSON.stringify([name, argument]) + "\n";
    await this.#input.write(new TextEncoder().encode(line));
    while (!this.#rest.includes("\n")) {
      const { value, done } = await this.#output.read();
      if (done) throw new Error("The child has ended");
      this.#rest += value;
    }
    const [answer, ...rest] = this.#rest.split("\n");
    this.#rest = rest.join("\n");
    return JSON.parse(answer!);
  }

  /** Waits until counts are as they should be, however slow the machine is. */
  async counted(
    what: string,
    holds: (counts: Counts) => boolean,
  ): Promise<void> {
    const deadline = performance.now() + PATIENCE;
    while (!holds(await this.call<Counts>("counts"))) {
      assert(performance.now() < deadline, `Never: ${what}`);
      await sleep(10);
    }
  }

  /** Waits until so many sockets are left; it may take a second. */
  async mustHold(sockets: number): Promise<void> {
    const deadline = performance.now() + GRACE;
    let counts: Counts;
    do {
      counts = await this.call<Counts>("counts");
      if (counts.sockets === sockets) return;
      await sleep(20);
    } while (performance.now() < deadline);
    assertEquals(counts.sockets, sockets, JSON.stringify(counts));
  }

  /** Most sockets held during so many milliseconds. What is closed is the
   * system's for some turns of the event loop more, and does not count. */
  async most(duration: number): Promise<number> {
    const deadline = performance.now() + duration;
    let recent = [0, 0, 0, 0];
    let most = 0;
    while (performance.now() < deadline) {
      const { sockets } = await this.call<Counts>("counts");
      recent = [sockets, ...recent.slice(0, 3)];
      most = Math.max(most, Math.min(...recent));
      await sleep(5);
    }
    return most;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close().catch(() => {});
    while (!(await this.#output.read()).done);
    await this.#process.status;
  }
}

const notHere = Deno.build.os !== "linux" && "there is no /proc to count in" ||
  Deno.permissions.querySync({ name: "run", command: "deno" }).state !==
        "granted" && "may not run deno";

function testDescriptors(
  name: string,
  fn: (child: Child) => Promise<void>,
): void {
  testUnless(notHere, name, async () => {
    await using child = new Child();
    await fn(child);
  });
}

async function connect(port: number): Promise<Deno.TcpConn> {
  return await Deno.connect({ hostname: "127.0.0.1", port });
}

async function connectTls(port: number): Promise<Deno.TlsConn> {
  const conn = await Deno.connectTls({ hostname: "localhost", port, caCerts });
  await conn.handshake();
  return conn;
}

/** What a client says first. */
async function clientHello(): Promise<Uint8Array> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const dial = Deno.connectTls({ hostname: "localhost", port });
  using conn = await listener.accept();
  using tls = await dial;
  const room = new Uint8Array(16 * 1024);
  const n = await conn.read(room);
  conn.close();
  await tls.handshake().catch(() => {});
  return room.slice(0, n!);
}

/** What a peer does, and the limit that then ends it. */
const STATES: [string, string, (port: number) => Promise<Deno.Conn>][] = [
  ["is silent", "handshakeTimeout", connect],
  ["stops within its first message", "handshakeTimeout", async (port) => {
    const conn = await connect(port);
    await conn.write((await clientHello()).subarray(0, 100));
    return conn;
  }],
  ["stops in the middle of the handshake", "handshakeTimeout", async (port) => {
    const conn = await connect(port);
    await conn.write(await clientHello());
    return conn;
  }],
  [
    "reads nothing of the handshake and half-closes",
    "handshakeTimeout",
    async (port) => {
      const conn = await connect(port);
      await conn.write((await clientHello()).subarray(0, 100));
      await conn.closeWrite();
      return conn;
    },
  ],
  ["sends no request", "idleTimeout", connectTls],
  ["stops within a request", "readTimeout", async (port) => {
    const conn = await connectTls(port);
    await conn.write(new Uint8Array(5));
    return conn;
  }],
  ["reads no response", "writeTimeout", async (port) => {
    const conn = await connectTls(port);
    await conn.write(encodeFrame(Uint8Array.of(15)));
    return conn;
  }],
  ["half-closes and reads no response", "writeTimeout", async (port) => {
    const conn = await connectTls(port);
    await conn.write(encodeFrame(Uint8Array.of(15)));
    await conn.closeWrite();
    return conn;
  }],
];

for (const [state, limit, open] of STATES) {
  testDescriptors(
    `A TLS peer that ${state} holds no descriptor beyond ${limit}`,
    async (child) => {
      const port = await child.call<number>("serve", {
        ...identity,
        [limit]: LIMIT,
      });
      const peers = await Promise.all(
        Array.from({ length: PEERS }, () => open(port)),
      );
      await child.counted(
        "all are cut",
        ({ accepted, connections }) => accepted === PEERS && connections === 0,
      );
      await child.mustHold(1); // The listener.
      for (const peer of peers) peer.close();
    },
  );
}

testDescriptors(
  "Server.close() frees every descriptor, whatever its TLS peers do",
  async (child) => {
    const port = await child.call<number>("serve", identity);
    const peers: Deno.Conn[] = [];
    for (const [, , open] of STATES) peers.push(await open(port));
    await child.counted(
      "all are there",
      ({ accepted }) => accepted === STATES.length,
    );
    await child.call("closeServer");
    await child.mustHold(0);
    for (const peer of peers) peer.close();
  },
);

testDescriptors(
  "Server.shutdown() frees every descriptor within its limit, whatever its TLS peers do",
  async (child) => {
    const port = await child.call<number>("serve", {
      ...identity,
      shutdownTimeout: LIMIT,
    });
    const peers: Deno.Conn[] = [];
    for (const [, , open] of STATES) peers.push(await open(port));
    await child.counted(
      "all are there",
      ({ accepted }) => accepted === STATES.length,
    );
    await child.call("shutdownServer");
    await child.counted("all are cut", ({ connections }) => connections === 0);
    await child.mustHold(0);
    for (const peer of peers) peer.close();
  },
);

testDescriptors(
  "maxConnections counts the TLS connections that are there for the system",
  async (child) => {
    const port = await child.call<number>("serve", {
      ...identity,
      maxConnections: 20,
      handshakeTimeout: LIMIT,
    });
    const peers = await Promise.all(
      Array.from({ length: 100 }, () => connect(port)),
    );
    const most = await child.most(3 * LIMIT);
    // With the listener.
    assertLessOrEqual(most, 21);
    assert(most >= 20, `${most}`);
    for (const peer of peers) peer.close();
  },
);

/** Accepts and holds what a client dials. */
class Sink implements Disposable {
  readonly conns: Deno.Conn[] = [];
  readonly port: number;
  readonly #listener: Deno.Listener;
  readonly #done: Promise<void>;

  constructor(secure: boolean) {
    const address = { hostname: "127.0.0.1", port: 0 };
    this.#listener = secure
      ? Deno.listenTls({ ...address, ...identity })
      : Deno.listen(address);
    this.port = (this.#listener.addr as Deno.NetAddr).port;
    this.#done = this.#accept();
  }

  async #accept(): Promise<void> {
    try {
      for (;;) {
        const conn = await this.#listener.accept();
        this.conns.push(conn);
        (conn as Partial<Deno.TlsConn>).handshake?.().catch(() => {});
      }
    } catch {
      // Closed.
    }
  }

  async end(): Promise<void> {
    this[Symbol.dispose]();
    await this.#done;
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    for (const conn of this.conns) conn.close();
  }
}

const target = { hostname: "127.0.0.1", tls: { caCerts }, maxCap: 2 };

testDescriptors(
  "A client's dials to a server that does not speak are freed by connectTimeout, and never more than maxCap are open",
  async (child) => {
    const sink = new Sink(false);
    const options = { ...target, port: sink.port, connectTimeout: LIMIT };
    await child.call("send", { ...options, count: 6, bytes: 1 });
    assertLessOrEqual(await child.most(2 * LIMIT), 2);
    await child.counted("all have failed", ({ failures }) => failures === 6);
    await child.mustHold(0);
    await sink.end();
  },
);

for (
  const [state, bytes] of [
    ["does not answer", 1],
    ["does not read", 15 * 1024 * 1024],
  ] as const
) {
  testDescriptors(
    `A client's connections to a server that ${state} are freed by requestTimeout`,
    async (child) => {
      const sink = new Sink(true);
      const options = { ...target, port: sink.port, requestTimeout: LIMIT };
      // How long a handshake takes here is not the question.
      await child.call("open", { ...options, initialCap: 2 });
      await child.call("send", { ...options, count: 2, bytes });
      await child.counted("both have failed", ({ failures }) => failures === 2);
      await child.mustHold(0);
      await sink.end();
    },
  );
}

testDescriptors(
  "Client.close() with an aborted signal frees every descriptor at once",
  async (child) => {
    const sink = new Sink(false);
    const options = { ...target, port: sink.port, connectTimeout: 0 };
    await child.call("send", { ...options, count: 2, bytes: 1 });
    while (sink.conns.length < 2) await sleep(5);
    await child.call("closeClient");
    await child.mustHold(0);
    await sink.end();
  },
);
