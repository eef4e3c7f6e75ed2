/**
 * What server and client promise, on every runtime: this file runs unchanged
 * under `deno test`, `node --test` and `bun test`, over clear TCP, Unix sockets
 * and TLS. The task `test:runtimes` runs it on what is installed.
 *
 * The other side of each connection is a bare socket of `node:net` or
 * `node:tls`, which every runtime has: the library never tests itself by itself
 * where bytes matter.
 */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Duplex } from "node:stream";
import { test } from "node:test";
import {
  connect as connectTls,
  createSecureContext,
  TLSSocket,
} from "node:tls";
import {
  Client,
  type ClientOptions,
  ConnectError,
  ConnectionLostError,
  RequestTimeoutError,
} from "../client.ts";
import { encodeFrame, FrameDecoder } from "../codec.ts";
import {
  type Handler,
  serve,
  type ServeOptions,
  type Server as FrameServer,
} from "../server.ts";

// Carriers: what a connection is made of.

type Carrier = "TCP" | "a Unix socket" | "TLS";

const CARRIERS: readonly Carrier[] = ["TCP", "a Unix socket", "TLS"];

const pem = (name: string) =>
  readFileSync(new URL(`testdata/${name}.pem`, import.meta.url), "utf8");

const CA = pem("ca");
const IDENTITY = { cert: pem("localhost"), key: pem("localhost_key") };
const OTHER = { cert: pem("other"), key: pem("other_key") };
const OTHER_CA = pem("other_ca");

/** Where Deno may not write it cannot make a Unix socket; nor can Windows,
 * everywhere. */
function whyNotUnix(): string | undefined {
  const { Deno } = globalThis as {
    Deno?: {
      build: { os: string };
      permissions: { querySync(asked: unknown): { state: string } };
    };
  };
  if (Deno === undefined) return undefined;
  if (Deno.build.os === "windows") return "no Unix sockets";
  const { state } = Deno.permissions.querySync({ name: "write" });
  return state === "granted" ? undefined : "may not write";
}

const noUnix = whyNotUnix();

function pathFor(): string {
  const { Deno } = globalThis as { Deno?: { makeTempDirSync(): string } };
  // Node's way reads the environment, which Deno may not be allowed to.
  const folder = Deno?.makeTempDirSync() ??
    mkdtempSync(join(tmpdir(), "wirepool-"));
  return join(folder, "s");
}

/** Declares a test for each carrier. */
function forEach(
  name: string,
  fn: (carrier: Carrier) => Promise<void>,
  carriers: readonly Carrier[] = CARRIERS,
): void {
  for (const carrier of carriers) {
    const skip = carrier === "a Unix socket" && noUnix !== undefined;
    test(`${name}, over ${carrier}`, { skip }, () => fn(carrier));
  }
}

// The library's sides.

const echo: Handler = (payload) => payload;
const never = new Promise<never>(() => {});

class Serving {
  readonly server: FrameServer;
  readonly carrier: Carrier;
  readonly path: string | undefined;

  constructor(
    carrier: Carrier,
    handler: Handler = echo,
    options: ServeOptions = {},
  ) {
    this.carrier = carrier;
    this.path = carrier === "a Unix socket" ? pathFor() : undefined;
    this.server = serve({
      onError() {},
      ...options,
      ...(this.path !== undefined && { path: this.path }),
      ...(carrier === "TLS" && IDENTITY),
    }, handler);
  }

  get port(): number {
    return (this.server.addr as { port: number }).port;
  }

  client(options: ClientOptions = {}): Client {
    return new Client({ ...this.target(), ...options });
  }

  target(): ClientOptions {
    return targetOf(this.carrier, this.port, this.path);
  }

  peer(): Promise<Peer> {
    return Peer.connect(this.carrier, this.port, this.path);
  }

  async end(): Promise<void> {
    this.server.close();
    await this.server.finished;
    if (this.path !== undefined) {
      rmSync(join(this.path, ".."), { recursive: true });
    }
  }
}

function targetOf(
  carrier: Carrier,
  port: number,
  path: string | undefined,
): ClientOptions {
  if (path !== undefined) return { path };
  if (carrier === "TCP") return { port };
  return { port, hostname: "localhost", tls: { caCerts: [CA] } };
}

// The other side: bare sockets.

const bytes = (...values: number[]) => Uint8Array.from(values);

/** Frames, one after the other; a number is a payload of that one byte. */
function wire(...payloads: (number | Uint8Array)[]): Uint8Array {
  const frames = payloads.map((payload) =>
    encodeFrame(typeof payload === "number" ? bytes(payload) : payload)
  );
  const all = new Uint8Array(
    frames.reduce((sum, { length }) => sum + length, 0),
  );
  let at = 0;
  for (const frame of frames) {
    all.set(frame, at);
    at += frame.length;
  }
  return all;
}

const BAD_HEADER = new Uint8Array(8).fill(0xff);

/**
 * A socket, as the stream that TLS is spoken over; it can be kept from reading.
 * A TLS socket that is paused goes on reading in Deno, as of 2.9.
 */
class Valve extends Duplex {
  readonly raw: Socket;
  #open = true;

