// Who is told of a request: its observers, around its handler. And who is told
// of a failure that nobody else hears of: the console.
//
// Knows: observers may fail, and change nothing by it. Must not know: how
// connections live, and how a response is written.

import { isThenable } from "./_callbacks.ts";
import type { TransportAddress } from "./codec.ts";

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
 * @param check Throws if what the handler has returned is its failure.
 * @param tell Calls an observer, and sees to it if that fails; it must not
 * throw.
 */
export function observe<Context>(
  handler: Handle<Context>,
  hooks: Hooks<Context>,
  check: (result: unknown) => void,
  tell: (context: Context, hook: () => unknown) => void,
): Handle<Context> {
  return (payload, context) => {
    const requestBytes = payload.length;
    tell(context, () => hooks.requestStart?.(context, requestBytes));
    const start = performance.now();
    const end = (result: unknown, failure?: { error: unknown }) => {
      const duration = performance.now() - start;
      const responseBytes = result instanceof Uint8Array ? result.length : 0;
      tell(context, () =>
        hooks.requestEnd?.({
          context,
          duration,
          requestBytes,
          responseBytes,
          ...failure,
        }));
    };
    const failed = (error: unknown): never => {
      end(undefined, { error });
      throw error;
    };
    const ended = (result: unknown): unknown => {
      try {
        check(result);
      } catch (error) {
        return failed(error);
      }
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

/**
 * Prints a failure of the user's own code, as `Deno.serve` does: without
 * `onError`, nobody would hear of it.
 *
 * @param whose What failed.
 * @param peer Whose connection it was.
 */
export function printFailure(
  whose: string,
  error: unknown,
  peer: TransportAddress,
): void {
  try {
    // What a peer can provoke is never printed: it would fill the log.
    // deno-lint-ignore no-console
    console.error(`${whose} failed for ${describe(peer)}:`, error);
  } catch {
    // A console that throws changes nothing.
  }
}

function describe(address: TransportAddress): string {
  switch (address.transport) {
    case "tcp":
    case "udp":
      return address.hostname.includes(":")
        ? `[${address.hostname}]:${address.port}`
        : `${address.hostname}:${address.port}`;
    case "vsock":
      return `vsock ${address.cid}:${address.port}`;
    default:
      return address.path === "" ? "an unnamed peer" : address.path;
  }
}
