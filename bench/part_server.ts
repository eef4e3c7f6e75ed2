// The server, beside what one would write by hand for the one purpose of an
// echo, and a loop that reads header and body apart.

import { Child } from "./child.ts";
import { contest, enter, type Outcome, type Shape } from "./contest.ts";
import { spread } from "./measure.ts";
import type { Findings, Part, Row, Step } from "./measure.ts";

const ROUNDS = 11;
const SECONDS = 0.25;

export const ONE: Shape = { connections: 32, batch: 1, payload: 64 };
export const FIFTY: Shape = { connections: 32, batch: 50, payload: 64 };

/** Least of an echo by hand, with 50 frames at a time. */
export const FIFTY_GOAL = 0.95;

const KIB = 1024;
export const SIZES = [
  { size: "16 KiB", payload: 16 * KIB },
  { size: "32 KiB", payload: 32 * KIB },
  { size: "64 KiB", payload: 64 * KIB },
  { size: "256 KiB", payload: 256 * KIB },
  { size: "1 MiB", payload: 1024 * KIB },
];
/** Connections that large frames come on. */
const LARGE_CONNECTIONS = 4;

/** Gives V8 a larger old space to begin with. V8 counts the buffers of frames
 * against what it allows the old space. A process that holds little is allowed
 * little, and V8 then collects all of the heap many times a second. */
export const OLD_SPACE = "--v8-flags=--initial-old-space-size=256";

export function largeShape(payload: number): Shape {
  return { connections: LARGE_CONNECTIONS, batch: 1, payload };
}

export const server: Part = {
  name: "server",
  title: "Server",
  steps: (2 + SIZES.length) * (ROUNDS + 1),
  run,
};

async function run(step: Step): Promise<Findings> {
  await using load = new Child("load.ts");
  await using servers = new AsyncDisposableStack();
  const spawn = (...flags: string[]) =>
    servers.use(new Child("servers.ts", flags));
  // Both loops by hand run in one process, since wirepool answers small and large
  // frames in one, too: what V8 has learnt from the ones shows with the others.
  const hand = spawn();
  const byHand = await enter(load, hand, "by hand");
  const byHandLarge = await enter(load, hand, "by hand, large");
  const kept = await enter(load, spawn(), "by hand, kept");
  const wirepool = await enter(load, spawn(), "wirepool");
  const correlated = await enter(load, spawn(), "correlated");
  const naive = await enter(load, spawn(), "naive");
  const handOldSpace = await enter(load, spawn(OLD_SPACE), "by hand, large");
  const oldSpace = await enter(load, spawn(OLD_SPACE), "wirepool");
  const options = (what: string) => ({
    rounds: ROUNDS,
    seconds: SECONDS,
    step: () => step(what),
  });

  const one = await contest(
    load,
    { "by hand": byHand, wirepool },
    ONE,
    options("64 bytes, one frame at a time"),
  );
  const fifty = await contest(
    load,
    {
      "by hand": byHand,
      "by hand, kept": kept,
      wirepool,
      "wirepool, correlated": correlated,
      naive,
    },
    FIFTY,
    options("64 bytes, 50 frames at a time"),
  );
  const sizes: { size: string; outcome: Outcome }[] = [];
  for (const { size, payload } of SIZES) {
    const outcome = await contest(
      load,
      {
        "by hand": byHandLarge,
        wirepool,
        "by hand, old space": handOldSpace,
        "wirepool, old space": oldSpace,
      },
      largeShape(payload),
      options(`${size} frames`),
    );
    sizes.push({ size, outcome });
  }

  /** A row for each size: how much of the second server the first one has. */
  const ofSizes = (
    what: (size: string) => string,
    [name, other]: [string, string],
    goal: Partial<Row> = {},
    figure: "rate" | "cpu" = "rate",
  ) =>
    sizes.map(({ size, outcome }): Row => ({
      what: what(size),
      figure: outcome.ratio(figure, name, other),
      unit: "×",
      ...goal,
    }));

  return {
    rows: [
      {
        what: "One frame of 64 bytes at a time, of an echo by hand",
        figure: one.ratio("rate", "wirepool", "by hand"),
        unit: "×",
        least: 0.97,
      },
      {
        what: "50 frames at a time, of an echo by hand",
        figure: fifty.ratio("rate", "wirepool", "by hand"),
        unit: "×",
        least: FIFTY_GOAL,
        profiled: true,
      },
      // Nobody reaches the echo by hand who hands payloads out.
      {
        what: "The same by hand, into memory that may be kept",
        figure: fifty.ratio("rate", "by hand, kept", "by hand"),
        unit: "×",
      },
      {
        what: "50 frames at a time, of that",
        figure: fifty.ratio("rate", "wirepool", "by hand, kept"),
        unit: "×",
      },
      ...ofSizes(
        (size) => `${size} frames, of a loop by hand`,
        ["wirepool", "by hand"],
        { least: 1, profiled: true },
      ),
      ...ofSizes(
        (size) => `${size} frames, both with a larger first old space`,
        ["wirepool, old space", "by hand, old space"],
      ),
      ...ofSizes(
        (size) => `${size} frames, with a larger first old space, of without`,
        ["wirepool, old space", "wirepool"],
      ),
      ...ofSizes(
        (size) => `The same of the loop by hand, ${size} frames`,
        ["by hand, old space", "by hand"],
      ),
      {
        what: "50 frames at a time with correlation, of without",
        figure: fifty.ratio("rate", "wirepool, correlated", "wirepool"),
        unit: "×",
        least: 0.9,
      },
      {
        what: "50 frames at a time, of a loop that reads header and body",
        figure: fifty.ratio("rate", "wirepool", "naive"),
        unit: "×",
        least: 20,
      },
      // The load takes part in the rates, and often is what limits them; this
      // is the server alone.
      {
        what: "Server CPU for one frame at a time, of an echo by hand",
        figure: one.ratio("cpu", "wirepool", "by hand"),
        unit: "×",
      },
      {
        what: "Server CPU for 50 frames at a time, of an echo by hand",
        figure: fifty.ratio("cpu", "wirepool", "by hand"),
        unit: "×",
        most: 1.1,
      },
      {
        what: "The same by hand, into memory that may be kept",
        figure: fifty.ratio("cpu", "by hand, kept", "by hand"),
        unit: "×",
      },
      ...ofSizes(
        (size) => `Server CPU for ${size} frames, of a loop by hand`,
        ["wirepool", "by hand"],
        {},
        "cpu",
      ),
    ],
    rates: [
      ...one.rates("one frame at a time"),
      ...fifty.rates("50 frames at a time"),
      ...sizes.flatMap(({ size, outcome }) => outcome.rates(`${size} frames`)),
    ],
    charts: [{
      title: "Frames of 64 bytes, 50 at a time, echoed",
      bars: [
        { who: "echo by hand, for this one purpose", name: "by hand" },
        { who: "wirepool", name: "wirepool" },
        { who: "loop that reads header and body", name: "naive" },
      ].map(({ who, name }) => ({
        who,
        value: spread(fifty.of(name, "rate")),
        unit: "frames/s",
      })),
    }],
    missing: [],
  };
}
