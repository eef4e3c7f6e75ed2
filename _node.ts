// Node's built-in modules, where a runtime has them: Deno, Node and Bun do.
//
// Knows: how to come by them without an import, which browsers would refuse
// and everybody would pay for at the start. Must not know: what they are for.

type Net = typeof import("node:net");
type Tls = typeof import("node:tls");
type Stream = typeof import("node:stream");
type Crypto = typeof import("node:crypto");
type Fs = typeof import("node:fs");
type Workers = typeof import("node:worker_threads");

interface Builtins {
  readonly net: Net;
  readonly tls: Tls;
  readonly stream: Stream;
  readonly crypto: Crypto;
  readonly fs: Fs;
  readonly worker_threads: Workers;
}

/** A built-in module; it is loaded at the first call. */
export function builtin<K extends keyof Builtins>(name: K): Builtins[K] {
  const { process } = globalThis as {
    process?: { getBuiltinModule?: (id: string) => unknown };
  };
  const module = process?.getBuiltinModule?.(`node:${name}`);
  if (module !== undefined) return module as Builtins[K];
  throw new Error(
    `This runtime has no node:${name}: sockets need Deno, Node 22 or Bun`,
  );
}

/** Whether sockets are Deno's own; otherwise they are `node:net`'s. */
export function isDeno(): boolean {
  const { Deno } = globalThis as { Deno?: { listen?: unknown } };
  return typeof Deno?.listen === "function";
}
