// The library on Node and Bun, beside what one would write there by hand over
// `net`, and beside itself on Deno.

import { Child } from "./child.ts";
import { type Contender, contest, enter } from "./contest.ts";
import type { Findings, Part, Rate, Row, Step } from "./measure.ts";
import { meter, pathOf, Program, SHAPES } from "./part_others.ts";

const ROUNDS = 5;
/** Long enough for the system's clock of CPU time, which ticks each 10 ms. */
const SECONDS = 0.5;

const DENO = "wirepool on Deno";

const RUNTIMES = [
  { name: "Node", command: "node" },
  { name: "Bun", command: "bun" },
];

export const runtimes: Part = {
  name: "runtimes",
  title: "The library on other runtimes",
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
    [DENO]: { ...await enter(load, ours, "wirepool"), usage: meter(pid) },
  };
  const there: string[] = [];
  for (const { name, command } of RUNTIMES) {
    for (const what of ["wirepool", "net"]) {
      const args = ["run", "-q", "-A", pathOf("runtime.ts"), command, what];
      let program: Program;
      try {
        program = await Program.start("deno", args);
      } catch {
        // It says that there is none.
        missing.push(`${name} (none that is new enough here)`);
        break;
      }
      stack.use(program);
      await load.call("cut", program.port, false);
      contenders[`${what} on ${name}`] = {
        port: program.port,
        usage: meter(program.pid),
      };
      if (what === "net") there.push(name);
    }
  }

  const rows: Row[] = [];
  const rates: Rate[] = [];
  for (const { what, shape } of SHAPES) {
    const outcome = await contest(load, contenders, shape, {
      rounds: ROUNDS,
      seconds: SECONDS,
      step: () => step(what),
    });
    rates.push(...outcome.rates(what));
    for (const name of there) {
      rows.push({
        what: `${what}, on ${name}, of its net: rate`,
        figure: outcome.ratio("rate", `wirepool on ${name}`, `net on ${name}`),
        unit: "×",
      }, {
        what: `${what}, on ${name}, of its net: server CPU for a frame`,
        figure: outcome.ratio("cpu", `wirepool on ${name}`, `net on ${name}`),
        unit: "×",
      }, {
        what: `${what}, on ${name}, of the library on Deno: rate`,
        figure: outcome.ratio("rate", `wirepool on ${name}`, DENO),
        unit: "×",
      });
    }
  }
  return { rows, rates, missing };
}
