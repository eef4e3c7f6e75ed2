/**
 * Hostile streams into a server that lives, and hostile options into
 * everything that takes options. The codec alone is fuzzed beside its own
 * tests.
 *
 * `WIREPOOL_LONG=1` runs ten times as many. A failure names its seed;
 * `WIREPOOL_SEED=<seed>` runs that one first.
 */
import { assert, assertEquals, assertGreater, fail } from "@std/assert";
import { concat, equals, startsWith } from "@std/bytes";
import { Client, RequestTimeoutError } from "../client.ts";
import {
  encodeFrame,
  FrameDecoder,
  FrameDecoderStream,
  FrameEncoder,
  FrameEncoderStream,
  FrameError,
  type FrameOptions,
  FrameReader,
  FrameWriter,
  type Transport,
} from "../codec.ts";
import { Pool, PoolTimeoutError } from "../pool.ts";
import {
  type ConnectionOptions,
  type Handler,
  NO_RESPONSE,
  serve,
  serveConnection,
} from "../server.ts";
import { pattern } from "./bytes_support.ts";
import { referenceDecode, referenceEncode } from "./codec_reference_support.ts";
import { chosenSeed, longRun, type Random, seeded } from "./random_support.ts";
import { eventually } from "./time_support.ts";
import { report } from "./traffic_support.ts";

const TIMES = longRun() ? 10 : 1;

// ---------------------------------------------------------------------------
// Streams

/** Layouts with short fields, so that chance makes whole frames of bytes. */
function randomLayout(random: Random): FrameOptions {
  const lengthFieldLength = random.pick([1, 1, 2, 3, 4, 8] as const);
  const options: FrameOptions = {
    lengthFieldLength,
    byteOrder: random.pick(["big", "little"]),
    maxFrameLength: random.pick([20, 200, 1000, 16 * 1024 * 1024]),
  };
  if (random.once(3)) options.lengthFieldOffset = random.between(0, 5);
  if (random.once(3)) options.lengthAdjustment = random.between(-9, 5);
  if (random.once(4)) options.initialBytesToStrip = random.between(0, 12);
  return options;
}

/** Good frames, frames with wrong bytes in them, frames that end early, or
 * bytes that never were frames. */
function randomStream(random: Random, layout: FrameOptions): Uint8Array {
  const kind = random.between(0, 3);
  if (kind === 0) return random.bytes(random.between(0, 60));
  const frames: Uint8Array[] = [];
  for (let i = random.between(0, 8); i > 0; i--) {
    const payload = pattern(random.between(0, 30), random.between(0, 255));
    const frame = referenceEncode(payload, layout);
    if (typeof frame !== "string") frames.push(frame);
  }
  const stream = concat(frames);
  if (kind === 1) return stream.subarray(0, random.between(0, stream.length));
  if (kind === 2 && stream.length > 0) {
    stream[random.between(0, stream.length - 1)] = random.between(0, 255);
  }
  return stream;
}

/** Numbers that no read or write may come to. */
const BAD_COUNTS = [
  NaN,
  -1,
  1.5,
  2 ** 40,
  Infinity,
  undefined,
  "3",
] as unknown[];

/** What happens when the input, or the room for output, is used up. */
const STREAM_ENDS = [
  "end",
  "end",
  "end",
  "error",
  "hang",
  "bad count",
] as const;

/** A connection to somebody who sends a stream and does as chance says. */
class HostileConn implements Transport {
  readonly written: Uint8Array[] = [];
  closed = 0;
  /** Whether everything went as it would with a good peer. */
  clean = true;
  closeWrite?: () => Promise<void>;
  readonly #random: Random;
  readonly #input: Uint8Array;
  readonly #readEnd: typeof STREAM_ENDS[number];
  readonly #writeEnd: typeof STREAM_ENDS[number];
  readonly #patient: boolean;
  /** Bytes that it takes before it does what `#writeEnd` says. */
  #room: number;
  #read = 0;
  #lied = false;
  #hanging: (() => void)[] = [];

