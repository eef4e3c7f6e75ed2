/**
 * Random traffic with ids over stubs: whatever is written must be the answer to
 * its request, a failure of one that failed, a push in its turn, or the goaway
 * at the end. A response that crossed is the first thing that is looked for.
 *
 * `WIREPOOL_LONG=1` runs twenty times the rounds. A failure names its seed;
 * `WIREPOOL_SEED=<seed>` draws the same round again.
 */
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { type CorrelationOptions, FrameDecoder } from "../codec.ts";
import {
  type CloseReason,
  type Handler,
  type HandlerContext,
  NO_RESPONSE,
  serve,
  type Server,
} from "../server.ts";
import { chosenSeed, longRun, Random } from "./random_support.ts";
import { type Numbered, wireIds } from "./server_correlated_support.ts";
import {
  FakeListener,
  FakeTime,
  microtasks,
  StubConnection,
} from "./server_support.ts";

const ROUNDS = longRun() ? 8_000 : 400;

/** What a handler does with a request; the first nine of them answer it. */
const FATES = [
  "returns bytes",
  "returns bytes",
  "resolves to bytes",
  "resolves to bytes",
  "resolves to bytes at once",
  "throws, recovered",
  "rejects, recovered late",
  "pushes, and resolves to bytes",
  "pushes, and returns bytes",
  "returns nothing",
  "resolves to nothing",
  "throws",
  "rejects",
  "returns no bytes",
  "resolves to too many bytes",
] as const;
type Fate = typeof FATES[number];

const ENDS = ["end", "bad frame", "silence", "reset", "failing write"] as const;

/** First byte of a push. */
const PUSH = 200;

/** A wire of frames with ids. */
interface Wire {
  readonly correlation: CorrelationOptions;
  readonly inserted: boolean;
  readonly field: { readonly length: 1 | 2 | 4; readonly offset?: number };
  /** Bytes of a payload before what tests put there. */
  readonly lead: number;
  readonly highBit: number;
}

const WIRES: readonly Wire[] = [
  ...([1, 2, 4] as const).map((length): Wire => ({
    correlation: { length },
    inserted: true,
    field: { length },
    lead: 0,
    highBit: 2 ** (8 * length - 1),
  })),
  {
    correlation: { length: 2, requestOffset: 0 },
    inserted: false,
    field: { length: 2, offset: 0 },
    lead: 2,
    highBit: 2 ** 15,
  },
];

/** Work that the driver lets go on when it likes. */
class Gates {
  readonly #waiting: (() => void)[] = [];

  wait(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  get size(): number {
    return this.#waiting.length;
  }

  open(random: Random): void {
    this.#waiting.splice(random.between(0, this.size - 1), 1)[0]?.();
  }
}

/** A push, and how it has settled. */
interface Push {
  settled: "written" | "refused" | null;
}

class Peer {
  readonly conn: StubConnection;
  readonly end: typeof ENDS[number];
  readonly ids: number[];
  readonly fates: Fate[];
  readonly chunks: (Uint8Array | null | Error)[] = [];
  readonly handled = new Set<number>();
  readonly pushes: Push[] = [];
  running = 0;
  mostRunning = 0;
  context: HandlerContext | undefined;
  readonly reasons: CloseReason[] = [];
  readonly #wire: Wire;
  readonly #sizes: number[];

  constructor(random: Random, index: number, wire: Wire, gates: Gates) {
    this.#wire = wire;
    this.end = random.pick(ENDS);
    const slow = random.once(2);
    const lastWrite = random.between(0, 4);
    this.conn = new StubConnection({
      write: async (p, call) => {
        if (slow) await gates.wait();
        if (this.end === "failing write" && call === lastWrite) {
          throw new Deno.errors.BrokenPipe("x");
        }
        return slow && random.once(2) ? random.between(1, p.length) : p.length;
      },
    });
    const calm = random.once(2);
    const count = random.between(0, 40);
    this.fates = Array.from(
      { length: count },
      () => random.pick(calm ? FATES.slice(0, 11) : FATES),
    );
    this.ids = this.fates.map((_, i) => {
      if (!wire.inserted) return random.once(10) ? 7 : i + 1;
      if (random.once(20)) return 0;
      if (random.once(20)) return wire.highBit + i;
      return random.once(20) ? 7 : i + 1;
    });
    this.#sizes = this.fates.map(() =>
      random.once(20) ? random.between(0, 100_000) : random.between(0, 50)
    );
    const requests = this.ids.map((id, i): Numbered => {
      const padding = random.once(20) ? random.between(0, 5000) : 0;
      const request = new Uint8Array(wire.lead + 2 + padding);
      request[wire.lead] = index;
      request[wire.lead + 1] = i;
      return [id, request];
    });
    const bytes = wireIds(requests, wire.field);
    const largest = random.pick([1, 20, 500, 100_000]);
    for (let at = 0; at < bytes.length;) {
      const size = random.between(1, largest);
      this.chunks.push(bytes.subarray(at, at + size));
      at += size;
    }
    if (this.end === "end") this.chunks.push(null);
    if (this.end === "bad frame") {
      this.chunks.push(new Uint8Array(20).fill(255));
    }
    if (this.end === "reset") {
      this.chunks.push(new Deno.errors.ConnectionReset("x"));
    }
  }

