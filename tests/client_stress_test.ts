/**
 * The client against a server of whims, under load: whatever it does, every
 * request settles with its own response or an error, and none that may not be
 * is handled twice. `WIREPOOL_SEED=<seed>` draws the same whims again.
 */
import { assertEquals, assertGreater } from "@std/assert";
import { Client } from "../client.ts";
import { encodeFrame, FrameReader } from "../codec.ts";
import { chosenSeed, longRun, type Random, seeded } from "./random_support.ts";
import { CA, CERT, KEY } from "./tls_support.ts";
import { eventually, sleep } from "./time_support.ts";
import { idOf, Ledger, responseTo, Traffic } from "./traffic_support.ts";

const REQUESTS = longRun() ? 60_000 : 3000;

/** How a connection ends, after some requests. */
const ENDS = [
  "end", // closed between two responses
  "unread", // closed with requests unread, which resets
  "half a response",
  "garbage",
  "silence", // reads on, and answers no more
  "deafness", // neither reads nor answers any more
] as const;

interface Whims {
  connections: number;
  readonly ends: Record<typeof ENDS[number], number>;
}

/** Serves one connection until its whim ends it, or the client does. */
async function serve(
  conn: Deno.Conn,
  ledger: Ledger,
  random: Random,
  whims: Whims,
): Promise<void> {
  const requests = new FrameReader(conn);
  const write = async (bytes: Uint8Array) => {
    for (let n = 0; n < bytes.length;) n += await conn.write(bytes.subarray(n));
  };
  // By chance, but for those that have not come about yet: a client may end a
  // connection before its whim does.
  const missing = ENDS.filter((end) => whims.ends[end] === 0);
  const end = random.pick(missing.length > 0 ? missing : ENDS);
  const lifetime = random.once(8) ? 0 : random.between(1, 120);
  for (let i = 0; i < lifetime; i++) {
    const request = await requests.read();
    if (request === null) return;
    const id = idOf(request);
    ledger.handle(id);
    if (random.once(20)) await sleep(random.between(0, 8));
    const response = encodeFrame(responseTo(id));
    const cut = random.once(10) ? random.between(0, response.length) : 0;
    if (cut > 0) {
      await write(response.subarray(0, cut));
      await sleep(0);
    }
    await write(response.subarray(cut));
  }
  whims.ends[end]++;
  if (end === "garbage") await write(new Uint8Array(9).fill(0xff));
  if (end === "end" || end === "garbage") return;
  if (end === "unread" || end === "deafness") {
    if (end === "unread") await sleep(random.between(0, 5));
    else await sleep(random.between(50, 400));
    return;
  }
  for (let request; (request = await requests.read()) !== null;) {
    const id = idOf(request);
    ledger.handle(id);
    if (end === "silence") continue;
    const response = encodeFrame(responseTo(id));
    await write(response.subarray(0, random.between(1, response.length - 1)));
    return;
  }
}

for (
  const { name, pipelining, tls } of [
    { name: "one at a time", pipelining: 1, tls: false },
    { name: "pipelined", pipelining: 8, tls: false },
    { name: "pipelined over TLS", pipelining: 8, tls: true },
  ]
) {
  Deno.test(`A server of whims loses, crosses and doubles no request, ${name}`, async () => {
    await seeded(chosenSeed(), async (random) => {
      const ledger = new Ledger(REQUESTS + 1000);
      const address = { hostname: "127.0.0.1", port: 0 };
      const listener = tls
        ? Deno.listenTls({ ...address, cert: CERT, key: KEY })
        : Deno.listen(address);
      const ends = Object.fromEntries(ENDS.map((end) => [end, 0]));
      const whims = { connections: 0, ends } as Whims;
      const serving = (async () => {
        for (;;) {
          let conn: Deno.Conn;
          try {
            conn = await listener.accept();
          } catch {
            return;
          }
          whims.connections++;
          serve(conn, ledger, random, whims)
            // The client may end it at any time.
            .catch(() => {})
            .finally(() => {
              whims.connections--;
              conn[Symbol.dispose]();
            });
        }
      })();
      const { port } = listener.addr as Deno.NetAddr;
      const client = new Client({
        hostname: "localhost",
        port,
        tls: tls && { caCerts: [CA] },
        pipelining,
        maxCap: 8,
        requestTimeout: 200,
        onError: ledger.clientError,
      });
      const traffic = new Traffic({
        client,
        ledger,
        random,
        workers: 10 * pipelining,
        impatient: true,
      });
      await traffic.run(() => ledger.issued < REQUESTS);

      const { requests, responses, failures, inFlight, pool } = client.stats();
      assertEquals(requests, ledger.issued);
      assertEquals([responses + failures, inFlight], [requests, 0]);
      const { open, idle, waiting, inUse } = pool;
      assertEquals({ waiting, inUse }, { waiting: 0, inUse: 0 });
      assertGreater(9, open);
      assertEquals(open - idle, pool.opening);
      await client.close();
      assertEquals(client.stats().pool.open, 0);
      await eventually(
        "the server has lost the client",
        () => whims.connections === 0,
      );
      listener.close();
      await serving;

      ledger.close();
      assertEquals(ledger.breaches, []);
      for (const end of ENDS) assertGreater(whims.ends[end], 0, end);
      assertGreater(traffic.outcomes.ok!, REQUESTS / 10);
    });
  });
}
