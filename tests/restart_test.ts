/**
 * Servers that are killed and started again, and servers that are drained one
 * after the other, under load. They run in processes of their own.
 *
 * `WIREPOOL_LONG=1` goes on for 15 seconds and prints figures.
 */
import { assertEquals, assertGreater } from "@std/assert";
import { Client, type ClientOptions } from "../client.ts";
import { ChildServer } from "./child_server_support.ts";
import { freePort, testUnless, windows } from "./machine_support.ts";
import { chosenSeed, longRun, seeded } from "./random_support.ts";
import { eventually, sleep } from "./time_support.ts";
import {
  isIdempotent,
  Ledger,
  report,
  requestOf,
  Traffic,
} from "./traffic_support.ts";

/** How often a server is killed, and each server drained. */
const ROUNDS = longRun() ? 15 : 4;
/** Milliseconds between two rounds. */
const ROUND = 1000;

Deno.test("A server killed and started again crosses no response, and is found at the first dial", async () => {
  await seeded(chosenSeed(), async (random) => {
    const ledger = new Ledger(1 << 20);
    const handled = (id: number) => ledger.handle(id);
    const port = freePort();
    const start = () =>
      ChildServer.start({ serve: { port }, ledger: true }, handled);
    let child = await start();

    // The server is known to be there between these two.
    let backSince = performance.now();
    let back = true;
    const afterwards = (duration: number) =>
      back && performance.now() - duration > backSince;
    let dials = 0;
    const options: ClientOptions = {
      port,
      maxCap: 8,
      hooks: {
        dial({ duration, error }) {
          dials++;
          if (error !== undefined && afterwards(duration)) {
            ledger.breach(
              `A dial failed although the server was back: ${error}`,
            );
          }
        },
        settle({ duration, error }) {
          if (error !== undefined && afterwards(duration)) {
            ledger.breach(
              `A request failed although the server was back: ${error}`,
            );
          }
        },
      },
    };
    const clients = [1, 8].map((pipelining) =>
      new Client({ ...options, pipelining })
    );
    const load = clients.map((client, i) =>
      new Traffic({ client, ledger, random, workers: 8 + 16 * i, pause: 2 })
    );
    let stop = false;
    const running = Promise.all(
      load.map((traffic) => traffic.run(() => !stop)),
    );

    let probeDials = 0;
    await using probe = new Client({
      port,
      maxCap: 1,
      hooks: { dial: () => probeDials++ },
    });
    const slowest = { recovery: 0 };
    for (let round = 0; round < ROUNDS; round++) {
      await sleep(ROUND - (performance.now() - backSince));
      back = false;
      child.kill();
      await child.ended;
      child = await start();
      backSince = performance.now();
      back = true;
      probeDials = 0;
      const id = ledger.issue();
      ledger.answer(id, await probe.send(requestOf(id)));
      assertEquals(probeDials, 1, "dials until the server was found again");
      slowest.recovery = Math.max(
        slowest.recovery,
        performance.now() - backSince,
      );
    }
    stop = true;
    await running;
    for (const client of clients) {
      const { inFlight, pool } = client.stats();
      assertEquals([inFlight, pool.inUse, pool.waiting], [0, 0, 0]);
      await client.close();
    }
    await probe.close();
    child.terminate();
    assertEquals((await child.ended).code, 0);
    ledger.close();
    assertEquals(ledger.breaches, []);
    load.forEach((traffic, i) => {
      assertGreater(traffic.outcomes.ok!, 100);
      // Otherwise nothing was ever cut short, and nothing was tried.
      assertGreater(traffic.outcomes.ConnectError!, 0);
      report(`Kill -9, pipelining ${i === 0 ? 1 : 8}`, {
        kills: ROUNDS,
        requests: traffic.settled,
        ...traffic.outcomes,
      });
    });
    report("Kill -9, in all", { handled: ledger.handled, dials, ...slowest });
  });
});