  /** What a request is answered with, but for its id. */
  answer(i: number): Uint8Array {
    const answer = new Uint8Array(this.#wire.lead + 1 + this.#sizes[i]!);
    return answer.fill(i, this.#wire.lead);
  }

  push(context: HandlerContext, random: Random): void {
    const { lead } = this.#wire;
    const size = random.once(5) ? random.between(0, 60_000) : 3;
    const payload = new Uint8Array(lead + 2 + size);
    payload.fill(255, 0, lead);
    payload[lead] = PUSH;
    payload[lead + 1] = this.pushes.length & 255;
    const push: Push = { settled: null };
    this.pushes.push(push);
    context.push(payload).then(
      () => push.settled = "written",
      () => push.settled = "refused",
    );
  }

  check(
    concurrency: number,
    stopped: "forced" | "drained" | null,
    goaway: Uint8Array | undefined,
  ): void {
    const { conn, end, fates, ids } = this;
    const { field, inserted, lead, highBit } = this.#wire;
    if (this.context === undefined) {
      assertEquals([stopped, conn.writes.length], ["forced", 0]);
      return;
    }
    assertEquals([this.running, this.reasons.length, conn.closes], [0, 1, 1]);
    assertLessOrEqual(this.mostRunning, concurrency);
    assertLessOrEqual(conn.mostWriting, 1);

    const answers = new Map<number, number>();
    let failures = 0;
    let pushed = -1;
    let last = false;
    const written = new Set<number>();
    const decoder = new FrameDecoder(undefined, field);
    decoder.push(conn.written);
    for (let f = decoder.decode(); f !== null; f = decoder.decode()) {
      const { id } = decoder;
      assert(!last, "something came behind the goaway");
      if (inserted ? id === 2 * highBit - 1 : isSame(f, goaway)) {
        if (inserted) assertEquals(f.length, 0);
        last = true;
      } else if (f[lead] === PUSH && (inserted ? id === 0 : id === 65535)) {
        do pushed++; while ((pushed & 255) !== f[lead + 1]);
        assertLessOrEqual(pushed, this.pushes.length - 1);
        written.add(pushed);
      } else if (inserted && id > highBit) {
        assertEquals(f.length, 0);
        const failed = [...this.handled].filter((i) =>
          ids[i] === id - highBit && fails(fates[i]!)
        );
        assert(failed.length > 0, `${id} did not fail`);
        failures++;
      } else {
        const i = f[lead]!;
        assert(this.handled.has(i), "an answer to what was not handled");
        assertEquals(ids[i], id, "an answer crossed");
        assert(answersAt(fates[i]!), "an answer that nobody gave");
        const expected = this.answer(i);
        assert(isSame(f.subarray(lead), expected.subarray(lead)), "not whole");
        answers.set(i, (answers.get(i) ?? 0) + 1);
        assertEquals(answers.get(i), 1, "answered twice");
      }
    }
    for (const i of this.handled) {
      assert(!(inserted && ids[i]! >= highBit), "handled what is no request");
    }
    for (const [i, { settled }] of this.pushes.entries()) {
      assert(settled !== null, "a push that never settles");
      if (settled === "written") assert(written.has(i), "a push was lost");
    }
    if (last) assert(this.reasons[0] === "shutdown", this.reasons[0]);
    if (stopped === "forced" || end === "reset" || end === "failing write") {
      return;
    }
    // Whatever was handled was answered, or its failure was said.
    const counted = [...this.handled].filter((i) => !inserted || ids[i] !== 0);
    assertEquals(
      counted.filter((i) => answersAt(fates[i]!)).length,
      answers.size,
    );
    const failed = counted.filter((i) => fails(fates[i]!)).length;
    if (inserted) assertEquals(failures, failed);
    if (stopped === null && (inserted || failed === 0)) {
      const requests = ids.filter((id) => !inserted || id < highBit);
      assertEquals(this.handled.size, requests.length);
      if (end === "silence") {
        assertEquals(last, inserted || goaway !== undefined);
      }
    }
  }
}

function answersAt(fate: Fate): boolean {
  return FATES.indexOf(fate) < 9;
}

function fails(fate: Fate): boolean {
  return FATES.indexOf(fate) > 10;
}

function isSame(a: Uint8Array, b: Uint8Array | undefined): boolean {
  return a.length === b?.length && a.every((byte, i) => byte === b[i]);
}

async function round(random: Random): Promise<void> {
  using time = new FakeTime();
  using listener = new FakeListener();
  const gates = new Gates();
  const wire = random.pick(WIRES);
  const concurrency = random.pick([1, 2, 8, 128]);
  const goaway = wire.inserted || random.once(2)
    ? undefined
    : Uint8Array.of(0, 0, 250, 1);
  const last = random.pick(["shutdown", "shutdown early", "close early"]);
  const peers = Array.from(
    { length: random.between(1, 3) },
    (_, i) => new Peer(random, i, wire, gates),
  );
  let opened = 0;
  const failures = new WeakMap<object, () => unknown>();
  const failure = (recovery: () => unknown) => {
    const error = new Error("no");
    failures.set(error, recovery);
    return error;
  };
  const fateOf = (
    peer: Peer,
    i: number,
    context: HandlerContext,
  ): ReturnType<Handler> => {
    const answer = peer.answer(i);
    switch (peer.fates[i]!) {
      case "returns bytes":
        return answer;
      case "resolves to bytes":
        return gates.wait().then(() => answer);
      case "resolves to bytes at once":
        return Promise.resolve(answer);
      case "throws, recovered":
        throw failure(() => answer);
      case "rejects, recovered late":
        return gates.wait().then(() => {
          throw failure(() => gates.wait().then(() => answer));
        });
      case "pushes, and resolves to bytes":
        peer.push(context, random);
        return gates.wait().then(() => {
          peer.push(context, random);
          return answer;
        });
      case "pushes, and returns bytes":
        peer.push(context, random);
        return answer;
      case "returns nothing":
        return NO_RESPONSE;
      case "resolves to nothing":
        return gates.wait().then(() => NO_RESPONSE);
      case "throws":
        throw failure(() => {});
      case "rejects":
        return gates.wait().then(() => {
          throw failure(() => gates.wait());
        });
      case "returns no bytes":
        return undefined as unknown as Uint8Array;
      case "resolves to too many bytes":
        return gates.wait().then(() => new Uint8Array(200_001));
    }
  };
  const server: Server = serve({
    correlation: wire.correlation,
    maxFrameLength: 200_000,
    concurrency,
    shutdownTimeout: 0,
    ...(goaway === undefined ? {} : { goaway }),
    onError: (error) =>
      error instanceof Error ? failures.get(error)?.() : undefined,
    hooks: {
      connectionOpen: (context) => void (peers[opened++]!.context = context),
      connectionClose: (context, reason) => {
        const peer = peers.find((peer) => peer.context === context)!;
        peer.reasons.push(reason);
        // Too late for it.
        peer.push(context, random);
      },
    },
  }, (payload, context) => {
    const peer = peers[payload[wire.lead]!]!;
    const i = payload[wire.lead + 1]!;
    assert(!peer.handled.has(i), "handled twice");
    peer.handled.add(i);
    peer.mostRunning = Math.max(peer.mostRunning, ++peer.running);
    let result: ReturnType<Handler>;
    try {
      result = fateOf(peer, i, context);
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
      await microtasks();
      if (gates.size === 0) break;
    }
    if (gates.size > 0 && (talking.length === 0 || random.once(2))) {
      gates.open(random);
    } else if (talking.length > 0) {
      const peer = random.pick(talking);
      peer.conn.feed(...peer.chunks.splice(0, random.between(1, 5)));
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
  await time.advance(12_000);
  await stop;
  await server.finished;
  await microtasks();

  const { connections, inFlight, requests } = server.stats();
  assertEquals([connections, inFlight], [0, 0]);
  assertEquals(
    requests,
    peers.reduce((sum, { handled }) => sum + handled.size, 0),
  );
  assertEquals(time.timers, 0);
  for (const peer of peers) peer.check(concurrency, stopped, goaway);
}

Deno.test("Random traffic with ids never crosses, whatever fails and ends when", async () => {
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
