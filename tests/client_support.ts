/**
 * What the client's tests have in common: servers that do as they are told,
 * connections whose far end is the test itself, and a clock that stands still.
 */
import {
  assertEquals,
  assertGreaterOrEqual,
  assertLessOrEqual,
  fail,
} from "@std/assert";
import { concat } from "@std/bytes";
import { Client, type ClientOptions } from "../client.ts";
import {
  encodeFrame,
  FrameDecoder,
  type FrameOptions,
  FrameReader,
} from "../codec.ts";
import { freePort } from "./machine_support.ts";

/** The port of stubs, which nobody dials. */
export const PORT = 9;

/** Text as bytes; each character is one. */
export function ascii(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

/** Bytes as text. */
export function textOf(payload: Uint8Array): string {
  return new TextDecoder().decode(payload);
}

/** Lets promises that can settle without I/O and without timers settle. */
export async function ticks(): Promise<void> {
  for (let i = 0; i < 60; i++) await null;
}

/** What a promise was rejected with; it must be. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  let value: unknown;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  fail(`Resolved with ${Deno.inspect(value)}`);
}

/** Resolves with a promise's value or with its error. */
export function outcomeOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.catch((error) => error);
}

/** How a promise stands, after {@linkcode ticks}: its value, its error or
 * `"pending"`. */
export async function stateOf(promise: Promise<unknown>): Promise<unknown> {
  let state: unknown = "pending";
  promise.then((value) => state = value, (error) => state = error);
  await ticks();
  return state;
}

// Servers on real sockets ---------------------------------------------------

/** One connection of a {@linkcode ScriptedServer}. */
export class Peer {
  readonly #frames: FrameReader;
  /** Requests that have come whole. */
  readonly requests: string[] = [];

  constructor(readonly conn: Deno.Conn) {
    this.#frames = new FrameReader(conn);
  }

  /** The next request, or `null` when the client has closed. */
  async receive(): Promise<string | null> {
    const frame = await this.#frames.read();
    if (frame === null) return null;
    const request = textOf(frame);
    this.requests.push(request);
    return request;
  }

  /** Expects these requests, in this order. */
  async expect(...requests: string[]): Promise<void> {
    const received: (string | null)[] = [];
    while (received.length < requests.length) {
      received.push(await this.receive());
    }
    assertEquals(received, requests);
  }

  /** Sends responses, in one write where they are small. */
  async respond(...responses: string[]): Promise<void> {
    await this.write(concat(responses.map((r) => encodeFrame(ascii(r)))));
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let n = 0; n < bytes.length;) {
      n += await this.conn.write(bytes.subarray(n));
    }
  }

  /** Answers `pong:request` to everything until the client closes. */
  async serve(): Promise<void> {
    for (let r = await this.receive(); r !== null; r = await this.receive()) {
      await this.respond(`pong:${r}`);
    }
  }

  /** Waits until the client has closed; it must not send anything. */
  async closed(): Promise<void> {
    try {
      assertEquals(await this.receive(), null);
    } catch (error) {
      if (error instanceof Deno.errors.ConnectionReset) return;
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.conn[Symbol.dispose]();
  }
}

/** A server that does what the test says, connection by connection. */
export class ScriptedServer {
  readonly #listener: Deno.Listener;
  readonly peers: Peer[] = [];

