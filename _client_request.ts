// A request of the client, and lines of requests.
//
// Knows: what a request was given, how far it has come and where it stands.
// Must not know: what a connection does with it.

/** What a request needs to know of the connection that it is on. */
export interface RequestHolder {
  /** Forgets a request that timed out or was aborted. */
  abandon(request: PendingRequest): void;
}

/** What the hooks are told when a request has settled. */
export type SettleObserver = (
  responseBytes: number,
  failure: { error: unknown } | undefined,
) => void;

/** A request, from its `send` until it has settled and left its connection. */
export class PendingRequest {
  readonly promise: Promise<Uint8Array<ArrayBuffer>>;
  resolve!: (response: Uint8Array<ArrayBuffer>) => void;
  reject!: (reason: unknown) => void;
  observer: SettleObserver | undefined;
  settled = false;
  /** Dials begun when its connection died, if it is sent again; else 0. It
   * goes out on a connection of a later one: a server that goes ends all its
   * connections, and the end of the others may not have been read yet. */
  lostAt = 0;

  /** Milliseconds that it was given, and what is left of them when it is
   * sent; 0 is for ever. */
  readonly limit: number;
  timeout: number;
  /** When it times out; 0 until that is known. As a rule a sweep sets it when
   * it first sees the request, so that a request reads no clock. */
  deadline = 0;

  /** The connection that it is on, and its neighbours in one of its queues. */
  connection: RequestHolder | undefined;
  previous: PendingRequest | undefined;
  next: PendingRequest | undefined;
  /** Where its frame ends in the connection's stream of requests; -1 while it
   * is unsent. */
  end = -1;
  /** It was handed over whole, on this connection or on an earlier one. */
  sent = false;

  constructor(
    readonly payload: Uint8Array,
    timeout: number,
    readonly idempotent: boolean,
    readonly signal: AbortSignal | undefined,
  ) {
    this.limit = this.timeout = timeout;
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }

  /** Whether it can go out on this connection. */
  takes(connection: { usable: boolean; dial: number }): boolean {
    return connection.usable && connection.dial > this.lostAt;
  }

  /** Counts time that was spent before sending; false if none is left. */
  remain(spent: number): boolean {
    if (this.limit === 0) return true;
    this.timeout -= spent;
    if (this.timeout > 0) return true;
    this.timeout = 1;
    return false;
  }
}

/** Requests in order; taking one out of the middle costs the same. */
export class RequestQueue {
  first: PendingRequest | undefined;
  #last: PendingRequest | undefined;

  /** Puts a request at the end. */
  push(request: PendingRequest): void {
    request.previous = this.#last;
    request.next = undefined;
    if (this.#last === undefined) this.first = request;
    else this.#last.next = request;
    this.#last = request;
  }

  /** Takes a request out that is in this queue. */
  remove(request: PendingRequest): void {
    const { previous, next } = request;
    if (previous === undefined) this.first = next;
    else previous.next = next;
    if (next === undefined) this.#last = previous;
    else next.previous = previous;
    request.previous = request.next = undefined;
  }

  /** Forgets all of them. */
  clear(): void {
    this.first = this.#last = undefined;
  }
}
