/**
 * Random traffic in order over stubs, against a model of what must come of it:
 * with handshakes that fail and hang, goaways, and hooks that call back. Traffic
 * with ids has `server_correlated_random_test.ts`.
 *
 * `WIREPOOL_LONG=1` runs twenty times the rounds. A failure names its seed;
 * `WIREPOOL_SEED=<seed>` draws the same round again.
 */
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { concat, endsWith, startsWith } from "@std/bytes";
import {
  encodeFrame,
  type FrameOptions,
  type HandshakeConnection,
} from "../codec.ts";
import {
  type CloseReason,
  type Handler,
  type HandlerContext,
  NO_RESPONSE,
  serve,
  type Server,
} from "../server.ts";
import { chosenSeed, longRun, Random } from "./random_support.ts";
import {
  FakeListener,
  FakeTime,
  microtasks,
  StubConnection,
  unwire,
  wire,
} from "./server_support.ts";

const ROUNDS = longRun() ? 8_000 : 400;

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

/** What a handshake does with its peer. */
const GREETINGS = ["good", "good", "good", "late", "throws", "hangs"] as const;

/** What a handshake writes. */
const HELLO = Uint8Array.of(251);

/** No answer begins like this. */
const GOAWAY = Uint8Array.of(250, 1, 2);

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
  /** What the handshake does, if there is one. */
  readonly greeting: typeof GREETINGS[number] | undefined;
  /** What the hooks were told of it. */
  context: HandlerContext | undefined;
  readonly reasons: CloseReason[] = [];
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
    greets: boolean,
  ) {
    this.#layout = layout;
    this.greeting = greets ? random.pick(GREETINGS) : undefined;
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
    // The handshake's frame says whose it is.
    const first = greets ? [Uint8Array.of(index)] : [];
    this.#cut(random, wire([...first, ...requests], layout));
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
  check(
    concurrency: number,
    stopped: "forced" | "drained" | null,
    goaway: Uint8Array | undefined,
  ): void {
    const { conn, handled, end, greeting } = this;
    const { answers, failure } = this.expected();
    this.#checkReason(stopped);
    if (this.context === undefined) {
      // The server was closed before it was accepted.
      assertEquals([stopped, conn.writes.length], ["forced", 0]);
      return;
    }
    assertEquals(this.running, 0);
    assertLessOrEqual(this.mostRunning, concurrency);
    assertLessOrEqual(handled.length, failure + concurrency);
    // Each once and in order.
    assertEquals(handled, handled.map((_, i) => i));
    assertEquals(conn.closes, 1);
    assertLessOrEqual(conn.mostWriting, 1);
    const frame = (payload: Uint8Array) => encodeFrame(payload, this.#layout);
    const all = concat(answers.map(frame));
    let bytes = conn.written;
    if (greeting !== undefined) {
      // What the handshake wrote comes first; nothing else does if it failed.
      const hello = frame(HELLO);
      assert(startsWith(hello, bytes.subarray(0, hello.length)), "no greeting");
      bytes = bytes.subarray(hello.length);
      if (greeting === "throws" || greeting === "hangs") {
        assertEquals([bytes.length, handled.length], [0, 0]);
        return;
      }
    }
    const said = goaway !== undefined && endsWith(bytes, frame(goaway));
    if (said) {
      bytes = bytes.subarray(0, bytes.length - frame(goaway).length);
      assertEquals(this.reasons, ["shutdown"]);
      assertLessOrEqual(handled.length, failure);
    }
    // The peer may have ended it in the midst of the goaway.
    const isBroken = end === "reset" || end === "failing write";
    const gone = concat([
      ...answers.filter(([i]) => i! < handled.length).map(frame),
      ...(goaway === undefined ? [] : [frame(goaway)]),
    ]);
    assert(
      startsWith(all, bytes) || (isBroken && startsWith(gone, bytes)),
      "something else was written",
    );
    if (stopped === "forced" || isBroken) return;
    if (this.reasons[0] === "handshake") {
      // The stream ended in the handshake, or was none.
      assertEquals(handled.length, 0);
      return;
    }
    // Where nothing else has ended it, it was told goodbye.
    if (end === "silence" && handled.length <= failure) {
      assertEquals(said, goaway !== undefined);
    }
    const written = unwire(bytes, this.#layout).length;
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

  /** Whether the hooks were told once, and why. */
  #checkReason(stopped: "forced" | "drained" | null): void {
    const { conn, end, greeting, reasons } = this;
    if (this.context === undefined) {
      assertEquals(reasons, []);
      return;
    }
    assertEquals(reasons.length, 1);
    const reason = reasons[0]!;
    const possible: CloseReason[] = ["shutdown"];
    if (stopped === "forced") possible.push("forced");
    if (end === "bad frame") possible.push("frame");
    if (end === "reset" || end === "failing write") possible.push("lost");
    if (end === "end" || end === "end in a frame") possible.push("end");
    if (this.expected().failure < Infinity) possible.push("handler");
    // A stream that ends or fails before the handshake is over.
    if (greeting !== undefined) possible.push("handshake");
    assert(possible.includes(reason), `${reason} of ${end}`);
    if (greeting === "throws" || greeting === "hangs") {
      assert(reason === "handshake" || reason === "forced", reason);
    }
    assertEquals(conn.closes, 1);
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
  const greets = random.once(2);
  const goaway = random.once(2) ? GOAWAY : undefined;
  const peers: Peer[] = [];
  const count = random.between(1, 4);
  for (let i = 0; i < count; i++) {
    peers.push(new Peer(random, i, layout, gates, greets));
  }
  let opened = 0;
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
    handshakeTimeout: 1000,
    ...(goaway === undefined ? {} : { goaway }),
    ...(greets
      ? {
        handshake: async (conn: HandshakeConnection) => {
          const peer = peers[(await conn.read())[0]!]!;
          conn.write(HELLO);
          // It may call back.
          server.stats();
          if (peer.greeting === "late") await gates.wait();
          if (peer.greeting === "throws") throw failure(() => {});
          if (peer.greeting === "hangs") await new Promise(() => {});
        },
      }
      : {}),
    hooks: {
      // Connections are accepted in the order of the peers.
      connectionOpen: (context) => {
        peers[opened++]!.context = context;
        server.ref();
        if (random.once(5)) throw new Error("A hook fails");
      },
      connectionClose: (context, reason) => {
        peers.find((peer) => peer.context === context)!.reasons.push(reason);
        server.stats();
        context.close();
        if (random.once(5)) throw new Error("A hook fails");
      },
      ...(random.once(2) ? {} : {
        requestStart: () => void started++,
        requestEnd: () => void ended++,
      }),
    },
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
  // The limits of lingering, of handshakes, and of the sweeps.
  await time.advance(goaway === undefined ? 2000 : 12_000);
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
  for (const peer of peers) peer.check(concurrency, stopped, goaway);
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
