// Who is told when a signal aborts: requests that share a signal share a
// listener, since adding one to a signal with many costs as many steps.
//
// Knows: which requests wait under which signal. Must not know: what giving one
// up means.

import type { PendingRequest } from "./_client_request.ts";

interface SignalGroup {
  readonly requests: Set<PendingRequest>;
  readonly listener: () => void;
}

/** The requests that signals can give up. */
export class SignalGroups {
  readonly #run: (fn: () => void) => void;
  readonly #aborted: (request: PendingRequest, reason: unknown) => void;
  readonly #groups = new Map<AbortSignal, SignalGroup>();
  /** Signals whose requests are being given up, one after the other. */
  #aborting = 0;

  /**
   * @param run Runs what a signal sets off, in the context that it belongs to.
   * @param aborted Told of each request whose signal has aborted.
   */
  constructor(
    run: (fn: () => void) => void,
    aborted: (request: PendingRequest, reason: unknown) => void,
  ) {
    this.#run = run;
    this.#aborted = aborted;
  }

  /** Whether requests of an aborted signal are being given up just now: those
   * that are still in line may be about to go. */
  get aborting(): boolean {
    return this.#aborting > 0;
  }

  /** Has a request given up when its signal aborts. */
  add(request: PendingRequest, signal: AbortSignal): void {
    let group = this.#groups.get(signal);
    if (group === undefined) {
      const requests = new Set<PendingRequest>();
      const listener = () => {
        this.#run(() => {
          this.#aborting++;
          for (const request of requests) this.#aborted(request, signal.reason);
          this.#aborting--;
        });
      };
      group = { requests, listener };
      this.#groups.set(signal, group);
      signal.addEventListener("abort", listener);
    }
    group.requests.add(request);
  }

  /** Forgets a request, and a signal that has none left. */
  remove(request: PendingRequest): void {
    const { signal } = request;
    if (signal === undefined) return;
    const group = this.#groups.get(signal);
    if (group === undefined) return;
    group.requests.delete(request);
    if (group.requests.size === 0) {
      this.#groups.delete(signal);
      signal.removeEventListener("abort", group.listener);
    }
  }
}
