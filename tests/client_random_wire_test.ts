/**
 * Random traffic over every kind of wire: in order, with ids, with goaways; with
 * handshakes that fail, hang and call back, notifications, pushes and pings. The
 * first thing looked for is a response that reached another request.
 *
 * `WIREPOOL_LONG=1` runs ten times the rounds. A failure names its seed;
 * `WIREPOOL_SEED=<seed>` draws the same round again.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertLessOrEqual,
} from "@std/assert";
import {
  Client,
  ClientClosedError,
  type ClientOptions,
  ConnectError,
  ConnectionLostError,
  RequestFailedError,
  RequestTimeoutError,
} from "../client.ts";
import type { CorrelationOptions, HandshakeConnection } from "../codec.ts";
import { PoolTimeoutError } from "../pool.ts";
import { ascii, textOf } from "./bytes_support.ts";
import {
  type Arrived,
  type MemoryPeer,
  MemoryServer,
} from "./client_memory_support.ts";
import { FakeTime } from "./client_time_support.ts";
import { immediate, ticks } from "./promise_support.ts";
import { chosenSeed, longRun, type Random, seeded } from "./random_support.ts";

const ROUNDS = longRun() ? 2000 : 200;

/** Most requests of a round: hooks that send could go on for ever. */
const MOST_REQUESTS = 150;

/** Handshakes that have come to their end. */
let greetings = 0;

const GOAWAY = ascii("\0\0\0\0bye");

/** A kind of wire. */
interface Kind {
  readonly correlation?: CorrelationOptions;
  readonly goaway?: Uint8Array;
}

const KINDS: Kind[] = [
  {},
  { goaway: GOAWAY },
  { correlation: { length: 4 } },
  { correlation: { length: 1 } },
  { correlation: { length: 2, requestOffset: 0 } },
  { correlation: { length: 4, requestOffset: 0 }, goaway: GOAWAY },
];

/** What became of a request. */
interface Account {
  readonly text: string;
  readonly kind: "send" | "notify";
  readonly idempotent: boolean;
  /** Times that some far end handled it. */
  handled: number;
  settled: boolean;
}

/** A far end of whims. */
class FarEnd {
  readonly #random: Random;
  readonly #kind: Kind;
  readonly #peer: MemoryPeer;
  readonly #accounts: Map<string, Account>;
  /** Requests that have come, and are neither answered nor dropped. */
  #open: Arrived[] = [];
  #handshaken: boolean;
  gone = false;

  constructor(
    random: Random,
    kind: Kind,
    peer: MemoryPeer,
    handshakes: boolean,
    accounts: Map<string, Account>,
  ) {
    this.#random = random;
    this.#kind = kind;
    this.#peer = peer;
    this.#accounts = accounts;
    this.#handshaken = !handshakes;
    if (handshakes) peer.skipIds = true;
    peer.onRequest = (request) => this.#take(request);
  }

  #take(request: Arrived): void {
    if (!this.#handshaken) {
      this.#handshaken = true;
      this.#peer.skipIds = false;
      this.#peer.sendPlain("welcome").catch(() => {});
      return;
    }
    // What comes behind its goodbye is not looked at.
    if (this.gone) return;
    const text = bare(request.text);
    if (text === "ping") {
      if (!this.#random.once(4)) this.#send("pong", request.id);
      return;
    }
    const account = this.#accounts.get(text.split(":")[0]!);
    if (account?.text !== text) throw new Error(`Damaged: ${text}`);
    if (account.kind === "notify") account.handled++;
    else this.#open.push(request);
  }

