// The server, beside an echo that parses nothing and a loop that reads twice.

import { Child } from "./child.ts";
import { interleave, ratesOf, ratio, spread } from "./measure.ts";
import type { Findings, Measurement, Part, Step } from "./measure.ts";

const ROUNDS = 15;
const SECONDS = 0.3;

const ONE: Shape = { connections: 32, batch: 1, payload: 64 };
export const FIFTY: Shape = { connections: 32, batch: 50, payload: 64 };
const LARGE: Shape = { connections: 4, batch: 1, payload: 1024 * 1024 };

/** Least of a raw echo, with 50 frames at a time. */
export const FIFTY_GOAL = 0.7;

/** What is sent at a time, and on how many connections. */
interface Shape {
  connections: number;
  batch: number;
  payload: number;
}

interface Usage {
  cpu: number;
}

export const server: Part = {
  name: "server",
  title: "Server",
  steps: 3 * (ROUNDS + 1),
  run,
};

async function run(step: Step): Promise<Findings> {
  await using load = new Child("load.ts");
  await using servers = new AsyncDisposableStack();
  const start = async (name: string) => {
    const child = servers.use(new Child("servers.ts"));
    return { child, port: await child.call<number>("serve", name) };
  };
  const raw = await start("raw");
  const wirepool = await start("wirepool");
  const naive = await start("naive");

  /** Microseconds of the server's own time for a frame, by what was measured. */
  const costs = new Map<string, number[]>();
  const frames =
    (name: string, { child, port }: typeof raw, shape: Shape): Measurement =>
    async () => {
      await load.call("hold", port, shape.connections);
      const before = await child.call<Usage>("usage");
      const options = { seconds: SECONDS, ...shape };
      const rate = await load.call<number>("frames", options);
      const { cpu } = await child.call<Usage>("usage");
      const cost = (cpu - before.cpu) / (rate * SECONDS);
      costs.set(name, [...costs.get(name) ?? [], cost]);
      return rate;
    };

  const one = await interleave(
    {
      raw: frames("raw one", raw, ONE),
      wirepool: frames("wirepool one", wirepool, ONE),
    },
    ROUNDS,
    () => step("64 bytes, one frame at a time"),
  );
  const fifty = await interleave(
    {
      raw: frames("raw fifty", raw, FIFTY),
      wirepool: frames("wirepool fifty", wirepool, FIFTY),
      naive: frames("naive fifty", naive, FIFTY),
    },
    ROUNDS,
    () => step("64 bytes, 50 frames at a time"),
  );
  const large = await interleave(
    {
      raw: frames("raw large", raw, LARGE),
      wirepool: frames("wirepool large", wirepool, LARGE),
    },
    ROUNDS,
    () => step("1 MiB frames"),
  );

  return {
    rows: [
      {
        what: "One frame of 64 bytes at a time, of a raw echo",
        figure: ratio(one.wirepool, one.raw),
        unit: "×",
        least: 0.95,
      },
      {
        what: "50 frames at a time, of a raw echo that parses nothing",
        figure: ratio(fifty.wirepool, fifty.raw),
        unit: "×",
        least: FIFTY_GOAL,
        profiled: true,
      },
      {
        what: "50 frames at a time, of a loop that reads header and body",
        figure: ratio(fifty.wirepool, fifty.naive),
        unit: "×",
        least: 20,
      },
      {
        what: "1 MiB frames, of a raw echo in 64 KiB chunks",
        figure: ratio(large.wirepool, large.raw),
        unit: "×",
        least: 1.3,
      },
      // The load takes part in the rates, and often is what limits them; this
      // is the server alone.
      {
        what: "Server time for one frame at a time, of a raw echo",
        figure: ratio(costs.get("wirepool one"), costs.get("raw one")),
        unit: "×",
      },
      {
        what: "Server time for 50 frames at a time, of a raw echo",
        figure: ratio(costs.get("wirepool fifty"), costs.get("raw fifty")),
        unit: "×",
      },
      {
        what: "Server time for 1 MiB frames, of a raw echo",
        figure: ratio(costs.get("wirepool large"), costs.get("raw large")),
        unit: "×",
      },
    ],
    rates: [
      ...ratesOf("one frame at a time", "frames/s", one),
      ...ratesOf("50 frames at a time", "frames/s", fifty),
      ...ratesOf("1 MiB frames", "frames/s", large),
    ],
    charts: [{
      title: "Frames of 64 bytes, 50 at a time, echoed",
      bars: [
        { who: "raw echo that parses nothing", samples: fifty.raw },
        { who: "wirepool", samples: fifty.wirepool },
        { who: "loop that reads header and body", samples: fifty.naive },
      ].map(({ who, samples }) => ({
        who,
        value: spread(samples ?? []),
        unit: "frames/s",
      })),
    }],
    missing: [],
  };
}
