/**
 * Rolling restarts that lose nothing: servers in processes of their own that are
 * drained one after the other under load, with a greeting before the first
 * request and a goaway at the end, and a ledger outside of them. Every request
 * is handled exactly once and answered, though none is idempotent.
 *
 * `WIREPOOL_LONG=1` restarts 16 times and prints figures.
 */
import { assertEquals, assertGreater } from "@std/assert";
import { Client, type ClientOptions } from "../client.ts";
import type { ServeOptions } from "../server.ts";
import {
  type ChildOptions,
  ChildServer,
  GREETING,
} from "./child_server_support.ts";
import { freePort, testUnless, windows } from "./machine_support.ts";
import { chosenSeed, longRun, seeded } from "./random_support.ts";
import { sleep } from "./time_support.ts";
import { Ledger, report, Traffic } from "./traffic_support.ts";

/** How often a server is drained and another put in its place. */
const RESTARTS = longRun() ? 16 : 4;
/** Milliseconds between two restarts. */
const ROUND = 400;

/** What no response is: the shortest of those has four bytes. */
const GOAWAY = [0xff, 0x00, 0xff];

const WIRES: {
  name: string;
  server: ChildOptions;
  client: Partial<ClientOptions>;
}[] = [
  {
    name: "on an ordered wire with an agreed payload",
    server: { goaway: GOAWAY, serve: { concurrency: 4 } },
    client: { goaway: Uint8Array.from(GOAWAY) },
  },
  {
    name: "with inserted ids",
    server: { serve: { correlation: { length: 4 } } },
    client: { correlation: { length: 4 } },
  },
];

/** Four callers with connections of their own, and 32 that share two. */
const SHAPES = [
  { callers: 4, options: { maxCap: 4, pipelining: 1 } },
  { callers: 32, options: { maxCap: 2, pipelining: 32 } },
];

for (const { name, server, client } of WIRES) {
  testUnless(
    windows && "no signal to ask with",
    `Rolling restarts lose nothing ${name}`,
    async () => {
      await seeded(chosenSeed(), async (random) => {
        const ledger = new Ledger(1 << 20);
        const start = (port: number) =>
          ChildServer.start({
            ...server,
            ledger: true,
            greeting: true,
            serve: { ...server.serve, port } as ServeOptions,
          }, (id) => ledger.handle(id));
        const servers = await Promise.all(
          [1, 2, 3].map(() => start(freePort())),
        );

        // A dial goes to whoever takes new connections, as through a balancer
        // that is told before a server goes.
        let open = servers.map(({ port }) => port);
        let dialling = 0;
        let turn = 0;
        const connect = async (signal: AbortSignal) => {
          dialling++;
          try {
            const port = open[turn++ % open.length]!;
            return await Deno.connect({ hostname: "127.0.0.1", port, signal });
          } finally {
            dialling--;
          }
        };
        const failures: string[] = [];
        const clients = SHAPES.map(({ options }) =>
          new Client({
            ...client,
            ...options,
            connect,
            handshake: async (conn) =>
              assertEquals(await conn.read(), GREETING),
          })
        );
        const load = clients.map((client, i) =>
          new Traffic({
            client,
            ledger,
            random,
            workers: SHAPES[i]!.callers,
            pause: 1,
            idempotent: () => false,
            failed: (id, error) => {
              const { cause } = error as Error;
              failures.push(
                `request ${id}, handled ${
                  ledger.count(id)
                } times: ${error}, ${cause}`,
              );
            },
          })
        );
        let stop = false;
        const running = Promise.all(
          load.map((traffic) => traffic.run(() => !stop)),
        );
        for (let round = 0; round < RESTARTS; round++) {
          await sleep(ROUND);
          // One server, or two in a row: what the first gives back may reach
          // the second just before that goes, too.
          const going = [round % 3, (round + 1) % 3].slice(0, 1 + round % 2);
          const ended: Promise<Deno.CommandStatus>[] = [];
          for (const which of going) {
            const server = servers[which]!;
            open = open.filter((port) => port !== server.port);
            while (dialling > 0) await sleep(1);
            server.terminate();
            ended.push(server.ended);
            await sleep(random.between(0, 5));
          }
          for (const { code } of await Promise.all(ended)) {
            assertEquals(code, 0, "a drain did not end by itself");
          }
          for (const which of going) {
            servers[which] = await start(servers[which]!.port);
            open = [...open, servers[which]!.port];
          }
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
        assertEquals(failures, []);
        for (let id = 0; id < ledger.issued; id++) {
          assertEquals(ledger.count(id), 1, `request ${id}`);
        }
        load.forEach((traffic, i) => {
          assertGreater(traffic.outcomes.ok!, 100);
          report(`Rolling restarts ${name}, ${SHAPES[i]!.callers} callers`, {
            restarts: RESTARTS,
            requests: traffic.settled,
            ...traffic.outcomes,
          });
        });
      });
    },
  );
}