  constructor(
    // Not of the system's choice: a client that dials again once this one has
    // closed must not reach somebody else's.
    listener: Deno.Listener = Deno.listen({
      hostname: "127.0.0.1",
      port: freePort(),
    }),
  ) {
    this.#listener = listener;
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  async accept(): Promise<Peer> {
    const peer = new Peer(await this.#listener.accept());
    this.peers.push(peer);
    return peer;
  }

  /** Accepts for good, and has `serve` look after every connection; errors of
   * one end that one. */
  async run(
    serve: (peer: Peer, index: number) => Promise<void> = (peer) =>
      peer.serve(),
  ): Promise<void> {
    const serving: Promise<void>[] = [];
    for (;;) {
      let peer: Peer;
      try {
        peer = await this.accept();
      } catch {
        break;
      }
      const index = this.peers.length - 1;
      serving.push(
        serve(peer, index).catch(() => {}).then(() => {
          peer.conn[Symbol.dispose]();
        }),
      );
    }
    await Promise.all(serving);
  }

  [Symbol.dispose](): void {
    this.#listener[Symbol.dispose]();
    for (const peer of this.peers) peer[Symbol.dispose]();
  }
}

/** A server that answers `pong:request` on every connection. */
export function pongServer(): ScriptedServer & { done: Promise<void> } {
  const server = new ScriptedServer();
  return Object.assign(server, { done: server.run() });
}

// Connections without a socket ----------------------------------------------

interface Pending<T> {
  resolve: (value: T) => void;
  reject: (error: unknown) => void;
}

/**
 * A connection whose far end is the test: it says what reads give and what
 * writes take. Everything settles without I/O.
 */
export class StubConn {
  /** What each write was given: the views themselves. */
  readonly offers: Uint8Array[] = [];
  /** Bytes that writes have taken. */
  taken = 0;
  /** Requests taken whole. */
  readonly requests: string[] = [];
  /** Called with each request taken whole. */
  onRequest: ((request: string) => void) | undefined;
  /** Writes wait for {@linkcode take} or {@linkcode refuse}. */
  hold = false;
  /** Nothing that is under way settles, not even when it is closed. */
  stuck = false;
  closed = false;
  unrefs = 0;
  /** Socket options that were set. */
  readonly set: string[] = [];
  readonly #far: FrameDecoder;
  readonly #incoming: (Uint8Array | null | Error)[] = [];
  #reading: (Pending<number | null> & { room: Uint8Array }) | undefined;
  #writing: (Pending<number> & { chunk: Uint8Array }) | undefined;

  constructor(readonly frame: FrameOptions = {}) {
    this.#far = new FrameDecoder(frame);
  }

  /** A connection that answers `pong:request`. */
  static pong(frame?: FrameOptions): StubConn {
    const conn = new StubConn(frame);
    conn.onRequest = (request) => conn.respond(`pong:${request}`);
    return conn;
  }

  // The far end.

  /** The client reads these bytes; `null` is the end. */
  deliver(what: Uint8Array | null | Error): void {
    this.#incoming.push(what);
    this.#feed();
  }

  respond(...responses: string[]): void {
    this.deliver(
      concat(responses.map((r) => encodeFrame(ascii(r), this.frame))),
    );
  }

  /** The write under way takes `n` bytes; all of them where it is not said. */
  take(n: number = Infinity): void {
    const write = this.#writing;
    if (write === undefined) fail("No write is under way");
    this.#writing = undefined;
    write.resolve(this.#receive(write.chunk, n));
  }

  /** The write under way fails. */
  refuse(error: Error): void {
    const write = this.#writing;
    if (write === undefined) fail("No write is under way");
    this.#writing = undefined;
    write.reject(error);
  }

  /** Bytes of the write under way; 0 if there is none. */
  get offered(): number {
    return this.#writing?.chunk.length ?? 0;
  }

  #receive(chunk: Uint8Array, n: number): number {
    const taken = chunk.subarray(0, n);
    this.taken += taken.length;
    this.#far.push(taken);
    for (const frame of this.#far) {
      const request = textOf(frame);
      this.requests.push(request);
      this.onRequest?.(request);
    }
    return taken.length;
  }

  #feed(): void {
    const read = this.#reading;
    if (read === undefined || this.#incoming.length === 0) return;
    this.#reading = undefined;
    const next = this.#incoming.shift()!;
    if (next === null) read.resolve(null);
    else if (next instanceof Error) read.reject(next);
    else {
      const n = Math.min(next.length, read.room.length);
      read.room.set(next.subarray(0, n));
      if (n < next.length) this.#incoming.unshift(next.subarray(n));
      read.resolve(n);
    }
  }

  // The near end: what the client uses of `Deno.TcpConn`.

  read(room: Uint8Array): Promise<number | null> {
    if (this.closed) return Promise.reject(new Deno.errors.BadResource("gone"));
    if (this.#reading !== undefined) fail("Two reads at once");
    return new Promise((resolve, reject) => {
      this.#reading = { room, resolve, reject };
      this.#feed();
    });
  }

  write(chunk: Uint8Array): Promise<number> {
    if (this.closed) return Promise.reject(new Deno.errors.BadResource("gone"));
    if (this.#writing !== undefined) fail("Two writes at once");
    this.offers.push(chunk);
    if (!this.hold) return Promise.resolve(this.#receive(chunk, Infinity));
    return new Promise((resolve, reject) => {
      this.#writing = { chunk, resolve, reject };
    });
  }

  close(): void {
    if (this.closed) throw new Deno.errors.BadResource("Closed already");
    this.closed = true;
    if (this.stuck) return;
    const interrupted = new Deno.errors.Interrupted("operation canceled");
    this.#reading?.reject(interrupted);
    this.#writing?.reject(interrupted);
    this.#reading = this.#writing = undefined;
  }

  [Symbol.dispose](): void {
    if (!this.closed) this.close();
  }

  unref(): void {
    this.unrefs++;
  }

  setNoDelay(on = true): void {
    this.set.push(`noDelay ${on}`);
  }

  setKeepAlive(on = true): void {
    this.set.push(`keepAlive ${on}`);
  }

  handshake(): Promise<unknown> {
    return Promise.resolve({ alpnProtocol: null });
  }
}

/** A stub that takes nothing until it is told to. */
export function holding(): StubConn {
  return Object.assign(new StubConn(), { hold: true });
}

/** A method of `Deno` that tests replace. */
type Replaced = "connect" | "connectTls" | "startTls";

/** Replaces a method of `Deno` until it is disposed of. */
export function replace(
  method: Replaced,
  // deno-lint-ignore no-explicit-any
  by: (...args: any[]) => unknown,
): Disposable {
  const original = Deno[method];
  const define = (value: unknown) =>
    Object.defineProperty(Deno, method, {
      value,
      writable: true,
      configurable: true,
      enumerable: true,
    });
  // As those it stands for, it never throws at once.
  define((...args: unknown[]) => Promise.resolve().then(() => by(...args)));
  return { [Symbol.dispose]: () => void define(original) };
}

/** Dials give the stubs that it makes, until it is disposed of. */
export class StubNetwork implements Disposable {
  /** Every connection dialled, in order. */
  readonly conns: StubConn[] = [];
  readonly #replaced: Disposable[];

  constructor(make: (index: number) => StubConn = () => StubConn.pong()) {
    const dial = () => {
      const conn = make(this.conns.length);
      this.conns.push(conn);
      return conn;
    };
    this.#replaced = [
      replace("connect", dial),
      replace("startTls", (conn) => conn),
    ];
  }

  /** Every request that any connection took whole. */
  get requests(): string[] {
    return this.conns.flatMap((conn) => conn.requests);
  }

  [Symbol.dispose](): void {
    for (const replaced of this.#replaced) replaced[Symbol.dispose]();
  }
}

/** Stubs that answer nothing. */
export function silent(): StubNetwork {
  return new StubNetwork(() => new StubConn());
}

/** Has a client of {@linkcode holding} stubs write half of a request. */
export async function halfWritten(client: Client, network: StubNetwork) {
  const early = client.send(new Uint8Array(300_000));
  await ticks();
  const [one] = network.conns as [StubConn];
  one.take();
  await ticks();
  one.take(1000);
  await ticks();
  return { one, early };
}

// Time ----------------------------------------------------------------------

interface FakeTimer {
  id: number;
  at: number;
  every: number | undefined;
  ref: boolean;
  run: () => void;
}

/** Time that passes only in {@linkcode FakeTime.pass}, until it is disposed
 * of. With stubs, everything but time is then in the test's hands too. */
export class FakeTime implements Disposable {
  now = 1000;
  readonly #timers = new Map<number, FakeTimer>();
  #lastId = 0;
  readonly #restore: (() => void)[] = [];

  constructor() {
    const add = (run: () => void, delay = 0, repeats: boolean) => {
      const id = ++this.#lastId;
      const every = repeats ? delay : undefined;
      const at = this.now + delay;
      this.#timers.set(id, { id, at, every, ref: true, run });
      return id;
    };
    const ref = (id: number, ref: boolean) => {
      const timer = this.#timers.get(id);
      if (timer !== undefined) timer.ref = ref;
    };
    this.#swap(globalThis, {
      setTimeout: (run: () => void, delay?: number) => add(run, delay, false),
      setInterval: (run: () => void, delay?: number) => add(run, delay, true),
      clearTimeout: (id: number) => void this.#timers.delete(id),
      clearInterval: (id: number) => void this.#timers.delete(id),
    });
    this.#swap(performance, { now: () => this.now });
    this.#swap(Deno, {
      refTimer: (id: number) => ref(id, true),
      unrefTimer: (id: number) => ref(id, false),
    });
  }

  /** Timers that run, and of those how many keep the process alive. */
  get timers(): { running: number; referenced: number } {
    const timers = [...this.#timers.values()];
    return {
      running: timers.length,
      referenced: timers.filter(({ ref }) => ref).length,
    };
  }

  /** Lets time pass; timers fire when they are due, each in its own turn. */
  async pass(duration: number): Promise<void> {
    const end = this.now + duration;
    for (;;) {
      await ticks();
      let next: FakeTimer | undefined;
      for (const timer of this.#timers.values()) {
        if (timer.at <= end && (next === undefined || timer.at < next.at)) {
          next = timer;
        }
      }
      if (next === undefined) break;
      this.now = Math.max(this.now, next.at);
      if (next.every === undefined) this.#timers.delete(next.id);
      else next.at += next.every;
      next.run();
    }
    this.now = end;
    await ticks();
  }

  #swap(target: object, values: Record<string, unknown>): void {
    for (const [name, value] of Object.entries(values)) {
      const original = Object.getOwnPropertyDescriptor(target, name);
      Object.defineProperty(target, name, {
        value,
        writable: true,
        configurable: true,
      });
      this.#restore.push(() => {
        if (original === undefined) Reflect.deleteProperty(target, name);
        else Object.defineProperty(target, name, original);
      });
    }
  }

  [Symbol.dispose](): void {
    for (const restore of this.#restore) restore();
  }
}

