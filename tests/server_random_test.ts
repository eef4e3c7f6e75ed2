/**
 * Random traffic over stubs, against a model of what must come of it.
 *
 * `WIREPOOL_LONG=1` runs fifty times the rounds. A failure names its seed;
 * `WIREPOOL_SEED=<seed>` draws the same round again.
 */
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { concat, startsWith } from "@std/bytes";
import { encodeFrame, type FrameOptions } from "../codec.ts";
import { type Handler, NO_RESPONSE, serve, type Server } from "../server.ts";
import { chosenSeed, longRun, Random } from "./random_support.ts";
import {
  FakeListener,
  FakeTime,
  microtasks,
  StubConnection,
  wire,
} from "./server_support.ts";

const ROUNDS = longRun() ? 20_000 : 400;

/** What a handler does with a request. */
const FATES = [
  "returns bytes",
  "returns bytes",
  "returns bytes",
  "returns nothing",
  "resolves to bytes",
  "resolves to bytes at once",
  "resolves to nothing",
  "throws, recovered",
  "rejects, recovered late",
  "throws",
  "rejects",
  "returns no bytes",
  "resolves to too many bytes",
] as const;
type Fate = typeof FATES[number];

/** How a peer's stream of requests ends. */
const ENDS = [
  "end",
  "end in a frame",
  "bad frame",
  "silence",
  "reset",
  "failing write",
] as const;

/** Work that the driver lets go on when it likes. */
class Gates {
  readonly #waiting: (() => void)[] = [];

  wait(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  get size(): number {
    return this.#waiting.length;
  }

  /** Lets one of them go on, or the one that came first. */
  open(random: Random): void {
    const i = random.once(2) ? 0 : random.between(0, this.size - 1);
    this.#waiting.splice(i, 1)[0]?.();
  }
}

/** One peer: what it sends, and what it must be answered. */
class Peer {
  readonly conn: StubConnection;
  readonly end: typeof ENDS[number];
  readonly fates: Fate[];
  /** What is still to be sent. */
  readonly chunks: (Uint8Array | null | Error)[] = [];
  /** Requests that were handled, in order. */
  readonly handled: number[] = [];
  /** Requests that are handled now, and at most. */
  running = 0;
  mostRunning = 0;
  readonly #layout: FrameOptions;
  readonly #sizes: number[];

  constructor(
    random: Random,
    index: number,
    layout: FrameOptions,
    gates: Gates,
  ) {
    this.#layout = layout;
    this.end = random.pick(ENDS);
    const calm = random.once(2);
    const slow = random.once(2);
    const lastWrite = random.between(0, 4);
    const closeWrite = random.pick([
      undefined,
      undefined,
      undefined,
      null,
      () => Promise.reject(new Deno.errors.NotConnected("x")),
      () => Promise.resolve(),
    ]);
    this.conn = new StubConnection({
      write: async (p, call) => {
        if (slow) await gates.wait();
        if (this.end === "failing write" && call === lastWrite) {
          throw new Deno.errors.BrokenPipe("x");
        }
        return slow && random.once(2) ? random.between(0, p.length) : p.length;
      },
      ...(closeWrite === undefined ? {} : { closeWrite }),
    });
    const count = random.between(0, 30);
    this.fates = Array.from(
      { length: count },
      () => random.pick(calm ? FATES.slice(0, 9) : FATES),
    );
    this.#sizes = this.fates.map(() =>
      random.once(20) ? random.between(0, 100_000) : random.between(0, 50)
    );
    const requests = this.fates.map((_, i) => {
      const padding = random.once(20) ? random.between(0, 5000) : 0;
      const request = new Uint8Array(2 + padding);
      request[0] = index;
      request[1] = i;
      return request;
    });
    this.#cut(random, wire(requests, layout));
    switch (this.end) {
      case "end":
        this.chunks.push(null);
        break;
      case "end in a frame":
        this.chunks.push(wire([7], layout).subarray(0, -1), null);
        break;
      case "bad frame":
        // A length beyond the limit, and bytes that mean nothing after it.
        this.chunks.push(new Uint8Array(20).fill(0xff), random.bytes(50));
        break;
      case "reset":
        this.chunks.push(new Deno.errors.ConnectionReset("x"));
    }
  }

