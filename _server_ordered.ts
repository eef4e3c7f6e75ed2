// Responses in the order of the requests, on a wire whose frames have no ids.
//
// Knows: which requests are not answered yet, and in which order they came. Must
// not know: handlers, and when what is encoded is written.
//
//   first ---> next ---> ... ---> last
//   pending    settled            pending
//
// A response that is there moves to the encoder as soon as nobody stands before
// it. Until then its bytes are held back.

import type { FrameEncoder } from "./codec.ts";

/** A request whose response is not yet in the encoder. */
interface Slot {
  /** Undefined where there is none, and as long as there is none. */
  response: Uint8Array | undefined;
  /** Also set for one that is not answered any more. */
  settled: boolean;
  next: Slot | null;
}

/** The responses of one connection. */
export class OrderedResponses {
  readonly #encoder: FrameEncoder;
  #first: Slot | null = null;
  #last: Slot | null = null;
  #pending = 0;
  #heldBack = 0;

  constructor(encoder: FrameEncoder) {
    this.#encoder = encoder;
  }

  /** Requests whose response is not in the encoder. */
  get pending(): number {
    return this.#pending;
  }

  /** Bytes of responses that wait for those before them. */
  get heldBack(): number {
    return this.#heldBack;
  }

  /**
   * Takes the response of a request that did not have to wait for it.
   *
   * @param response Undefined where there is none.
   * @throws What the encoder throws at a payload that cannot be framed. Nothing
   * has changed then.
   */
  answer(response: Uint8Array | undefined): void {
    if (this.#first === null) {
      if (response !== undefined) this.#encoder.push(response);
      return;
    }
    this.judge(response);
    this.settle(this.open(), response);
  }

  /** Keeps a place for the response of a request that waits for it. */
  open(): Slot {
    const slot: Slot = { response: undefined, settled: false, next: null };
    if (this.#last === null) this.#first = slot;
    else this.#last.next = slot;
    this.#last = slot;
    this.#pending++;
    return slot;
  }

  /** Throws what the encoder throws at a payload that cannot be framed. */
  judge(response: Uint8Array | undefined): void {
    if (response !== undefined) this.#encoder.measure(response);
  }

  /** Puts a response that was judged in its place. */
  settle(slot: Slot, response: Uint8Array | undefined): void {
    // One before it has failed.
    if (slot.settled) return;
    slot.settled = true;
    slot.response = response;
    if (response !== undefined) this.#heldBack += response.length;
    while (this.#first !== null && this.#first.settled) {
      const { response, next } = this.#first;
      this.#first = next;
      if (next === null) this.#last = null;
      this.#pending--;
      if (response !== undefined) {
        this.#heldBack -= response.length;
        this.#encoder.push(response);
      }
    }
  }

  /**
   * A request has failed, and nothing can be said about it: without its
   * response, every later one would be taken for the one before it. What came
   * behind it is not answered, though it may be in progress.
   *
   * @returns That the connection has to end.
   */
  fail(slot: Slot): true {
    if (slot.settled) return true;
    for (let s = slot.next; s !== null; s = s.next) this.#drop(s);
    slot.next = null;
    this.#last = slot;
    this.settle(slot, undefined);
    return true;
  }

  /** The connection has ended: nothing is answered any more. */
  clear(): void {
    for (let s = this.#first; s !== null; s = s.next) this.#drop(s);
    this.#first = this.#last = null;
  }

  #drop(slot: Slot): void {
    this.#pending--;
    if (slot.response !== undefined) this.#heldBack -= slot.response.length;
    slot.settled = true;
    slot.response = undefined;
  }
}