  constructor(raw: Socket) {
    super({ allowHalfOpen: true });
    this.raw = raw;
    raw.on("readable", () => this.#pass());
    raw.on("end", () => this.push(null));
    raw.on("error", (error) => this.destroy(error));
    raw.on("close", () => this.destroy());
  }

  shut(): void {
    this.#open = false;
  }

  reopen(): void {
    this.#open = true;
    this.#pass();
  }

  override _read(): void {
    this.#pass();
  }

  override _write(chunk: Uint8Array, _: string, done: () => void): void {
    this.raw.write(chunk, () => done());
  }

  override _final(done: () => void): void {
    this.raw.end(done);
  }

  override _destroy(
    error: Error | null,
    done: (e: Error | null) => void,
  ): void {
    this.raw.destroy();
    done(error);
  }

  #pass(): void {
    for (let chunk; this.#open && (chunk = this.raw.read()) !== null;) {
      if (!this.push(chunk)) break;
    }
  }
}

class Peer {
  readonly socket: Socket;
  readonly #raw: Socket;
  readonly #valve: Valve | undefined;
  readonly #decoder = new FrameDecoder();
  readonly #frames: Uint8Array[] = [];
  #ended = false;
  #closed = false;
  #wake: () => void = () => {};

  /** It does not read before it is told to. */
  constructor(socket: Socket, valve?: Valve) {
    this.socket = socket;
    this.#raw = valve?.raw ?? socket;
    this.#valve = valve;
    valve?.shut();
    socket.on("error", () => {});
    socket.on("end", () => {
      this.#ended = true;
      this.#wake();
    });
    socket.on("close", () => {
      this.#ended = this.#closed = true;
      this.#wake();
    });
  }

  static async connect(
    carrier: Carrier,
    port: number,
    path?: string,
  ): Promise<Peer> {
    const raw = path !== undefined
      ? connect({ path, allowHalfOpen: true })
      : connect({ host: "127.0.0.1", port, allowHalfOpen: true });
    await ready(raw, "connect");
    if (carrier !== "TLS") return new Peer(raw);
    const valve = new Valve(raw);
    const socket = connectTls({
      socket: valve,
      ca: CA,
      servername: "localhost",
    });
    await ready(socket, "secureConnect");
    return new Peer(socket, valve);
  }

  /** The other side of a connection that a server of bare sockets has accepted. */
  static async accepted(carrier: Carrier, raw: Socket): Promise<Peer> {
    if (carrier !== "TLS") return new Peer(raw);
    const valve = new Valve(raw);
    const socket = new TLSSocket(valve, {
      isServer: true,
      secureContext: createSecureContext(IDENTITY),
    });
    await ready(socket, "secure");
    return new Peer(socket, valve);
  }

  /** Begins to read. */
  read(): this {
    this.#valve?.reopen();
    this.socket.on("data", (chunk: Uint8Array) => {
      this.#decoder.push(chunk);
      this.#frames.push(...this.#decoder);
      this.#wake();
    });
    return this;
  }

  send(...payloads: (number | Uint8Array)[]): void {
    this.socket.write(wire(...payloads));
  }

  write(chunk: Uint8Array): void {
    this.socket.write(chunk);
  }

  /** The next frame; null where the stream ends. */
  async receive(): Promise<Uint8Array | null> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame !== undefined) return frame;
      if (this.#ended) return null;
      await this.#change();
    }
  }

  /** The first bytes of so many frames, or of those up to the end. */
  async heads(count = Infinity): Promise<number[]> {
    const heads: number[] = [];
    while (heads.length < count) {
      const frame = await this.receive();
      if (frame === null) break;
      heads.push(frame[0]!);
    }
    return heads;
  }

  /** Waits for the end of the stream, or of the connection. */
  async ended(): Promise<void> {
    while (!this.#ended) await this.#change();
  }

  get gone(): boolean {
    return this.#closed;
  }

  halfClose(): void {
    this.socket.end();
  }

  get port(): number | undefined {
    return this.#raw.localPort;
  }

  /** Ends with a reset, where there is such a thing. */
  reset(): void {
    // Unix sockets have none.
    if (this.port !== undefined) this.#raw.resetAndDestroy?.();
    this.close();
  }

  close(): void {
    this.socket.destroy();
    this.#raw.destroy();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#wake = resolve);
  }
}

/** Waits until a socket is ready, by its own word. */
async function ready(socket: Socket, event: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once(event, () => resolve());
  socket.once("error", reject);
  socket.once("close", () => reject(new Error("It closed")));
  await promise;
}

/** A server of bare sockets. */
class Script {
  readonly carrier: Carrier;
  readonly path: string | undefined;
  readonly peers: Peer[] = [];
  readonly #sockets: Socket[] = [];
  readonly #server: Server;
  #wake: () => void = () => {};

  private constructor(
    carrier: Carrier,
    path: string | undefined,
    server: Server,
  ) {
    this.carrier = carrier;
    this.path = path;
    this.#server = server;
  }

