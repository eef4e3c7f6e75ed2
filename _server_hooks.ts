// Who is told of a request: its observers, around its handler.
//
// Knows: observers may fail, and change nothing by it. Must not know:
// connections, and how a response is written.

import { callDetached, isThenable } from "./_callbacks.ts";

/** What a request came to. */
interface Summary<Context> {
  readonly context: Context;
  readonly duration: number;
  readonly requestBytes: number;
  readonly responseBytes: number;
  readonly error?: unknown;
}

/** The observers of requests. */
interface Hooks<Context> {
  requestStart?(context: Context, requestBytes: number): unknown;
  requestEnd?(request: Summary<Context>): unknown;
}

type Handle<Context> = (
  payload: Uint8Array<ArrayBuffer>,
  context: Context,
) => unknown;

/**
 * Puts observers around a handler.
 *
 * @param report Told of what an observer threw; it must not throw.
 */
export function observe<Context>(
  handler: Handle<Context>,
  hooks: Hooks<Context>,
  report: (error: unknown, context: Context) => void,
): Handle<Context> {
  return (payload, context) => {
    const failedHook = (error: unknown) => report(error, context);
    const requestBytes = payload.length;
    callDetached(() => hooks.requestStart?.(context, requestBytes), failedHook);
    const start = performance.now();
    const end = (result: unknown, failure?: { error: unknown }) => {
      const duration = performance.now() - start;
      const responseBytes = result instanceof Uint8Array ? result.length : 0;
      callDetached(
        () =>
          hooks.requestEnd?.({
            context,
            duration,
            requestBytes,
            responseBytes,
            ...failure,
          }),
        failedHook,
      );
    };
    const failed = (error: unknown): never => {
      end(undefined, { error });
      throw error;
    };
    const ended = <T>(result: T): T => {
      end(result);
      return result;
    };
    let result: unknown;
    try {
      result = handler(payload, context);
    } catch (error) {
      return failed(error);
    }
    return isThenable(result)
      ? Promise.resolve(result).then(ended, failed)
      : ended(result);
  };
}
