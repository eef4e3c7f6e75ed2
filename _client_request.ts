// A request of the client, and lines of requests.
//
// Knows: what a request was given, how far it has come and where it stands.
// Must not know: what a connection does with it.

type Frame = Uint8Array<ArrayBuffer>;

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

/**
 * What a request waits for: its response, or that the transport has taken it
 * whole; a ping is the client's own and waits for any response.
 */
export type RequestKind = "send" | "notify" | "ping";

/** A request, from its `send` until it has settled and left its connection. */
export class PendingRequest {
  /** Resolves to the response; to `undefined` for what gets none. */
  readonly promise: Promise<Frame | undefined>;
  resolve!: (response: Frame | undefined) => void;
  reject!: (reason: unknown) => void;
  observer: SettleObserver | undefined;
  settled = false;

  /** Dials begun when its last connection died or said goodbye; else 0. It goes
   * out on a connection of a later one: a server that goes ends all its
   * connections, and the end of the others may not have been read yet. */
  lostAt = 0;
  /** It was sent again after a loss, which happens once. What a goaway vouches
   * for is sent again without being counted. */
  resent = false;

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
  /** Its id on the wire, where frames carry ids. */
  id = 0;
  /** What the client's connections had received when it was encoded, as a count
   * of reads. */
  receivedBefore = 0;
  /** It was handed over whole, on this connection or on an earlier one. */
  sent = false;

  constructor(
    readonly kind: RequestKind,
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

  /** Takes it off its connection, to be sent again within the same time. */
  renew(lostAt: number): void {
    this.lostAt = lostAt;
    if (this.limit === 0) return;
    const now = performance.now();
    if (this.deadline === 0) this.deadline = now + this.timeout;
    else this.timeout = Math.max(1, this.deadline - now);
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

  /** In their order; the one at hand may be taken out meanwhile. */
  *[Symbol.iterator](): Generator<PendingRequest> {
    for (
      let request = this.first, next;
      request !== undefined;
      request = next
    ) {
      next = request.next;
      yield request;
    }
  }
}
