// Servers under one load, in turns: what each answered, and what that took.

import type { Child } from "./child.ts";
import type { Frames } from "./load.ts";
import {
  interleave,
  type Rate,
  ratio,
  type Spread,
  spread,
} from "./measure.ts";
import type { Step } from "./measure.ts";

/** What is sent at a time, and on how many connections. */
export interface Shape {
  readonly connections: number;
  readonly batch: number;
  readonly payload: number;
}

/** CPU time so far, in microseconds. */
export interface Usage {
  readonly cpu: number;
  /** The part of it outside of the kernel. */
  readonly user: number;
}

/** A server that echoes frames. */
export interface Contender {
  readonly port: number;
  /** Its frames carry ids. */
  readonly correlated?: boolean;
  usage(): Promise<Usage>;
}

/** What one contender did in one round. */
interface Bout {
  readonly rate: number;
  /** Microseconds of the server's CPU for one frame. */
  readonly cpu: number;
  readonly user: number;
  /** The part of one core that the server took, and the load. */
  readonly share: number;
  readonly loadShare: number;
}

/** What contenders did, by name. */
export class Outcome {
  readonly #bouts: Partial<Record<string, Bout[]>>;

  constructor(bouts: Partial<Record<string, Bout[]>>) {
    this.#bouts = bouts;
  }

  /** One figure, by rounds; empty for one that was not there. */
  of(name: string, what: keyof Bout): number[] {
    return this.#bouts[name]?.map((bout) => bout[what]) ?? [];
  }

  /** One figure of one contender, of another's. */
  ratio(what: keyof Bout, name: string, other: string): Spread {
    return ratio(this.of(name, what), this.of(other, what));
  }

  /** Rates and CPU time of all. */
  rates(what: string): Rate[] {
    return Object.keys(this.#bouts).flatMap((name) => [
      {
        who: `${name}, ${what}`,
        value: spread(this.of(name, "rate")),
        unit: "frames/s",
      },
      {
        who: `${name}, CPU for a frame`,
        value: spread(this.of(name, "cpu")),
        unit: "µs",
      },
    ]);
  }
}

/** Has servers echo frames in turns. */
export async function contest(
  load: Child,
  contenders: Record<string, Contender>,
  shape: Shape,
  { rounds, seconds, step }: { rounds: number; seconds: number; step: Step },
): Promise<Outcome> {
  const bouts = Object.entries(contenders).map(([name, contender]) => {
    const { port, usage, correlated } = contender;
    const bout = async (): Promise<Bout> => {
      await load.call("hold", port, shape.connections);
      const start = performance.now();
      const before = await usage();
      const frames = await load.call<Frames>("frames", {
        ...shape,
        seconds,
        correlated,
      });
      const after = await usage();
      const elapsed = 1000 * (performance.now() - start);
      return {
        rate: frames.rate,
        cpu: (after.cpu - before.cpu) / frames.count,
        user: (after.user - before.user) / frames.count,
        share: (after.cpu - before.cpu) / elapsed,
        loadShare: frames.share,
      };
    };
    return [name, bout] as const;
  });
  return new Outcome(
    await interleave<string, Bout>(Object.fromEntries(bouts), rounds, step),
  );
}

/** A child process that serves, as a contender that has shown that it works. */
export async function enter(
  load: Child,
  child: Child,
  name: string,
): Promise<Contender> {
  const port = await child.call<number>("serve", name);
  const correlated = name === "correlated";
  await load.call("cut", port, correlated);
  return { port, correlated, usage: () => child.call<Usage>("usage") };
}
