// deno run --allow-net=127.0.0.1 examples/kv_client.ts 9001
//
// Calls the service of `kv_server.ts` with its types: a wrong method, parameter
// or use of a value does not compile.

import { Client } from "@wirepool/net";
import type { Methods, Reply } from "./kv_server.ts";

await using client = new Client({
  port: Number(Deno.args[0] ?? 9001),
  maxFrameLength: 64 * 1024,
  maxCap: 4,
  pipelining: 16,
  requestTimeout: 2_000,
  maxLifetime: 300_000, // Behind a balancer, connections move to new servers.
});

/** Resolves to what the service answered, and rejects if it did not. */
async function call<M extends keyof Methods>(
  method: M,
  ...params: Parameters<Methods[M]>
): Promise<Reply<ReturnType<Methods[M]>>> {
  const request = new TextEncoder().encode(JSON.stringify({ method, params }));
  // A lost request is sent again where handling it twice does no harm.
  const idempotent = method !== "increment";
  const response = await client.send(request, { idempotent });
  return JSON.parse(new TextDecoder().decode(response));
}

await call("set", "color", "green");
const color = await call("get", "color");
if (color.ok) console.log("color is", color.value?.toUpperCase());

// In flight together, handled in order where they share a connection.
const hits = await Promise.all(
  Array.from({ length: 100 }, () => call("increment", "hits")),
);
console.log("hits", Math.max(...hits.map((hit) => hit.ok ? hit.value : NaN)));

const refused = await call("increment", "color");
if (!refused.ok) console.log(`${refused.code}: ${refused.reason}`);
