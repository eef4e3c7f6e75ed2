/**
 * What the server's tests share: the other side of a connection, a connection
 * and a listener that do as they are told, and a clock that is wound by hand.
 */
import { concat } from "@std/bytes";
import { connect, type Socket } from "node:net";
import {
  encodeFrame,
  FrameDecoder,
  type FrameOptions,
  type Transport,
} from "../codec.ts";
import type { Handler, Server } from "../server.ts";
import { writeAll } from "./bytes_support.ts";
import { sleep } from "./time_support.ts";

// The real ones, whatever a FakeTime puts in their place.
const { setTimeout: startTimer } = globalThis;

/** Answers a request with itself. */
export const echo: Handler = (payload) => payload;

/** What a handler that never answers returns. */
export const never: Promise<never> = new Promise(() => {});

/** A length field that no limit allows. */
export const BAD_HEADER: Uint8Array = new Uint8Array(8).fill(0xff);

/** Frames, one after the other; a number is a payload of that one byte. */
export function wire(
  payloads: Iterable<number | Uint8Array>,
  options?: FrameOptions,
): Uint8Array<ArrayBuffer> {
  return concat(Array.from(payloads, (payload) =>
    encodeFrame(
      typeof payload === "number" ? Uint8Array.of(payload) : payload,
      options,
    )));
}

/** The payloads of whole frames. */
export function unwire(
  bytes: Uint8Array,
  options?: FrameOptions,
): Uint8Array[] {
  const decoder = new FrameDecoder(options);
  decoder.push(bytes);
  decoder.finish();
  return [...decoder];
}

/** The numbers from one to another, both included. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

/** The first bytes of payloads. */
export function heads(payloads: readonly Uint8Array[]): (number | undefined)[] {
  return payloads.map((payload) => payload[0]);
}

/** Lets what is ready to go on do so, timers and sockets included. */
export async function settle(turns = 2): Promise<void> {
  for (let i = 0; i < turns; i++) {
    await new Promise((resolve) => startTimer(resolve, 0));
  }
}

/** Lets what waits for no event go on: all that a stub ever waits for. */
export async function microtasks(): Promise<void> {
  for (let i = 0; i < 50; i++) await undefined;
}

/** Waits until something is so; fails when it does not come about. */
export async function until(
  condition: () => boolean,
  what: string,
): Promise<void> {
  for (let tries = 0; !condition(); tries++) {
    if (tries === 5000) throw new Error(`It did not come about: ${what}`);
    await sleep(tries < 10 ? 0 : 2);
  }
}

/** The client's side of a connection. */
export class Peer implements Disposable {
  readonly conn: Deno.Conn;
  readonly #decoder: FrameDecoder;
  readonly #options: FrameOptions | undefined;

  constructor(conn: Deno.Conn, options?: FrameOptions) {
    this.conn = conn;
    this.#decoder = new FrameDecoder(options);
    this.#options = options;
  }

  static async connect(server: Server, options?: FrameOptions): Promise<Peer> {
    const { hostname, port } = server.addr as Deno.NetAddr;
    const conn = await Deno.connect({ hostname, port });
    conn.setNoDelay();
    return new Peer(conn, options);
  }

