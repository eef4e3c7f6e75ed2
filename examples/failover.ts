// deno run --allow-net=127.0.0.1 examples/failover.ts 127.0.0.1:9001 127.0.0.1:9002
//
// Keeps to the first server that answers, and goes on to the next when it does
// not. An address that has failed is tried last for a while, so that a server
// that is down does not slow down every dial. Start `echo_server.ts` on the
// addresses, end one, and watch.

import { Client } from "@wirepool/net";

const PATIENCE = 1_000; // For one address, in milliseconds.
const PENALTY = 5_000; // How long an address that has failed is tried last.

const addresses = Deno.args.map((text) => {
  const { hostname, port } = new URL(`tcp://${text}`);
  return { text, hostname, port: Number(port), failedAt: -Infinity };
});

async function connect(signal: AbortSignal): Promise<Deno.Conn> {
  const now = performance.now();
  const late = ({ failedAt }: { failedAt: number }) =>
    Number(now - failedAt < PENALTY);
  const failures: unknown[] = [];
  for (const address of addresses.toSorted((a, b) => late(a) - late(b))) {
    const { hostname, port } = address;
    try {
      return await Deno.connect({
        hostname,
        port,
        signal: AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]),
      });
    } catch (error) {
      if (signal.aborted) throw error; // The client has given up.
      address.failedAt = performance.now();
      failures.push(error);
      console.error(`${address.text} failed`);
    }
  }
  throw new AggregateError(failures, "No server can be reached");
}

await using client = new Client({
  connect,
  connectTimeout: PATIENCE * addresses.length + 500, // For all of them.
  maxCap: 2,
  idempotent: true, // What a server that ends had taken is asked again.
  maxLifetime: 60_000, // Sooner or later back to the first address.
});

let answers = 0;
Deno.addSignalListener("SIGINT", () => Deno.exit());
for (;;) {
  try {
    await client.send(new TextEncoder().encode("hello"));
    if (answers++ % 10 === 0) console.log(`${answers} answers`);
  } catch (error) {
    console.error(String(error));
  }
  await new Promise((wake) => setTimeout(wake, 100));
}
