// Responses as they come, on a wire whose frames carry ids.
//
// Knows: which id a response carries, and how a failure is said where ids are
// inserted. Must not know: handlers, and when what is encoded is written.

import type { Correlation } from "./_correlation.ts";
import type { FrameEncoder } from "./codec.ts";

const EMPTY = new Uint8Array(0);

/** The responses of one connection. A request is known by its id; two requests
 * with the same id are both answered, as they settle. */
export class CorrelatedResponses {
  /** No response waits for another. */
  readonly heldBack = 0;
  readonly #encoder: FrameEncoder;
  readonly #correlation: Correlation;
  #pending = 0;

  constructor(encoder: FrameEncoder, correlation: Correlation) {
    this.#encoder = encoder;
    this.#correlation = correlation;
  }

  /** Requests whose response is not in the encoder. */
  get pending(): number {
    return this.#pending;
  }

  /**
   * Takes the response of a request that did not have to wait for it.
   *
   * @param response Undefined where there is none.
   * @throws What the encoder throws at a payload that cannot be framed. Nothing
   * has changed then.
   */
  answer(response: Uint8Array | undefined, id: number): void {
    if (response === undefined) return;
    // An inserted id of 0 is a request that gets no response.
    if (id === 0 && this.#correlation.inserted) return;
    this.#encoder.push(response, id);
  }

  /** Counts a request that waits for its response. */
  open(id: number): number {
    this.#pending++;
    return id;
  }

  /** Throws what the encoder throws at a payload that cannot be framed. */
  judge(response: Uint8Array | undefined): void {
    if (response !== undefined) this.#encoder.measure(response);
  }

  /** Answers a request with a response that was judged. */
  settle(id: number, response: Uint8Array | undefined): void {
    this.#pending--;
    this.answer(response, id);
  }

  /**
   * A request has failed. Where ids are inserted, the failure is said to whom it
   * concerns, and the connection lives.
   *
   * @returns Whether the connection has to end.
   */
  fail(id: number): boolean {
    this.#pending--;
    const { inserted, highBit, capacity } = this.#correlation;
    if (!inserted) return true;
    if (id === 0) return false;
    // No client draws it: its failure would be the goaway.
    if (id > capacity) return true;
    this.#encoder.push(EMPTY, id + highBit);
    return false;
  }

  /** The connection has ended: nothing is answered any more. */
  clear(): void {
    this.#pending = 0;
  }
}
