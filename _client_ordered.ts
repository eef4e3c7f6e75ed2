// Which response is whose, where responses come in the order of requests.
//
// Knows: the order in which requests were sent. Must not know: bytes, and what
// is done with a response.

import { type PendingRequest, RequestQueue } from "./_client_request.ts";

/** How long the response to a request that was given up early is awaited at
 * least, while others share its connection. */
const GRACE = 1000;

/**
 * Matches responses with requests by their order: a response is for the first of
 * those sent. A request that was given up keeps its place, so that its response,
 * should it come, is not taken for the next one's.
 */
export class OrderedMatching {
  /** A connection on which nobody waits any more is in doubt: what comes on it
   * next may be the response to a request that was given up. */
  readonly ordered = true;
  /** A request more or less makes no difference to the connection. */
  readonly worn = false;
  readonly #sent = new RequestQueue();

  /** Whether bytes may come now: the first response, once its request was
   * offered to a write up to this place of the stream. */
  expects(offered: number): boolean {
    const { first } = this.#sent;
    return first !== undefined && first.end <= offered;
  }

  /** Gives a request that is being encoded its place. */
  add(request: PendingRequest): undefined {
    this.#sent.push(request);
  }

  /** Whose response a frame is. */
  match(): PendingRequest | undefined {
    return this.#sent.first;
  }

  /** Takes a request out whose response has come. */
  remove(request: PendingRequest): void {
    this.#sent.remove(request);
  }

  /** Has a request that was given up keep its place for as long again as it was
   * given, or for a second: its response may come late. */
  retire(request: PendingRequest): void {
    request.deadline = 0;
    request.timeout = request.limit && Math.max(request.limit, GRACE);
  }

  /** Requests that have a place, in the order of sending. */
  requests(): Iterable<PendingRequest> {
    return this.#sent;
  }

  /** Whether a part of a request's response may have come, if a part of a frame
   * has. */
  mayBeAnswered(request: PendingRequest): boolean {
    return request === this.#sent.first;
  }

  /** Forgets every request. */
  clear(): void {
    this.#sent.clear();
  }
}
