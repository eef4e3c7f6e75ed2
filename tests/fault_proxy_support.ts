/**
 * A TCP proxy that does to connections what networks do: it delays them, hands
 * their bytes on in dribs, holds them back, cuts them at any byte of either
 * direction, resets, half-closes or refuses them. It never changes, drops or
 * repeats a byte of a connection that goes on: TCP does not, either.
 *
 * What happens to the n-th connection follows from the seed and n alone.
 *
 * It is made of `node:net` because that can send a reset, which `Deno.Conn`
 * cannot.
 */
import { connect, createServer, type Server, type Socket } from "node:net";
import { freePort } from "./machine_support.ts";
import { Random } from "./random_support.ts";
import { sleep } from "./time_support.ts";

/** How a connection ends before its time, if it does. */
const ENDS = [
  "none", // goes on for as long as both sides like
  "cut", // both sides are closed
  "reset", // both sides get a reset
  "hold", // bytes stay in the proxy for a while: a black hole, until it heals
  "half", // one direction ends, the other goes on
  "slam", // is accepted, and reset at once
  "refuse", // as "slam", and for some milliseconds nobody listens
] as const;

/** How the bytes of a connection are handed on. */
const PACES = ["plain", "delay", "dribble"] as const;

/** One of the ways in which a connection can end. */
export type End = typeof ENDS[number];
/** One of the ways in which bytes are handed on. */
export type Pace = typeof PACES[number];

/** How likely each thing is, in parts of the whole; what is absent does not
 * happen. */
export interface FaultMix {
  ends: Partial<Record<End, number>>;
  paces: Partial<Record<Pace, number>>;
  /** Bytes of one direction before an end strikes are drawn from 0 to this. */
  reach: number;
  /** Longest time that bytes are held back, in milliseconds. */
  hold: number;
}

/** Everything at once, in proportions that let most requests through. No
 * connection is spared: those would soon be the only ones left. */
export const EVERYTHING: FaultMix = {
  ends: { cut: 12, reset: 12, hold: 3, half: 8, slam: 3, refuse: 1 },
  paces: { plain: 16, delay: 2, dribble: 2 },
  reach: 50_000,
  hold: 1000,
};

const NOTHING: FaultMix = { ends: {}, paces: {}, reach: 0, hold: 0 };

/** A proxy in front of one port of 127.0.0.1. */
export class FaultProxy {
  /** Where clients connect to. */
  readonly port: number;
  /** How often each thing has been done. */
  readonly counts: Record<End | Pace, number> = {
    none: 0,
    cut: 0,
    reset: 0,
    hold: 0,
    half: 0,
    slam: 0,
    refuse: 0,
    plain: 0,
    delay: 0,
    dribble: 0,
  };
  /** The port of the server; may be changed, for connections to come. */
  target: number;
  readonly #seed: number;
  readonly #links = new Set<Link>();
  #mix: FaultMix;
  #accepted = 0;
  #listener: Server;
  #closed = false;
  /** Ends when somebody listens again. */
  #refusing: Promise<void> = Promise.resolve();

  private constructor(
    listener: Server,
    target: number,
    seed: number,
    mix: FaultMix,
  ) {
    this.#listener = listener;
    this.port = portOf(listener);
    this.target = target;
    this.#seed = seed;
    this.#mix = mix;
    this.#accept(listener);
  }

  /** Starts a proxy in front of a port of 127.0.0.1. */
  static async start(
    target: number,
    seed: number,
    mix: FaultMix = EVERYTHING,
  ): Promise<FaultProxy> {
    return new FaultProxy(await listen(freePort()), target, seed, mix);
  }

  /** Connections that stand now. */
  get connections(): number {
    return this.#links.size;
  }

  /** Connections that have come. */
  get accepted(): number {
    return this.#accepted;
  }

  /**
   * Stops all faults: what was held back goes on, nothing more strikes. What
   * is broken already goes its way to the end, which is awaited.
   */
  async heal(): Promise<void> {
    this.#mix = NOTHING;
    await this.#refusing;
    const pending: Promise<unknown>[] = [];
    for (const link of this.#links) {
      link.heal();
      pending.push(link.broken ? link.ended : link.idle);
    }
    await Promise.all(pending);
    // Behind what was held back, ends may have waited: some turns of the event
    // loop carry them through.
    for (let turn = 0; turn < 20; turn++) await sleep(0);
  }

  /** Begins the faults, or goes on with others. */
  harm(mix: FaultMix = EVERYTHING): void {
    this.#mix = mix;
  }

  /** Cuts what stands, and ends. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#refusing;
    this.#listener.close();
    const ended = [...this.#links].map((link) => link.ended);
    for (const link of this.#links) link.destroy();
    await Promise.all(ended);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #accept(listener: Server): void {
    listener.on("connection", (client: Socket) => {
      const random = new Random(
        Math.imul(this.#seed, 0x9e3779b1) + this.#accepted++,
      );
      const end = draw(random, ENDS, this.#mix.ends);
      const pace = draw(random, PACES, this.#mix.paces);
      this.counts[pace]++;
      if (end === "slam" || end === "refuse") {
        this.counts[end]++;
        client.on("error", noop);
        client.resetAndDestroy();
        if (end === "refuse") this.#refuse(random.between(1, 20));
        return;
      }
      const link = new Link(client, this.target, random, {
        end,
        pace,
        down: random.once(2),
        // Early bytes are the interesting ones: headers, and first requests.
        at: Math.floor(this.#mix.reach * random.next() ** 3),
        hold: random.between(0, this.#mix.hold),
        struck: () => this.counts[end]++,
      });
      if (end === "none") this.counts.none++;
      this.#links.add(link);
      link.ended.then(() => this.#links.delete(link));
    });
  }

  /** Lets the system refuse connections for some time. */
  #refuse(duration: number): void {
    this.#refusing = this.#refusing.then(async () => {
      this.#listener.close();
      await sleep(duration);
      // Another process may have taken the port meanwhile.
      for (;;) {
        try {
          this.#listener = await listen(this.port);
          break;
        } catch {
          await sleep(5);
        }
      }
      if (this.#closed) this.#listener.close();
      else this.#accept(this.#listener);
    });
  }
}