  constructor(random: Random, input: Uint8Array) {
    this.#random = random;
    this.#input = input;
    this.#readEnd = random.pick(STREAM_ENDS);
    this.#writeEnd = random.pick(STREAM_ENDS);
    this.#room = this.#writeEnd === "end" ? Infinity : random.between(0, 200);
    this.#patient = random.once(2);
    if (this.#readEnd !== "end") this.clean = false;
    if (random.once(3)) return;
    this.closeWrite = () => {
      if (!random.once(8)) return Promise.resolve();
      if (random.once(2)) throw new Error("No half-close here");
      return Promise.reject(new Deno.errors.NotConnected());
    };
  }

  get hangs(): boolean {
    return this.#hanging.length > 0;
  }

  async read(p: Uint8Array<ArrayBuffer>): Promise<number | null> {
    if (!this.#patient && this.#random.once(2)) await null;
    const left = this.#input.length - this.#read;
    if (left === 0) return this.#finish(this.#readEnd) as Promise<null>;
    if (this.#random.once(20)) return 0;
    const n = Math.min(this.#random.between(1, 40), left, p.length);
    p.set(this.#input.subarray(this.#read, this.#read += n));
    return n;
  }

  async write(p: Uint8Array): Promise<number> {
    if (!this.#patient && this.#random.once(2)) await null;
    if (this.#room === 0) {
      this.clean = false;
      return this.#finish(this.#writeEnd) as Promise<number>;
    }
    if (this.#random.once(20)) return 0;
    const most = Math.min(p.length, this.#room);
    const n = this.#random.once(2) ? most : this.#random.between(1, most);
    this.written.push(p.slice(0, n));
    this.#room -= n;
    return n;
  }

  close(): void {
    this.closed++;
    for (const settle of this.#hanging) settle();
    if (this.#random.once(8)) throw new Deno.errors.BadResource();
  }

  #finish(how: typeof STREAM_ENDS[number]): Promise<unknown> {
    switch (how) {
      case "end":
        return Promise.resolve(null);
      case "error":
        return Promise.reject(
          this.#random.pick<unknown>([
            new Deno.errors.ConnectionReset(),
            new Error("Something else"),
            undefined,
          ]),
        );
      case "bad count": {
        // Once: who goes on and on without waiting keeps the thread to itself.
        const count = this.#lied ? null : this.#random.pick(BAD_COUNTS);
        this.#lied = true;
        return Promise.resolve(count);
      }
      case "hang":
        if (this.closed > 0) {
          return Promise.reject(new Deno.errors.BadResource());
        }
        return new Promise((_, reject) =>
          this.#hanging.push(() => reject(new Deno.errors.Interrupted()))
        );
    }
  }
}

/** What a handler makes of a request. */
const REACTIONS = [
  "answer",
  "answer",
  "answer",
  "answer later",
  "nothing",
  "throw",
  "reject",
  "garbage",
] as const;

/** One stream into one `serveConnection`; returns the frames handled. */
async function serveHostileStream(random: Random): Promise<number> {
  const layout = randomLayout(random);
  const input = randomStream(random, layout);
  const reference = referenceDecode(input, layout);
  const conn = new HostileConn(random, input);

  // An answer that the layout can express, with the request's number in it.
  const encodable = [0, 1, 5, 12].filter((length) =>
    typeof referenceEncode(new Uint8Array(length), layout) !== "string"
  );
  const length = encodable.length > 0 ? random.pick(encodable) : null;
  const answer = (i: number) =>
    length === null ? NO_RESPONSE : new Uint8Array(length).fill(i);
  const recovers = random.once(3);
  const reactions = reference.frames.map(() =>
    random.once(3) ? random.pick(REACTIONS) : "answer"
  );
  let handled = 0;
  const handler: Handler = (payload) => {
    const i = handled++;
    const expected = reference.frames[i];
    assert(expected !== undefined, "a frame that the reference does not have");
    assert(equals(payload, expected.payload), `frame ${i} differs`);
    switch (reactions[i]!) {
      case "answer":
        return answer(i);
      case "answer later":
        return Promise.resolve().then(() => answer(i));
      case "nothing":
        return random.once(2) ? NO_RESPONSE : Promise.resolve(NO_RESPONSE);
      case "throw":
        throw new Error("The handler throws");
      case "reject":
        return Promise.reject(new Error("The handler rejects"));
      case "garbage":
        return random.pick<unknown>([
          "text",
          7,
          {},
          [1],
          undefined,
          null,
        ]) as Uint8Array;
    }
  };
  const broken: unknown[] = [];
  const controller = new AbortController();
  const options: ConnectionOptions = {
    ...layout,
    concurrency: random.pick([1, 1, 3]),
    signal: controller.signal,
    onError(error, context) {
      if (error instanceof Error && error.name === "AssertionError") {
        broken.push(error);
      }
      if (context === undefined) broken.push("an error without its context");
      if (recovers) return answer(99);
      if (random.once(4)) throw new Error("onError throws");
      return random.once(2) ? undefined : Promise.reject(new Error("rejects"));
    },
  };
  const served = serveConnection(conn, handler, options);
  // Whoever hangs does so for ever; the server is told to give up.
  let done = false;
  served.finally(() => done = true);
  for (let turns = 0; !done; turns++) {
    await (turns < 50 ? null : new Promise((go) => setTimeout(go, 0)));
    if (conn.hangs) {
      conn.clean = false;
      controller.abort();
    }
  }
  await served;

  assertEquals(broken, []);
  assertGreater(conn.closed, 0, "the connection was not closed");
  // What was to be written, up to the request that ended it.
  const responses: Uint8Array[] = [];
  let all = true;
  for (const [i, reaction] of reactions.entries()) {
    const failed = ["throw", "reject", "garbage"].includes(reaction);
    const response = failed
      ? (recovers ? answer(99) : NO_RESPONSE)
      : reaction === "nothing"
      ? NO_RESPONSE
      : answer(i);
    if (failed && response === NO_RESPONSE) {
      all = false;
      break;
    }
    if (response instanceof Uint8Array) {
      responses.push(referenceEncode(response, layout) as Uint8Array);
    }
  }
  const expected = concat(responses);
  const written = concat(conn.written);
  assert(startsWith(expected, written), "it wrote what it should not");
  if (conn.clean) {
    assertEquals(written, expected, "it wrote less than it should");
    if (all) assertEquals(handled, reference.frames.length);
  }
  return handled;
}

Deno.test("serveConnection() makes of hostile streams what the reference makes of them", async () => {
  const seed = chosenSeed();
  const count = 20_000 * TIMES;
  let handled = 0;
  for (let first = 0; first < count; first += 500) {
    await Promise.all(
      Array.from(
        { length: 500 },
        (_, i) =>
          seeded(seed + first + i, async (random) => {
            const frames = await serveHostileStream(random);
            handled += frames;
          }),
      ),
    );
  }
  assertGreater(handled, count);
  report("Hostile streams", { streams: count, "frames handled": handled });
});

Deno.test("A server goes on while hostile streams come over TCP", async () => {
  await seeded(chosenSeed(), async (random) => {
    const server = serve({ maxFrameLength: 1000 }, (payload) => payload);
    const { port } = server.addr as Deno.NetAddr;
    const hostname = "127.0.0.1";
    await using client = new Client({ port, maxCap: 2, pipelining: 4 });
    const count = 500 * TIMES;
    let left = count;
    const attack = async () => {
      while (left-- > 0) {
        using conn = await Deno.connect({ hostname, port });
        const stream = randomStream(random, { maxFrameLength: 1000 });
        try {
          for (let at = 0; at < stream.length;) {
            const end = at + random.between(1, 40);
            at += await conn.write(stream.subarray(at, end));
          }
          // Some close over what comes back, the others wait for it.
          if (random.once(2)) continue;
          if (random.once(2)) await conn.write(new Uint8Array(1000).fill(0xff));
          await conn.closeWrite();
          const room = new Uint8Array(random.between(1, 100));
          while (await conn.read(room) !== null);
        } catch (error) {
          // The server is free to cut or to reset; all else is a defect.
          if (
            !(error instanceof Deno.errors.ConnectionReset) &&
            !(error instanceof Deno.errors.BrokenPipe)
          ) throw error;
        }
      }
    };
    let answered = 0;
    const ask = async () => {
      while (left > 0) {
        const request = random.bytes(random.between(0, 50));
        assertEquals(await client.send(request), request);
        answered++;
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    };
    await Promise.all([
      ...Array.from({ length: 8 }, attack),
      ...Array.from({ length: 4 }, ask),
    ]);
    assertGreater(answered, 0);
    assertEquals(client.stats().pool.openedCount, 2);
    await client.close();
    await eventually(
      "the server is without connections",
      () => server.stats().connections === 0,
    );
    assertGreater(server.stats().errors, 0);
    await server.shutdown();
    report("Hostile streams over TCP", { streams: count, answered });
  });
});

// ---------------------------------------------------------------------------
// Options

class Booby extends Error {}

/** Values that somebody may pass where another is meant. No large numbers:
 * whoever asks for a million connections at the start shall have them. */
const HOSTILE_VALUES: readonly unknown[] = [
  undefined,
  null,
  NaN,
  Infinity,
  -Infinity,
  -1,
  -0,
  0,
  1,
  0.5,
  2 ** 53,
  -(2 ** 53),
  5n,
  "",
  "1",
  "big",
  true,
  false,
  Symbol("value"),
  [],
  [1],
  {},
  Object.create(null),
  new Date(NaN),
  new Uint8Array(3),
  () => {},
  class {},
  { valueOf: () => 5 },
  {
    toString() {
      throw new Booby();
    },
  },
  new Proxy({}, {
    get() {
      throw new Booby();
    },
  }),
];

const FRAME_KEYS = [
  "lengthFieldLength",
  "byteOrder",
  "lengthFieldOffset",
  "lengthAdjustment",
  "initialBytesToStrip",
  "maxFrameLength",
];

const POOL_KEYS = [
  "factory",
  "close",
  "ping",
  "initialCap",
  "minIdle",
  "maxCap",
  "maxIdle",
  "idleTimeout",
  "maxLifetime",
  "getTimeout",
  "factoryTimeout",
  "pingTimeout",
  "pingAfterIdle",
  "maxOpening",
  "maxWaiting",
  "idleOrder",
  "reapInterval",
  "leakTimeout",
  "onError",
  "hooks",
];

const CLIENT_KEYS = [
  ...FRAME_KEYS,
  "tls",
  "initialCap",
  "minIdle",
  "maxCap",
  "maxIdle",
  "idleTimeout",
  "maxLifetime",
  "getTimeout",
  "maxWaiting",
  "connectTimeout",
  "requestTimeout",
  "pipelining",
  "idempotent",
  "noDelay",
  "keepAlive",
  "onError",
  "hooks",
];

const CONNECTION_KEYS = [
  ...FRAME_KEYS,
  "concurrency",
  "idleTimeout",
  "readTimeout",
  "writeTimeout",
  "signal",
  "onError",
  "hooks",
];

const SERVE_KEYS = [
  ...CONNECTION_KEYS,
  "tcpBacklog",
  "noDelay",
  "keepAlive",
  "maxConnections",
  "handshakeTimeout",
  "shutdownTimeout",
  "proxyProtocol",
  "onListen",
];

const TEXT_KEYS = ["hostname", "path", "cert", "key", "alpnProtocols"];

/** Everything that takes options: what it is given, and what is done with it
 * when it takes them. */
interface Target {
  name: string;
  keys: readonly string[];
  /** Options that make it work. */
  base: Record<string, unknown>;
  // deno-lint-ignore no-explicit-any
  use(options: any): unknown;
}

/** Options that are wrong in a few places, or altogether. */
function hostileOptions(random: Random, { keys, base }: Target): unknown {
  if (random.once(20)) return random.pick(HOSTILE_VALUES);
  const options: Record<string, unknown> = random.once(10)
    ? Object.create(null)
    : {};
  Object.assign(options, base);
  for (let i = random.between(1, 3); i > 0; i--) {
    const key = random.pick(keys);
    const value = random.pick(HOSTILE_VALUES);
    if (TEXT_KEYS.includes(key) && typeof value === "string") continue;
    if (random.once(30)) {
      Object.defineProperty(options, key, {
        get() {
          throw new Booby();
        },
        enumerable: true,
        configurable: true,
      });
    } else {
      Object.defineProperty(options, key, {
        value,
        enumerable: true,
        configurable: true,
        writable: true,
      });
    }
  }
  return random.once(10) ? Object.freeze(options) : options;
}

/** Frames through a codec whose options were accepted. */
function roundTrip(options: FrameOptions | undefined): void {
  const decoder = new FrameDecoder(options);
  try {
    decoder.push(encodeFrame(new Uint8Array(40), options));
    while (decoder.decode() !== null);
    decoder.finish();
  } catch (error) {
    if (!(error instanceof FrameError)) throw error;
  }
}

const never = { read: () => Promise.resolve(null) };
const sink = { write: (p: Uint8Array) => Promise.resolve(p.length) };

Deno.test("Hostile options are refused with a TypeError or a RangeError, or do no harm", async () => {
  const server = serve({}, (payload) => payload);
  const { port } = server.addr as Deno.NetAddr;
  const client = new Client({ port });
  const pool = new Pool({ factory: () => ({}), maxCap: 1 });
  const limits = ["maxCap", "maxIdle"];
  const targets: Target[] = [
    { name: "encodeFrame", keys: FRAME_KEYS, base: {}, use: roundTrip },
    {
      name: "FrameEncoder",
      keys: FRAME_KEYS,
      base: {},
      use: (options) => new FrameEncoder(options),
    },
    {
      name: "FrameReader",
      keys: FRAME_KEYS,
      base: {},
      use: (options) => new FrameReader(never, options).read(),
    },
    {
      name: "FrameWriter",
      keys: FRAME_KEYS,
      base: {},
      use: (options) => new FrameWriter(sink, options),
    },
    {
      name: "FrameDecoderStream",
      keys: FRAME_KEYS,
      base: {},
      use: (options) => new FrameDecoderStream(options).readable.cancel(),
    },
    {
      name: "FrameEncoderStream",
      keys: FRAME_KEYS,
      base: {},
      use: (options) => new FrameEncoderStream(options).readable.cancel(),
    },
    {
      name: "Pool",
      keys: POOL_KEYS,
      base: { factory: () => ({}) },
      use: (options) => new Pool(options).close(),
    },
    {
      name: "Pool.open",
      keys: POOL_KEYS,
      base: { factory: () => ({}) },
      use: async (options) => await (await Pool.open(options)).close(),
    },
    {
      name: "Pool.get",
      keys: ["signal", "timeout"],
      base: {},
      use: async (options) => pool.put(await pool.get(options)),
    },
    {
      name: "Pool.resize",
      keys: limits,
      base: {},
      use: (options) => pool.resize(options),
    },
    {
      name: "Client",
      keys: [...CLIENT_KEYS, ...TEXT_KEYS],
      base: { port },
      use: (options) => new Client(options).close(),
    },
    {
      name: "Client.send",
      keys: ["signal", "timeout", "idempotent"],
      base: {},
      use: (options) => client.send(new Uint8Array(1), options),
    },
    {
      name: "serve",
      keys: [...SERVE_KEYS, ...TEXT_KEYS],
      base: {},
      use(options) {
        const server = serve(options, (payload) => payload);
        server.close();
        return server.finished;
      },
    },
    {
      name: "serveConnection",
      keys: CONNECTION_KEYS,
      base: {},
      use: (options) =>
        serveConnection({ ...never, ...sink, close() {} }, (p) => p, options),
    },
  ];
  const seed = chosenSeed();
  const count = 20_000 * TIMES;
  let refused = 0;
  for (let i = 0; i < count; i++) {
    await seeded(seed + i, async (random) => {
      const target = random.pick(targets);
      const options = hostileOptions(random, target);
      try {
        await target.use(options);
      } catch (error) {
        refused++;
        // What a getter or a conversion of theirs throws is their own.
        if (
          error instanceof TypeError || error instanceof RangeError ||
          error instanceof Booby
        ) return;
        // A limit of half a millisecond was taken, and this machine was slow.
        if (
          error instanceof RequestTimeoutError ||
          error instanceof PoolTimeoutError
        ) {
          const timeout = (options as { timeout?: unknown } | null)?.timeout;
          if (timeout === 0.5 || timeout === 1) return;
        }
        fail(`${target.name} of ${Deno.inspect(options)} throws ${error}`);
      }
    });
  }
  assertGreater(refused, count / 4);
  assertGreater(count - refused, count / 20);
  await client.close();
  await pool.close();
  await server.shutdown();
  report("Hostile options", { objects: count, refused });
});
