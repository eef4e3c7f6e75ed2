/**
 * A server with the default options, in a process of its own, under floods of
 * connections that want nothing good; and the traffic beside them.
 *
 * What the traffic loses is told in proportion to the same traffic with a
 * second server that nobody floods, in turns, so that whatever else the machine
 * does touches both. `WIREPOOL_LONG=1` measures longer, waits for the default
 * timeouts, and prints figures.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertLessOrEqual,
} from "@std/assert";
import { Client } from "../client.ts";
import { encodeFrame } from "../codec.ts";
import { KIB, MIB } from "./bytes_support.ts";
import {
  type ChildOptions,
  ChildServer,
  figuresOf,
} from "./child_server_support.ts";
import { testUnless, windows } from "./machine_support.ts";
import { longRun } from "./random_support.ts";
import { eventually, sleep } from "./time_support.ts";
import { report } from "./traffic_support.ts";

/** Each server's traffic is measured so often, for so many milliseconds; the
 * medians count. */
const WINDOWS = longRun() ? 15 : 2;
const WINDOW = longRun() ? 500 : 150;
/** What the traffic must keep of its throughput, and how much longer its
 * slowest hundredth may take. The bounds are wide in short runs, in which
 * chance has its part. A server that one peer can stop falls through any. */
const LEAST_THROUGHPUT = longRun() ? 0.7 : 0.2;
const MOST_P99 = longRun() ? 3 : 20;

/** What all connections of a server may hold together, by default. */
const MAX_BUFFERED = 256 * MIB;

/** The traffic that must not suffer, and the same traffic alone. */
class LiveTraffic {
  readonly client: Client;
  readonly #alone: Client;

  constructor(flooded: ChildServer, alone: ChildServer) {
    this.client = new Client({ port: flooded.port, maxCap: 4 });
    this.#alone = new Client({ port: alone.port, maxCap: 4 });
  }

