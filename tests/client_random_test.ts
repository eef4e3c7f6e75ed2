/**
 * Random traffic of a client over stubs, with hooks that call back into it,
 * and an account of what must have become of every request.
 *
 * `WIREPOOL_LONG=1` runs ten times the rounds. A failure names its seed;
 * `WIREPOOL_SEED=<seed>` draws the same round again.
 */
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import {
  Client,
  ClientClosedError,
  type ClientOptions,
  ConnectError,
  ConnectionLostError,
  RequestTimeoutError,
  type SendOptions,
} from "../client.ts";
import { encodeFrame, FrameDecoder } from "../codec.ts";
import { PoolExhaustedError, PoolTimeoutError } from "../pool.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { replace, StubConn } from "./client_support.ts";
import { FakeTime } from "./client_time_support.ts";
import { CountingSignal, immediate, ticks } from "./promise_support.ts";
import { chosenSeed, longRun, type Random, seeded } from "./random_support.ts";
import { isIdempotent, Ledger } from "./traffic_support.ts";

const ROUNDS = longRun() ? 3000 : 300;

/** Most requests of a round: hooks that send could go on for ever. */
const MOST_REQUESTS = 200;

/** Limits that outcomes and figures are checked against. */
type Limit =
  | "maxCap"
  | "maxIdle"
  | "maxWaiting"
  | "getTimeout"
  | "requestTimeout";

/** The far end of a connection, which has whims. */
class FarEnd extends StubConn {
  readonly #random: Random;
  /** Its writes wait more often than not. */
  readonly #slow: boolean;
  /** Requests that writes were offered whole: these can be answered, before
   * they were taken too. */
  readonly #asked: string[] = [];
  readonly #offers = new FrameDecoder();
  #offeredBytes = 0;
  #answered = 0;
  /** Requests taken whole of whose response the client has read something. */
  readonly begun = new Set<string>();
  /** What is still to come of a response of which a part was delivered. */
  #rest: Uint8Array | undefined;

  constructor(random: Random) {
    super();
    this.#random = random;
    this.#slow = random.once(2);
    this.stuck = random.once(15);
  }

