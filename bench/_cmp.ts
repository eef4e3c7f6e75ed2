import { Child } from "./child.ts";
const [rounds] = Deno.args.map(Number);
await using mine = new Child("_cmp_load.ts", ["--no-check", "--config=/work/wt/client/deno.json"]);
await using base = new Child("file:///tmp/base/bench/_cmp_load.ts", ["--no-check", "--config=/tmp/base/deno.json"]);
await using srv = new Child("servers.ts", ["--no-check"]);
const port = await srv.call<number>("serve", "raw");
const cases = {
  "1x1": { callers: 1, maxCap: 1, pipelining: 1 },
  "32x32": { callers: 32, maxCap: 32, pipelining: 1 },
  "256x1": { callers: 256, maxCap: 1, pipelining: 256 },
  "raw32": { callers: 32 },
  "256corr": { callers: 256, maxCap: 1, pipelining: 256, extra: { correlation: { length: 4 } } },
} as Record<string, any>;
const res: Record<string, [number[], number[]]> = {};
for (let i = 0; i < rounds; i++) for (const [n, c] of Object.entries(cases)) {
  res[n] ??= [[], []];
  const load = { port, seconds: 0.35, requestTimeout: 30000, maxCap:1, pipelining:1, ...c };
  const f = n === "raw32" ? "raw" : "wirepool";
  const order = i % 2 ? [0, 1] : [1, 0];
  for (const k of order) {
    if (k === 1 && n === "256corr") continue;
    res[n][k as 0|1].push(await [mine, base][k].call<number>(f, load));
  }
}
const med = (a: number[]) => a.sort((x, y) => x - y)[a.length >> 1];
for (const [n, [a, b]] of Object.entries(res)) console.log(n, Math.round(med(a)), b.length ? Math.round(med(b)) : "", b.length ? (med(a) / med(b)).toFixed(3) : (med(a) / med(res["256x1"][0])).toFixed(3));