/** What is in store for a connection. */
interface Fate {
  end: End;
  pace: Pace;
  /** Whether it strikes on the way down, from the server to the client. */
  down: boolean;
  /** After how many bytes of that direction. */
  at: number;
  /** For how long bytes are held back. */
  hold: number;
  /** Called when it strikes. */
  struck(): void;
}

/** A client's connection and the server's that belongs to it. */
class Link {
  /** Resolves when both sides are closed and nothing is being handed on. */
  readonly ended: Promise<void>;
  /** A direction has ended before its time. */
  broken = false;
  /** Resolves when what has come so far has been handed on. */
  idle: Promise<void> = Promise.resolve();
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #random: Random;
  #fate: Fate | null;
  /** Ends the wait of bytes that are held back. */
  readonly #release = Promise.withResolvers<void>();

  constructor(client: Socket, target: number, random: Random, fate: Fate) {
    this.#client = client;
    this.#random = random;
    this.#fate = fate;
    this.#server = connect({
      host: "127.0.0.1",
      port: target,
      allowHalfOpen: true,
      noDelay: true,
    });
    const closed = [client, this.#server].map((socket) =>
      new Promise<void>((resolve) =>
        socket.on("error", noop).on("close", () => {
          resolve();
          this.destroy();
        })
      )
    );
    const flows = [
      this.#flow(client, this.#server, false),
      this.#flow(this.#server, client, true),
    ];
    this.ended = Promise.all([...closed, ...flows]).then(noop);
  }

  heal(): void {
    this.#fate = null;
    this.#release.resolve();
  }

  destroy(): void {
    this.#release.resolve();
    this.#client.destroy();
    this.#server.destroy();
  }

  /** Hands one direction on; resolves when nothing more can come. */
  #flow(from: Socket, to: Socket, down: boolean): Promise<void> {
    return new Promise((resolve) => {
      let passed = 0;
      let under = false;
      let done = false;
      const finish = () => {
        done = true;
        if (!under) resolve();
      };
      from.on("close", finish);
      from.on("end", () => to.end());
      from.on("data", async (chunk: Uint8Array) => {
        // One chunk at a time: the kernel keeps the rest.
        from.pause();
        under = true;
        const forwarded = this.#forward(chunk, passed, to, down);
        this.idle = Promise.all([this.idle, forwarded]).then(noop);
        await forwarded;
        passed += chunk.length;
        under = false;
        if (done) resolve();
        else from.resume();
      });
    });
  }

  async #forward(
    chunk: Uint8Array,
    passed: number,
    to: Socket,
    down: boolean,
  ): Promise<void> {
    const fate = this.#fate;
    let rest = chunk;
    if (
      fate !== null && fate.end !== "none" && fate.down === down &&
      passed + chunk.length >= fate.at && !this.broken
    ) {
      const before = Math.max(0, fate.at - passed);
      await this.#send(chunk.subarray(0, before), to);
      rest = chunk.subarray(before);
      await this.#strike(fate, to);
    }
    await this.#send(rest, to);
  }

  async #strike(fate: Fate, to: Socket): Promise<void> {
    // It was healed while it sent.
    if (this.#fate === null || to.destroyed) return;
    fate.struck();
    switch (fate.end) {
      case "cut":
        this.broken = true;
        return this.destroy();
      case "reset":
        this.broken = true;
        this.#client.resetAndDestroy();
        this.#server.resetAndDestroy();
        return;
      case "half":
        this.broken = true;
        to.end();
        return;
      default: {
        const timer = setTimeout(this.#release.resolve, fate.hold);
        await this.#release.promise;
        clearTimeout(timer);
        this.#fate = null;
      }
    }
  }

  async #send(bytes: Uint8Array, to: Socket): Promise<void> {
    const pace = this.#fate?.pace ?? "plain";
    if (pace === "delay") await sleep(this.#random.between(0, 4));
    if (pace !== "dribble") return write(bytes, to);
    const most = Math.max(9, bytes.length / 40);
    for (let at = 0; at < bytes.length;) {
      const n = this.#random.between(1, most);
      await write(bytes.subarray(at, at + n), to);
      at += n;
      // Now and then the next bytes come in another turn of the event loop.
      if (this.#random.once(20)) await sleep(0);
    }
  }
}

/** Resolves when the system has the bytes, or will never have them. */
function write(bytes: Uint8Array, to: Socket): Promise<void> {
  if (bytes.length === 0 || !to.writable) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      to.off("close", done);
      resolve();
    };
    to.on("close", done);
    to.write(bytes, done);
  });
}

function listen(port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      server.off("error", reject);
      resolve(server);
    });
  });
}

function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === "string") {
    throw new Error("The proxy does not listen on a port");
  }
  return address.port;
}

function draw<K extends string>(
  random: Random,
  kinds: readonly K[],
  weights: Partial<Record<K, number>>,
): K {
  let total = 0;
  for (const kind of kinds) total += weights[kind] ?? 0;
  let rest = random.next() * total;
  for (const kind of kinds) {
    rest -= weights[kind] ?? 0;
    if (rest < 0) return kind;
  }
  return kinds[0]!;
}

function noop(): void {}