  /** @param reading Whether it reads what it accepts. */
  static async listen(carrier: Carrier, reading = true): Promise<Script> {
    const path = carrier === "a Unix socket" ? pathFor() : undefined;
    const server = createServer({ allowHalfOpen: true });
    const script = new Script(carrier, path, server);
    server.on("connection", async (raw: Socket) => {
      script.#sockets.push(raw);
      raw.on("error", () => {});
      let peer: Peer;
      try {
        peer = await Peer.accepted(carrier, raw);
      } catch {
        return; // It did not speak TLS to the end.
      }
      if (reading) peer.read();
      script.peers.push(peer);
      script.#wake();
    });
    await new Promise<void>((resolve) =>
      path !== undefined
        ? server.listen(path, resolve)
        : server.listen(0, "127.0.0.1", resolve)
    );
    return script;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  client(options: ClientOptions = {}): Client {
    return new Client({
      ...targetOf(this.carrier, this.port, this.path),
      ...options,
    });
  }

  /** The connection of that number, once it is there. */
  async peer(number: number): Promise<Peer> {
    while (this.peers.length < number) {
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    return this.peers[number - 1]!;
  }

  async end(): Promise<void> {
    for (const peer of this.peers) peer.close();
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    if (this.path !== undefined) {
      rmSync(join(this.path, ".."), { recursive: true });
    }
  }
}

// Time.

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until something is so, for half a minute at most. */
async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!holds()) {
    assert.ok(performance.now() < deadline, `It did not come about: ${what}`);
    await sleep(5);
  }
}

/** Resolves when a signal aborts. */
function abortOf(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) =>
    signal.addEventListener("abort", () => resolve(), { once: true })
  );
}

async function errorOf(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof Error);
    return error;
  }
  assert.fail("It was not rejected");
}

// Framing.

for (const length of [0, 1, 65, 16 * 1024, 64 * 1024 + 1, 3 * 1024 * 1024]) {
  forEach(`A payload of ${length} bytes comes back whole`, async (carrier) => {
    const serving = new Serving(carrier);
    const client = serving.client();
    const payload = new Uint8Array(length).map((_, i) => i * 7 + (i >> 8));
    const response = await client.send(payload);
    assert.equal(response.length, length);
    assert.ok(response.every((byte, i) => byte === payload[i]));
    await client.close();
    await serving.end();
  });
}

forEach("A frame that comes byte by byte is one request", async (carrier) => {
  const sizes: number[] = [];
  const serving = new Serving(carrier, (payload) => {
    sizes.push(payload.length);
    return payload;
  });
  const peer = (await serving.peer()).read();
  for (const byte of wire(bytes(1, 2, 3, 4, 5))) {
    peer.write(bytes(byte));
    await sleep(1);
  }
  assert.deepEqual(await peer.receive(), bytes(1, 2, 3, 4, 5));
  assert.deepEqual(sizes, [5]);
  peer.close();
  await serving.end();
});

forEach(
  "Frames that come in one write are answered in order",
  async (carrier) => {
    const serving = new Serving(carrier);
    const peer = (await serving.peer()).read();
    const numbers = Array.from({ length: 200 }, (_, i) => i);
    peer.send(...numbers);
    assert.deepEqual(await peer.heads(200), numbers);
    peer.close();
    await serving.end();
  },
);

forEach("A layout of another protocol holds on both sides", async (carrier) => {
  const layout = {
    lengthFieldLength: 2,
    byteOrder: "little",
    lengthAdjustment: -2,
  } as const;
  const serving = new Serving(carrier, echo, layout);
  const client = serving.client(layout);
  for (const length of [0, 1, 1000]) {
    assert.equal((await client.send(new Uint8Array(length))).length, length);
  }
  await client.close();
  await serving.end();
});

forEach(
  "What comes before a bad frame is answered, then the stream ends",
  async (carrier) => {
    const errors: unknown[] = [];
    const serving = new Serving(carrier, echo, {
      onError: (error) => void errors.push(error),
    });
    const peer = (await serving.peer()).read();
    peer.send(1, 2);
    peer.write(BAD_HEADER);
    assert.deepEqual(await peer.heads(), [1, 2]);
    assert.equal(errors.length, 1);
    assert.equal((errors[0] as Error).name, "FrameTooLargeError");
    peer.close();
    await serving.end();
  },
);

forEach(
  "A response that no one asked for ends the connection",
  async (carrier) => {
    const script = await Script.listen(carrier);
    const client = script.client({ minIdle: 1, initialCap: 1 });
    const peer = await script.peer(1);
    await until("it is idle", () => client.stats().pool.idle === 1);
    peer.send(1);
    await peer.ended();
    await client.close();
    await script.end();
  },
);

// Order, pipelining, concurrency.

forEach(
  "Responses keep the order of requests, however long each takes",
  async (carrier) => {
    const serving = new Serving(carrier, async (payload) => {
      await sleep(payload[0]!);
      return payload;
    }, { concurrency: 8 });
    const peer = (await serving.peer()).read();
    peer.send(40, 1, 20, 2, 30, 3);
    assert.deepEqual(await peer.heads(6), [40, 1, 20, 2, 30, 3]);
    peer.close();
    await serving.end();
  },
);

forEach("No more than concurrency handlers run at once", async (carrier) => {
  let running = 0;
  let most = 0;
  const serving = new Serving(carrier, async (payload) => {
    most = Math.max(most, ++running);
    await sleep(5);
    running--;
    return payload;
  }, { concurrency: 3 });
  const peer = (await serving.peer()).read();
  peer.send(...Array.from({ length: 12 }, (_, i) => i));
  assert.equal((await peer.heads(12)).length, 12);
  assert.equal(most, 3);
  peer.close();
  await serving.end();
});

