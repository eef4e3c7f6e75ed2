/**
 * What the client's tests have in common: connections whose far end is the test
 * itself, the dials that give them, and clients to try on them.
 */
import { assertEquals, fail } from "@std/assert";
import { concat } from "@std/bytes";
import { Client, type ClientOptions } from "../client.ts";
import { encodeFrame, FrameDecoder, type FrameOptions } from "../codec.ts";
import { ascii, textOf } from "./bytes_support.ts";
import type { FakeTime } from "./client_time_support.ts";
import { ticks } from "./promise_support.ts";

/** The port of stubs, which nobody dials. */
export const PORT = 9;

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
