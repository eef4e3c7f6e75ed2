// Runs the conformance suite on every runtime that there is.
//
//   deno task test:runtimes
//
// Deno runs it from its source. For Node and Bun the library and the suite are
// transpiled into a temporary folder, as JSR does for those who install a
// package with npm. A runtime that is missing is installed by npm where CI=true,
// into a folder that is kept for the next time; elsewhere it is reported as
// ignored. Each runtime ends with a summary line like that of `deno test`.

import { asScript, findRuntime, layOut } from "./package.ts";

const ROOT = new URL("../", import.meta.url);
const SUITE = "tests/conformance_test.ts";

interface Outcome {
  passed: number;
  failed: number;
  ignored: number;
}

let failed = false;
const rows: [string, Outcome | string][] = [];
const note = (who: string, outcome: Outcome | string) => {
  rows.push([who, outcome]);
  if (typeof outcome !== "string" && outcome.failed > 0) failed = true;
};

note(`Deno ${Deno.version.deno}`, await runDeno());
const folder = await Deno.makeTempDir({ prefix: "wirepool-" });
try {
  await build(folder);
  for (const name of ["node", "bun"] as const) {
    const found = await findRuntime(name);
    if (found === undefined) {
      note(name, "not installed: npm's package brings it where CI=true");
      continue;
    }
    const { command, version } = found;
    note(
      `${name === "node" ? "Node" : "Bun"} ${version}`,
      await (name === "node" ? runNode(command) : runBun(command)),
    );
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}

console.log("\nConformance");
for (const [who, outcome] of rows) {
  console.log(
    typeof outcome === "string"
      ? `ok | 0 passed | 0 failed | 1 ignored (${who}: ${outcome})`
      : `${
        outcome.failed > 0 ? "FAILED" : "ok"
      } | ${outcome.passed} passed | ` +
        `${outcome.failed} failed | ${outcome.ignored} ignored (${who})`,
  );
}
if (failed) Deno.exit(1);

async function run(
  command: string,
  args: string[],
  cwd: string | URL = ROOT,
): Promise<{ code: number; text: string }> {
  const { code, stdout, stderr } = await new Deno.Command(command, {
    args,
    cwd,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return { code, text: decoder.decode(stdout) + decoder.decode(stderr) };
}

/** The outcome of a run, and what it printed if it failed. */
function outcomeOf(
  { code, text }: { code: number; text: string },
  count: (what: "passed" | "failed" | "ignored") => RegExp,
): Outcome {
  const number = (what: "passed" | "failed" | "ignored") =>
    Number(count(what).exec(text)?.[1] ?? 0);
  const outcome = {
    passed: number("passed"),
    failed: number("failed"),
    ignored: number("ignored"),
  };
  // A crash, a type error, or nothing run at all.
  if (outcome.failed === 0 && (code !== 0 || outcome.passed === 0)) {
    outcome.failed = 1;
  }
  if (outcome.failed > 0) {
    // Not as summary lines: ours are counted.
    console.log(text.replaceAll(/^(ok|FAILED) \|/gm, "$1:"));
  }
  return outcome;
}

async function runDeno(): Promise<Outcome> {
  const result = await run("deno", ["test", "-P=unix", SUITE]);
  return outcomeOf(
    result,
    (what) => new RegExp(`^(?:ok|FAILED) \\|.*?(\\d+) ${what}`, "m"),
  );
}

async function runNode(command: string): Promise<Outcome> {
  const result = await run(command, [
    "--test",
    "--test-reporter=spec",
    "--test-timeout=120000",
    asScript(SUITE),
  ], folder);
  const words = { passed: "pass", failed: "fail", ignored: "skipped" };
  return outcomeOf(
    result,
    (what) => new RegExp(`^ℹ ${words[what]} (\\d+)`, "m"),
  );
}

async function runBun(command: string): Promise<Outcome> {
  const result = await run(
    command,
    ["test", "--timeout=120000", `./${asScript(SUITE)}`],
    folder,
  );
  const words = { passed: "pass", failed: "fail", ignored: "skip" };
  return outcomeOf(
    result,
    (what) => new RegExp(`^\\s*(\\d+) ${words[what]}$`, "m"),
  );
}

/** Lays out what the suite needs for Node and Bun. */
async function build(folder: string): Promise<void> {
  await layOut(folder, [SUITE]);
  await Deno.mkdir(`${folder}/tests/testdata`);
  for await (const { name } of Deno.readDir(new URL("tests/testdata/", ROOT))) {
    await Deno.copyFile(
      new URL(`tests/testdata/${name}`, ROOT),
      `${folder}/tests/testdata/${name}`,
    );
  }
}