forEach(
  "A thousand pipelined requests get their own responses",
  async (carrier) => {
    const serving = new Serving(carrier);
    const client = serving.client({ maxCap: 1, pipelining: 1000 });
    const responses = await Promise.all(
      Array.from(
        { length: 1000 },
        (_, i) => client.send(bytes(i >> 8, i & 0xff)),
      ),
    );
    for (const [i, response] of responses.entries()) {
      assert.deepEqual(response, bytes(i >> 8, i & 0xff));
    }
    assert.equal(client.stats().pool.openedCount, 1);
    await client.close();
    await serving.end();
  },
);

forEach("A hundred connections at once are all served", async (carrier) => {
  const serving = new Serving(carrier);
  const client = serving.client({ maxCap: 100 });
  const responses = await Promise.all(
    Array.from({ length: 100 }, (_, i) => client.send(bytes(i))),
  );
  assert.deepEqual(
    responses.map(([head]) => head),
    Array.from({ length: 100 }, (_, i) => i),
  );
  await client.close();
  await serving.end();
});

// Timeouts.

forEach(
  "idleTimeout ends a silent connection, and no busy one",
  async (carrier) => {
    const serving = new Serving(carrier, echo, { idleTimeout: 200 });
    const silent = (await serving.peer()).read();
    const busy = (await serving.peer()).read();
    let over = false;
    silent.ended().then(() => over = true);
    while (!over) {
      busy.send(1);
      assert.deepEqual(await busy.heads(1), [1]);
      await sleep(20);
    }
    busy.send(2);
    assert.deepEqual(await busy.heads(1), [2]);
    silent.close();
    busy.close();
    await serving.end();
  },
);

forEach(
  "readTimeout ends a frame that does not come whole",
  async (carrier) => {
    const errors: unknown[] = [];
    const serving = new Serving(carrier, echo, {
      readTimeout: 150,
      onError: (error) => void errors.push(error),
    });
    const peer = (await serving.peer()).read();
    peer.write(wire(1).subarray(0, 8));
    await peer.ended();
    assert.equal((errors[0] as Error).name, "TimedOut");
    peer.close();
    await serving.end();
  },
);

forEach("writeTimeout ends a peer that does not read", async (carrier) => {
  const serving = new Serving(
    carrier,
    () => new Uint8Array(15 * 1024 * 1024),
    { writeTimeout: 200 },
  );
  const peer = await serving.peer();
  peer.send(1, 1, 1);
  await until("it is served", () => serving.server.stats().requests > 0);
  await until("it is cut", () => serving.server.stats().connections === 0);
  peer.close();
  await serving.end();
});

forEach(
  "requestTimeout rejects, and the late response reaches nobody",
  async (carrier) => {
    const script = await Script.listen(carrier);
    const client = script.client({ maxCap: 1, requestTimeout: 150 });
    const late = errorOf(client.send(bytes(1)));
    const one = await script.peer(1);
    assert.deepEqual(await one.receive(), bytes(1));
    assert.ok((await late) instanceof RequestTimeoutError);
    one.send(11);
    const next = client.send(bytes(2), { timeout: 10_000 });
    const two = await script.peer(2);
    assert.deepEqual(await two.receive(), bytes(2));
    two.send(22);
    assert.deepEqual(await next, bytes(22));
    await client.close();
    await script.end();
  },
);

// Aborts.

forEach(
  "A request that is aborted before it is sent is never sent",
  async (carrier) => {
    const serving = new Serving(carrier);
    const client = serving.client();
    const reason = new Error("enough");
    const error = await errorOf(
      client.send(bytes(1), { signal: AbortSignal.abort(reason) }),
    );
    assert.equal(error, reason);
    assert.deepEqual(await client.send(bytes(2)), bytes(2));
    assert.equal(serving.server.stats().requests, 1);
    await client.close();
    await serving.end();
  },
);

forEach(
  "A request that is aborted in flight rejects at once, and others get their own",
  async (carrier) => {
    const serving = new Serving(carrier, async (payload) => {
      await sleep(payload[0]!);
      return payload;
    }, { concurrency: 4 });
    const client = serving.client({ maxCap: 1, pipelining: 4 });
    const controller = new AbortController();
    const first = errorOf(
      client.send(bytes(100), { signal: controller.signal }),
    );
    const others = [10, 20].map((ms) => client.send(bytes(ms)));
    await until("they are sent", () => serving.server.stats().inFlight === 3);
    const reason = new Error("enough");
    controller.abort(reason);
    assert.equal(await first, reason);
    assert.deepEqual(
      (await Promise.all(others)).map(([head]) => head),
      [10, 20],
    );
    await client.close();
    await serving.end();
  },
);

forEach("A handler's signal aborts when its peer goes", async (carrier) => {
  let aborted = false;
  const serving = new Serving(carrier, async (_, { signal }) => {
    await abortOf(signal);
    aborted = true;
    throw signal.reason;
  });
  const peer = await serving.peer();
  peer.send(1);
  await until("it is handled", () => serving.server.stats().inFlight === 1);
  peer.close();
  await until("it is told", () => aborted);
  await until("it has ended", () => serving.server.stats().connections === 0);
  await serving.end();
});

