// A resource, and where it stands in the life that `Pool` draws.
//
// Knows: what is noted of a resource. Must not know: when it changes.

import { Link } from "./_pool_list.ts";
import type { Timer } from "./_timers.ts";

/** Where a resource stands; the table of changes is drawn on `Pool`. */
export type State = "loose" | "idle" | "borrowed" | "pinging" | "closing";

/** One borrow that is watched. */
export interface Trace {
  /** Carries the stack of the get. */
  readonly origin: Error;
  readonly since: number;
  reported: boolean;
}

/** A resource and its place. */
export class Entry<T> extends Link {
  state: State = "loose";
  /** When it became idle. */
  since = 0;
  /** Which borrow of all this is. */
  serial = 0;
  /** Ends the ping. */
  timer: Timer | undefined = undefined;
  trace: Trace | undefined = undefined;

  constructor(
    readonly value: T,
    readonly expiresAt: number,
    public generation: number,
  ) {
    super();
  }
}
