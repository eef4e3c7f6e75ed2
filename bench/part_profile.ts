// Where the time goes in those cases whose goals are out of reach, as V8's own
// profiler sees it; it writes PROFILE.md beside this file.

import { Child, sleep } from "./child.ts";
import type { Frames } from "./load.ts";
import { interleave, ratio, spread } from "./measure.ts";
import type { Findings, Measurement, Part, Row, Step } from "./measure.ts";
import { CALLERS, CALLERS_GOAL } from "./part_client.ts";
import { FEW_WAITERS, MANY_WAITERS, WAITERS_GOAL } from "./part_growth.ts";
import { FIFTY, FIFTY_GOAL } from "./part_server.ts";
import type { Place, Profile } from "./profiler.ts";
import { keep, machine, number, quartiles } from "./report.ts";

const ROUNDS = 7;
const SECONDS = 0.5;

/** Places with less of the time, in all columns, are added up. */
const LEAST_SHARE = 0.005;

/** Has V8 tell a function from the one that it was inlined into. */
const FLAGS = ["--v8-flags=--detailed-line-info"];

export const profile: Part = {
  name: "profile",
  title: "Profile",
  steps: 3 * (ROUNDS + 1),
  run,
};

/** A rate, and the profile of what took part in it. */
interface Shot {
  readonly rate: number;
  readonly profile: Profile;
}

/** One of those that are compared: measured with the profiler and without. */
interface Subject {
  plain(): Promise<number>;
  profiled(): Promise<Shot>;
}

/** What was measured of one. */
interface Column {
  readonly who: string;
  /** Per second, without the profiler. */
  readonly rates: number[];
  readonly shots: Shot[];
}

interface Case {
  readonly title: string;
  /** What is counted. */
  readonly unit: string;
  readonly row: Row;
  /** How near it came, in figures. */
  readonly figures: string[];
  /** What stands between, in words that no run makes untrue. */
  readonly words: string;
  /** In pairs, of which the second is held against the first. */
  readonly columns: Column[];
}

async function run(step: Step): Promise<Findings> {
  const cases = [
    await profileServer(step),
    await profileClient(step),
    await profilePool(step),
  ];
  await keep("PROFILE.md", formatPage(cases));
  return {
    rows: cases.map(({ row }) => row),
    rates: cases.flatMap(({ unit, columns }) =>
      columns.map(({ who, rates }) => ({
        who,
        value: spread(rates),
        unit: `${unit}s/s`,
      }))
    ),
    missing: [],
  };
}

async function profileServer(step: Step): Promise<Case> {
  await using load = new Child("load.ts");
  await using servers = new AsyncDisposableStack();
  const subject = async (name: string): Promise<Subject> => {
    const server = servers.use(new Child("servers.ts", FLAGS));
    const port = await server.call<number>("serve", name);
    const plain = async () => {
      await load.call("hold", port, FIFTY.connections);
      const options = { ...FIFTY, seconds: SECONDS };
      return (await load.call<Frames>("frames", options)).rate;
    };
    const profiled = async () => {
      await load.call("hold", port, FIFTY.connections);
      await server.call("startProfile");
      const options = { ...FIFTY, seconds: SECONDS + 0.1 };
      const frames = load.call<Frames>("frames", options);
      // The load has begun, and has not ended.
      await sleep(100);
      await server.call("mark");
      await sleep(1000 * SECONDS);
      await server.call("mark");
      return {
        rate: (await frames).rate,
        profile: await server.call<Profile>("stopProfile"),
      };
    };
    return { plain, profiled };
  };
  const [raw, ours] = await measure(
    {
      "raw echo": await subject("raw"),
      wirepool: await subject("wirepool"),
    },
    () => step("server, 50 frames at a time"),
  );
  const row = {
    what: "Server, 50 frames at a time, of a raw echo",
    figure: ratio(ours!.rates, raw!.rates),
    unit: "×",
    least: FIFTY_GOAL,
  };
  return {
    title: "Server, 50 frames of 64 bytes at a time",
    unit: "frame",
    row,
    figures: shortfall(row, ours!, raw!, "frame"),
    words:
      "A raw echo gives back what it has read: it has nothing to do for a" +
      " frame, and all of its time is for one read and one write for every 50" +
      " of them. wirepool reads and writes as often, and between the two it" +
      " judges each header, makes a view of each payload, calls the handler" +
      " and copies its answer behind a header. That is what stands between: a" +
      " little in each of many places. What a built-in of V8 takes," +
      " to make a view or to copy, counts for the function that calls it.",
    columns: [raw!, ours!],
  };
}

