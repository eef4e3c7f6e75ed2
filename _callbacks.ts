// How a user's callback is called that nobody awaits.
//
// Knows: a callback may throw, return a promise that rejects, or return
// anything. Must not know: what it is told, and why.

/** Whether a value is a promise, of whatever library. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null &&
    typeof (value as PromiseLike<unknown>).then === "function";
}

/**
 * Calls a callback whose result nobody awaits.
 *
 * @param failed Told of what it threw or rejected with, if it did; at once in
 * the one case, later in the other. It must not throw.
 */
export function callDetached(
  callback: () => unknown,
  failed: (error: unknown) => void,
): void {
  try {
    const result = callback();
    if (isThenable(result)) Promise.resolve(result).catch(failed);
  } catch (error) {
    failed(error);
  }
}

/** For failures of which nobody is left to be told. */
export function ignore(): void {}
