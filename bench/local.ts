// A child process that measures what needs no sockets: pools and decoding.

import { FrameDecoder } from "../codec.ts";
import { Pool, type PoolOptions } from "../pool.ts";
import { answer } from "./child.ts";
import {
  type GenericPool,
  importPeer,
  type LightningPool,
  type Tarn,
} from "./peers.ts";
import { mark } from "./profiler.ts";
import { makeFrames, makePayload } from "./wire.ts";

/** Resources of every pool. */
const CAP = 8;

/** What is pooled; it notes whether it is lent twice. */
interface Resource {
  lent: boolean;
}

/** Every limit, and the ping. */
const LIMITS: Partial<PoolOptions<Resource>> = {
  close: () => {},
  ping: () => true,
  pingAfterIdle: 10_000,
  pingInterval: 20_000,
  pingTimeout: 1_000,
  releaseTimeout: 1_000,
  drainTimeout: 1_000,
  minIdle: 1,
  maxIdle: CAP,
  idleTimeout: 30_000,
  maxLifetime: 600_000,
  getTimeout: 5_000,
  factoryTimeout: 3_000,
  maxWaiting: 1_000_000,
};

// The peers in their own defaults, as their users run them, and with those of
// the same limits that they have. A limit on acquiring costs each of them a timer
// a get.

const GENERIC_LIMITS = {
  min: 1,
  maxWaitingClients: 1_000_000,
  acquireTimeoutMillis: 5_000,
  idleTimeoutMillis: 30_000,
  evictionRunIntervalMillis: 15_000,
};

const TARN_LIMITS = {
  min: 1,
  acquireTimeoutMillis: 5_000,
  createTimeoutMillis: 3_000,
  idleTimeoutMillis: 30_000,
  reapIntervalMillis: 15_000,
};

const LIGHTNING_LIMITS = {
  min: 1,
  minIdle: 1,
  maxQueue: 1_000_000,
  acquireTimeoutMillis: 5_000,
  idleTimeoutMillis: 30_000,
  houseKeepInterval: 15_000,
};

/** What all pools have in common. */
interface AnyPool {
  get(): Promise<Resource> | PromiseLike<Resource>;
  put(resource: Resource): void;
}

const POOLS: Record<string, () => AnyPool | Promise<AnyPool | null>> = {
  bare,
  line,
  wirepool: () => wirepool(LIMITS),
  "wirepool, no limit": () => wirepool({}),
  "generic-pool": () => genericPool({}),
  "generic-pool, limits": () => genericPool(GENERIC_LIMITS),
  // Its constructor asks for both.
  tarn: () => tarn({ min: 0 }),
  "tarn, limits": () => tarn(TARN_LIMITS),
  "lightning-pool": () => lightningPool({}),
  "lightning-pool, limits": () => lightningPool(LIGHTNING_LIMITS),
};
const pools = new Map<string, AnyPool | null>();

await answer({
  /** Cycles of get and put per second; null where the peer is missing. */
  async cycles(
    name: string,
    callers: number,
    seconds: number,
  ): Promise<number | null> {
    if (!pools.has(name)) pools.set(name, await POOLS[name]!());
    const pool = pools.get(name)!;
    if (pool === null) return null;
    return callers === 1
      ? await cycleAlone(pool, seconds)
      : await cycleTogether(pool, callers, seconds);
  },

  /** Frames per second, `length` bytes in all, each frame its own chunk. */
  frames(length: number): number {
    const frame = makeFrames(makePayload(64), 1);
    const count = Math.floor(length / frame.length);
    const decoder = new FrameDecoder();
    let decoded = 0;
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      decoder.push(frame);
      if (decoder.decode()?.length === 64) decoded++;
    }
    const elapsed = performance.now() - start;
    if (decoded !== count) throw new Error("Frames were lost");
    return 1000 * count / elapsed;
  },

  /** Bytes per second of one frame of `length` bytes that comes byte by byte. */
  bytes(length: number): number {
    const frame = makeFrames(makePayload(length - 8), 1);
    const decoder = new FrameDecoder();
    let payload: Uint8Array | null = null;
    const start = performance.now();
    for (let i = 0; i < length; i++) {
      decoder.push(frame.subarray(i, i + 1));
      payload = decoder.decode();
    }
    const elapsed = performance.now() - start;
    if (payload?.length !== length - 8) throw new Error("The frame was lost");
    return 1000 * length / elapsed;
  },
});