  /** Sends frames in one go; a number is a payload of that one byte. */
  send(...payloads: (number | Uint8Array)[]): Promise<void> {
    return this.write(wire(payloads, this.#options));
  }

  /** Sends bytes as they are. */
  write(bytes: Uint8Array): Promise<void> {
    return writeAll(this.conn, bytes);
  }

  /** The next frame, or null at a clean end. */
  async receive(): Promise<Uint8Array | null> {
    for (;;) {
      const frame = this.#decoder.decode();
      if (frame !== null) return frame;
      const n = await this.conn.read(this.#decoder.space());
      if (n === null) {
        this.#decoder.finish();
        return null;
      }
      this.#decoder.advance(n);
    }
  }

  /** So many frames. */
  async receiveAll(count: number): Promise<Uint8Array[]> {
    const frames: Uint8Array[] = [];
    while (frames.length < count) {
      const frame = await this.receive();
      if (frame === null) break;
      frames.push(frame);
    }
    return frames;
  }

  /** Every frame up to a clean end. */
  rest(): Promise<Uint8Array[]> {
    return this.receiveAll(Infinity);
  }

  /** Sends one frame and gets one back. */
  async ask(payload: number | Uint8Array): Promise<Uint8Array | null> {
    await this.send(payload);
    return await this.receive();
  }

  [Symbol.dispose](): void {
    this.conn[Symbol.dispose]();
  }
}

/** A client's side that can reset its connection, which `Deno.Conn` cannot. */
export class Resetter {
  readonly #socket: Socket;

  constructor(server: Server) {
    const { hostname, port } = server.addr as Deno.NetAddr;
    this.#socket = connect(port, hostname);
  }

  /** Sends frames; a number is a payload of that one byte. */
  send(...payloads: (number | Uint8Array)[]): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#socket.write(wire(payloads), () => resolve());
    return promise;
  }

  /** Ends the connection by a reset. */
  reset(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#socket.on("close", () => resolve());
    this.#socket.resetAndDestroy();
    return promise;
  }
}

/** How a read of a {@linkcode StubConnection} goes: bytes, whatever is to be
 * reported as a number, an error to reject or (as a function) to throw with. */
export type ReadStep = Uint8Array | number | null | Error | (() => never);

export interface StubOptions {
  /** What a read does once there are no steps, instead of waiting. */
  read?: (p: Uint8Array) => number | null | Promise<number | null>;
  /** What a write does; it takes all unless told otherwise. */
  write?: (p: Uint8Array, call: number) => number | Promise<number>;
  /** Replaces `close`; what is under way then stays as it is. */
  close?: () => void;
  /** Null leaves `closeWrite` out; otherwise it replaces that of a peer that
   * ends its side at once. */
  closeWrite?: (() => Promise<void>) | null;
}

/** A connection without a socket. A read waits for the next step. */
export class StubConnection implements Transport {
  /** What each write was given, copied. */
  readonly writes: Uint8Array[] = [];
  /** The memory of every read. */
  readonly rooms: Uint8Array[] = [];
  reads = 0;
  /** Bytes that were read. */
  taken = 0;
  closes = 0;
  closeWrites = 0;
  /** Writes under way now, and at most. */
  writing = 0;
  mostWriting = 0;
  readonly closeWrite?: () => Promise<void>;
  readonly remoteAddr: Deno.Addr = {
    transport: "tcp",
    hostname: "192.0.2.1",
    port: 1,
  };
  readonly localAddr: Deno.Addr = {
    transport: "tcp",
    hostname: "192.0.2.2",
    port: 2,
  };
  readonly #options: StubOptions;
  readonly #steps: ReadStep[] = [];
  readonly #accepted: Uint8Array[] = [];
  #waiting: PromiseWithResolvers<void> | null = null;

  constructor(options: StubOptions = {}) {
    this.#options = options;
    const { closeWrite } = options;
    if (closeWrite === null) return;
    this.closeWrite = () => {
      this.closeWrites++;
      if (closeWrite !== undefined) return closeWrite();
      this.feed(null);
      return Promise.resolve();
    };
  }

  /** Steps of the reads to come. */
  feed(...steps: ReadStep[]): void {
    this.#steps.push(...steps);
    this.#waiting?.resolve();
    this.#waiting = null;
  }

  read(p: Uint8Array<ArrayBuffer>): Promise<number | null> {
    this.reads++;
    this.rooms.push(p);
    const step = this.#steps[0];
    if (typeof step === "function") {
      this.#steps.shift();
      step();
    }
    return this.#read(p);
  }

  async #read(p: Uint8Array): Promise<number | null> {
    while (this.#steps.length === 0) {
      if (this.closes > 0) throw new Deno.errors.Interrupted("closed");
      if (this.#options.read !== undefined) return this.#options.read(p);
      this.#waiting = Promise.withResolvers();
      await this.#waiting.promise;
    }
    const step = this.#steps.shift()!;
    if (step instanceof Error) throw step;
    if (!(step instanceof Uint8Array)) return step as number | null;
    const n = Math.min(p.length, step.length);
    p.set(step.subarray(0, n));
    if (n < step.length) this.#steps.unshift(step.subarray(n));
    this.taken += n;
    return n;
  }

  write(p: Uint8Array): Promise<number> {
    const call = this.writes.push(p.slice()) - 1;
    const { write } = this.#options;
    const n = write === undefined ? p.length : write(p, call);
    return this.#write(p, n);
  }

  async #write(p: Uint8Array, result: number | Promise<number>) {
    this.mostWriting = Math.max(this.mostWriting, ++this.writing);
    try {
      const n = await result;
      this.#accepted.push(p.slice(0, Math.max(0, n)));
      return n;
    } finally {
      this.writing--;
    }
  }

  close(): void {
    this.closes++;
    if (this.#options.close !== undefined) return this.#options.close();
    this.#waiting?.resolve();
    this.#waiting = null;
  }

  /** Whatever the writes have taken. */
  get written(): Uint8Array {
    return concat(this.#accepted);
  }

  /** The payloads that were written, which must be whole. */
  answers(options?: FrameOptions): Uint8Array[] {
    return unwire(this.written, options);
  }
}

/** Takes the place of `Deno.listen` until it is disposed of. */
export class FakeListener implements Disposable {
  readonly addr: Deno.Addr = {
    transport: "tcp",
    hostname: "127.0.0.1",
    port: 1,
  };
  accepts = 0;
  closed = false;
  /** Calls of `ref` and `unref`, in order. */
  readonly refs: boolean[] = [];
  /** What `Deno.listen` was asked for. */
  readonly asked: unknown[] = [];
  readonly #listen = Deno.listen;
  readonly #queue: (StubConnection | Error)[] = [];
  #waiting: PromiseWithResolvers<void> | null = null;

  constructor() {
    Deno.listen = ((options: unknown) => {
      this.asked.push(options);
      return this;
    }) as unknown as typeof Deno.listen;
  }

  /** What the next accepts come to. */
  push(...items: (StubConnection | Error)[]): void {
    this.#queue.push(...items);
    this.#waiting?.resolve();
    this.#waiting = null;
  }

  async accept(): Promise<StubConnection> {
    this.accepts++;
    while (this.#queue.length === 0) {
      if (this.closed) throw new Deno.errors.BadResource("closed");
      this.#waiting = Promise.withResolvers();
      await this.#waiting.promise;
    }
    const item = this.#queue.shift()!;
    if (item instanceof Error) throw item;
    return item;
  }

  close(): void {
    this.closed = true;
    this.#waiting?.resolve();
  }

  ref(): void {
    this.refs.push(true);
  }

  unref(): void {
    this.refs.push(false);
  }

  [Symbol.dispose](): void {
    Deno.listen = this.#listen;
  }
}

interface FakeTimer {
  at: number;
  /** Set for intervals. */
  every?: number;
  run: () => void;
}

/**
 * Timers and `performance.now()`, wound by hand. It starts at a time that is
 * no round number, and keeps the delays that were asked for.
 */
export class FakeTime implements Disposable {
  /** Delays of every `setTimeout`, in order. */
  readonly delays: number[] = [];
  #now = 1234.5;
  #ids = 0;
  readonly #timers = new Map<number, FakeTimer>();
  readonly #unrefed = new Set<number>();
  readonly #restore: () => void;

  constructor() {
    const { setTimeout, clearTimeout, setInterval, clearInterval } = globalThis;
    const { unrefTimer, refTimer } = Deno;
    this.#restore = () => {
      Object.assign(globalThis, {
        setTimeout,
        clearTimeout,
        setInterval,
        clearInterval,
      });
      Object.assign(Deno, { unrefTimer, refTimer });
      delete (performance as Partial<Performance>).now;
    };
    const clear = (id: number) => this.#timers.delete(id);
    Object.assign(globalThis, {
      setTimeout: (run: () => void, delay = 0) => {
        this.delays.push(delay);
        return this.#add({ at: this.#now + delay, run });
      },
      setInterval: (run: () => void, every: number) =>
        this.#add({ at: this.#now + every, every, run }),
      clearTimeout: clear,
      clearInterval: clear,
    });
    Object.assign(Deno, {
      unrefTimer: (id: number) => this.#unrefed.add(id),
      refTimer: (id: number) => this.#unrefed.delete(id),
    });
    performance.now = () => this.#now;
  }

  get now(): number {
    return this.#now;
  }

  /** Timers that are waiting. */
  get timers(): number {
    return this.#timers.size;
  }

  /** Those that keep the process alive. */
  get refed(): number {
    return [...this.#timers.keys()].filter((id) => !this.#unrefed.has(id))
      .length;
  }

  /** Winds the clock on, timer by timer. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    await microtasks();
    for (;;) {
      let next: number | undefined;
      let at = end;
      for (const [id, timer] of this.#timers) {
        if (next === undefined ? timer.at <= at : timer.at < at) {
          next = id;
          at = timer.at;
        }
      }
      if (next === undefined) break;
      const timer = this.#timers.get(next)!;
      this.#now = Math.max(this.#now, at);
      if (timer.every === undefined) this.#timers.delete(next);
      else timer.at += timer.every;
      timer.run();
      await microtasks();
    }
    this.#now = end;
  }

  /** Winds the clock on until a promise settles, for two seconds at most. */
  async until<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const done = () => settled = true;
    promise.then(done, done);
    for (let ms = 0; ms < 2000 && !settled; ms++) {
      await this.advance(1);
      // Some turns are real ones.
      if (ms < 20) await settle(1);
    }
    if (!settled) throw new Error("It did not settle");
    return await promise;
  }

  #add(timer: FakeTimer): number {
    this.#timers.set(++this.#ids, timer);
    return this.#ids;
  }

  [Symbol.dispose](): void {
    this.#restore();
  }
}

/** Runs a program that serves; it exits with 0 when nothing keeps it alive,
 * and with 7 when it has to be ended. */
export async function exitCode(
  program: string,
  ...flags: string[]
): Promise<number> {
  const server = new URL("../server.ts", import.meta.url);
  const { code, stderr } = await new Deno.Command("deno", {
    args: [
      "eval",
      ...flags,
      `import { serve } from ${JSON.stringify(server.href)};
      const echo = (payload) => payload;
      const bytes = (text) => new TextEncoder().encode(text);
      const request = new Uint8Array([0, 0, 0, 0, 0, 0, 0, 1, 42]);
      async function ask(server) {
        const conn = await Deno.connect(server.addr);
        await conn.write(request);
        await conn.read(new Uint8Array(9));
        return conn;
      }
      ${program}
      Deno.unrefTimer(setTimeout(() => Deno.exit(7), 500));`,
    ],
    cwd: new URL("..", import.meta.url),
    stdout: "null",
    stderr: "piped",
  }).output();
  if (code !== 0 && code !== 7) {
    throw new Error(new TextDecoder().decode(stderr));
  }
  return code;
}
