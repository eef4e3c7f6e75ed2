// Starts an echo on Node or Bun: the library's, or a loop of `net` by hand. Like
// the echo it prints a port and a process id, and ends with its standard input.
// It ends at once, and prints "none", where the runtime is missing.
//
//   deno run -A bench/others/runtime.ts node|bun wirepool|net

import { findRuntime, layOut } from "../../.ci/package.ts";

const PROGRAM = `
import process from "node:process";
import { serve } from "./server.js";

const server = serve({}, (payload) => payload);
console.log(server.addr.port + " " + process.pid);
process.stdin.on("end", () => process.exit()).resume();
`;

const [name, what] = Deno.args as ["node" | "bun", "wirepool" | "net"];
const runtime = await findRuntime(name);
if (runtime === undefined) {
  console.log("none");
  Deno.exit();
}
const folder = await Deno.makeTempDir({ prefix: "wirepool-" });
let script = decodeURI(new URL("echo_node.mjs", import.meta.url).pathname);
if (what === "wirepool") {
  await layOut(folder);
  script = `${folder}/echo.js`;
  await Deno.writeTextFile(script, PROGRAM);
}
const child = new Deno.Command(runtime.command, {
  args: [script],
  stdin: "inherit",
}).spawn();
await child.status;
await Deno.remove(folder, { recursive: true });
