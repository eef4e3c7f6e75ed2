/**
 * Client and server with a network between them that does its worst.
 *
 * `WIREPOOL_LONG=1` sends ten times the requests and prints figures. A failure
 * names its seed; `WIREPOOL_SEED=<seed>` draws the same faults again.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertRejects,
} from "@std/assert";
import { Client, ConnectionLostError } from "../client.ts";
import { encodeFrame, FrameReader } from "../codec.ts";
import { serve } from "../server.ts";
import { FaultProxy } from "./fault_proxy_support.ts";
import { chosenSeed, longRun, seeded } from "./random_support.ts";
import { eventually, PATIENCE } from "./time_support.ts";
import { Ledger, report, requestOf, Traffic } from "./traffic_support.ts";

const REQUESTS = longRun() ? 105_000 : 10_500;

for (
  const { name, pipelining, concurrency } of [
    { name: "one at a time", pipelining: 1, concurrency: 1 },
    { name: "pipelined", pipelining: 8, concurrency: 4 },
  ]
) {
  Deno.test(`Over a network that does its worst, no request is lost, crossed or handled twice, ${name}`, async () => {
    await seeded(chosenSeed(), async (random) => {
      const ledger = new Ledger(REQUESTS + 1000);
      const server = serve({
        concurrency,
        onError: (error) => ledger.breach(`The server reports ${error}`),
      }, ledger.handler);
      const { port } = server.addr as Deno.NetAddr;
      const proxy = await FaultProxy.start(port, random.seed);
      const client = new Client({
        port: proxy.port,
        pipelining,
        maxCap: 32,
        requestTimeout: 400,
        onError: ledger.clientError,
      });
      const traffic = new Traffic({
        client,
        ledger,
        random,
        workers: 32 * pipelining,
        impatient: true,
      });
      const start = performance.now();
      await traffic.run(() => ledger.issued < REQUESTS);
      const seconds = (performance.now() - start) / 1000;

      // The faults stop, and what is asked next is answered.
      await proxy.heal();
      for (let i = 0; i < 50; i++) {
        const id = ledger.issue();
        const options = { timeout: PATIENCE };
        ledger.answer(id, await client.send(requestOf(id), options));
      }

      // Nobody is left, on either side.
      const { inFlight, pool } = client.stats();
      assertEquals(inFlight, 0);
      const { waiting, inUse, opening, open, idle } = pool;
      assertEquals({ waiting, inUse, opening }, {
        waiting: 0,
        inUse: 0,
        opening: 0,
      });
      assertEquals(open, idle);
      await client.close();
      assertEquals(client.stats().pool.open, 0);
      await eventually(
        "the server is without connections and requests",
        () => server.stats().connections === 0 && server.stats().inFlight === 0,
      );
      await eventually("the proxy is idle", () => proxy.connections === 0);
      await proxy.close();
      await server.shutdown();

      ledger.close();
      assertEquals(ledger.breaches, []);
      for (const fault of ["cut", "reset", "hold", "half", "slam"] as const) {
        assertGreater(proxy.counts[fault], 0, `no ${fault} was tried`);
      }
      assertGreater(traffic.outcomes.ok!, REQUESTS / 10);
      const { requests, responses, failures, retries } = client.stats();
      assertEquals(requests, ledger.issued);
      assertEquals(responses + failures, requests);
      report(`Faults, ${name}`, {
        seconds,
        connections: proxy.accepted,
        ...proxy.counts,
        retries,
        handled: ledger.handled,
        ...traffic.outcomes,
      });
    });
  });
}

Deno.test("A request that was sent once and not again is still reported as sent", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  await using client = new Client({ port, maxCap: 1, idempotent: true });
  const large = new Uint8Array(8 * 1024 * 1024);
  const served = (async () => {
    // The first connection answers, then takes the large request and ends.
    using first = await listener.accept();
    const requests = new FrameReader(first);
    await requests.read();
    await first.write(encodeFrame(new Uint8Array(1)));
    await requests.read();
    first.close();
    // The second ends before it has taken all of it.
    using second = await listener.accept();
    await second.read(new Uint8Array(1));
  })();
  await client.send(new Uint8Array(1));
  const error = await assertRejects(
    () => client.send(large),
    ConnectionLostError,
  );
  assertEquals(client.stats().retries, 1);
  assert(error.requestSent);
  await served;
});

Deno.test("A response that arrived before the reset that a later write meets is not lost", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  await using client = new Client({ port, maxCap: 1, pipelining: 8 });
  const first = client.send(new Uint8Array([1]));
  const second = client.send(new Uint8Array([2]));
  const server = await listener.accept();
  // The second request stays unread, so that closing sends a reset.
  await server.read(new Uint8Array(9));
  const third = (async () => {
    // In one turn, so that the client writes before it reads.
    const written = server.write(encodeFrame(new Uint8Array([1])));
    server.close();
    await Promise.allSettled([client.send(new Uint8Array([3])), written]);
  })();
  assertEquals(await first, new Uint8Array([1]));
  const error = await assertRejects(() => second, ConnectionLostError);
  assert(error.requestSent);
  listener.close();
  await third;
});
