// The library as it is, beside a checkout of it as it was: both with servers and
// clients of their own, in the same rounds.

import { Child } from "./child.ts";
import { contest, enter, type Shape } from "./contest.ts";
import { interleave, ratio } from "./measure.ts";
import type { Findings, Measurement, Part, Row, Step } from "./measure.ts";
import { CALLERS } from "./part_client.ts";
import { FIFTY, largeShape, ONE, SIZES } from "./part_server.ts";

const ROUNDS = 11;
const SECONDS = 0.25;

const SHAPES: { what: string; shape: Shape }[] = [
  { what: "One frame of 64 bytes at a time", shape: ONE },
  { what: "50 frames at a time", shape: FIFTY },
  ...SIZES.map(({ size, payload }) => ({
    what: `${size} frames`,
    shape: largeShape(payload),
  })),
];

const CALLS = [
  {
    what: "32 callers on 32 connections",
    options: { callers: CALLERS, maxCap: CALLERS, pipelining: 1 },
  },
  {
    what: "256 callers on one connection",
    options: { callers: 256, maxCap: 1, pipelining: 256 },
  },
];

/** @param folder The root of the checkout; relative to this one, or absolute. */
export function before(folder: string): Part {
  return {
    name: "before",
    title: "Now, of the version before",
    steps: (SHAPES.length + CALLS.length) * (ROUNDS + 1),
    run: (step) => run(folder, step),
  };
}

async function run(folder: string, step: Step): Promise<Findings> {
  const root = new URL(`${folder}/bench/`, new URL("..", import.meta.url));
  const scriptThen = (name: string) => new URL(name, root).href;
  await using children = new AsyncDisposableStack();
  const start = (script: string) => children.use(new Child(script));
  const load = start("load.ts");
  const contenders = {
    now: await enter(load, start("servers.ts"), "wirepool"),
    before: await enter(load, start(scriptThen("servers.ts")), "wirepool"),
  };
  const rows: Row[] = [];
  for (const { what, shape } of SHAPES) {
    const outcome = await contest(load, contenders, shape, {
      rounds: ROUNDS,
      seconds: SECONDS,
      step: () => step(what),
    });
    rows.push({
      what: `${what}: rate`,
      figure: outcome.ratio("rate", "now", "before"),
      unit: "×",
    }, {
      what: `${what}: server CPU for a frame`,
      figure: outcome.ratio("cpu", "now", "before"),
      unit: "×",
    });
  }

  const echo = start("servers.ts");
  const port = await echo.call<number>("serve", "raw");
  const clients = { now: load, before: start(scriptThen("load.ts")) };
  for (const { what, options } of CALLS) {
    const calls = (child: Child): Measurement => () =>
      child.call("wirepool", {
        port,
        seconds: SECONDS,
        requestTimeout: 30_000,
        ...options,
      });
    const rates = await interleave(
      { now: calls(clients.now), before: calls(clients.before) },
      ROUNDS,
      () => step(what),
    );
    rows.push({
      what: `Client, ${what}: rate`,
      figure: ratio(rates.now, rates.before),
      unit: "×",
    });
  }
  return { rows, rates: [], missing: [] };
}
