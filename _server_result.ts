// What a handler's result is worth: a response, none, or a failure; and what
// there is instead of a failed one.
//
// Knows: what a handler may return, and that `onError` may answer in its place.
// Must not know: which request it is about, and how a response is written.

import { isThenable } from "./_callbacks.ts";
import type { Goaway } from "./_goaway.ts";
import { show } from "./_options.ts";

/** In place of a response: there is none, and none will come. */
export const FAILED: unique symbol = Symbol("failed");

/** What is set about results. */
interface ResultSettings<Context> {
  /** What a handler returns to write no response. */
  readonly noResponse: unknown;
  /** What must not be a response. */
  readonly goaway: Goaway | undefined;
  /** May give a response in place of a failed handler's. */
  readonly onError:
    | ((error: unknown, context: Context) => unknown)
    | undefined;
  /** Told of a failure where there is no `onError`. It never throws. */
  printFailure(error: unknown, context: Context): void;
}

/**
 * Judges what a handler has returned to the request with this id.
 *
 * @returns The response, or undefined where there is to be none.
 */
export function checkResult<Context>(
  result: unknown,
  id: number,
  { noResponse, goaway }: ResultSettings<Context>,
): Uint8Array | undefined {
  if (result instanceof Uint8Array) {
    if (goaway?.equals(result, id)) {
      throw new TypeError(
        "Handler returned the goaway, which would end the connection; return another response",
      );
    }
    return result;
  }
  if (result === noResponse) return undefined;
  throw noResponseError(result);
}

/** The failure of a handler that has returned what is no response. */
export function noResponseError(result: unknown): Error {
  return new TypeError(
    `Handler returned ${
      show(result)
    }; return a Uint8Array, or NO_RESPONSE for a request that gets no response`,
  );
}

/**
 * Asks `onError` for a response in place of a failed handler's.
 *
 * @param judge Throws if an answer cannot be the response.
 * @returns The response, {@linkcode FAILED}, or a promise of either. It neither
 * throws nor rejects.
 */
export function recover<Context>(
  error: unknown,
  context: Context,
  { onError, printFailure }: ResultSettings<Context>,
  judge: (answer: Uint8Array) => unknown,
): unknown {
  if (onError === undefined) {
    printFailure(error, context);
    return FAILED;
  }
  const usable = (answer: unknown) => {
    try {
      return answer instanceof Uint8Array ? judge(answer) : FAILED;
    } catch {
      return FAILED;
    }
  };
  try {
    const answer = onError(error, context);
    return isThenable(answer)
      ? Promise.resolve(answer).then(usable, () => FAILED)
      : usable(answer);
  } catch {
    // There is nobody left to tell.
    return FAILED;
  }
}