testUnless(
  windows && "no signal to ask with",
  "Servers drained one after the other fail no request that they have received, and clients move over",
  async () => {
    await seeded(chosenSeed(), async (random) => {
      const ledger = new Ledger(1 << 20);
      let latest = 0;
      const startServer = (port: number) => {
        const number = latest++;
        return ChildServer.start(
          { serve: { port, concurrency: 4 }, ledger: true },
          (id) => {
            ledger.handle(id);
            received[number] = (received[number] ?? 0) + 1;
          },
        );
      };
      /** Requests received by each server that was ever started. */
      const received: number[] = [];
      const servers = [
        await startServer(freePort()),
        await startServer(freePort()),
      ];
      await using balancer = new Balancer(servers.map(({ port }) => port));
      const clients = [1, 8].map((pipelining) =>
        new Client({ port: balancer.port, maxCap: 8, pipelining })
      );
      const lost = new Map<number, unknown>();
      const slowest = { move: 0 };
      const load = clients.map((client, i) =>
        new Traffic({
          client,
          ledger,
          random,
          workers: 8 + 16 * i,
          pause: 2,
          failed: (id, error) => lost.set(id, error),
        })
      );
      let stop = false;
      const running = Promise.all(
        load.map((traffic) => traffic.run(() => !stop)),
      );
      for (let round = 0; round < ROUNDS; round++) {
        const which = round % 2;
        const { port } = servers[which]!;
        await sleep(ROUND / 2);
        servers[which]!.terminate();
        const { code } = await servers[which]!.ended;
        assertEquals(code, 0, "a drain did not end by itself");
        const before = ledger.handled;
        const since = performance.now();
        await eventually("clients move over", () => ledger.handled > before);
        slowest.move = Math.max(slowest.move, performance.now() - since);
        servers[which] = await startServer(port);
      }
      stop = true;
      await running;
      for (const client of clients) await client.close();
      for (const server of servers) {
        server.terminate();
        assertEquals((await server.ended).code, 0);
      }
      ledger.close();
      assertEquals(ledger.breaches, []);
      // Every server but the last, which nobody had a reason to move to, took
      // part.
      for (let i = 0; i < ROUNDS; i++) {
        assertGreater(received[i] ?? 0, 0, `server ${i} was not moved to`);
      }
      for (const [id, error] of lost) {
        const { cause } = error as Error;
        assertEquals(
          ledger.count(id),
          0,
          `request ${id} was received and lost: ${error}, ${cause}`,
        );
        assertEquals(
          isIdempotent(id),
          false,
          `request ${id} could have been sent again: ${error}, ${cause}`,
        );
      }
      load.forEach((traffic, i) =>
        report(`Rolling drain, pipelining ${i === 0 ? 1 : 8}`, {
          drains: ROUNDS,
          requests: traffic.settled,
          ...traffic.outcomes,
          "sent again": clients[i]!.stats().retries,
          ...slowest,
        })
      );
    });
  },
);

/** Gives each connection to the next server that takes it. */
class Balancer {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #ports: number[];
  readonly #tasks = new Set<Promise<void>>();
  readonly #conns = new Set<Deno.Conn>();
  readonly #accepting: Promise<void>;
  #turn = 0;

  constructor(ports: number[]) {
    this.#ports = ports;
    this.#accepting = this.#accept();
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const conn of this.#conns) conn[Symbol.dispose]();
    await this.#accepting;
    await Promise.all(this.#tasks);
  }

  async #accept(): Promise<void> {
    for (;;) {
      let client: Deno.Conn;
      try {
        client = await this.#listener.accept();
      } catch {
        return;
      }
      this.#conns.add(client);
      const task = this.#link(client).finally(() => {
        this.#tasks.delete(task);
        this.#conns.delete(client);
      });
      this.#tasks.add(task);
    }
  }

  async #link(client: Deno.Conn): Promise<void> {
    const server = await this.#dial();
    if (server === undefined) return client[Symbol.dispose]();
    this.#conns.add(server);
    await Promise.all([pump(client, server), pump(server, client)]);
    this.#conns.delete(server);
    client[Symbol.dispose]();
    server[Symbol.dispose]();
  }

  async #dial(): Promise<Deno.Conn | undefined> {
    const first = this.#turn++;
    for (let i = 0; i < this.#ports.length; i++) {
      const port = this.#ports[(first + i) % this.#ports.length]!;
      try {
        return await Deno.connect({ hostname: "127.0.0.1", port });
      } catch {
        // It is being restarted: the next one.
      }
    }
    return undefined;
  }
}

/** Hands one direction on until it ends, and hands its end on. */
async function pump(from: Deno.Conn, to: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(16 * 1024);
  try {
    for (;;) {
      const n = await from.read(buffer);
      if (n === null) break;
      for (let at = 0; at < n;) at += await to.write(buffer.subarray(at, n));
    }
    await to.closeWrite();
  } catch {
    // One side is gone; so is the other, then.
    from[Symbol.dispose]();
    to[Symbol.dispose]();
  }
}
