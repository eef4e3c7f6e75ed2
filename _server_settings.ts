// What is set for the connections of a server, and what they count together.
//
// Knows: which settings a connection has. Must not know: which options they come
// from, and what is done about them.

import type { Budget } from "./_budget.ts";
import type { Correlation } from "./_correlation.ts";
import type { Goaway } from "./_goaway.ts";
import type { ConnectionContext } from "./_server_context.ts";
import type { GreetingSettings } from "./_server_greeting.ts";

/** Why a connection has ended; `CloseReason` documents each. */
export type Reason =
  | "end"
  | "lost"
  | "close"
  | "idle"
  | "shutdown"
  | "forced"
  | "handshake"
  | "frame"
  | "handler"
  | "timeout"
  | "error";

/** What is set for a connection; all connections of a server share it. */
export interface ConnectionSettings extends GreetingSettings {
  /** Where ids stand, if frames carry any. */
  readonly correlation: Correlation | undefined;
  /** What is said at the end where nothing else is. */
  readonly goaway: Goaway | undefined;
  /** Makes a response, or a promise of one. */
  readonly handler: (
    payload: Uint8Array<ArrayBuffer>,
    context: ConnectionContext,
  ) => unknown;
  /** What a handler returns to write no response. */
  readonly noResponse: unknown;
  /** Handlers at once. */
  readonly concurrency: number;
  /** The memory that all connections share, if it is limited. */
  readonly budget: Budget | undefined;
  /** Limits in milliseconds; 0 is none. */
  readonly idleTimeout: number;
  readonly readTimeout: number;
  readonly writeTimeout: number;
  readonly handshakeTimeout: number;
  /** How long the peer's end is waited for behind a goaway. */
  readonly shutdownTimeout: number;
  /** May give a response in place of a failed handler's. */
  readonly onError:
    | ((error: unknown, context: ConnectionContext) => unknown)
    | undefined;
  /** Told of an error that nothing is answered to. It never throws. */
  report(error: unknown, context: ConnectionContext | undefined): void;
  /** Told of a handler's failure where there is no `onError`. It never
   * throws. */
  printFailure(error: unknown, context: ConnectionContext): void;
  /** Observers of connections. They never throw. */
  readonly opened: ((context: ConnectionContext) => void) | undefined;
  readonly ended:
    | ((context: ConnectionContext, reason: Reason) => void)
    | undefined;
  /** Runs what must not run in the async context of a request. */
  readonly inOwnContext: <R>(fn: () => R) => R;
}

/** Figures that connections count; all connections of a server share them. */
export interface ConnectionStats {
  requests: number;
  inFlight: number;
  bytesIn: number;
  bytesOut: number;
  errors: number;
}
