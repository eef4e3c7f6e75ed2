// V8's own profiler, for a child process that profiles itself.

import type { Session } from "node:inspector";

/** Microseconds between two samples. The thread that takes them needs a core
 * too: with more of them it slows what it measures. */
const INTERVAL = 250;

/** What ran between two marks. */
export interface Profile {
  /** Microseconds from mark to mark. */
  readonly wall: number;
  readonly places: Place[];
}

/** A function, or what V8 gives a name in brackets. */
export interface Place {
  readonly name: string;
  /** Its module; empty for what is native. */
  readonly url: string;
  /** Microseconds of self time. */
  readonly time: number;
}

/** `Profiler.Profile` of the protocol, as far as it is used. */
interface Recording {
  nodes: {
    id: number;
    callFrame: { functionName: string; url: string };
  }[];
  samples: number[];
  timeDeltas: number[];
}

let session: Session | undefined;
let start = 0;
let marks: number[] = [];

/** What every child answers to be profiled. */
export const PROFILING = { startProfile, mark, stopProfile };

/** Notes the time, if there is a profile going on: the first and the last mark
 * are its begin and its end. */
export function mark(): void {
  if (session !== undefined) marks.push(1000 * (performance.now() - start));
}

async function startProfile(): Promise<void> {
  if (session === undefined) {
    // Only now: the other benchmarks measure memory, too.
    const { Session } = await import("node:inspector");
    session = new Session();
    session.connect();
    await post("Profiler.enable");
    await post("Profiler.setSamplingInterval", { interval: INTERVAL });
  }
  marks = [];
  start = performance.now();
  await post("Profiler.start");
}

async function stopProfile(): Promise<Profile> {
  const { profile } = await post<{ profile: Recording }>("Profiler.stop");
  const first = marks[0] ?? 0;
  const last = marks.at(-1) ?? 0;
  const times = new Map<number, number>();
  let time = 0;
  for (const [i, node] of profile.samples.entries()) {
    time += profile.timeDeltas[i]!;
    if (time < first || time >= last) continue;
    const length = profile.timeDeltas[i + 1] ?? 0;
    times.set(node, (times.get(node) ?? 0) + length);
  }
  return {
    wall: last - first,
    places: profile.nodes.filter(({ id }) => times.has(id)).map(
      ({ id, callFrame: { functionName, url } }) => ({
        name: functionName,
        url,
        time: times.get(id)!,
      }),
    ),
  };
}

function post<R>(method: string, params?: Record<string, unknown>): Promise<R> {
  return new Promise((resolve, reject) =>
    session!.post(
      method,
      params,
      (error: Error | null, result: unknown) =>
        error === null ? resolve(result as R) : reject(error),
    )
  );
}
