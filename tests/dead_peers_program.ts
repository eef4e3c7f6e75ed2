/**
 * How long it takes until a client notices that the network has dropped its idle
 * connections in silence: the table of RELIABILITY.md.
 *
 *   deno run -q -P=test tests/dead_peers_program.ts
 *
 * All limits are the defaults, so it takes most of a minute. Each case has a
 * server and a proxy before it, which stops to forward what its old connections
 * carry, and closes none of them. Then requests are sent, one after the other,
 * until one is answered.
 */
import { Client } from "../client.ts";
import { serve } from "../server.ts";
import { sleep } from "./time_support.ts";

/** Longer than the default of `pingAfterIdle`. */
const IDLE = 16_000;

/** Forwards bytes, until it is told to lose them. */
class Proxy implements Disposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #server: number;
  readonly #conns: { dropped: boolean; ends: Deno.Conn[] }[] = [];

  constructor(server: number) {
    this.#server = server;
    this.#accept();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  /** The connections that stand are lost, and nobody is told. */
  drop(): void {
    for (const conn of this.#conns) conn.dropped = true;
  }

  async #accept(): Promise<void> {
    try {
      for await (const near of this.#listener) {
        const far = await Deno.connect({ port: this.#server });
        const conn = { dropped: false, ends: [near, far] };
        this.#conns.push(conn);
        this.#forward(conn, near, far);
        this.#forward(conn, far, near);
      }
    } catch {
      // It was closed.
    }
  }

  async #forward(
    conn: { readonly dropped: boolean },
    from: Deno.Conn,
    to: Deno.Conn,
  ): Promise<void> {
    const room = new Uint8Array(1024);
    try {
      for (let n; (n = await from.read(room)) !== null;) {
        if (!conn.dropped) await to.write(room.subarray(0, n));
      }
      if (!conn.dropped) await to.closeWrite();
    } catch {
      // It was closed.
    }
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    for (const { ends } of this.#conns) {
      for (const end of ends) end[Symbol.dispose]();
    }
  }
}

/** Returns how long it took until a request was answered, and how many failed. */
async function measure(
  connections: number,
  ping: boolean,
): Promise<{ seconds: number; failed: number }> {
  await using server = serve({}, async (payload) => {
    await sleep(20);
    return payload;
  });
  using proxy = new Proxy(server.addr.port);
  const client = new Client({
    port: proxy.port,
    ...(ping && { ping: () => new Uint8Array() }),
  });
  const warm = Array.from(
    { length: connections },
    () => client.send(new Uint8Array(1)),
  );
  await Promise.all(warm);
  await sleep(IDLE);
  proxy.drop();
  const start = performance.now();
  let failed = 0;
  for (;;) {
    try {
      await client.send(new Uint8Array(1));
      break;
    } catch {
      failed++;
    }
  }
  const seconds = (performance.now() - start) / 1000;
  // Whatever else is idle must be as well as the one that answered.
  for (let i = 0; i < connections; i++) await client.send(new Uint8Array(1));
  await client.close({ signal: AbortSignal.timeout(1000) });
  return { seconds, failed };
}

const cases = [[1, true], [8, true], [1, false], [8, false]] as const;
const results = await Promise.all(
  cases.map(([connections, ping]) => measure(connections, ping)),
);
console.log("| idle connections | `ping` | until answered | requests failed |");
console.log("| ---------------: | ------ | -------------: | --------------: |");
for (const [i, { seconds, failed }] of results.entries()) {
  const [connections, ping] = cases[i]!;
  console.log(
    `| ${connections} | ${ping ? "yes" : "no"} | ${
      seconds.toFixed(2)
    } s | ${failed} |`,
  );
}