forEach("An aborted signal closes the server", async (carrier) => {
  const controller = new AbortController();
  const serving = new Serving(carrier, () => never, {
    signal: controller.signal,
  });
  const peer = (await serving.peer()).read();
  peer.send(1);
  await until("it is handled", () => serving.server.stats().inFlight === 1);
  controller.abort();
  await serving.server.finished;
  await peer.ended();
  peer.close();
  await serving.end();
});

// Resends.

/** A client with one used connection, of which the peer has answered once. */
async function usedConnection(
  carrier: Carrier,
  options: ClientOptions,
): Promise<{ script: Script; client: Client; peer: Peer }> {
  const script = await Script.listen(carrier);
  const client = script.client({ maxCap: 1, ...options });
  const first = client.send(bytes(0));
  const peer = await script.peer(1);
  await peer.receive();
  peer.send(0);
  await first;
  return { script, client, peer };
}

forEach(
  "An idempotent request that is lost on a used connection is sent again",
  async (carrier) => {
    const { script, client, peer } = await usedConnection(carrier, {
      idempotent: true,
    });
    const request = client.send(bytes(7));
    assert.deepEqual(await peer.receive(), bytes(7));
    peer.reset();
    const other = await script.peer(2);
    assert.deepEqual(await other.receive(), bytes(7));
    other.send(77);
    assert.deepEqual(await request, bytes(77));
    assert.equal(client.stats().retries, 1);
    await client.close();
    await script.end();
  },
);

forEach(
  "A request that is not idempotent is never sent twice",
  async (carrier) => {
    const { script, client, peer } = await usedConnection(carrier, {});
    const request = errorOf(client.send(bytes(7)));
    assert.deepEqual(await peer.receive(), bytes(7));
    peer.reset();
    const error = await request;
    assert.ok(error instanceof ConnectionLostError);
    assert.equal(error.requestSent, true);
    assert.equal(script.peers.length, 1);
    await client.close();
    await script.end();
  },
);

forEach(
  "An idempotent request is not sent again once its response has begun",
  async (carrier) => {
    const { script, client, peer } = await usedConnection(carrier, {
      idempotent: true,
    });
    const request = errorOf(client.send(bytes(7)));
    await peer.receive();
    peer.write(wire(7).subarray(0, 5));
    await sleep(50);
    peer.reset();
    assert.ok((await request) instanceof ConnectionLostError);
    assert.equal(script.peers.length, 1);
    await client.close();
    await script.end();
  },
);

forEach(
  "A request that was not handed over whole was not sent",
  async (carrier) => {
    const script = await Script.listen(carrier, false);
    const client = script.client({
      maxCap: 1,
      maxFrameLength: 64 * 1024 * 1024,
    });
    const request = errorOf(client.send(new Uint8Array(60 * 1024 * 1024)));
    const peer = await script.peer(1);
    await sleep(100);
    peer.close();
    const error = await request;
    assert.ok(error instanceof ConnectionLostError);
    assert.equal(error.requestSent, false);
    await client.close();
    await script.end();
  },
);

forEach(
  "An idle connection that its server ends is not used again",
  async (carrier) => {
    const { script, client, peer } = await usedConnection(carrier, {});
    peer.close();
    await until("it is dropped", () => client.stats().pool.open === 0);
    const request = client.send(bytes(5));
    const other = await script.peer(2);
    await other.receive();
    other.send(55);
    assert.deepEqual(await request, bytes(55));
    assert.equal(client.stats().retries, 0);
    await client.close();
    await script.end();
  },
);

// Shutdown, in each state.

forEach("shutdown() ends an idle connection", async (carrier) => {
  const serving = new Serving(carrier);
  const peer = (await serving.peer()).read();
  peer.send(1);
  assert.deepEqual(await peer.heads(1), [1]);
  const shutdown = serving.server.shutdown();
  await peer.ended();
  peer.close();
  await shutdown;
  assert.equal(serving.server.stats().connections, 0);
  await serving.end();
});

forEach(
  "shutdown() lets requests finish, and their responses leave",
  async (carrier) => {
    const { promise: gate, resolve: open } = Promise.withResolvers<void>();
    const serving = new Serving(carrier, async (payload) => {
      await gate;
      return payload;
    }, { concurrency: 2 });
    const peer = (await serving.peer()).read();
    peer.send(1, 2, 3);
    await until("they are read", () => serving.server.stats().bytesIn === 27);
    const shutdown = serving.server.shutdown();
    open();
    assert.deepEqual(await peer.heads(), [1, 2, 3]);
    peer.close();
    await shutdown;
    await serving.end();
  },
);

forEach("shutdown() forces a handler that does not end", async (carrier) => {
  const serving = new Serving(carrier, () => never, { shutdownTimeout: 200 });
  const peer = (await serving.peer()).read();
  peer.send(1);
  await until("it is handled", () => serving.server.stats().inFlight === 1);
  const start = performance.now();
  await serving.server.shutdown();
  assert.ok(performance.now() - start >= 199);
  await peer.ended();
  peer.close();
  await serving.end();
});