/** A client of stubs that has no limits in time but those that are given. */
export function newClient(options: Partial<ClientOptions> = {}): Client {
  return new Client({
    port: PORT,
    idleTimeout: 0,
    connectTimeout: 0,
    ...options,
  });
}

/** Closes a client whatever it is doing, and sees that nothing is left; no
 * timer, either, where time is fake. */
export async function end(client: Client, time?: FakeTime): Promise<void> {
  await client.close({ signal: AbortSignal.abort() });
  const { inFlight, pool } = client.stats();
  assertEquals({ inFlight, open: pool.open }, { inFlight: 0, open: 0 });
  if (time === undefined) return;
  await time.pass(2000);
  assertEquals(time.timers.running, 0);
}

/** When a promise is rejected, and with what. */
export async function fate(
  promise: Promise<unknown>,
  time: FakeTime,
): Promise<{ error: unknown; at: number }> {
  const error = await rejection(promise);
  return { error, at: time.now };
}

/** When a timeout may fire at the latest. */
export function latest(timeout: number): number {
  return timeout + Math.max(50, timeout / 10);
}

/** Neither early nor later than a timeout may be. */
export function assertInTime(taken: number, timeout: number): void {
  assertGreaterOrEqual(taken, timeout, "It timed out early");
  assertLessOrEqual(taken, latest(timeout));
}

/** An `AbortSignal` that counts its listeners. */
export class CountingSignal {
  readonly #controller = new AbortController();
  /** Listeners now, most at any time, and calls that added one. */
  listeners = 0;
  most = 0;
  added = 0;

  constructor() {
    const { signal } = this.#controller;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    const known = new Set<unknown>();
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      known.add(args[1]);
      this.listeners = known.size;
      this.most = Math.max(this.most, known.size);
      this.added++;
      add(...args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      known.delete(args[1]);
      this.listeners = known.size;
      remove(...args);
    };
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(reason?: unknown): void {
    this.#controller.abort(reason);
  }
}