async function profileClient(step: Step): Promise<Case> {
  await using server = new Child("servers.ts");
  const port = await server.call<number>("serve", "raw");
  await using clients = new AsyncDisposableStack();
  const subject = (name: string): Subject => {
    const client = clients.use(new Child("load.ts", FLAGS));
    const plain = () =>
      client.call<number>(name, {
        port,
        callers: CALLERS,
        seconds: SECONDS,
        maxCap: CALLERS,
        pipelining: 1,
        requestTimeout: 30_000,
      });
    return { plain, profiled: () => profileCall(client, plain) };
  };
  const [raw, ours] = await measure(
    { "raw loop": subject("raw"), wirepool: subject("wirepool") },
    () => step("client, 32 callers on 32 connections"),
  );
  const row = {
    what: "Client, 32 callers on 32 connections, of a loop written by hand",
    figure: ratio(ours!.rates, raw!.rates),
    unit: "×",
    least: CALLERS_GOAL,
  };
  return {
    title: "Client, 32 callers with one request per connection",
    unit: "request",
    row,
    figures: shortfall(row, ours!, raw!, "request"),
    words: "The raw loop has a connection for each caller, who writes, reads" +
      " and begins anew: nobody shares anything, and nothing has a limit of" +
      " time. wirepool makes the same write and the same read for a request," +
      " and for each of them also takes a connection from the pool, notes" +
      " when it is to time out, frames it, decodes the response and gives the" +
      " connection back: a little in each of many places, and next to a system" +
      " call or two not much together, but the goal leaves no more than that.",
    columns: [raw!, ours!],
  };
}

async function profilePool(step: Step): Promise<Case> {
  await using local = new Child("local.ts", FLAGS);
  const subject = (name: string, waiters: number): Subject => {
    const plain = () =>
      local.call<number>("cycles", name, waiters + 8, SECONDS);
    return { plain, profiled: () => profileCall(local, plain) };
  };
  const [few, many, ringFew, ringMany] = await measure(
    {
      "wirepool, 64": subject("wirepool", FEW_WAITERS),
      "wirepool, 100 000": subject("wirepool", MANY_WAITERS),
      "bare ring, 64": subject("line", FEW_WAITERS),
      "bare ring, 100 000": subject("line", MANY_WAITERS),
    },
    () => step("pool, get and put with 64 and 100 000 waiters"),
  );
  const row = {
    what: "Pool, get and put with 100 000 waiters, of 64",
    figure: ratio(few!.rates, many!.rates),
    unit: "×",
    most: WAITERS_GOAL,
  };
  const ring = ratio(ringFew!.rates, ringMany!.rates);
  const rest = (column: Column) =>
    spread(column.shots.map((shot) => {
      const times = timesOf(shot);
      return total(times) - total(times.filter(({ group }) => group === GC));
    })).median;
  const growth = (few: Column, many: Column) =>
    number(rest(many) / rest(few)) + "×";
  const now = 1e6 / spread(many!.rates).median;
  return {
    title: "Pool, get and put with 100 000 waiters and with 64",
    unit: "cycle",
    row,
    figures: [
      `Without the profiler a cycle with 100 000 waiters takes **${
        number(row.figure.median)
      }×** (quartiles ${
        quartiles(row.figure)
      }) of one with 64, and is to take at most ${WAITERS_GOAL}×; a bare ring` +
      ` of promises takes ${number(ring.median)}× (${quartiles(ring)}).`,
      toGo(now, now * WAITERS_GOAL / row.figure.median, "cycle"),
      `With the profiler, and without the time of the garbage collector:` +
      ` wirepool ${growth(few!, many!)}, bare ring ${
        growth(ringFew!, ringMany!)
      }.`,
    ],
    words:
      "Every waiter is a promise, and whoever waits behind 100 000 others" +
      " is there for 100 000 cycles: too long for V8's young generation, which" +
      " costs next to nothing to collect when little in it lives. It copies" +
      " the waiters to the old one instead, where they die, and have to be found by marking" +
      " all that lives. The bare ring, which has no limits, no timeouts and" +
      " nothing to pool, pays the same way for its promises alone. What grows" +
      " beside the collector is most of all `#leave`, the first to touch a" +
      " waiter again: so many do not fit in the processor's caches.",
    columns: [few!, many!, ringFew!, ringMany!],
  };
}