forEach("shutdown() forces a peer that does not read", async (carrier) => {
  const serving = new Serving(
    carrier,
    () => new Uint8Array(15 * 1024 * 1024),
    { shutdownTimeout: 200 },
  );
  const peer = await serving.peer();
  peer.send(1, 1);
  await until("it is handled", () => serving.server.stats().requests > 0);
  await serving.server.shutdown();
  assert.equal(serving.server.stats().connections, 0);
  peer.close();
  await serving.end();
});

forEach("shutdown() does not wait for half a frame", async (carrier) => {
  const serving = new Serving(carrier, echo, { shutdownTimeout: 5000 });
  const peer = (await serving.peer()).read();
  peer.write(wire(1).subarray(0, 4));
  await until("it is read", () => serving.server.stats().bytesIn === 4);
  const start = performance.now();
  const shutdown = serving.server.shutdown();
  await peer.ended();
  peer.close();
  await shutdown;
  assert.ok(performance.now() - start < 4000);
  await serving.end();
});

forEach("close() ends everything at once", async (carrier) => {
  let aborted = false;
  const serving = new Serving(carrier, (_, context) => {
    context.signal.addEventListener("abort", () => aborted = true);
    return never;
  });
  const idle = (await serving.peer()).read();
  const busy = (await serving.peer()).read();
  busy.send(1);
  await until("it is handled", () => serving.server.stats().inFlight === 1);
  serving.server.close();
  await serving.server.finished;
  assert.ok(aborted);
  await Promise.all([idle.ended(), busy.ended()]);
  await serving.end();
  await errorOf(serving.peer());
});

forEach("close() of a client waits for what is in flight", async (carrier) => {
  const serving = new Serving(carrier, async (payload) => {
    await sleep(50);
    return payload;
  });
  const client = serving.client();
  const request = client.send(bytes(3));
  await client.close();
  assert.deepEqual(await request, bytes(3));
  assert.equal(client.stats().pool.open, 0);
  await errorOf(client.send(bytes(4)));
  await serving.end();
});

// Limits.

forEach(
  "Accepting pauses at maxConnections, and goes on when one ends",
  async (carrier) => {
    const serving = new Serving(carrier, echo, { maxConnections: 2 });
    const client = serving.client({ maxCap: 2, minIdle: 2, initialCap: 2 });
    await until("both are open", () => client.stats().pool.idle === 2);
    const third = serving.client({ connectTimeout: 20_000 });
    const waiting = third.send(bytes(9));
    await sleep(100);
    assert.equal(serving.server.stats().connections, 2);
    await client.close();
    assert.deepEqual(await waiting, bytes(9));
    await third.close();
    await serving.end();
  },
);

forEach("maxFrameLength is judged before anything is sent", async (carrier) => {
  const serving = new Serving(carrier);
  const client = serving.client({ maxFrameLength: 100 });
  const error = await errorOf(client.send(new Uint8Array(101)));
  assert.equal(error.name, "FrameTooLargeError");
  assert.equal(serving.server.stats().totalConnections, 0);
  await client.close();
  await serving.end();
});

forEach("A client opens no more than maxCap connections", async (carrier) => {
  const serving = new Serving(carrier, async (payload) => {
    await sleep(2);
    return payload;
  });
  const client = serving.client({ maxCap: 3 });
  await Promise.all(
    Array.from({ length: 60 }, (_, i) => client.send(bytes(i))),
  );
  assert.equal(serving.server.stats().totalConnections, 3);
  await client.close();
  await serving.end();
});

// Back-pressure.

forEach(
  "A peer that sends and does not read is not read from",
  async (carrier) => {
    let taken = 0;
    const serving = new Serving(carrier, (payload) => {
      if (payload.length > 1) taken++;
      return payload;
    });
    const slow = await serving.peer();
    const frame = wire(new Uint8Array(256 * 1024));
    const total = 80;
    for (let i = 0; i < total; i++) slow.write(frame);
    for (let before = -1; before !== taken;) {
      before = taken;
      // Others are served meanwhile.
      const other = (await serving.peer()).read();
      other.send(1);
      assert.deepEqual(await other.heads(1), [1]);
      other.close();
      await sleep(200);
    }
    // The kernel holds some of it on both sides, and the server little.
    assert.ok(taken < total, `${taken}`);
    slow.read();
    for (let i = 0; i < total; i++) {
      assert.equal((await slow.receive())!.length, 256 * 1024);
    }
    slow.close();
    await serving.end();
  },
);

forEach(
  "A server that does not read is not written to without end",
  async (carrier) => {
    const script = await Script.listen(carrier, false);
    const client = script.client({
      maxCap: 1,
      pipelining: 1000,
      requestTimeout: 0,
    });
    const requests = Array.from(
      { length: 100 },
      () => client.send(new Uint8Array(512 * 1024)).catch((error) => error),
    );
    const peer = await script.peer(1);
    await sleep(200);
    peer.close();
    const unsent = (await Promise.all(requests)).filter((error) =>
      error instanceof ConnectionLostError && !error.requestSent
    );
    assert.ok(unsent.length > 0);
    await client.close({ signal: AbortSignal.abort() });
    await script.end();
  },
);

// Resets and ends, at each stage.

