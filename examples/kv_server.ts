// deno run --allow-net=127.0.0.1 examples/kv_server.ts 9001
//
// A small typed service. A request is JSON that names a method and its
// parameters; a response carries a value or an error. `kv_client.ts` takes its
// types from here. SIGTERM drains it: what has arrived is answered.

import { serve } from "@wirepool/net";

/** What may be called. Every parameter is a string: `parse` relies on it. */
export interface Methods {
  get(key: string): string | null;
  set(key: string, value: string): null;
  increment(key: string): number;
}

/** What comes back from a call that returns `T`. */
export type Reply<T> =
  | { ok: true; value: T }
  | {
    ok: false;
    code: "bad_request" | "conflict" | "internal";
    reason: string;
  };

class Conflict extends Error {}

const store = new Map<string, string>();
const methods: Methods = {
  get: (key) => store.get(key) ?? null,
  set: (key, value) => (store.set(key, value), null),
  increment(key) {
    const number = Number(store.get(key) ?? 0) + 1;
    if (!Number.isSafeInteger(number)) throw new Conflict(`${key} is no count`);
    store.set(key, String(number));
    return number;
  },
};

const server = serve({
  port: Number(Deno.args[0] ?? 9001),
  maxFrameLength: 64 * 1024,
  maxConnections: 1_000,
  idleTimeout: 60_000,
  readTimeout: 5_000,
  shutdownTimeout: 5_000,
  onError: (error, context) => console.error(context?.remoteAddr, error),
}, (payload) => new TextEncoder().encode(JSON.stringify(answer(payload))));

function answer(payload: Uint8Array): Reply<unknown> {
  const call = parse(payload);
  if (!call) return { ok: false, code: "bad_request", reason: "No such call" };
  try {
    const method: (...params: string[]) => unknown = methods[call.method];
    return { ok: true, value: method(...call.params) };
  } catch (error) {
    if (error instanceof Conflict) {
      return { ok: false, code: "conflict", reason: error.message };
    }
    console.error(error); // Ours to know, not the caller's.
    return { ok: false, code: "internal", reason: "Internal error" };
  }
}

function parse(payload: Uint8Array) {
  try {
    const { method, params } = JSON.parse(new TextDecoder().decode(payload));
    const known = Object.hasOwn(methods, method) && Array.isArray(params) &&
      params.length === methods[method as keyof Methods].length &&
      params.every((param) => typeof param === "string");
    return known ? { method: method as keyof Methods, params } : null;
  } catch {
    return null;
  }
}

console.log(`Listening on port ${server.addr.port}`);
const stop = Deno.build.os === "windows" ? "SIGBREAK" : "SIGTERM";
Deno.addSignalListener(stop, () => server.shutdown());
await server.finished;
