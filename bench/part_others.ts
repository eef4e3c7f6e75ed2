// The same service on other runtimes, as far as they are installed: a framed
// echo in Go, Node and Bun, in turns with ours under one load.

import { Child } from "./child.ts";
import {
  type Contender,
  contest,
  enter,
  type Outcome,
  type Shape,
} from "./contest.ts";
import { spread } from "./measure.ts";
import type { Findings, Part, Row, Step } from "./measure.ts";
import { FIFTY, largeShape, ONE } from "./part_server.ts";

const ROUNDS = 5;
/** Long enough for the system's clock of CPU time, which ticks each 10 ms. */
const SECONDS = 0.5;
/** Milliseconds that a server may take to start; the first time Go compiles. */
const START = 120_000;
/** Clock ticks a second of what /proc says: the same on all Linux systems. */
const TICKS = 100;

const OURS = "wirepool";

/** How the others are started. */
const OTHERS = [
  { name: "Go, bufio", command: "go", args: ["run"], file: "echo.go" },
  { name: "Node, net", command: "node", args: [], file: "echo_node.mjs" },
  { name: "Bun.listen", command: "bun", args: ["run"], file: "echo_bun.mjs" },
];

export const SHAPES: { what: string; shape: Shape }[] = [
  { what: "1 at a time", shape: ONE },
  { what: "50 at a time", shape: FIFTY },
  { what: "1 MiB", shape: largeShape(1024 * 1024) },
];

export const others: Part = {
  name: "others",
  title: "Other runtimes",
  steps: 1 + SHAPES.length * (ROUNDS + 1),
  run,
};

async function run(step: Step): Promise<Findings> {
  step("starting them");
  await using load = new Child("load.ts");
  await using ours = new Child("servers.ts");
  await using stack = new AsyncDisposableStack();
  const pid = await ours.call<number>("pid");
  const missing: string[] = [];
  const contenders: Record<string, Contender> = {
    [OURS]: { ...await enter(load, ours, "wirepool"), usage: meter(pid) },
  };
  for (const { name, command, args, file } of OTHERS) {
    const version = await versionOf(command);
    if (version === undefined) {
      missing.push(`${name} (no ${command} here)`);
      continue;
    }
    const program = await Program.start(command, [...args, pathOf(file)]);
    stack.use(program);
    await load.call("cut", program.port, false);
    contenders[`${name} (${version})`] = {
      port: program.port,
      usage: meter(program.pid),
    };
  }

  const rows: Row[] = [];
  const outcomes: { what: string; outcome: Outcome }[] = [];
  for (const { what, shape } of SHAPES) {
    const outcome = await contest(load, contenders, shape, {
      rounds: ROUNDS,
      seconds: SECONDS,
      step: () => step(what),
    });
    outcomes.push({ what, outcome });
    for (const name of Object.keys(contenders)) {
      if (name === OURS) continue;
      rows.push({
        what: `${what}, of ${name}: rate`,
        figure: outcome.ratio("rate", OURS, name),
        unit: "×",
      }, {
        what: `${what}, of ${name}: server CPU for a frame`,
        figure: outcome.ratio("cpu", OURS, name),
        unit: "×",
      });
    }
  }
  const names = Object.keys(contenders);
  return {
    rows,
    rates: outcomes.flatMap(({ what, outcome }) => [
      ...outcome.rates(what),
      // Where the load's is the busy core, only CPU says who is better.
      ...names.flatMap((name) => [
        {
          who: `${name}, ${what}: busy part of the server's core`,
          value: spread(outcome.of(name, "share")),
          unit: "×",
        },
        {
          who: `${name}, ${what}: busy part of the load's core`,
          value: spread(outcome.of(name, "loadShare")),
          unit: "×",
        },
      ]),
    ]),
    missing,
    charts: outcomes.filter(({ what }) => what === "50 at a time").map((
      { outcome },
    ) => ({
      title: "Frames of 64 bytes, 50 at a time, for a second of server CPU",
      bars: names.map((who) => ({
        who: who === OURS ? "wirepool (on Deno)" : who,
        value: spread(outcome.of(who, "cpu").map((cpu) => 1e6 / cpu)),
        unit: "frames",
      })),
    })),
  };
}

/** A server in a process of its own, which prints its port and process id. */
export class Program implements AsyncDisposable {
  readonly port: number;
  readonly pid: number;
  readonly #process: Deno.ChildProcess;

  private constructor(process: Deno.ChildProcess, port: number, pid: number) {
    this.#process = process;
    this.port = port;
    this.pid = pid;
  }

  static async start(command: string, args: string[]): Promise<Program> {
    const process = new Deno.Command(command, {
      args,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    const timer = setTimeout(() => process.kill(), START);
    const line = await firstLine(process.stdout);
    clearTimeout(timer);
    const [port, pid] = line.split(" ").map(Number);
    if (!port || !pid) throw new Error(`${command} said ${line}`);
    return new Program(process, port, pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stdin.close().catch(() => {});
    await this.#process.status;
  }
}

async function firstLine(bytes: ReadableStream<Uint8Array>): Promise<string> {
  const reader = bytes.getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (!text.includes("\n")) {
    const { value, done } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
  }
  return text.split("\n")[0]!;
}

/** Reads the CPU time of any process from /proc. Deno reads there only with all
 * permissions, so that another program has to. */
export function meter(pid: number): Contender["usage"] {
  return async () => {
    const stat = await outputOf("cat", `/proc/${pid}/stat`);
    // The command's name comes first, in brackets, and may hold anything.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const user = Number(fields[11]) * 1e6 / TICKS;
    const system = Number(fields[12]) * 1e6 / TICKS;
    return { cpu: user + system, user };
  };
}

/** The version of what is installed; undefined if nothing is. */
async function versionOf(command: string): Promise<string | undefined> {
  try {
    const argument = command === "go" ? "version" : "--version";
    const text = await outputOf(command, argument);
    // Where there is no Node, Deno takes its place.
    if (text.startsWith("deno")) return undefined;
    return /\d+(\.\d+)+/.exec(text)?.[0];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

async function outputOf(command: string, argument: string): Promise<string> {
  const { stdout } = await new Deno.Command(command, { args: [argument] })
    .output();
  return new TextDecoder().decode(stdout);
}

export function pathOf(file: string): string {
  return decodeURI(new URL(`others/${file}`, import.meta.url).pathname);
}
