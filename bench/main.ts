// Benchmarks on loopback, beside what users would pick instead.
//
//   deno task bench             everything, in about six minutes; writes
//                               RESULTS.md and results.svg beside this file;
//                               Go, Node and Bun are taken from PATH
//   deno task bench NAME…       parts of it, for the terminal alone
//   deno task bench runtimes tls
//                               the library on Node and Bun; what carries TLS;
//                               no parts of everything
//   deno task bench --before=FOLDER
//                               the same, and beside what is checked out there
//   deno task bench profile     where the time goes in the cases whose goals are
//                               out of reach; no part of everything; writes
//                               PROFILE.md beside this file

import type { Part } from "./measure.ts";
import { before } from "./part_before.ts";
import { client } from "./part_client.ts";
import { growth } from "./part_growth.ts";
import { others } from "./part_others.ts";
import { memory } from "./part_memory.ts";
import { pool } from "./part_pool.ts";
import { profile } from "./part_profile.ts";
import { runtimes } from "./part_runtimes.ts";
import { server } from "./part_server.ts";
import { tls } from "./part_tls.ts";
import { spike } from "./pool_spike.ts";
import { Progress } from "./progress.ts";
import {
  formatChart,
  formatPage,
  formatTable,
  keep,
  type Report,
} from "./report.ts";

const PARTS: readonly Part[] = [
  server,
  others,
  client,
  pool,
  spike,
  memory,
  growth,
];
/** Parts that only run when they are named. */
const MORE: readonly Part[] = [runtimes, tls, profile];

const BEFORE = "--before=";
const folder = Deno.args.find((arg) => arg.startsWith(BEFORE));
const wanted = Deno.args.filter((arg) => arg !== folder);

const all = [...PARTS, ...MORE];
const names = all.map(({ name }) => name);
const unknown = wanted.filter((name) => !names.includes(name));
if (unknown.length > 0) {
  console.error(`No part ${unknown.join(", ")}; there are ${names.join(", ")}`);
  Deno.exit(2);
}
const isWhole = wanted.length === 0;
const parts = isWhole
  ? [...PARTS]
  : all.filter(({ name }) => wanted.includes(name));
if (folder !== undefined) parts.push(before(folder.slice(BEFORE.length)));

const start = performance.now();
const progress = new Progress(parts.reduce((sum, { steps }) => sum + steps, 0));
const reports: Report[] = [];
for (const part of parts) {
  const findings = await part.run((what) =>
    progress.step(`${part.name}: ${what}`)
  );
  reports.push({ part, findings });
}
progress.end();
for (const report of reports) console.log(formatTable(report));
const seconds = (performance.now() - start) / 1000;
console.log(`${Math.round(seconds)} seconds`);
if (isWhole) {
  await keep("RESULTS.md", formatPage(reports, seconds));
  await keep("results.svg", formatChart(reports));
}
