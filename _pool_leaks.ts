// Who has borrowed a resource for too long, and where in the code.
//
// Knows: when and by which stack a resource was borrowed. Must not know: what
// is done about it.

import type { Entry, Trace } from "./_pool_entry.ts";

/** Watches borrows, if there is a limit to them. */
export class LeakDetector {
  /** 0 for none. */
  readonly #timeout: number;
  readonly #report: (error: Error) => void;

  constructor(timeout: number, report: (error: Error) => void) {
    this.#timeout = timeout;
    this.#report = report;
  }

  /** Whether borrows are watched at all. */
  get enabled(): boolean {
    return this.#timeout > 0;
  }

  /** Notes the caller's stack, if that is wanted. */
  capture(): Error | undefined {
    return this.#timeout > 0 ? new Error("Borrowed here") : undefined;
  }

  /** Reports, once, each resource that is not yet back. Calls back. */
  inspect(entries: Iterable<Entry<unknown>>, now: number): void {
    // Copied: a report may call back and change what there is.
    for (const { state, trace } of [...entries]) {
      if (state !== "borrowed" || trace === undefined || trace.reported) {
        continue;
      }
      const borrowed = now - trace.since;
      if (borrowed < this.#timeout) continue;
      trace.reported = true;
      const message = `A resource has been borrowed for ${borrowed} ms, ` +
        `leakTimeout is ${this.#timeout} ms`;
      this.#report(new Error(message, { cause: trace.origin }));
    }
  }

  /** Reports one that has come back after all. Calls back. */
  reportReturn({ origin, since }: Trace, now: number): void {
    const message = `A resource is back after ${now - since} ms, ` +
      `leakTimeout is ${this.#timeout} ms`;
    this.#report(new Error(message, { cause: origin }));
  }
}
