// A child process that sends: load on the servers, and the clients that are
// compared. Every count is of answers, of which samples are checked.

import process from "node:process";
import { Client } from "../client.ts";
import { answer, sleep } from "./child.ts";
import {
  ECHO_SERVICE,
  type Grpc,
  type GrpcClient,
  importPeer,
} from "./peers.ts";
import { mark } from "./profiler.ts";
import { receiveLarge } from "./by_hand.ts";
import {
  check,
  ID,
  LARGE_RESPONSE,
  makeFrames,
  makePayload,
  readAll,
  SLOW,
  writeAll,
} from "./wire.ts";

/** Every so many answers are compared with what was sent. */
const SAMPLE = 64;

/** Bytes that are sent before any are read; more than the kernel is sure to
 * hold would wait for a server that waits for us. */
const MAX_UNREAD = 64 * 1024;

/** Requests a second that are sent beside slow ones, and how many for each slow
 * one. */
const SLOW_RATE = 200;
const SLOW_EACH = 20;

/** What is not counted, in milliseconds: connecting, and the first answers. */
const RUN_UP = 60;

/** Counts answers for a while. */
class Meter {
  stopped = false;
  count = 0;

  /** Resolves to the answers per second, once `seconds` are over. */
  async measure(seconds: number): Promise<number> {
    await sleep(RUN_UP);
    const start = performance.now();
    const before = this.count;
    mark();
    await sleep(1000 * seconds);
    const rate = 1000 * (this.count - before) / (performance.now() - start);
    mark();
    this.stopped = true;
    return rate;
  }
}

/** What a load of frames came to. */
export interface Frames {
  /** Answers per second. */
  readonly rate: number;
  /** All answers, those in the run-up as well. */
  readonly count: number;
  /** The part of one core that the load itself took. */
  readonly share: number;
}

interface FrameLoad {
  /** Of those that are held, so many are used. */
  connections: number;
  /** Frames sent at a time. */
  batch: number;
  payload: number;
  seconds: number;
  /** The frames carry ids. */
  correlated?: boolean;
}

interface ClientLoad {
  port: number;
  callers: number;
  seconds: number;
  maxCap: number;
  pipelining: number;
  requestTimeout: number;
  correlated?: boolean;
}

/** Open connections, each of which has had an answer, and their server. */
const held: Deno.TcpConn[] = [];
let heldPort = 0;
let grpcClient: GrpcClient | undefined;