/** Profiles one call of a child that marks begin and end itself. */
async function profileCall(
  child: Child,
  call: () => Promise<number>,
): Promise<Shot> {
  await child.call("startProfile");
  const rate = await call();
  return { rate, profile: await child.call<Profile>("stopProfile") };
}

/** Measures all by turns. */
async function measure(
  subjects: Record<string, Subject>,
  step: Step,
): Promise<Column[]> {
  const names = Object.keys(subjects);
  const measurements: Record<string, Measurement> = {};
  const shots: Record<string, Shot[]> = {};
  for (const name of names) {
    const { plain, profiled } = subjects[name]!;
    measurements[name] = plain;
    shots[name] = [];
    measurements[`${name}, profiled`] = async () => {
      const shot = await profiled();
      shots[name]!.push(shot);
      return shot.rate;
    };
  }
  const samples = await interleave(measurements, ROUNDS, step);
  return names.map((who) => ({
    who,
    rates: samples[who]!,
    shots: shots[who]!.slice(1), // The first round warms up.
  }));
}

/** How near one came to another, and what its goal leaves it. */
function shortfall(
  row: Row & { least: number },
  ours: Column,
  theirs: Column,
  unit: string,
): string[] {
  const now = 1e6 / spread(ours.rates).median;
  const profiled = ratio(
    ours.shots.map(({ rate }) => rate),
    theirs.shots.map(({ rate }) => rate),
  );
  return [
    `Without the profiler wirepool comes to **${
      number(row.figure.median)
    }×** (quartiles ${
      quartiles(row.figure)
    }) of the rate of the ${theirs.who}, and is to come to at least` +
    ` ${row.least}×; with it, to ${number(profiled.median)}×.`,
    toGo(now, now * row.figure.median / row.least, unit),
  ];
}

function toGo(now: number, allowed: number, unit: string): string {
  const over = now - allowed;
  return `That is ${number(now)} µs a ${unit}, where the goal allows ` +
    `${number(allowed)} µs: ` +
    (over > 0
      ? `${number(over)} µs would have to go.`
      : "in this run it was reached.");
}

// Places.

const OURS = "wirepool";
const BENCH = "The benchmark's own code";
const OPS = "Deno's ops, with the system calls in them";
const DENO = "Deno's JavaScript";
const BUILT_IN = "Other native functions";
const GC = "V8's garbage collector";
const PROGRAM = "Deno and V8 outside of any function";
const IDLE = "Idle: waiting for the other process";
const GROUPS = [OURS, OPS, DENO, BUILT_IN, GC, PROGRAM, BENCH, IDLE];

/** Microseconds for one of what is counted. */
interface Time {
  readonly group: string;
  readonly label: string;
  readonly time: number;
}

function timesOf({ rate, profile }: Shot): Time[] {
  const count = countOf({ rate, profile });
  return profile.places.map((place) => ({
    ...classify(place),
    time: place.time / count,
  }));
}

function countOf({ rate, profile }: Shot): number {
  return rate * profile.wall / 1e6;
}

function total(times: readonly Time[]): number {
  return times.reduce((sum, { time }) => sum + time, 0);
}