const STAGES: [string, (peer: Peer) => void][] = [
  ["before its first byte", () => {}],
  ["within a length field", (peer) => peer.write(bytes(0, 0, 0))],
  ["within a payload", (peer) => peer.write(wire(bytes(1, 2)).subarray(0, 9))],
  ["while its handler runs", (peer) => peer.send(1)],
  ["while its response is written", (peer) => peer.send(2)],
];

for (const [stage, reach] of STAGES) {
  forEach(`A peer that resets ${stage} costs nobody else`, async (carrier) => {
    const errors: unknown[] = [];
    const serving = new Serving(
      carrier,
      async (payload, { signal }) => {
        if (payload[0] === 1) {
          await abortOf(signal);
          throw signal.reason;
        }
        return payload[0] === 2 ? new Uint8Array(15 * 1024 * 1024) : payload;
      },
      { onError: (error) => void errors.push(error) },
    );
    const peer = await serving.peer();
    const good = (await serving.peer()).read();
    reach(peer);
    await sleep(50);
    peer.reset();
    good.send(5);
    assert.deepEqual(await good.heads(1), [5]);
    good.close();
    await until(
      "both have ended",
      () => serving.server.stats().connections === 0,
    );
    assert.deepEqual(errors, []);
    await serving.end();
  });
}

forEach(
  "A peer that half-closes gets every response, then the end",
  async (carrier) => {
    const serving = new Serving(carrier, async (payload) => {
      await sleep(10);
      return payload;
    });
    const peer = (await serving.peer()).read();
    peer.send(1, 2, 3);
    peer.halfClose();
    assert.deepEqual(await peer.heads(), [1, 2, 3]);
    peer.close();
    await serving.end();
  },
);

forEach(
  "A server that ends within a response loses that request alone",
  async (carrier) => {
    const { script, client, peer } = await usedConnection(carrier, {});
    const request = errorOf(client.send(bytes(7)));
    await peer.receive();
    peer.write(wire(bytes(1, 2, 3)).subarray(0, 9));
    peer.halfClose();
    assert.ok((await request) instanceof ConnectionLostError);
    const next = client.send(bytes(8));
    const other = await script.peer(2);
    await other.receive();
    other.send(88);
    assert.deepEqual(await next, bytes(88));
    await client.close();
    await script.end();
  },
);

// Addresses.

forEach("A handler knows both addresses", async (carrier) => {
  const seen: { transport: string }[] = [];
  const serving = new Serving(carrier, (payload, { remoteAddr, localAddr }) => {
    seen.push(remoteAddr, localAddr);
    return payload;
  });
  const peer = (await serving.peer()).read();
  peer.send(1);
  await peer.heads(1);
  const [remote, local] = seen;
  assert.deepEqual({ ...local }, { ...serving.server.addr });
  if (carrier === "a Unix socket") {
    assert.equal(remote!.transport, "unix");
  } else {
    assert.deepEqual({ ...remote }, {
      transport: "tcp",
      hostname: "127.0.0.1",
      port: peer.port,
    });
  }
  peer.close();
  await serving.end();
});

forEach(
  "Nobody listens: ConnectError, and an address in use is refused",
  async (carrier) => {
    const serving = new Serving(carrier);
    const same = serving.path !== undefined
      ? { path: serving.path }
      : { port: serving.port };
    assert.throws(() => serve(same, echo));
    const target = serving.target();
    await serving.end();
    const client = new Client(target);
    assert.ok((await errorOf(client.send(bytes(1)))) instanceof ConnectError);
    await client.close();
  },
);

// Unix sockets.

const UNIX: readonly Carrier[] = ["a Unix socket"];

forEach(
  "A path whose socket nobody answers on is taken over",
  async (carrier) => {
    const serving = new Serving(carrier);
    const path = serving.path!;
    // A file that is left behind, as after a SIGKILL: its listener has been
    // closed under another name.
    const { renameSync, linkSync } = await import("node:fs");
    renameSync(path, `${path}.dead`);
    serving.server.close();
    await serving.server.finished;
    assert.ok(!existsSync(path));
    linkSync(`${path}.dead`, path);
    const server = serve({ path }, echo);
    const client = new Client({ path });
    assert.deepEqual(await client.send(bytes(1)), bytes(1));
    await client.close();
    await server.shutdown();
    assert.ok(!existsSync(path));
    await serving.end();
  },
  UNIX,
);

forEach("A path that is no socket is not taken over", async (carrier) => {
  const serving = new Serving(carrier);
  const { writeFileSync } = await import("node:fs");
  const path = `${serving.path!}.file`;
  writeFileSync(path, "precious");
  assert.throws(() => serve({ path }, echo));
  assert.equal(readFileSync(path, "utf8"), "precious");
  await serving.end();
}, UNIX);

forEach(
  "An old server's end leaves its successor's socket file",
  async (carrier) => {
    const serving = new Serving(carrier);
    const path = serving.path!;
    rmSync(path);
    // Files are told apart by the millisecond in which they were made.
    await sleep(20);
    const successor = serve({ path }, echo);
    await serving.server.shutdown();
    const client = new Client({ path });
    assert.deepEqual(await client.send(bytes(1)), bytes(1));
    await client.close();
    await successor.shutdown();
    await serving.end();
  },
  UNIX,
);

