/**
 * Hostile connections by the thousand, in a process of their own, against a
 * server in another; and the live traffic beside them. The server has the
 * default options, and what it holds is read from the system.
 *
 * `deno run attack_support.ts server OPTIONS` is the one process, and
 * `deno run attack_support.ts hostile KIND PORT COUNT` the other. Either ends
 * with its standard input.
 */
import { Client } from "../client.ts";
import { encodeFrame } from "../codec.ts";
import {
  serve,
  type ServeOptions,
  type Server,
  type ServerStats,
} from "../server.ts";
import { KIB, MIB, writeAll } from "./bytes_support.ts";
import { sleep } from "./time_support.ts";

/** What hostile connections do. */
export type Attack = keyof typeof ATTACKS;

/** What the server is asked for; the first byte of a request says it. */
const LARGE = 1;
const PINNED = 2;
const FIGURES = 3;

/** The length of what is claimed, and of the large responses. */
const LARGEST = 16 * MIB;

/** A header that announces a frame of the largest length. */
const CLAIM = encodeFrame(new Uint8Array(LARGEST)).slice(0, 8);

/** How many hostile connections write much at a time. What is written waits in
 * the sender's memory first, and that of all TCP senders of a machine is
 * limited: an attacker has a machine of its own, and this one is shared. */
const WRITERS = 100;

/** The same where each write is a request like any other: it is not the work
 * that is measured. */
const REQUESTERS = 1;

/** Pays for every byte that is sent; all connections share it. */
const ZEROS = new Uint8Array(MIB);

/** One connection each, until it is cut. */
const ATTACKS = {
  /** All of the largest frame but its last 100 KiB, and then silence. */
  async unfinished(conn: Deno.Conn): Promise<void> {
    await writeMuch(conn, LARGEST - 100 * KIB);
    await untilCut(conn);
  },

  /** A byte at a time of the largest frame. */
  async slow(conn: Deno.Conn): Promise<void> {
    await writeAll(conn, CLAIM);
    for (;;) {
      await writeAll(conn, ZEROS.subarray(0, 1));
      await sleep(200);
    }
  },

  /** A header, and then silence. */
  async claim(conn: Deno.Conn): Promise<void> {
    await writeAll(conn, CLAIM);
    await untilCut(conn);
  },

  /** Part of a large frame, up to where more memory is asked for. */
  async partial(conn: Deno.Conn): Promise<void> {
    await writeMuch(conn, MIB);
    await untilCut(conn);
  },

  /** Asks for large responses, and reads none. */
  async deaf(conn: Deno.Conn): Promise<void> {
    const request = encodeFrame(Uint8Array.of(LARGE));
    await writeAll(conn, request);
    await writeAll(conn, request);
    await sleepUntilCut(conn);
  },

  /** Sends much, of which each response keeps a little, and reads none. */
  async pinned(conn: Deno.Conn): Promise<void> {
    const head = encodeFrame(new Uint8Array(MIB)).subarray(0, 8);
    for (let i = 0; i < 16; i++) {
      await whenMayWrite(REQUESTERS, async () => {
        await writeAll(conn, head);
        await writeAll(conn, Uint8Array.of(PINNED));
        await writeAll(conn, ZEROS.subarray(1));
      });
    }
    await sleepUntilCut(conn);
  },
};

export const ATTACK_NAMES = Object.keys(ATTACKS) as Attack[];

/** Writes part of the largest frame: at once what a server takes for nothing,
 * and the rest when it is its turn. */
async function writeMuch(conn: Deno.Conn, bytes: number): Promise<void> {
  await writeAll(conn, CLAIM);
  await writeAll(conn, ZEROS.subarray(0, 60 * KIB));
  await whenMayWrite(WRITERS, async () => {
    for (let left = bytes - 60 * KIB; left > 0; left -= ZEROS.length) {
      await writeAll(conn, ZEROS.subarray(0, left));
    }
  });
}

async function whenMayWrite(
  most: number,
  write: () => Promise<void>,
): Promise<void> {
  while (writers >= most) await sleep(20);
  writers++;
  try {
    await write();
  } finally {
    writers--;
  }
}