function classify({ name, url }: Place): Omit<Time, "time"> {
  const native = new Map([
    ["(garbage collector)", GC],
    ["(program)", PROGRAM],
    ["(root)", PROGRAM],
    ["(idle)", IDLE],
  ]).get(name);
  if (native !== undefined) return { group: native, label: native };
  if (url === "") {
    return {
      group: name.startsWith("op_") ? OPS : BUILT_IN,
      label: `\`${name}\``,
    };
  }
  const root = new URL("..", import.meta.url).href;
  const inRepository = url.startsWith(root);
  const ofDeno = /^(ext|node):/.test(url);
  // What the library imports may come from anywhere on this machine.
  const file = inRepository
    ? url.slice(root.length)
    : ofDeno
    ? url
    : url.split("/").slice(-2).join("/");
  return {
    group: ofDeno ? DENO : file.startsWith("bench/") ? BENCH : OURS,
    label: `${
      name === "" ? "functions without a name" : `\`${name}\``
    }, ${file}`,
  };
}

// The page.

function formatPage(cases: readonly Case[]): string {
  return [
    "# Profile",
    "",
    "Written by `deno task bench profile`: where the time goes in those cases" +
    " of [RESULTS.md](RESULTS.md) whose goals are missed, or just reached on a" +
    " good day. It runs the" +
    " same measurements in the same processes, by turns without and with V8's" +
    " own profiler in the process that is looked at." +
    ` All figures are medians of ${ROUNDS} rounds, so that they need not add` +
    " up to the last digit. Times are self time by the clock, in microseconds" +
    " for one frame, request or cycle, with what the profiler costs in them;" +
    ` places with less than ${100 * LEAST_SHARE} % of the time are added up.`,
    "",
    "Server and client make the same reads and writes as what they are held" +
    " against. What a write takes may differ all the same: on loopback it does" +
    " much of the receiving, too, and wakes the other process if that has gone" +
    " to sleep.",
    "",
    ...machine().map((line) => `- ${line}`),
    "",
    ...cases.flatMap(formatCase),
  ].join("\n");
}

function formatCase(
  { title, unit, figures, words, columns }: Case,
): string[] {
  const rounds = columns.map(({ shots }) => shots.map(timesOf));
  const pick = (wanted: (time: Time) => boolean): number[] =>
    rounds.map((times) =>
      spread(times.map((times) => total(times.filter(wanted)))).median
    );
  const all = pick(() => true);
  const line = (label: string, values: readonly number[], bold = "") => {
    const cells = values.flatMap((value, i) => [
      value === 0 ? "–" : micros(value),
      value === 0 ? "–" : `${(100 * value / all[i]!).toFixed(1)} %`,
      ...i % 2 === 0 ? [] : [signed(value - values[i - 1]!)],
    ]);
    return `| ${
      [label, ...cells].map((cell) => bold + cell + bold).join(" | ")
    } |`;
  };
  const heads = columns.flatMap(({ who }, i) => [
    `${who}: µs`,
    "share",
    ...i % 2 === 0 ? [] : ["more: µs"],
  ]);
  const lines = [
    `| Place | ${heads.join(" | ")} |`,
    `| --- |${" ---: |".repeat(heads.length)}`,
  ];
  for (const group of GROUPS) {
    const sum = pick((time) => time.group === group);
    if (sum.every((value) => value === 0)) continue;
    lines.push(line(group, sum, "**"));
    const labels = new Set(
      rounds.flat(2).filter((time) => time.group === group)
        .map(({ label }) => label),
    );
    labels.delete(group);
    if (labels.size === 0) continue;
    const large = [...labels]
      .map((label) => ({ label, values: pick((time) => time.label === label) }))
      .filter(({ values }) =>
        values.some((value, i) => value >= LEAST_SHARE * all[i]!)
      )
      .sort((a, b) => Math.max(...b.values) - Math.max(...a.values));
    for (const { label, values } of large) lines.push(line(label, values));
    const shown = new Set(large.map(({ label }) => label));
    const rest = pick((time) => time.group === group && !shown.has(time.label));
    if (rest.some((value, i) => value >= 0.001 * all[i]!)) {
      const count = labels.size - shown.size;
      lines.push(
        line(shown.size > 0 ? `${count} more` : `${count} places`, rest),
      );
    }
  }
  const counts = columns.map(({ shots }) =>
    shots.reduce((sum, shot) => sum + countOf(shot), 0)
  );
  return [
    `## ${title}`,
    "",
    ...figures.map((figure) => `- ${figure}`),
    "",
    words,
    "",
    ...lines,
    line("All", all, "**"),
    `| ${unit}s counted |${
      counts.map((count, i) =>
        ` ${number(count)} | |${i % 2 === 0 ? "" : " |"}`
      )
        .join("")
    }`,
    "",
  ];
}

/** Microseconds, to the nanosecond where that says anything. */
function micros(value: number): string {
  return value.toFixed(value < 10 ? 3 : 1);
}

function signed(value: number): string {
  const text = micros(Math.abs(value));
  return Number(text) === 0 ? "–" : value < 0 ? `−${text}` : `+${text}`;
}
