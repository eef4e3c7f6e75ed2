// HikariCP's spike, and the cold start: what a burst of callers makes a pool open.
//
// 50 callers at once want a resource for 2 ms each, opening one takes 150 ms, and
// at most 50 may be open. With `maxOpening` 1 those that come back serve the line
// before a slow factory delivers; without, the factory is asked for all at once.
// https://github.com/brettwooldridge/HikariCP/blob/dev/documents/Welcome-To-The-Jungle.md

import { Pool } from "../pool.ts";
import { spread } from "./measure.ts";
import type { Findings, Part, Row, Step } from "./measure.ts";

const ROUNDS = 5;
const CALLERS = 50;
const OPENING = 150;
const USE = 2;

export const spike: Part = {
  name: "spike",
  title: "Pool, a spike of callers",
  steps: ROUNDS,
  run,
};

interface Case {
  readonly name: string;
  /** Resources idle when the callers come. */
  readonly idle: number;
  readonly maxCap: number;
  readonly maxOpening: number;
  /** Most that may be opened for them, and that the slowest may wait. */
  readonly opened: number;
  readonly slowest: number;
}

/** What timers may be late, with 50 of them at once. */
const SLACK = 30;

const CASES: readonly Case[] = [
  {
    name: "spike on 5 idle, maxOpening 1",
    idle: 5,
    maxCap: CALLERS,
    maxOpening: 1,
    opened: 1,
    slowest: CALLERS / 5 * USE + SLACK,
  },
  {
    name: "spike on 5 idle, maxOpening 50",
    idle: 5,
    maxCap: CALLERS,
    maxOpening: CALLERS,
    opened: CALLERS - 5,
    slowest: OPENING + SLACK,
  },
  {
    name: "cold start, maxCap 50",
    idle: 0,
    maxCap: CALLERS,
    maxOpening: CALLERS,
    opened: CALLERS,
    slowest: OPENING + SLACK,
  },
  {
    name: "cold start, maxCap 10",
    idle: 0,
    maxCap: 10,
    maxOpening: 10,
    opened: 10,
    slowest: OPENING + CALLERS / 10 * USE + SLACK,
  },
];

async function run(step: Step): Promise<Findings> {
  const opened = CASES.map((): number[] => []);
  const slowest = CASES.map((): number[] => []);
  for (let round = 0; round < ROUNDS; round++) {
    step(CASES.map(({ name }) => name).join(", "));
    for (const [i, test] of CASES.entries()) {
      const result = await burst(test);
      opened[i]!.push(result.opened);
      slowest[i]!.push(result.slowest);
    }
  }
  const rows: Row[] = [];
  for (const [i, test] of CASES.entries()) {
    rows.push({
      what: `${test.name}: opened for ${CALLERS} callers`,
      figure: spread(opened[i]!),
      unit: "",
      most: test.opened,
    }, {
      what: `${test.name}: slowest caller`,
      figure: spread(slowest[i]!),
      unit: " ms",
      most: test.slowest,
    });
  }
  return { rows, rates: [], missing: [] };
}

/** How many a burst has opened when all are served, and how long the last waited. */
async function burst(
  { idle, maxCap, maxOpening }: Case,
): Promise<{ opened: number; slowest: number }> {
  let calls = 0;
  const pool = await Pool.open({
    factory: async () => {
      if (++calls > idle) await delay(OPENING);
      return {};
    },
    initialCap: idle,
    maxCap,
    maxOpening,
  });
  let slowest = 0;
  const start = performance.now();
  await Promise.all(Array.from({ length: CALLERS }, async () => {
    const resource = await pool.get();
    slowest = Math.max(slowest, performance.now() - start);
    await delay(USE);
    pool.put(resource);
  }));
  const opened = calls - idle;
  await pool.close();
  return { opened, slowest };
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