await answer({
  /** Keeps so many connections, to one server. */
  async hold(port: number, count: number): Promise<void> {
    for (const conn of held.splice(port === heldPort ? count : 0)) conn.close();
    heldPort = port;
    const request = makeFrames(makePayload(64), 1);
    // Few at a time: a full backlog would drop them, for a second each.
    while (held.length < count) {
      await repeat(Math.min(100, count - held.length), async () => {
        const conn = await connect(port);
        held.push(conn);
        await writeAll(conn, request);
        await mustRead(conn, new Uint8Array(request.length));
      });
    }
  },

  /** Frames, a batch at a time on each connection. */
  async frames(load: FrameLoad): Promise<Frames> {
    const meter = new Meter();
    const start = performance.now();
    const before = process.cpuUsage();
    const payload = makePayload(load.payload);
    const request = makeFrames(payload, load.batch, load.correlated);
    const done = repeat(load.connections, async (index) => {
      const conn = held[index]!;
      const buffer = new Uint8Array(request.length);
      while (!meter.stopped) {
        if (request.length > MAX_UNREAD) {
          await Promise.all([writeAll(conn, request), mustRead(conn, buffer)]);
        } else {
          await writeAll(conn, request);
          await mustRead(conn, buffer);
        }
        if (meter.count % (SAMPLE * load.batch) === 0) check(buffer, request);
        meter.count += load.batch;
      }
    });
    const rate = await outcome(meter.measure(load.seconds), done);
    const { user, system } = process.cpuUsage(before);
    const elapsed = 1000 * (performance.now() - start);
    return { rate, count: meter.count, share: (user + system) / elapsed };
  },

  /** Sends frames cut into pieces of every size up to a point, and checks that
   * they come back: who is measured is to work, too. */
  async cut(port: number, correlated: boolean): Promise<void> {
    using conn = await connect(port);
    for (const length of [0, 1, 64, 5000, 100_000]) {
      const sent = makeFrames(makePayload(length), 3, correlated);
      const most = Math.min(sent.length, 40);
      for (let size = 1; size <= most; size++) {
        const answer = new Uint8Array(sent.length);
        const answered = mustRead(conn, answer);
        // The first pieces are cut, the rest goes as a whole.
        for (let at = 0; at < most; at += size) {
          const end = at + size >= most ? sent.length : at + size;
          await writeAll(conn, sent.subarray(at, end));
        }
        await answered;
        check(answer, sent);
      }
    }
  },

  /** The hand-written client: a connection for each caller. */
  async raw(load: ClientLoad): Promise<number> {
    const meter = new Meter();
    const request = makeFrames(makePayload(64), 1);
    const done = repeat(load.callers, async () => {
      using conn = await connect(load.port);
      const buffer = new Uint8Array(request.length);
      while (!meter.stopped) {
        await writeAll(conn, request);
        await mustRead(conn, buffer);
        if (meter.count++ % SAMPLE === 0) check(buffer, request);
      }
    });
    return await outcome(meter.measure(load.seconds), done);
  },

  /** The hand-written client of large responses, likewise. */
  async rawLarge(load: ClientLoad): Promise<number> {
    const meter = new Meter();
    const request = makeFrames(makePayload(64), 1);
    const done = repeat(load.callers, async () => {
      using conn = await connect(load.port);
      const header = new Uint8Array(8);
      while (!meter.stopped) {
        await writeAll(conn, request);
        const response = await receiveLarge(conn, header);
        if (meter.count++ % SAMPLE === 0) check(response!, LARGE_RESPONSE);
      }
    });
    return await outcome(meter.measure(load.seconds), done);
  },

  async wirepoolLarge(load: ClientLoad): Promise<number> {
    await using client = makeClient(load);
    const meter = new Meter();
    const done = repeat(load.callers, async () => {
      const payload = makePayload(64);
      while (!meter.stopped) {
        const response = await client.send(payload);
        if (meter.count++ % SAMPLE === 0) check(response, LARGE_RESPONSE);
      }
    });
    return await outcome(meter.measure(load.seconds), done);
  },

  async wirepool(load: ClientLoad): Promise<number> {
    await using client = makeClient(load);
    return await measureCalls(load, (payload) => client.send(payload));
  },

  /** Sends at even times, and now and then what takes long; gives how long the
   * others took that 99 of 100 are not slower than, in milliseconds. */
  async besideSlow(load: ClientLoad): Promise<number> {
    await using client = makeClient(load);
    const times: number[] = [];
    const sent: Promise<void>[] = [];
    const start = performance.now();
    for (let i = 0; i < SLOW_RATE * load.seconds; i++) {
      const due = start + 1000 * i / SLOW_RATE;
      await sleep(Math.max(0, due - performance.now()));
      const payload = makePayload(64);
      const isSlow = i % SLOW_EACH === 0;
      payload[0] = isSlow ? SLOW : i % SLOW;
      sent.push(
        client.send(payload).then((answer) => {
          if (!isSlow) times.push(performance.now() - due);
          check(answer, payload);
        }),
      );
    }
    await Promise.all(sent);
    times.sort((a, b) => a - b);
    return times[Math.floor(0.99 * times.length)]!;
  },

  /** Has each connection that is held send frames once, and takes the answers. */
  async burst(batch: number): Promise<void> {
    const request = makeFrames(makePayload(64), batch);
    for (let i = 0; i < held.length; i += 100) {
      await Promise.all(
        held.slice(i, i + 100).map(async (conn) => {
          await writeAll(conn, request);
          await mustRead(conn, new Uint8Array(request.length));
        }),
      );
    }
  },

  async fetch(load: ClientLoad): Promise<number> {
    const url = `http://127.0.0.1:${load.port}/`;
    return await measureCalls(load, async (body) => {
      const response = await fetch(url, { method: "POST", body });
      return await response.bytes();
    });
  },

  async grpc(load: ClientLoad): Promise<number | null> {
    const grpc = await importPeer<Grpc>("grpc");
    if (grpc === undefined) return null;
    // Never closed: under Deno 2.9 that ends the server with a failed assertion.
    const client = grpcClient ??=
      new (grpc.makeClientConstructor(ECHO_SERVICE, "Echo"))(
        `127.0.0.1:${load.port}`,
        grpc.credentials.createInsecure(),
      );
    return await measureCalls(
      load,
      (payload) =>
        new Promise((resolve, reject) =>
          client.echo(
            payload,
            (error, answer) => error === null ? resolve(answer) : reject(error),
          )
        ),
    );
  },
});

function makeClient(load: ClientLoad): Client {
  const { port, maxCap, pipelining, requestTimeout, correlated } = load;
  return new Client({
    port,
    maxCap,
    pipelining,
    requestTimeout,
    ...correlated ? { correlation: { length: ID } } : {},
  });
}

/** Answers per second of callers that each send when they have their answer. */
async function measureCalls(
  { callers, seconds }: ClientLoad,
  send: (payload: Uint8Array<ArrayBuffer>) => Promise<Uint8Array>,
): Promise<number> {
  const meter = new Meter();
  const done = repeat(callers, async (caller) => {
    const payload = makePayload(64);
    payload[0] = caller;
    while (!meter.stopped) {
      const answer = await send(payload);
      if (meter.count++ % SAMPLE === 0) check(answer, payload);
    }
  });
  return await outcome(meter.measure(seconds), done);
}

/** The figure, once the work has ended; a failure of either is one of both. */
async function outcome(
  rate: Promise<number>,
  done: Promise<void>,
): Promise<number> {
  await Promise.race([done, rate]);
  await done;
  return await rate;
}

async function repeat(
  count: number,
  task: (index: number) => Promise<void>,
): Promise<void> {
  await Promise.all(Array.from({ length: count }, (_, i) => task(i)));
}

async function connect(port: number): Promise<Deno.TcpConn> {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  conn.setNoDelay();
  return conn;
}

async function mustRead(
  conn: Deno.Conn,
  buffer: Uint8Array<ArrayBuffer>,
): Promise<void> {
  if (!await readAll(conn, buffer)) throw new Error("The server hung up");
}
