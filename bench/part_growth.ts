// How costs grow: with connections, waiters, bytes and requests in flight.

import { Child } from "./child.ts";
import type { Frames } from "./load.ts";
import { interleave, ratesOf, ratio } from "./measure.ts";
import type { Findings, Part, Step } from "./measure.ts";

const ROUNDS = 6;
const SECONDS = 0.3;
const MANY_CONNECTIONS = 2000;
export const FEW_WAITERS = 64;
export const MANY_WAITERS = 100_000;
/** Most that get and put may take with many, of what they take with few. */
export const WAITERS_GOAL = 1.5;
const MANY_REQUESTS = 1000;

export const growth: Part = {
  name: "growth",
  title: "Growth",
  steps: 5 * (ROUNDS + 1),
  run,
};

interface Usage {
  cpu: number;
}

async function run(step: Step): Promise<Findings> {
  await using load = new Child("load.ts");
  await using server = new Child("servers.ts");
  const port = await server.call<number>("serve", "wirepool");
  await using local = new Child("local.ts");

  /** Frames per second, on so many of the open connections. */
  const frames = (connections: number, open: number) => async () => {
    await load.call("hold", port, open);
    const { rate } = await load.call<Frames>("frames", {
      connections,
      batch: 1,
      payload: 64,
      seconds: SECONDS,
    });
    return rate;
  };
  const open = await interleave(
    {
      alone: frames(1, 1),
      "one of 2000": frames(1, MANY_CONNECTIONS),
    },
    ROUNDS,
    () => step("one busy connection, alone and among 2000"),
  );

  // With all of them busy the load is the limit, so the server's own time says
  // more than the rate does.
  const busy = (connections: number) => async () => {
    await load.call("hold", port, connections);
    const before = await server.call<Usage>("usage");
    const rate = await frames(connections, connections)();
    const after = await server.call<Usage>("usage");
    return rate / (after.cpu - before.cpu);
  };
  const all = await interleave(
    {
      one: busy(1),
      all: busy(MANY_CONNECTIONS),
    },
    ROUNDS,
    () => step("1 and 2000 busy connections"),
  );

  const cycles = (name: string, waiters: number) => () =>
    local.call<number>("cycles", name, waiters + 8, SECONDS);
  const waiters = await interleave(
    {
      "wirepool, 64 waiters": cycles("wirepool", FEW_WAITERS),
      "wirepool, 100 000 waiters": cycles("wirepool", MANY_WAITERS),
      "bare ring, 64 waiters": cycles("line", FEW_WAITERS),
      "bare ring, 100 000 waiters": cycles("line", MANY_WAITERS),
    },
    ROUNDS,
    () => step("get and put with 64 and 100 000 waiters"),
  );

  const decoding = await interleave(
    {
      "a frame per chunk, 64 KiB": () =>
        local.call<number>("frames", 64 * 1024),
      "a frame per chunk, 4 MiB": () =>
        local.call<number>("frames", 4 * 1024 * 1024),
      "a byte per chunk, 64 KiB": () => local.call<number>("bytes", 64 * 1024),
      "a byte per chunk, 4 MiB": () =>
        local.call<number>("bytes", 4 * 1024 * 1024),
    },
    ROUNDS,
    () => step("decoding 64 KiB and 4 MiB in small chunks"),
  );

  const requests = (callers: number) => () =>
    load.call<number>("wirepool", {
      port,
      callers,
      seconds: SECONDS,
      maxCap: 1,
      pipelining: callers,
      requestTimeout: 30_000,
    });
  const inFlight = await interleave(
    {
      "1 in flight": requests(1),
      "1000 in flight": requests(MANY_REQUESTS),
    },
    ROUNDS,
    () => step("requests with 1 and 1000 in flight"),
  );

  return {
    rows: [
      {
        what: "A frame on one connection among 2000, of one that is alone",
        figure: ratio(open.alone, open["one of 2000"]),
        unit: "×",
        most: 1.3,
      },
      {
        what: "Server time for a frame, 2000 busy connections, of one",
        figure: ratio(all.one, all.all),
        unit: "×",
        most: 1.3,
      },
      {
        what: "Get and put with 100 000 waiters, of 64",
        figure: ratio(
          waiters["wirepool, 64 waiters"],
          waiters["wirepool, 100 000 waiters"],
        ),
        unit: "×",
        most: WAITERS_GOAL,
        profiled: true,
      },
      {
        what: "The same of a bare ring of promises, for comparison",
        figure: ratio(
          waiters["bare ring, 64 waiters"],
          waiters["bare ring, 100 000 waiters"],
        ),
        unit: "×",
      },
      {
        what: "A frame of one chunk, in 4 MiB of them, of 64 KiB",
        figure: ratio(
          decoding["a frame per chunk, 64 KiB"],
          decoding["a frame per chunk, 4 MiB"],
        ),
        unit: "×",
        most: 1.5,
      },
      {
        what: "A byte of one chunk, in a frame of 4 MiB, of 64 KiB",
        figure: ratio(
          decoding["a byte per chunk, 64 KiB"],
          decoding["a byte per chunk, 4 MiB"],
        ),
        unit: "×",
        most: 1.5,
      },
      {
        what: "A request with 1000 in flight on a connection, of one alone",
        figure: ratio(inFlight["1 in flight"], inFlight["1000 in flight"]),
        unit: "×",
        most: 1,
      },
    ],
    rates: [
      ...ratesOf("busy connection", "frames/s", open),
      ...ratesOf("get and put", "cycles/s", waiters),
      ...ratesOf("decoding", "chunks/s", decoding),
      ...ratesOf("on a connection", "requests/s", inFlight),
    ],
    missing: [],
  };
}
