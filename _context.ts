// In whose async context a callback runs (`AsyncLocalStorage`).
//
// Knows: the runtime's snapshots of a context, where there are any. Must not
// know: what is run.
//
// A promise that is awaited, a timer and a listener each keep the context alive
// that they were made in. What lives as long as a connection must therefore not
// be started in the context of whoever sent the first request on it.

type Snapshot = <R>(fn: () => R) => R;

const AsyncLocalStorage = (globalThis as {
  process?: {
    getBuiltinModule?: (id: string) => {
      AsyncLocalStorage?: { snapshot?: () => Snapshot };
    } | undefined;
  };
}).process?.getBuiltinModule?.("node:async_hooks")?.AsyncLocalStorage;

/**
 * Takes hold of the present async context.
 *
 * @returns A function that runs another in that context: a microsecond a call,
 * so for once a connection rather than for once a request. Where the runtime
 * knows no such contexts, it just calls.
 */
export function captureContext(): Snapshot {
  return AsyncLocalStorage?.snapshot?.() ?? ((fn) => fn());
}
