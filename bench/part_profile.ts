// Where the time goes in those cases whose goals are out of reach, as V8's own
// profiler sees it; it writes PROFILE.md beside this file.

import { Child, sleep } from "./child.ts";
import type { Shape } from "./contest.ts";
import type { Frames } from "./load.ts";
import { interleave, ratio, spread } from "./measure.ts";
import type { Findings, Measurement, Part, Row, Step } from "./measure.ts";
import { CALLERS, CALLERS_GOAL } from "./part_client.ts";
import { FEW_WAITERS, MANY_WAITERS, WAITERS_GOAL } from "./part_growth.ts";
import { FIFTY, FIFTY_GOAL, largeShape, OLD_SPACE } from "./part_server.ts";
import type { Place, Profile } from "./profiler.ts";
import { keep, machine, number, quartiles } from "./report.ts";

const ROUNDS = 7;
const SECONDS = 0.5;

/** Places with less of the time, in all columns, are added up. */
const LEAST_SHARE = 0.005;

/** Has V8 tell a function from the one that it was inlined into. The larger old
 * space keeps full collections out of the comparison, which begin by chance. */
const FLAGS = [`${OLD_SPACE},--detailed-line-info`];

export const profile: Part = {
  name: "profile",
  title: "Profile",
  steps: 4 * (ROUNDS + 1) + 1,
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
    await profileMany(step),
    await profileLarge(step),
    await profileClient(step),
    await profilePool(step),
  ];
  step("what the runtime itself costs");
  await keep("PROFILE.md", formatPage(cases, await measureGround()));
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

async function profileMany(step: Step): Promise<Case> {
  const other = { who: "echo by hand", name: "by hand" };
  const [byHand, ours] = await profileServers(other, FIFTY, () => {
    step("server, 50 frames at a time");
  });
  const row = {
    what: "Server, 50 frames at a time, of an echo by hand",
    figure: ratio(ours.rates, byHand.rates),
    unit: "×",
    least: FIFTY_GOAL,
  };
  return {
    title: "Server, 50 frames of 64 bytes at a time",
    unit: "frame",
    row,
    figures: shortfall(row, ours, byHand, "frame"),
    words:
      "The echo by hand has one buffer to read into and one to write from, for" +
      " as long as a connection lives, since nobody keeps a payload. wirepool" +
      " hands payloads out, and so has to read into memory that is new, which" +
      " the runtime clears (`#allocate`), and which is not in the processor's" +
      " cache. The rest is a little in each of many places: a handler that may" +
      " be anything, an answer that may be any bytes, layouts, limits and" +
      " figures. What a built-in of V8 takes, to make a view or to copy," +
      " counts for the function that calls it.",
    columns: [byHand, ours],
  };
}

async function profileLarge(step: Step): Promise<Case> {
  const shape = largeShape(64 * 1024);
  const other = { who: "loop by hand", name: "by hand, large" };
  const [byHand, ours] = await profileServers(other, shape, () => {
    step("server, frames of 64 KiB");
  });
  const row = {
    what: "Server, 64 KiB frames, of a loop by hand",
    figure: ratio(ours.rates, byHand.rates),
    unit: "×",
    least: 1,
  };
  return {
    title: "Server, frames of 64 KiB",
    unit: "frame",
    row,
    figures: shortfall(row, ours, byHand, "frame"),
    words:
      "The loop by hand believes the header, and has the whole frame's memory" +
      " before the first byte of it. wirepool begins with the room that a" +
      " silent connection waits with, and goes on in the frame's memory once" +
      " enough of the frame has come: what that copies is in `#move`. Since the" +
      " loop echoes, its payload stands behind its header already and leaves in" +
      " one write; an answer of a handler's does not, and there is no write of" +
      " two buffers. Both run with a larger first old space. Without one, V8" +
      " begins by chance to collect all of the heap many times a second.",
    columns: [byHand, ours],
  };
}

/** Profiles the server, and another one beside it. */
async function profileServers(
  other: { who: string; name: string },
  shape: Shape,
  step: () => void,
): Promise<[Column, Column]> {
  await using load = new Child("load.ts");
  await using servers = new AsyncDisposableStack();
  const subject = async (name: string): Promise<Subject> => {
    const server = servers.use(new Child("servers.ts", FLAGS));
    const port = await server.call<number>("serve", name);
    const plain = async () => {
      await load.call("hold", port, shape.connections);
      const options = { ...shape, seconds: SECONDS };
      return (await load.call<Frames>("frames", options)).rate;
    };
    const profiled = async () => {
      await load.call("hold", port, shape.connections);
      await server.call("startProfile");
      const options = { ...shape, seconds: SECONDS + 0.1 };
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
  const columns = await measure(
    {
      [other.who]: await subject(other.name),
      wirepool: await subject("wirepool"),
    },
    step,
  );
  return [columns[0]!, columns[1]!];
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

/** What the runtime would have to offer for more, with what it costs that it does
 * not; each is a few lines of ground.ts. */
async function measureGround(): Promise<string[]> {
  await using ground = new Child("ground.ts");
  const lines: string[] = [];
  const line = async (what: string, call: string, ...values: number[]) => {
    const cost = await ground.call<number>(call, ...values);
    lines.push(`| ${what} | ${number(cost)} |`);
  };
  for (const [name, size] of [["17 KiB", 17], ["64 KiB", 64]] as const) {
    await line(`A new buffer of ${name}`, "newBuffer", 1024 * size);
    await line(`The same bytes, written once more`, "fill", 1024 * size);
  }
  await line("A new buffer of 1 MiB", "newBuffer", 1024 * 1024);
  await line("The same bytes, written once more", "fill", 1024 * 1024);
  await line("A view of 64 bytes", "view");
  await line("A copy of 64 bytes", "copy");
  await line("A reading of the clock", "clock");
  await line(
    "A frame of 4 KiB, header and payload in one write",
    "writes",
    4096,
    1,
  );
  await line("The same in two writes", "writes", 4096, 2);
  return [
    "## What the runtime would have to offer for more",
    "",
    "Each of these is a few lines of `ground.ts`, with nothing of the" +
    " library in it; the best of some calls, in nanoseconds.",
    "",
    "| What | ns |",
    "| --- | ---: |",
    ...lines,
    "",
    "- Buffers that are not cleared (Node's `Buffer.allocUnsafe` for what is read" +
    " over at once). A new buffer is cleared whether or not a read fills it, and" +
    " for large frames that is the largest single cost. With them a frame's" +
    " memory would cost nothing but the read.",
    "- A read that brings its own memory when bytes have come, as libuv's and" +
    " Bun's do, in place of memory that waits for them. A silent connection would" +
    " then hold no room at all, and a burst would get as much as it needs. A" +
    " pending read cannot be taken back but by closing, so that the room of the" +
    " last burst stays for as long as a connection is silent.",
    "- A write of several buffers (`writev`). A large payload leaves in two" +
    " writes, or is copied behind its header.",
    "- A collection of young objects alone, where the buffers that use up what" +
    " V8 allows are young. V8 counts buffers against the old space. A process" +
    " that holds little else has a full collection for some 25 MB of them. The" +
    " loop by hand shows that in RESULTS.md, with and without a larger first old" +
    " space.",
    "- Views that cost less: a view takes longer than the copy of what it shows.",
    "",
  ];
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

function formatPage(
  cases: readonly Case[],
  ground: readonly string[],
): string {
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
    ...ground,
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