  /** Makes the connections, and lets the servers compile what they run. */
  async warm(): Promise<void> {
    await measure(this.client);
    await measure(this.#alone);
  }

  /** Holds the traffic beside the flood against the traffic alone. */
  async beside(flood: string, figures: () => Record<string, unknown>) {
    let throughput = 0;
    let p99 = Infinity;
    let rate = 0;
    for (let tries = 0; tries < 5; tries++) {
      const alone: Measurement[] = [];
      const beside: Measurement[] = [];
      for (let i = 0; i < WINDOWS; i++) {
        alone.push(await measure(this.#alone));
        beside.push(await measure(this.client));
      }
      rate = median(alone, "throughput");
      throughput = Math.max(throughput, median(beside, "throughput") / rate);
      p99 = Math.min(p99, median(beside, "p99") / median(alone, "p99"));
      if (throughput >= LEAST_THROUGHPUT && p99 <= MOST_P99) break;
    }
    report(flood, {
      "throughput beside / alone": throughput,
      "p99 beside / alone": p99,
      "requests per second": rate,
      ...figures(),
    });
    assertGreater(throughput, LEAST_THROUGHPUT, `throughput beside ${flood}`);
    assertLess(p99, MOST_P99, `p99 beside ${flood}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
    await this.#alone.close();
  }
}

interface Measurement {
  throughput: number;
  p99: number;
}

/** Four callers, each with one request after the other. */
async function measure(client: Client): Promise<Measurement> {
  const durations: number[] = [];
  const request = new Uint8Array(100);
  const end = performance.now() + WINDOW;
  const caller = async () => {
    for (let at = performance.now(); at < end;) {
      const response = await client.send(request);
      assertEquals(response.length, request.length);
      const now = performance.now();
      durations.push(now - at);
      at = now;
    }
  };
  await Promise.all(Array.from({ length: 4 }, caller));
  durations.sort((a, b) => a - b);
  return {
    throughput: durations.length * 1000 / WINDOW,
    p99: durations[Math.floor(durations.length * 0.99)]!,
  };
}

function median(windows: Measurement[], figure: keyof Measurement): number {
  const values = windows.map((window) => window[figure]);
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

/** Many raw connections. */
class Flood {
  readonly conns: Deno.TcpConn[] = [];
  readonly #tasks: Promise<void>[] = [];
  readonly #port: number;
  /** How many the server has ended. */
  cut = 0;

  constructor(port: number) {
    this.#port = port;
  }

  /** Connects, fewer at once than a listener has room for. */
  async connect(count: number): Promise<void> {
    for (let left = count; left > 0; left -= 100) {
      const batch = Array.from(
        { length: Math.min(100, left) },
        () => Deno.connect({ hostname: "127.0.0.1", port: this.#port }),
      );
      this.conns.push(...await Promise.all(batch));
    }
  }

  /** Has each connection do something until it fails. */
  each(act: (conn: Deno.TcpConn) => Promise<unknown>): void {
    for (const conn of this.conns) {
      this.#tasks.push(act(conn).then(() => {}, () => {}));
    }
  }

  /** Counts the connections that end; reads away what comes. */
  watch(): void {
    this.each(async (conn) => {
      try {
        const buffer = new Uint8Array(64);
        while (await conn.read(buffer) !== null);
      } finally {
        this.cut++;
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const conn of this.conns) conn[Symbol.dispose]();
    await Promise.all(this.#tasks);
  }
}

/** Runs one flood: two servers, the traffic with both, and the flood of one. */
async function beside(
  options: ChildOptions,
  test: (
    traffic: LiveTraffic,
    flood: Flood,
    child: ChildServer,
  ) => Promise<void>,
): Promise<void> {
  await using child = await ChildServer.start(options);
  await using twin = await ChildServer.start(options);
  await using traffic = new LiveTraffic(child, twin);
  await traffic.warm();
  await using flood = new Flood(child.port);
  await test(traffic, flood, child);
}

/** Descriptors that a process may have; Deno itself raises the soft limit. */
function descriptorLimit(): number {
  if (windows) return Infinity;
  const { stdout } = new Deno.Command("sh", { args: ["-c", "ulimit -Hn"] })
    .outputSync();
  const limit = new TextDecoder().decode(stdout).trim();
  return limit === "unlimited" ? Infinity : Number(limit);
}

/** A header that announces 16 MiB, and nothing after it. */
const CLAIM = encodeFrame(new Uint8Array(16 * MIB)).slice(0, 8);

Deno.test("Ten thousand idle connections cost the traffic beside them little", async () => {
  // Half the descriptors are for what else runs in this process; elsewhere the
  // system's own tables are smaller than its limits say.
  const most = Deno.build.os === "linux" ? 10_000 : 2_000;
  const count = Math.min(most, Math.floor(descriptorLimit() / 2));
  await beside({}, async (traffic, flood) => {
    const before = await figuresOf(traffic.client);
    const start = performance.now();
    await flood.connect(count);
    const seconds = (performance.now() - start) / 1000;
    let after = await figuresOf(traffic.client);
    while (after.stats.connections < count) {
      await sleep(20);
      after = await figuresOf(traffic.client);
    }
    flood.watch();
    const perConnection = (after.memory.rss - before.memory.rss) / count;
    await traffic.beside("Idle connections", () => ({
      connections: count,
      "seconds to connect": seconds,
      "KiB per connection": perConnection / KIB,
    }));
    assertEquals(flood.cut, 0);
    assertLess(perConnection, 32 * KIB);
  });
});

Deno.test("A thousand connections that dribble are all cut, and the traffic goes on", async () => {
  // By default a frame may take half a minute.
  const readTimeout = longRun() ? 30_000 : 1000;
  const options = longRun() ? {} : { readTimeout };
  await beside({ serve: options }, async (traffic, flood) => {
    await flood.connect(1000);
    flood.watch();
    const start = performance.now();
    flood.each(async (conn) => {
      for (let i = 0;; i++) {
        await conn.write(i < 8 ? CLAIM.subarray(i, i + 1) : new Uint8Array(1));
        await sleep(readTimeout / 30);
      }
    });
    await traffic.beside("Dribblers", () => ({
      connections: flood.conns.length,
    }));
    await eventually("every dribbler is cut", () => flood.cut === 1000);
    const took = (performance.now() - start) / readTimeout;
    const { stats } = await figuresOf(traffic.client);
    report("Dribblers", { cut: flood.cut, "readTimeouts until then": took });
    assertLessOrEqual(stats.connections, 4);
    assertEquals(stats.errors, 1000);
  });
});

Deno.test("A thousand connections that announce 16 MiB and send nothing cost no memory", async () => {
  await beside({}, async (traffic, flood) => {
    await flood.connect(1000);
    const before = await figuresOf(traffic.client);
    for (const conn of flood.conns) await conn.write(CLAIM);
    let after = await figuresOf(traffic.client);
    while (after.stats.bytesIn < before.stats.bytesIn + 8 * 1000) {
      await sleep(20);
      after = await figuresOf(traffic.client);
    }
    flood.watch();
    const grown = after.memory.rss - before.memory.rss;
    await traffic.beside("Claims of 16 MiB", () => ({
      connections: 1000,
      "MiB grown": grown / MIB,
    }));
    assertEquals(flood.cut, 0);
    assertLess(grown, 64 * MIB);
  });
});

Deno.test("Frames that are sent but for their end cost what was sent, and no more than maxBuffered", async () => {
  const count = longRun() ? 32 : 4;
  await beside({}, async (traffic, flood) => {
    await flood.connect(count);
    const before = await figuresOf(traffic.client);
    const most = encodeFrame(new Uint8Array(16 * MIB)).subarray(0, 15 * MIB);
    let sent = 0;
    await Promise.allSettled(flood.conns.map(async (conn) => {
      for (let at = 0; at < most.length;) { // Until it is cut, if it is.
        const n = await conn.write(most.subarray(at));
        sent += n;
        at += n;
      }
    }));
    let after = await figuresOf(traffic.client);
    // What a server has not read of a connection that it cuts, it never reads.
    for (let tries = 0; tries < 100; tries++) {
      if (after.stats.bytesIn >= before.stats.bytesIn + sent) break;
      await sleep(20);
      after = await figuresOf(traffic.client);
    }
    flood.watch();
    const grown = after.memory.rss - before.memory.rss;
    await traffic.beside("Frames of 16 MiB without their end", () => ({
      connections: count,
      "MiB sent": sent / MIB,
      "MiB grown": grown / MIB,
    }));
    report("Frames of 16 MiB without their end", { cut: flood.cut });
    // What fits into the part of those whom the server does not know is kept.
    if (longRun()) assertGreater(flood.cut, 0);
    else assertEquals(flood.cut, 0);
    assertLess(grown, Math.min(1.5 * sent, MAX_BUFFERED) + 64 * MIB);
  });
});

Deno.test("Connections that never read are held back, and cost bounded memory", async () => {
  // The system, too, keeps megabytes for each, and takes its time for them.
  const count = longRun() ? 100 : 30;
  await beside({}, async (traffic, flood) => {
    const before = await figuresOf(traffic.client);
    await flood.connect(count);
    const requests = encodeFrame(new Uint8Array(64 * KIB));
    let sent = 0;
    flood.each(async (conn) => {
      for (;;) {
        const n = await conn.write(requests);
        sent += n;
      }
    });
    // Until nothing moves any more.
    for (let seen = -1; seen !== sent;) {
      seen = sent;
      await sleep(300);
    }
    const after = await figuresOf(traffic.client);
    const grown = after.memory.rss - before.memory.rss;
    await traffic.beside("Connections that never read", () => ({
      connections: count,
      "MiB grown": grown / MIB,
      "MiB sent": sent / MIB,
    }));
    assertLess(grown, count * MIB + 64 * MIB);
    const connections = async () =>
      (await figuresOf(traffic.client)).stats.connections;
    assertGreater(await connections(), count);
    if (!longRun()) return;
    while (await connections() >= count) await sleep(1000);
    report("Connections that never read", { "cut by writeTimeout": "all" });
  });
});

testUnless(
  windows && "no limit to set",
  "A server out of descriptors goes on, and accepts again when there are some",
  async () => {
    await beside({ descriptors: 128 }, async (traffic, flood, child) => {
      await flood.connect(200);
      flood.watch();
      const exhausted = async () =>
        (await figuresOf(traffic.client)).stats.acceptErrors > 0;
      while (!await exhausted()) await sleep(10);
      const { stats } = await figuresOf(traffic.client);
      assertLess(stats.connections, 128);
      await traffic.beside("Descriptors exhausted", () => ({
        accepted: stats.connections,
        "waiting to be": 204 - stats.connections,
      }));
      // Nobody who was accepted has been dropped for it.
      assertEquals(flood.cut, 0);
      for (const conn of flood.conns) conn[Symbol.dispose]();
      await using late = new Client({ port: child.port });
      assertEquals(await late.send(new Uint8Array(3)), new Uint8Array(3));
      const after = await figuresOf(traffic.client);
      assert(after.stats.acceptErrors > 0);
      report("Descriptors exhausted", {
        "failed accepts": after.stats.acceptErrors,
      });
    });
  },
);