let writers = 0;

/** Reads nothing that comes, and notices the end. */
async function untilCut(conn: Deno.Conn): Promise<void> {
  while (await conn.read(new Uint8Array(16)) !== null);
}

/** Does not even read; a byte now and then would be refused. */
async function sleepUntilCut(conn: Deno.Conn): Promise<void> {
  for (;;) {
    await sleep(500);
    await writeAll(conn, ZEROS.subarray(0, 1));
  }
}

/** A process of this file. */
class Child implements AsyncDisposable {
  readonly process: Deno.ChildProcess;
  /** The first line that it prints. */
  readonly line: Promise<string>;

  constructor(...args: string[]) {
    this.process = new Deno.Command("deno", {
      args: [
        "run",
        "--quiet",
        "--no-prompt",
        "--no-check",
        "--allow-net=127.0.0.1",
        import.meta.filename!,
        ...args,
      ],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.line = this.#read();
  }

  async #read(): Promise<string> {
    let text = "";
    for await (const chunk of this.process.stdout) {
      text += new TextDecoder().decode(chunk);
      if (text.endsWith("\n")) break;
    }
    return text.trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.process.kill("SIGKILL");
    } catch {
      // It has ended already.
    }
    await this.process.status;
    await this.process.stdin.close().catch(() => {});
  }
}

/** What requests of one size achieved. */
export interface Rate {
  /** Bytes of a payload. */
  size: number;
  /** Requests answered a second. */
  rate: number;
  /** The longest that one took, in milliseconds. */
  longest: number;
  failed: number;
  /** Why the last one failed. */
  failure?: unknown;
}

/** What an attack came to. */
export interface Outcome {
  attack: Attack;
  connections: number;
  /** Resident memory of the server, in bytes: before, and at most. */
  before: number;
  peak: number;
  alone: Rate[];
  beside: Rate[];
  /** Of clients that came only then: how long each size took until it was
   * answered, in milliseconds. */
  newcomers: number[];
  stats: ServerStats;
}

/** Seconds for which the one traffic and then the other is measured. */
const WINDOW = 1;

/** The sizes of the live traffic. */
const SIZES = [64, 64 * KIB, 8 * MIB];

/**
 * Attacks a server and measures what becomes of it and of the traffic beside.
 *
 * @param seconds How long the traffic is measured, alone and beside.
 */
export async function measureAttack(
  attack: Attack,
  count: number,
  seconds: number,
  options: ServeOptions = {},
  sizes: readonly number[] = SIZES,
): Promise<Outcome> {
  // The same traffic goes to a server that nobody attacks, in turns, so that
  // whatever else the machine does touches both.
  await using server = new Child("server", JSON.stringify(options));
  await using twin = new Child("server", JSON.stringify(options));
  const port = Number(await server.line);
  const { pid } = server.process;
  const attacked = sizes.map(() => new Client({ port, maxCap: 1 }));
  const spared = await Promise.all(
    sizes.map(async () => new Client({ port: Number(await twin.line) })),
  );
  const measure = (clients: Client[]) =>
    Promise.all(
      sizes.map((size, i) => measureRate(clients[i]!, size, WINDOW)),
    );
  for (const clients of [attacked, spared]) await measure(clients);
  const before = residentMemory(pid).now;
  await using hostile = new Child(
    "hostile",
    attack,
    String(port),
    String(count),
  );
  const connections = Number(await hostile.line);
  const alone: Rate[][] = [];
  const beside: Rate[][] = [];
  for (let left = seconds; left > 0; left -= 2 * WINDOW) {
    alone.push(await measure(spared));
    beside.push(await measure(attacked));
  }
  // Who comes now has nothing to show for itself.
  const newcomers: number[] = [];
  for (const size of sizes) newcomers.push(await firstResponse(port, size));
  const { peak } = residentMemory(pid);
  const stats = JSON.parse(
    new TextDecoder().decode(await attacked[0]!.send(Uint8Array.of(FIGURES))),
  );
  for (const client of [...attacked, ...spared]) await client.close();
  return {
    attack,
    connections,
    before,
    peak,
    alone: sizes.map((_, i) => total(alone.map((rates) => rates[i]!))),
    beside: sizes.map((_, i) => total(beside.map((rates) => rates[i]!))),
    newcomers,
    stats,
  };
}

