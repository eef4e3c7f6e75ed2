// A resource, and where it stands in the life that `Pool` draws.
//
// Knows: what is noted of a resource. Must not know: when it changes.

import type { PendingCall } from "./_pool_calls.ts";
import { Link } from "./_pool_list.ts";

/** Where a resource stands; the table of changes is drawn on `Pool`. */
export type State =
  | "loose"
  | "idle"
  | "borrowed"
  | "pinging"
  | "resetting"
  | "closing";

/** Why a resource is closed. */
export type CloseReason =
  | "idleTimeout"
  | "maxLifetime"
  | "maxIdle"
  | "discard"
  | "ping"
  | "reset"
  | "evict"
  | "resize"
  | "close"
  | "late";

/** A borrow that is watched for a leak. */
export interface Trace {
  /** Carries the stack of the get. */
  readonly origin: Error;
  readonly since: number;
  reported: boolean;
}

/** A resource and its place. */
export class Entry<T> extends Link {
  state: State = "loose";
  /** When it was put, which a ping does not change. */
  since = 0;
  /** Its place among the idle, in the order of their puts. */
  order = 0;
  /** When it was last known to live: when it was put, or pinged. */
  checkedAt = 0;
  /** When it was lent; known if somebody wants to know how long it is held. */
  lentAt = 0;
  /** Which borrow of all this is. */
  serial = 0;
  /** Whether it is kept only until its replacement stands. */
  aged = false;
  /** Whether nobody in line has asked for its ping. */
  patrolled = false;
  /** Its ping or reset, while that is under way. */
  call: PendingCall | undefined = undefined;
  trace: Trace | undefined = undefined;

  constructor(
    readonly value: T,
    /** When it is to be replaced. */
    readonly agesAt: number,
    /** When it must not be lent any more. */
    readonly expiresAt: number,
    /** Of all evictions, how many came before it; -1 once it is evicted alone. */
    public generation: number,
  ) {
    super();
  }
}
