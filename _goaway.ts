// The payload that says goodbye, on wires whose frames have no id put in.
//
// Knows: which bytes of a payload come out of its frame again, and where an id
// stands among them. Must not know: when a goodbye is said, and what is done
// about it.

import type { Correlation } from "./_correlation.ts";
import { idInPayload, readUint, resolveLayout } from "./_layout.ts";
import { show } from "./_options.ts";
import {
  FrameDecoder,
  FrameEncoder,
  FrameError,
  type FrameOptions,
} from "./codec.ts";

/** The goaway that both sides have agreed on. Payloads are compared as they are
 * decoded, since that is all that the other side sees. */
export class Goaway {
  /** What is encoded; without an id, so that its own stays. */
  readonly payload: Uint8Array<ArrayBuffer>;
  readonly #decoded: Uint8Array<ArrayBuffer>;
  /** The first byte of a payload that is not stripped. */
  readonly #from: number;
  /** The bytes of a payload that are the frame's id: overwritten in a response,
   * and so no part of the comparison. Both are 0 where frames have none. */
  readonly #idStart: number;
  readonly #idEnd: number;
  readonly #id: number;

  constructor(
    payload: Uint8Array,
    frame: FrameOptions,
    correlation: Correlation | undefined,
  ) {
    this.payload = payload.slice();
    const layout = resolveLayout(frame, correlation?.response);
    const { strip, offset, width, idWidth, little } = layout;
    this.#from = strip <= offset ? strip : Math.max(offset, strip - width);
    this.#idStart = idWidth === 0 ? 0 : idInPayload(layout);
    this.#idEnd = this.#idStart + idWidth;
    const encoder = new FrameEncoder(frame, correlation?.response);
    encoder.push(this.payload);
    const decoder = new FrameDecoder(frame, correlation?.response);
    for (let c = encoder.chunk(); c !== null; c = encoder.chunk()) {
      decoder.push(c);
      encoder.advance(c.length);
    }
    this.#decoded = decoder.decode()!;
    this.#id = readUint(this.payload, this.#idStart, idWidth, little);
  }

  /** Whether a frame that was decoded is the goaway. */
  is(frame: Uint8Array): boolean {
    return frame.length === this.#decoded.length &&
      frame.every((byte, i) => byte === this.#decoded[i]);
  }

  /** Whether a response to the request with this id would be taken for the
   * goaway. */
  equals(response: Uint8Array, id: number): boolean {
    const { length } = this.payload;
    if (response.length !== length) return false;
    const idStart = this.#idStart;
    const idEnd = this.#idEnd;
    // From the end: what differs, differs there as a rule.
    for (let i = length - 1; i >= this.#from; i--) {
      if (i >= idStart && i < idEnd) continue;
      if (response[i] !== this.payload[i]) return false;
    }
    return idEnd <= this.#from || idEnd === idStart || id === this.#id;
  }
}

/** Checks the option `goaway`. */
export function goawayOption(
  options: { readonly goaway?: Uint8Array | undefined },
  frame: FrameOptions,
  correlation: Correlation | undefined,
): Goaway | undefined {
  const { goaway } = options;
  if (goaway === undefined) return undefined;
  if (!(goaway instanceof Uint8Array)) {
    throw new TypeError(
      `Option goaway must be a Uint8Array, received ${show(goaway)}`,
    );
  }
  if (correlation?.inserted) {
    throw new TypeError(
      "Option goaway cannot be used with inserted ids: a goaway is built in there",
    );
  }
  try {
    return new Goaway(goaway, frame, correlation);
  } catch (cause) {
    if (!(cause instanceof FrameError)) throw cause;
    throw new RangeError(
      `Option goaway must be a payload that fits in a frame, received ${goaway.length} bytes: ${cause.message}`,
      { cause },
    );
  }
}