  /** What a request is answered with, if it is. */
  answer(i: number): Uint8Array {
    const answer = new Uint8Array(1 + this.#sizes[i]!);
    answer[0] = i;
    return answer;
  }

  /** What must be written when everything is handled: the answers up to the
   * first failure, and whether there is one. */
  expected(): { answers: Uint8Array[]; failure: number } {
    const answers: Uint8Array[] = [];
    for (const [i, fate] of this.fates.entries()) {
      switch (fate) {
        case "returns nothing":
        case "resolves to nothing":
          break;
        case "throws":
        case "rejects":
        case "returns no bytes":
        case "resolves to too many bytes":
          return { answers, failure: i };
        default:
          answers.push(this.answer(i));
      }
    }
    return { answers, failure: Infinity };
  }

  /** Whether all that came of it is as it must be. */
  check(concurrency: number, stopped: "forced" | "drained" | null): void {
    const { conn, handled, end } = this;
    const { answers, failure } = this.expected();
    assertEquals(this.running, 0);
    assertLessOrEqual(this.mostRunning, concurrency);
    assertLessOrEqual(handled.length, failure + concurrency);
    // Each once and in order.
    assertEquals(handled, handled.map((_, i) => i));
    assertEquals(conn.closes, 1);
    assertLessOrEqual(conn.mostWriting, 1);
    const all = concat(
      answers.map((answer) => encodeFrame(answer, this.#layout)),
    );
    assert(startsWith(all, conn.written), "something else was written");
    if (stopped === "forced" || end === "reset" || end === "failing write") {
      return;
    }
    const written = conn.answers(this.#layout).length;
    if (stopped === null || failure < handled.length) {
      assertEquals(written, answers.length);
      assertLessOrEqual(
        Math.min(this.fates.length, failure + 1),
        handled.length,
      );
    } else {
      // Whatever was handled was answered.
      assertEquals(
        written,
        answers.filter((answer) => answer[0]! < handled.length).length,
      );
    }
  }

  #cut(random: Random, bytes: Uint8Array): void {
    const largest = random.pick([1, 3, 20, 500, 100_000]);
    for (let at = 0; at < bytes.length;) {
      const size = random.between(1, largest);
      this.chunks.push(bytes.subarray(at, at + size));
      at += size;
    }
  }
}

/** How a server ends when its peers have done their part, or before. */
const LASTS = ["shutdown", "shutdown early", "close early"] as const;

async function round(random: Random): Promise<void> {
  using time = new FakeTime();
  using listener = new FakeListener();
  const gates = new Gates();
  const layout: FrameOptions = {
    lengthFieldLength: random.pick([4, 8]),
    maxFrameLength: 200_000,
  };
  const concurrency = random.pick([1, 1, 2, 3, 8]);
  const last = random.pick(LASTS);
  const peers: Peer[] = [];
  const count = random.between(1, 4);
  for (let i = 0; i < count; i++) {
    peers.push(new Peer(random, i, layout, gates));
  }
  let started = 0;
  let ended = 0;

  const failures = new WeakMap<object, () => unknown>();
  const failure = (recovery: () => unknown) => {
    const error = new Error("no");
    failures.set(error, recovery);
    return error;
  };
  const fateOf = (
    fate: Fate,
    answer: Uint8Array,
  ): ReturnType<Handler> => {
    switch (fate) {
      case "returns bytes":
        return answer;
      case "returns nothing":
        return NO_RESPONSE;
      case "resolves to bytes":
        return gates.wait().then(() => answer);
      case "resolves to bytes at once":
        return Promise.resolve(answer);
      case "resolves to nothing":
        return gates.wait().then(() => NO_RESPONSE);
      case "throws, recovered":
        throw failure(() => answer);
      case "rejects, recovered late":
        return gates.wait().then(() => {
          throw failure(() => gates.wait().then(() => answer));
        });
      case "throws":
        throw failure(() => {});
      case "rejects":
        return gates.wait().then(() => {
          throw failure(() => gates.wait());
        });
      case "returns no bytes":
        return "no" as unknown as Uint8Array;
      case "resolves to too many bytes":
        return gates.wait().then(() => new Uint8Array(200_001));
    }
  };
  const server: Server = serve({
    ...layout,
    concurrency,
    shutdownTimeout: 0,
    onError: (error) =>
      error instanceof Error ? failures.get(error)?.() : undefined,
    ...(random.once(2) ? {} : {
      hooks: {
        requestStart: () => void started++,
        requestEnd: () => void ended++,
      },
    }),
  }, (payload) => {
    const peer = peers[payload[0]!]!;
    const i = payload[1]!;
    peer.handled.push(i);
    peer.mostRunning = Math.max(peer.mostRunning, ++peer.running);
    let result: ReturnType<typeof fateOf>;
    try {
      result = fateOf(peer.fates[i]!, peer.answer(i));
    } catch (error) {
      peer.running--;
      throw error;
    }
    if (!(result instanceof Promise)) {
      peer.running--;
      return result;
    }
    return result.finally(() => peer.running--);
  });
  listener.push(...peers.map(({ conn }) => conn));
  await microtasks();

  // Until nothing is left to do, one thing after the other.
  let stop: Promise<void> | undefined;
  let stopped: "forced" | "drained" | null = null;
  const early = last === "shutdown" ? Infinity : random.between(0, 60);
  for (let step = 0;; step++) {
    if (step === early) {
      if (last === "close early") server.close();
      stopped = last === "close early" ? "forced" : "drained";
      stop = server.shutdown();
      await time.advance(5);
    }
    const talking = peers.filter(({ chunks }) => chunks.length > 0);
    if (talking.length === 0 && gates.size === 0) {
      // A write that moved nothing is tried again.
      await microtasks();
      if (gates.size === 0) break;
    }
    if (gates.size > 0 && (talking.length === 0 || random.once(2))) {
      gates.open(random);
    } else {
      const peer = random.pick(talking);
      const burst = random.between(1, 5);
      peer.conn.feed(...peer.chunks.splice(0, burst));
    }
    const turns = random.between(0, 20);
    for (let i = 0; i < turns; i++) await undefined;
  }
  for (let i = 0; i < 5; i++) await microtasks();
  stop ??= server.shutdown();
  await time.advance(10);
  while (gates.size > 0) {
    gates.open(random);
    await microtasks();
  }
  await time.advance(600);
  await stop;
  await server.finished;

  const { connections, inFlight, requests } = server.stats();
  assertEquals([connections, inFlight], [0, 0]);
  assertEquals(
    requests,
    peers.reduce((sum, { handled }) => sum + handled.length, 0),
  );
  assertEquals(started, ended);
  assertEquals(time.timers, 0);
  for (const peer of peers) peer.check(concurrency, stopped);
}

Deno.test("Random traffic is answered as the model says, whatever fails and ends when", async () => {
  const first = chosenSeed();
  for (let i = 0; i < ROUNDS; i++) {
    const seed = (first + i) >>> 0;
    try {
      await round(new Random(seed));
    } catch (error) {
      throw new Error(`WIREPOOL_SEED=${seed} fails`, { cause: error });
    }
  }
});
