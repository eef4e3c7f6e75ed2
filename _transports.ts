// What server and client ask of any transport: that it is one, and that it can
// be closed without a word.
//
// Knows: the methods of a transport, and that a user's own may fail in closing.
// Must not know: what is spoken over it.

import { callDetached, ignore } from "./_callbacks.ts";
import { show } from "./_options.ts";
import type { Transport } from "./codec.ts";

/** Checks that a callback of the user's has given a transport.
 *
 * @param source What gave it, for the message. */
export function checkTransport(
  source: string,
  value: unknown,
): asserts value is Transport {
  const { read, write, close } = (value ?? {}) as Partial<Transport>;
  for (const method of [read, write, close]) {
    if (typeof method === "function") continue;
    throw new TypeError(
      `${source} must give a transport with read, write and close, received ${
        show(value)
      }`,
    );
  }
}

/** Closes a transport, which may be closed already, or fail to close. */
export function closeTransport(transport: Transport): void {
  callDetached(() => transport.close(), ignore);
}