/** How long a newcomer takes to be answered, in milliseconds; Infinity if it is
 * not. It gives a request ten seconds, and comes again. */
async function firstResponse(port: number, size: number): Promise<number> {
  const start = performance.now();
  for (let tries = 0; tries < 6; tries++) {
    await using client = new Client({ port, requestTimeout: 10_000 });
    const { failed } = await measureRate(client, size, 0);
    if (failed === 0) return performance.now() - start;
  }
  return Infinity;
}

/** Windows of one size taken together. */
function total(rates: Rate[]): Rate {
  return {
    size: rates[0]!.size,
    rate: rates.reduce((sum, { rate }) => sum + rate, 0) / rates.length,
    longest: Math.max(...rates.map(({ longest }) => longest)),
    failed: rates.reduce((sum, { failed }) => sum + failed, 0),
    failure: rates.findLast(({ failed }) => failed > 0)?.failure,
  };
}

/** One request after the other; at least one. */
async function measureRate(
  client: Client,
  size: number,
  seconds: number,
): Promise<Rate> {
  const request = new Uint8Array(size);
  const rate: Rate = { size, rate: 0, longest: 0, failed: 0 };
  const start = performance.now();
  let answered = 0;
  let now = start;
  do {
    const sent = now;
    try {
      const response = await client.send(request);
      if (response.length !== size) throw new Error("Another's response");
      answered++;
    } catch (error) {
      rate.failed++;
      rate.failure = error;
    }
    now = performance.now();
    rate.longest = Math.max(rate.longest, now - sent);
  } while (now - start < seconds * 1000);
  rate.rate = answered * 1000 / (now - start);
  return rate;
}

/** Resident memory of a process in bytes, now and at most so far; NaN where the
 * system does not say. */
function residentMemory(pid: number): { now: number; peak: number } {
  let status = "";
  if (Deno.build.os === "linux") {
    // Deno itself reads there only with all permissions.
    const { stdout } = new Deno.Command("sh", {
      args: ["-c", `cat /proc/${pid}/status`],
    }).outputSync();
    status = new TextDecoder().decode(stdout);
  }
  const read = (name: string) =>
    Number(new RegExp(`${name}:\\s*(\\d+) kB`).exec(status)?.[1]) * KIB;
  return { now: read("VmRSS"), peak: read("VmHWM") };
}

/** The server. */
function runServer(options: ServeOptions): void {
  const server: Server = serve(options, (request) => {
    switch (request[0]) {
      case LARGE:
        return new Uint8Array(LARGEST).fill(1);
      case PINNED:
        return request.subarray(0, 33 * KIB);
      case FIGURES:
        return new TextEncoder().encode(JSON.stringify(server.stats()));
      default:
        return request;
    }
  });
  console.log((server.addr as Deno.NetAddr).port);
}

/** The hostile connections; one that is cut is followed by another. */
async function runHostile(
  attack: Attack,
  port: number,
  count: number,
): Promise<void> {
  let open = 0;
  const attackOn = async () => {
    for (;;) {
      try {
        using conn = await Deno.connect({ hostname: "127.0.0.1", port });
        open++;
        await ATTACKS[attack](conn);
      } catch {
        // It was cut.
      }
      await sleep(10);
    }
  };
  for (let i = 0; i < count; i++) {
    attackOn();
    if (i % 50 === 49) await sleep(5);
  }
  while (open < count) await sleep(10);
  console.log(open);
}

if (import.meta.main) {
  const [role, ...args] = Deno.args;
  if (role === "server") runServer(JSON.parse(args[0]!));
  else runHostile(args[0] as Attack, Number(args[1]), Number(args[2]));
  // Whoever started it may be gone.
  for await (const _ of Deno.stdin.readable);
  Deno.exit(1);
}