async function cycleAlone(pool: AnyPool, seconds: number): Promise<number> {
  const start = performance.now();
  for (let cycles = 0;;) {
    for (let i = 0; i < 500; i++) {
      const resource = await pool.get();
      lend(resource);
      giveBack(pool, resource);
    }
    cycles += 500;
    const elapsed = performance.now() - start;
    if (elapsed >= 1000 * seconds) return 1000 * cycles / elapsed;
  }
}

/** Each caller holds what it got for a turn. How they all come to stand in
 * line, and how they leave it in the end, does not count. */
async function cycleTogether(
  pool: AnyPool,
  callers: number,
  seconds: number,
): Promise<number> {
  let cycles = 0;
  let rate = 0;
  let start = 0;
  const call = async () => {
    while (rate === 0) {
      const resource = await pool.get();
      lend(resource);
      await null;
      giveBack(pool, resource);
      if (++cycles % 500 > 0 || rate > 0) continue;
      const elapsed = performance.now() - start;
      if (elapsed < 1000 * seconds) continue;
      rate = 1000 * cycles / elapsed;
      mark();
    }
  };
  const all = Array.from({ length: callers }, call);
  mark();
  start = performance.now();
  await Promise.all(all);
  return rate;
}

function lend(resource: Resource): void {
  if (resource.lent) throw new Error("A resource was lent twice");
  resource.lent = true;
}

function giveBack(pool: AnyPool, resource: Resource): void {
  resource.lent = false;
  pool.put(resource);
}

function makeResource(): Resource {
  return { lent: false };
}

/** No limit but the one: what any pool has to do at the least. */
function bare(): AnyPool {
  const waiters: ((resource: Resource) => void)[] = [];
  return bareOver({
    push: (waiter) => waiters.push(waiter),
    shift: () => waiters.shift(),
  });
}

/** The same with a queue that shifts in no time, however long it is. */
function line(): AnyPool {
  const size = 2 ** 18;
  const waiters = new Array<((resource: Resource) => void) | undefined>(size)
    .fill(undefined);
  let head = 0;
  let tail = 0;
  return bareOver({
    push: (waiter) => waiters[tail++ % size] = waiter,
    shift() {
      if (head === tail) return undefined;
      const waiter = waiters[head % size];
      waiters[head++ % size] = undefined;
      return waiter;
    },
  });
}

function bareOver(waiters: {
  push(waiter: (resource: Resource) => void): unknown;
  shift(): ((resource: Resource) => void) | undefined;
}): AnyPool {
  const idle: Resource[] = [];
  let open = 0;
  return {
    get() {
      const resource = idle.pop();
      if (resource !== undefined) return Promise.resolve(resource);
      if (open < CAP) {
        open++;
        return Promise.resolve(makeResource());
      }
      return new Promise((resolve) => waiters.push(resolve));
    },
    put(resource) {
      const waiter = waiters.shift();
      if (waiter === undefined) idle.push(resource);
      else waiter(resource);
    },
  };
}

function wirepool(options: Partial<PoolOptions<Resource>>): AnyPool {
  return new Pool<Resource>({
    factory: makeResource,
    maxCap: CAP,
    ...options,
  });
}

async function genericPool(
  options: Record<string, unknown>,
): Promise<AnyPool | null> {
  const peer = await importPeer<GenericPool>("generic-pool");
  if (peer === undefined) return null;
  const pool = peer.createPool({
    create: () => Promise.resolve(makeResource()),
    destroy: () => Promise.resolve(),
  }, { max: CAP, ...options });
  return {
    get: () => pool.acquire(),
    put: (resource) => void pool.release(resource),
  };
}

async function tarn(options: Record<string, unknown>): Promise<AnyPool | null> {
  const peer = await importPeer<Tarn>("tarn");
  if (peer === undefined) return null;
  const pool = new peer.Pool({
    create: () => Promise.resolve(makeResource()),
    destroy: () => {},
    max: CAP,
    ...options,
  });
  return {
    get: () => pool.acquire().promise,
    put: (resource) => pool.release(resource),
  };
}

async function lightningPool(
  options: Record<string, unknown>,
): Promise<AnyPool | null> {
  const peer = await importPeer<LightningPool>("lightning-pool");
  if (peer === undefined) return null;
  const pool = new peer.Pool({
    create: () => Promise.resolve(makeResource()),
    destroy: () => Promise.resolve(),
  }, { max: CAP, ...options });
  pool.start();
  return {
    get: () => pool.acquire(),
    put: (resource) => pool.release(resource),
  };
}
