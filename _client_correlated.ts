// Which response is whose, where frames carry ids and responses come in any
// order.
//
// Knows: the ids in use, and those that are the protocol's. Must not know:
// bytes, and what is done with a response.

import type { PendingRequest } from "./_client_request.ts";
import { type Correlation, IdTable, isReserved } from "./_correlation.ts";

/** A frame that is no response: it is a push, or the server's goodbye. */
export type Announcement = "push" | "goaway";

/**
 * Matches responses with requests by their ids.
 *
 * A request that was given up keeps its id until its answer comes, since the id
 * must not be given to another before. Such ids cost nobody anything until half
 * of the places are taken by them: then the connection is worn.
 */
export class CorrelatedMatching {
  /** A response that comes late is known for what it is, so that a connection on
   * which nobody waits is as good as any. */
  readonly ordered = false;
  readonly #correlation: Correlation;
  readonly #readId: (payload: Uint8Array) => number;
  readonly #pushes: boolean;
  readonly #places: number;
  readonly #ids: IdTable<PendingRequest>;
  /** Requests that were given up and keep their ids. */
  #retired = 0;
  /** A ping whose id is the protocol's; a connection has one ping at a time. */
  #ping: PendingRequest | undefined;

  /**
   * @param readId Reads the id that a payload carries itself.
   * @param pushes Whether frames that answer nothing are wanted.
   * @param places Most requests on the connection.
   */
  constructor(
    correlation: Correlation,
    readId: (payload: Uint8Array) => number,
    pushes: boolean,
    places: number,
  ) {
    this.#correlation = correlation;
    this.#readId = readId;
    this.#pushes = pushes;
    this.#places = places;
    this.#ids = new IdTable(correlation.capacity);
  }

  /** Half of the places are kept by requests that were given up: the connection
   * is to take no more. */
  get worn(): boolean {
    return 2 * this.#retired >= this.#places;
  }

  /** Whether bytes may come now: pushes, or the answer to some request. */
  expects(): boolean {
    return this.#pushes || this.#ids.size > 0 || this.#ping !== undefined;
  }

  /** Gives a request that is being encoded its id; `undefined` where the payload
   * keeps the one that it carries. */
  add(request: PendingRequest): number | undefined {
    if (request.kind === "ping" && !this.#correlation.inserted) {
      const id = this.#readId(request.payload);
      if (isReserved(this.#correlation, id)) {
        request.id = id;
        this.#ping = request;
        return undefined;
      }
    }
    return request.id = this.#ids.take(request);
  }

  /** Whose answer a frame is: its id's, or, where ids are inserted, that of the
   * request whose failure it says. `undefined` if it is nobody's. */
  match(
    id: number,
    frame: Uint8Array,
  ): PendingRequest | Announcement | undefined {
    const request = this.#ids.get(id);
    if (request !== undefined) return request;
    const correlation = this.#correlation;
    if (!isReserved(correlation, id)) return undefined;
    if (this.#ping?.id === id) return this.#ping;
    if (correlation.inserted && frame.length === 0) {
      if (id === correlation.goaway) return "goaway";
      const failed = this.#ids.get(id - correlation.highBit);
      if (id > 0 && failed !== undefined) return failed;
    }
    return this.#pushes ? "push" : undefined;
  }

  /** Takes a request out whose answer has come. */
  remove(request: PendingRequest): void {
    if (request === this.#ping) this.#ping = undefined;
    else this.#ids.release(request.id);
    if (request.connection === undefined) this.#retired--;
  }

  /** Has a request that was given up keep its id until its answer comes. */
  retire(request: PendingRequest): void {
    request.timeout = 0;
    this.#retired++;
  }

  /** Requests that have a place, in the order of sending. */
  requests(): Iterable<PendingRequest> {
    const requests = this.#ids.values();
    if (this.#ping !== undefined) requests.push(this.#ping);
    return requests.sort((a, b) => a.end - b.end);
  }

  /** Whether a part of a request's response may have come, if a part of a frame
   * has: whose it is, its id has not told yet. */
  mayBeAnswered(_request: PendingRequest): boolean {
    return true;
  }

  /** Forgets every request. */
  clear(): void {
    this.#ids.clear();
    this.#ping = undefined;
  }
}