  #send(text: string, id: number): void {
    this.#peer.send(`\0\0\0\0${text}`, id).catch(() => {});
  }

  /** Answers one of the requests that have come: the first, or any with ids. */
  #answer(): void {
    if (this.#open.length === 0) return;
    const at = this.#kind.correlation === undefined
      ? 0
      : this.#random.between(0, this.#open.length - 1);
    const [request] = this.#open.splice(at, 1) as [Arrived];
    const text = bare(request.text);
    const [number] = text.split(":");
    this.#accounts.get(number!)!.handled++;
    const { correlation } = this.#kind;
    const inserted = correlation?.requestOffset === undefined;
    if (correlation !== undefined && inserted && this.#random.once(10)) {
      this.#peer.send("", request.id + this.#highBit).catch(() => {});
    } else this.#send(`${number}!`, request.id);
  }

  get #highBit(): number {
    return 2 ** (8 * this.#kind.correlation!.length - 1);
  }

  /** Nothing that is unanswered was handled, nor will be. */
  #goodbye(payload: Uint8Array, id?: number): void {
    this.gone = true;
    this.#open = [];
    this.#peer.send(payload, id).catch(() => {});
  }

  /** It ends without a word: whatever it has may have been handled. */
  #drop(): void {
    this.gone = true;
    for (const { text } of this.#open) {
      const [number] = bare(text).split(":");
      this.#accounts.get(number!)!.handled++;
    }
    this.#open = [];
  }

  act(): void {
    if (this.gone) return;
    const whim = this.#random.between(1, 100);
    const { correlation, goaway } = this.#kind;
    if (whim <= 60) this.#answer();
    else if (whim <= 75) {
      while (this.#open.length > 0) this.#answer();
    } else if (whim <= 82 && correlation !== undefined && this.#handshaken) {
      // Also while the handshake is under way: then it comes behind it.
      this.#send("push", this.#random.pick([0, this.#highBit]));
    } else if (whim <= 90 && this.#handshaken) {
      if (goaway !== undefined) this.#goodbye(goaway);
      else if (correlation !== undefined && !("requestOffset" in correlation)) {
        this.#goodbye(new Uint8Array(), 2 * this.#highBit - 1);
      }
    } else if (whim === 91) {
      this.#drop();
      this.#peer.end();
    } else if (whim === 92) {
      this.#drop();
      this.#peer.close();
    } else if (whim === 93) {
      this.#drop();
      this.#peer.write(new Uint8Array(20).fill(0xff)).catch(() => {});
    } else if (whim === 94) this.#peer.pause();
    else if (whim >= 96) this.#peer.resume();
  }

  /** Takes and answers whatever there is. */
  obey(): void {
    this.#peer.resume();
    while (this.#open.length > 0) this.#answer();
  }
}

/** A text without the room for an id. */
function bare(text: string): string {
  return text.slice(4);
}

/** A client with random options, and all that happens to it. */
class Round {
  readonly #random: Random;
  readonly #time: FakeTime;
  readonly #kind: Kind;
  readonly #server: MemoryServer;
  readonly #farEnds: FarEnd[] = [];
  readonly #accounts = new Map<string, Account>();
  readonly #breaches: string[] = [];
  readonly #signals: AbortController[] = [];
  readonly #options: ClientOptions;
  #client!: Client;
  #closing = false;
  #killed = false;
  #closed = false;
  #depth = 0;
  #outcomes = { responses: 0, notified: 0, failures: 0 };

  constructor(random: Random, time: FakeTime) {
    this.#random = random;
    this.#time = time;
    this.#kind = random.pick(KINDS);
    this.#server = new MemoryServer(this.#kind);
    const maxCap = random.between(1, 3);
    const hook = () => this.#call();
    const { correlation, goaway } = this.#kind;
    const shakes = random.once(2);
    this.#server.onPeer = (peer) =>
      void this.#farEnds.push(
        new FarEnd(random, this.#kind, peer, shakes, this.#accounts),
      );
    const connect = async (signal: AbortSignal) => {
      if (random.once(25)) throw new Deno.errors.ConnectionRefused("x");
      if (random.once(12)) {
        // It cannot be cancelled, but may end.
        await new Promise<void>((resolve) => {
          setTimeout(resolve, random.between(50, 2000));
        });
      }
      if (random.once(12)) {
        await new Promise<void>((_, reject) => {
          signal.onabort = () => reject(signal.reason);
        });
      }
      return this.#server.connect();
    };
    this.#options = {
      connect,
      maxFrameLength: 200_000,
      ...(correlation && { correlation }),
      ...(goaway && { goaway }),
      ...(correlation && {
        onPush: (payload: Uint8Array) => {
          if (bare(textOf(payload)) !== "push") {
            this.#breaches.push(`A push was ${textOf(payload).slice(0, 40)}`);
          }
          return hook();
        },
      }),
      ...(shakes && {
        handshake: (conn: HandshakeConnection) => this.#handshake(conn),
      }),
      ...(random.once(2) && {
        ping: () => ascii("\0\0\0\0ping"),
        pingAfterIdle: random.pick([0, 500, 15_000]),
        pingTimeout: random.pick([0, 100, 1000]),
        pingInterval: random.pick([0, 0, 300]),
      }),
      maxCap,
      minIdle: random.pick([0, 0, 1]),
      pipelining: random.between(1, 8),
      getTimeout: random.pick([0, 0, random.between(50, 550)]),
      requestTimeout: random.pick([200, 200, random.between(50, 3000)]),
      connectTimeout: random.pick([3000, random.between(50, 500)]),
      idleTimeout: random.pick([60_000, random.between(100, 600)]),
      maxLifetime: random.pick([0, 0, random.between(200, 2000)]),
      idempotent: random.once(3),
      onError: hook,
      hooks: random.once(3)
        ? {}
        : { send: hook, settle: hook, dial: hook, pool: { closed: hook } },
    };
  }

  async run(): Promise<void> {
    this.#client = new Client(this.#options);
    for (let i = this.#random.between(10, 80); i > 0 && !this.#closed; i--) {
      await this.#step();
      this.#check();
    }
    this.#close();
    if (this.#random.once(3)) {
      this.#killed = true;
      this.#client.close({ signal: AbortSignal.abort("killed") });
    }
    for (let i = 0; !this.#closed; i++) {
      assert(i < 2000, "A close does not end");
      for (const farEnd of this.#farEnds) farEnd.obey();
      await this.#time.pass(50);
      await immediate();
    }
    await ticks();
    this.#check();
    const { pool, inFlight, ...stats } = this.#client.stats();
    assertEquals([inFlight, pool.open], [0, 0]);
    const { responses, notified, failures } = stats;
    assertEquals({ responses, notified, failures }, this.#outcomes);
    for (const account of this.#accounts.values()) assert(account.settled);
    // A dial that nobody waits for may still be under way.
    await this.#time.pass(5000);
    assertEquals(this.#time.timers.running, 0);
    for (const peer of this.#server.peers) {
      peer.resume();
      await peer.closed();
    }
  }

  async #step(): Promise<void> {
    const random = this.#random;
    const whim = random.between(1, 20);
    if (whim <= 4) {
      for (let i = random.between(1, 6); i > 0; i--) this.#send();
    } else if (whim === 5 && random.once(2) && this.#signals.length > 0) {
      random.pick(this.#signals).abort("given up");
    } else if (whim <= 7) {
      await this.#time.pass(random.between(0, random.once(4) ? 1500 : 150));
      if (random.once(3)) { for (let i = 0; i < 60; i++) await immediate(); }
    } else if (this.#farEnds.length > 0) {
      const living = this.#farEnds.filter(({ gone }) => !gone);
      for (let i = random.between(1, 3); i > 0 && living.length > 0; i--) {
        random.pick(living).act();
      }
      await ticks();
    }
    if (random.once(2)) await ticks();
  }

  /** Whether the figures add up, and nothing has gone wrong so far. */
  #check(): void {
    assertEquals(this.#breaches, []);
    const stats = this.#client.stats();
    const { requests, responses, notified, failures, inFlight, pool } = stats;
    assertEquals(responses + notified + failures + inFlight, requests);
    assertLessOrEqual(pool.open, this.#options.maxCap!);
    for (const { kind, idempotent, handled, text } of this.#accounts.values()) {
      if (handled > 1 && (kind === "notify" || !idempotent)) {
        throw new Error(`Handled ${handled} times: ${text.slice(0, 20)}`);
      }
    }
  }

  async #handshake(conn: HandshakeConnection): Promise<void> {
    const random = this.#random;
    await this.#call();
    if (random.once(20)) throw new Error("A handshake fails");
    if (random.once(30)) await new Promise<void>(() => {});
    await conn.write(ascii("\0\0\0\0hello"));
    const answer = textOf(await conn.read());
    if (answer !== "welcome") this.#breaches.push(`Greeted with ${answer}`);
    greetings++;
    if (random.once(5)) void conn.read();
    await this.#call();
  }

  /** What callbacks do: nothing, as a rule, or they call back. */
  #call(): Promise<never> | void {
    if (this.#depth === 3) return;
    this.#depth++;
    const whim = this.#random.between(1, 100);
    if (whim <= 8) this.#send();
    else if (whim <= 11 && this.#signals.length > 0) {
      this.#random.pick(this.#signals).abort("given up");
    } else if (whim === 12 && this.#random.once(10)) this.#close();
    this.#depth--;
    if (whim > 95) throw new Error("A callback throws");
    if (whim > 90) return Promise.reject(new Error("It rejects"));
  }

  #close(): void {
    this.#closing = true;
    this.#client.close().then(() => this.#closed = true);
  }

  #send(): void {
    const random = this.#random;
    const number = `${this.#accounts.size}`;
    if (this.#accounts.size === MOST_REQUESTS) return;
    const idempotent = random.once(2);
    const length = random.once(8) ? random.between(16_000, 100_000) : 5;
    const account: Account = {
      text: `${number}:${"x".repeat(length)}`,
      kind: random.once(4) ? "notify" : "send",
      idempotent,
      handled: 0,
      settled: false,
    };
    this.#accounts.set(number, account);
    let signal: AbortSignal | undefined;
    if (random.once(3)) {
      if (this.#signals.length === 0 || random.once(2)) {
        this.#signals.push(new AbortController());
      }
      signal = random.pick(this.#signals).signal;
    }
    const timeout = random.once(3) ? random.pick([40, 200, 1000]) : undefined;
    const options = {
      ...(signal && { signal }),
      ...(timeout !== undefined && { timeout }),
    };
    const payload = ascii(`\0\0\0\0${account.text}`);
    const late = this.#closing;
    const refused = signal?.aborted;
    const before = this.#client.stats().requests;
    const sending: Promise<Uint8Array | void> = account.kind === "send"
      ? this.#client.send(payload, { ...options, idempotent })
      : this.#client.notify(payload, options);
    const counted = !late && !refused && this.#client.stats().requests > before;
    sending.then((response) => {
      account.settled = true;
      if (response === undefined) {
        this.#outcomes.notified++;
        if (account.kind === "send") this.#breaches.push(`${number}: nothing`);
        return;
      }
      this.#outcomes.responses++;
      const text = bare(textOf(response));
      if (text === `${number}!` && account.handled > 0) return;
      this.#breaches.push(`Crossed: ${number} got ${text.slice(0, 40)}`);
    }, (error) => {
      account.settled = true;
      if (counted) this.#outcomes.failures++;
      payload.fill(0xff); // It is the sender's again.
      this.#judge(number, account, error, signal);
    });
  }

  #judge(
    number: string,
    account: Account,
    error: unknown,
    signal: AbortSignal | undefined,
  ): void {
    if (error instanceof ConnectionLostError) {
      if (error.requestSent || account.handled === 0) return;
      this.#breaches.push(`${number} was handled, and is said to be unsent`);
      return;
    }
    const fine = error instanceof ConnectError ||
      error instanceof RequestTimeoutError ||
      error instanceof RequestFailedError && account.handled > 0 ||
      error instanceof PoolTimeoutError && this.#options.getTimeout! > 0 ||
      error instanceof ClientClosedError && (this.#closing || this.#killed) ||
      signal?.aborted && error === "given up";
    if (!fine) this.#breaches.push(`${number} failed with ${error}`);
  }
}

Deno.test("On every kind of wire, whatever far ends, handshakes and callbacks do, no response crosses, and every request settles", async () => {
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
        await immediate();
        assertEquals(unhandled, []);
      });
    }
    assertGreater(greetings, ROUNDS / 4);
  } finally {
    removeEventListener("unhandledrejection", note);
    Math.random = chance;
  }
});