  override write(chunk: Uint8Array): Promise<number> {
    // What a write has left is offered again.
    this.#offers.push(chunk.subarray(this.#offeredBytes - this.taken));
    const end = this.taken + chunk.length;
    this.#offeredBytes = Math.max(this.#offeredBytes, end);
    for (const frame of this.#offers) this.#asked.push(textOf(frame));
    this.hold = this.#slow ? !this.#random.once(3) : this.#random.once(5);
    return super.write(chunk);
  }

  /** Whether it has answered nothing. */
  get unused(): boolean {
    return this.#answered === 0;
  }

  /** Does one of the things that far ends do. */
  async act(): Promise<void> {
    const random = this.#random;
    const whim = random.between(1, 100);
    if (whim <= 30) this.#answer(this.requests.length);
    else if (whim <= 40) this.#answer(this.#asked.length);
    else if (whim <= 60) this.take(this.offered);
    else if (whim <= 80) this.take(random.between(0, this.offered));
    else if (whim <= 85) this.refuse(new Deno.errors.BrokenPipe("x"));
    else if (whim <= 88) this.deliver(null);
    else if (whim <= 90) this.deliver(new Deno.errors.ConnectionReset("x"));
    else if (whim <= 94) {
      // Bytes that nobody asked for: no request that is about to leave may
      // take them for its response.
      await ticks();
      if (this.#rest !== undefined) return;
      const none = this.#answered === this.#asked.length;
      this.deliver(
        none && random.once(2)
          ? encodeFrame(ascii("nobody's"))
          : new Uint8Array(20).fill(0xff), // Longer than any frame.
      );
    } else this.obey();
  }

  override take(n?: number): void {
    if (this.offered > 0) super.take(n);
  }

  override refuse(error: Error): void {
    if (this.offered > 0) super.refuse(error);
  }

  /** Takes and answers whatever there is. */
  obey(): void {
    this.take();
    while (this.#rest !== undefined || this.#answered < this.requests.length) {
      this.#answer(this.requests.length);
    }
  }

  /** Answers the next one of the first `limit` requests, or a part of it. */
  #answer(limit: number): void {
    let bytes = this.#rest;
    if (bytes === undefined) {
      if (this.#answered >= limit) return;
      const request = this.#asked[this.#answered++]!;
      const [id] = request.split(":");
      // Unless it is early: then it is for what was not handed over whole.
      if (this.#answered <= this.requests.length) {
        ticks().then(() => this.closed || this.begun.add(request));
      }
      const length = this.#random.once(10) ? 20_000 : 0;
      bytes = encodeFrame(ascii(`${id}:${"y".repeat(length)}`));
    }
    const cut = this.#random.once(6)
      ? this.#random.between(1, bytes.length)
      : bytes.length;
    this.deliver(bytes.subarray(0, cut));
    this.#rest = cut < bytes.length ? bytes.subarray(cut) : undefined;
  }
}

/** A client with random options, and all that happens to it. */
class Round {
  readonly #random: Random;
  readonly #time: FakeTime;
  readonly #options: ClientOptions & Record<Limit, number>;
  #client!: Client;
  readonly #ledger = new Ledger(MOST_REQUESTS);
  /** The requests, as text, by their number. */
  readonly #texts: string[] = [];
  readonly #conns: FarEnd[] = [];
  /** Dials under way. */
  readonly #dials = new Set<{ connect(): void; fail(): void }>();
  /** Signals of requests, and of calls of `close`. */
  readonly #signals: CountingSignal[] = [];
  readonly #killers: CountingSignal[] = [];
  #closing = false;
  #killed = false;
  #closed = false;
  /** What the hooks were told of, and what the callers were. */
  readonly #told = { send: 0, settle: 0 };
  readonly #outcomes = { responses: 0, errors: 0 };
  /** Callbacks within callbacks. */
  #depth = 0;

  constructor(random: Random, time: FakeTime) {
    this.#random = random;
    this.#time = time;
    const maxCap = random.between(1, 3);
    const maxIdle = random.pick([maxCap, maxCap, random.between(0, maxCap)]);
    const hook = () => this.#call(true);
    this.#options = {
      port: 9, // Of stubs, which nobody dials.
      maxCap,
      maxIdle,
      minIdle: random.pick([0, 0, Math.min(1, maxIdle)]),
      initialCap: random.pick([0, 0, Math.min(1, maxIdle)]),
      maxWaiting: random.pick([Infinity, Infinity, random.between(0, 3)]),
      pipelining: random.between(1, 6),
      getTimeout: random.pick([0, 0, random.between(50, 550)]),
      requestTimeout: random.pick([0, 200, 200, random.between(50, 3000)]),
      connectTimeout: random.pick([3000, random.between(50, 500)]),
      idleTimeout: random.pick([60_000, random.between(100, 600)]),
      maxLifetime: random.pick([0, 0, random.between(200, 2000)]),
      idempotent: random.once(3),
      onError: hook,
      hooks: random.once(4) ? {} : {
        send: () => {
          this.#told.send++;
          return hook();
        },
        settle: () => {
          this.#told.settle++;
          return hook();
        },
        dial: hook,
        pool: { opened: hook, closed: hook, waited: hook },
      },
    };
  }

  async run(): Promise<void> {
    using _dials = replace("connect", ({ signal }) => this.#dial(signal));
    this.#client = new Client(this.#options);
    for (let i = this.#random.between(10, 80); i > 0 && !this.#closed; i--) {
      await this.#step();
      this.#check();
    }
    await this.#finish();
    this.#check();
    const { responses, errors } = this.#outcomes;
    assertEquals(responses + errors, this.#ledger.issued);
    const stats = this.#client.stats();
    assertEquals(stats.responses, responses);
    assertEquals([stats.inFlight, stats.pool.open], [0, 0]);
    if (this.#options.hooks?.send !== undefined) {
      const { requests } = stats;
      assertEquals(this.#told, { send: requests, settle: requests });
    }
    assertEquals(this.#time.timers.running, 0);
    assert(this.#conns.every(({ closed }) => closed));
    for (const { listeners } of [...this.#signals, ...this.#killers]) {
      assertEquals(listeners, 0);
    }
  }

  /** One thing happens, or several in one turn. */
  async #step(): Promise<void> {
    const random = this.#random;
    const whim = random.between(1, 20);
    if (whim <= 5) {
      for (let i = random.between(1, 6); i > 0; i--) this.#send();
    } else if (whim === 6) this.#abort();
    else if (whim <= 8) {
      const longest = random.once(4) ? 1500 : 150;
      await this.#time.pass(random.between(0, longest));
    } else if (whim === 9 && this.#dials.size > 0) {
      const dial = random.pick([...this.#dials]);
      if (random.once(4)) dial.fail();
      else dial.connect();
    } else {
      const able = this.#conns.filter(({ closed, stuck }) => !closed || stuck);
      if (able.length > 0) await random.pick(able).act();
    }
    if (random.once(2)) return;
    await ticks();
    const open = this.#conns.filter(({ closed }) => !closed);
    assertLessOrEqual(open.length, this.#options.maxCap);
  }

  /** Whether the figures add up, and nothing has gone wrong so far. */
  #check(): void {
    assertEquals(this.#ledger.breaches, []);
    const stats = this.#client.stats();
    const { requests, responses, failures, inFlight } = stats;
    assertEquals(responses + failures + inFlight, requests);
    const { open, idle, inUse, opening, waiting } = stats.pool;
    for (const figure of [inFlight, idle, inUse, opening, waiting]) {
      assertLessOrEqual(0, figure);
    }
    assertLessOrEqual(idle + inUse + opening, open);
    assertLessOrEqual(open, this.#options.maxCap);
    assertLessOrEqual(idle, this.#options.maxIdle);
    // A dial that was given up and keeps its place leaves in line for whom it was
    // begun.
    const { maxWaiting, maxCap } = this.#options;
    assertLessOrEqual(waiting, maxWaiting + maxCap);
  }

  /** Closes the client, which must then come to an end. */
  async #finish(): Promise<void> {
    this.#close();
    if (this.#random.once(2)) await ticks();
    if (this.#random.once(3)) {
      this.#close(AbortSignal.abort());
      await this.#time.pass(this.#patience);
      assert(this.#closed, "A forced close does not end");
    }
    for (let i = 0; !this.#closed || this.#dials.size > 0; i++) {
      assert(i < 500, "A close does not end");
      for (const dial of this.#dials) dial.connect();
      for (const conn of this.#conns) if (!conn.closed) conn.obey();
      await this.#time.pass(20);
      // Idle connections may be looked at, which takes a turn of the loop.
      await immediate();
    }
    await this.#time.pass(this.#patience);
  }

  /** How long something may go on after all is closed: a write that its close
   * does not settle is awaited for a second. */
  get #patience(): number {
    return this.#conns.some((conn) => conn.stuck && conn.offered > 0)
      ? 1000
      : 0;
  }

  /** What callbacks do: nothing, as a rule, or they call back. */
  #call(mayFail: boolean): Promise<never> | void {
    if (this.#depth === 3) return;
    this.#depth++;
    const whim = this.#random.between(1, 100);
    if (whim <= 8) this.#send();
    else if (whim <= 11) this.#abort();
    else if (whim === 12 && this.#random.once(8)) this.#close();
    this.#depth--;
    if (mayFail && whim > 95) throw new Error("A callback throws");
    if (mayFail && whim > 90) return Promise.reject(new Error("It rejects"));
  }

  #dial(signal: AbortSignal): FarEnd | Promise<FarEnd> {
    const random = this.#random;
    const connect = () => {
      const conn = new FarEnd(random);
      conn.onRequest = (text) => this.#handle(text, conn);
      this.#conns.push(conn);
      return conn;
    };
    if (random.once(10)) throw new Deno.errors.ConnectionRefused("x");
    if (random.once(2)) return connect();
    const { promise, resolve, reject } = Promise.withResolvers<FarEnd>();
    const dial = {
      connect: () => {
        this.#dials.delete(dial);
        resolve(connect());
      },
      fail: (error: unknown = new Deno.errors.ConnectionRefused("x")) => {
        this.#dials.delete(dial);
        reject(error);
      },
    };
    this.#dials.add(dial);
    // Not every dial can be cancelled.
    const deaf = random.once(4);
    if (!deaf) signal.onabort = () => dial.fail(signal.reason);
    return promise;
  }

  /** A far end has taken a request whole. */
  #handle(text: string, by: FarEnd): void {
    if (text === "") return; // It could be any of the empty ones.
    const id = parseInt(text);
    if (this.#texts[id] === text) this.#ledger.handle(id);
    if (by.closed) return; // What a stuck write takes may have been changed.
    if (this.#texts[id] !== text) {
      this.#ledger.breach(`A request arrived damaged: ${text.slice(0, 40)}`);
    }
    for (const conn of this.#conns) {
      if (conn === by || !conn.requests.includes(text)) continue;
      if (conn.begun.has(text) || conn.unused) {
        this.#ledger.breach(`Request ${id} was sent again without need`);
      }
    }
  }

  #abort(): void {
    const kills = this.#killers.length > 0 && this.#random.once(20);
    if (kills) this.#killed = true;
    const signals = kills ? this.#killers : this.#signals;
    if (signals.length > 0) this.#random.pick(signals).abort();
  }

  #close(signal?: AbortSignal): void {
    this.#closing = true;
    if (signal !== undefined) this.#killed = true;
    else if (this.#random.once(2)) {
      const killer = new CountingSignal();
      this.#killers.push(killer);
      signal = killer.signal;
    }
    const closed = this.#client.close(signal === undefined ? {} : { signal });
    closed.then(() => this.#closed = true);
  }

  /** Whether a request may have failed like this. */
  #judge(
    id: number,
    error: unknown,
    { signal, timeout = this.#options.requestTimeout }: SendOptions,
    taken: number,
    late: boolean,
  ): void {
    const { getTimeout, maxWaiting } = this.#options;
    // Not as exact as it can be: some far ends are waited for.
    if (timeout > 0 && taken > 2 * timeout + 2000) {
      this.#ledger.breach(`Request ${id} took ${taken} ms of ${timeout}`);
    }
    if (error instanceof ConnectionLostError) {
      if (!error.requestSent) this.#ledger.unseen(id);
      return;
    }
    const fine = error instanceof ConnectError ||
      signal?.aborted && error === signal.reason ||
      error instanceof RequestTimeoutError && timeout > 0 &&
        error.timeout === timeout && taken >= timeout ||
      error instanceof PoolTimeoutError && getTimeout > 0 &&
        taken >= getTimeout ||
      error instanceof PoolExhaustedError && maxWaiting !== Infinity ||
      error instanceof ClientClosedError && (late || this.#killed);
    if (!fine) this.#ledger.breach(`Request ${id}, ${taken} ms: ${error}`);
  }

  #send(): void {
    const random = this.#random;
    if (this.#ledger.issued === MOST_REQUESTS) return;
    const id = this.#ledger.issue();
    const length = random.once(4)
      ? random.between(16_384, 100_000)
      : random.between(0, 100);
    const text = random.once(10) ? "" : `${id}:${"x".repeat(length)}`;
    this.#texts.push(text);
    const options: SendOptions = {};
    if (isIdempotent(id) !== this.#options.idempotent || random.once(2)) {
      options.idempotent = isIdempotent(id);
    }
    if (random.once(3)) {
      if (this.#signals.length === 0 || random.once(2)) {
        this.#signals.push(new CountingSignal());
      }
      options.signal = random.pick(this.#signals).signal;
    }
    if (random.once(3)) {
      options.timeout = random.pick([0, 40, 200, 200, 1000]);
    }
    const payload = ascii(text);
    const start = this.#time.now;
    const sending = this.#client.send(payload, options);
    const late = this.#closing; // A hook may have closed it just now.
    sending.then((response) => {
      this.#outcomes.responses++;
      const to = text === "" ? ":" : `${id}:`;
      if (textOf(response).startsWith(to)) return;
      this.#ledger.breach(`Request ${id} got ${textOf(response).slice(0, 40)}`);
    }, (error) => {
      this.#outcomes.errors++;
      payload.fill(0xff); // It is the sender's again.
      this.#judge(id, error, options, this.#time.now - start, late);
    }).then(() => this.#call(false));
  }
}

Deno.test("Whatever far ends, callers and hooks do, every request settles as it must and nothing is left", async () => {
  const unhandled: unknown[] = [];
  const note = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    unhandled.push(event.reason);
  };
  const { random: chance } = Math;
  addEventListener("unhandledrejection", note);
  try {
    const first = chosenSeed();
    for (let i = 0; i < ROUNDS; i++) {
      await seeded((first + i) >>> 0, async (random) => {
        Math.random = () => random.next(); // Lifetimes are spread by chance.
        {
          using time = new FakeTime();
          await new Round(random, time).run();
        }
        await new Promise((resolve) => setTimeout(resolve, 0));
        assertEquals(unhandled, []);
      });
    }
  } finally {
    removeEventListener("unhandledrejection", note);
    Math.random = chance;
  }
});