// TLS.

const TLS: readonly Carrier[] = ["TLS"];

forEach(
  "handshakeTimeout cuts a peer that does not speak, and no other",
  async (carrier) => {
    const serving = new Serving(carrier, echo, { handshakeTimeout: 200 });
    const silent = (await Peer.connect("TCP", serving.port)).read();
    const peer = (await serving.peer()).read();
    await silent.ended();
    peer.send(1);
    assert.deepEqual(await peer.heads(1), [1]);
    assert.equal(serving.server.stats().connections, 1);
    silent.close();
    peer.close();
    await serving.end();
  },
  TLS,
);

forEach(
  "A peer that does not speak TLS is cut, and reported",
  async (carrier) => {
    const errors: unknown[] = [];
    const serving = new Serving(carrier, echo, {
      onError: (error) => void errors.push(error),
    });
    const peer = await Peer.connect("TCP", serving.port);
    peer.send(1, 2, 3);
    await until("it is cut", () => errors.length === 1);
    assert.equal((errors[0] as Error).name, "InvalidData");
    peer.close();
    await serving.end();
  },
  TLS,
);

forEach("connectTimeout cuts a server that does not speak", async () => {
  const script = await Script.listen("TCP", false);
  const client = new Client({
    ...targetOf("TLS", script.port, undefined),
    connectTimeout: 150,
  });
  const error = await errorOf(client.send(bytes(1)));
  assert.ok(error instanceof ConnectError);
  assert.equal((error.cause as Error).name, "TimedOut");
  await client.close();
  await script.end();
}, TLS);

forEach(
  "An authority that is not known is not trusted, nor a name that is not the certificate's",
  async (carrier) => {
    const serving = new Serving(carrier);
    const { port } = serving;
    const targets: ClientOptions[] = [
      { port, hostname: "localhost", tls: true },
      { port, hostname: "localhost", tls: { caCerts: [OTHER_CA] } },
      { port, hostname: "127.0.0.2", tls: { caCerts: [CA] } },
    ];
    // Only Linux answers on the whole of 127.0.0.0/8.
    for (const target of targets) {
      const client = new Client(target);
      assert.ok((await errorOf(client.send(bytes(1)))) instanceof ConnectError);
      await client.close();
    }
    assert.equal(serving.server.stats().requests, 0);
    await serving.end();
  },
  TLS,
);

forEach("ALPN is negotiated", async (carrier) => {
  const serving = new Serving(carrier, echo, {
    alpnProtocols: ["wire/2", "wire/1"],
  });
  const socket = connectTls({
    host: "127.0.0.1",
    port: serving.port,
    servername: "localhost",
    ca: CA,
    ALPNProtocols: ["wire/1"],
  });
  await new Promise<void>((resolve, reject) => {
    socket.once("secureConnect", () => resolve());
    socket.once("error", reject);
  });
  assert.equal(socket.alpnProtocol, "wire/1");
  socket.destroy();
  await serving.end();
}, TLS);

forEach("A client shows its certificate, and the handler is told", async () => {
  let subject: string | undefined;
  const server = serve(
    { ...IDENTITY, caCerts: [OTHER_CA], onError() {} },
    (payload, context) => {
      subject = context.peerCertificate?.issuer;
      return payload;
    },
  );
  const { port } = server.addr as { port: number };
  const target = { hostname: "localhost", port };
  const shown = new Client({
    ...target,
    tls: { caCerts: [CA], ...OTHER },
  });
  assert.deepEqual(await shown.send(bytes(1)), bytes(1));
  assert.equal(subject, "CN=another test CA");
  for (const certificate of [{}, IDENTITY]) {
    const client = new Client({
      ...target,
      tls: { caCerts: [CA], ...certificate },
    });
    const error = await errorOf(client.send(bytes(1)));
    assert.ok(
      error instanceof ConnectError || error instanceof ConnectionLostError,
    );
    await client.close();
  }
  await shown.close();
  await server.shutdown();
  assert.equal(server.stats().requests, 1);
}, TLS);

forEach(
  "setCertificate() renews the certificate, and no connection is lost",
  async (carrier) => {
    const serving = new Serving(carrier);
    const before = serving.client();
    await before.send(bytes(1));
    serving.server.setCertificate(OTHER);
    assert.deepEqual(await before.send(bytes(2)), bytes(2));
    assert.equal(before.stats().pool.openedCount, 1);
    const after = serving.client({
      hostname: "localhost",
      tls: { caCerts: [OTHER_CA] },
    });
    assert.deepEqual(await after.send(bytes(3)), bytes(3));
    await before.close();
    await after.close();
    await serving.end();
  },
  TLS,
);

forEach("noDelay holds: answers in lockstep do not wait", async (carrier) => {
  const serving = new Serving(carrier);
  const client = serving.client({ maxCap: 1 });
  const times: number[] = [];
  for (let i = 0; i < 15; i++) {
    const start = performance.now();
    await client.send(new Uint8Array(20 * 1024));
    times.push(performance.now() - start);
  }
  // A delayed acknowledgement takes 40 ms.
  assert.ok(times.sort((a, b) => a - b)[7]! < 25, `${times}`);
  await client.close();
  await serving.end();
});
