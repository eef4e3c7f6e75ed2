/**
 * Servers behind a real HAProxy: the configuration of the examples, a rolling
 * restart under load, and the PROXY protocol.
 */
import { assert, assertEquals, assertGreater } from "@std/assert";
import { equals } from "@std/bytes";
import { Client } from "@wirepool/net/client";
import { encodeFrame, FrameReader } from "@wirepool/net/codec";
import { serve } from "@wirepool/net/server";
import { freePort } from "../machine_support.ts";
import { sleep } from "../time_support.ts";
import {
  exampleText,
  type Program,
  startExample,
  startServer,
  testPeers,
} from "../programs_support.ts";

/** Starts HAProxy with a configuration, and waits until it listens. */
async function startHAProxy(
  path: string,
  folder: string,
  config: string,
  port: number,
): Promise<Program> {
  const file = `${folder}/haproxy.cfg`;
  await Deno.writeTextFile(file, `${config}\n`);
  return await startServer(port, path, ["-db", "-f", file]);
}

/** Two servers of the examples, behind the balancer of the examples. */
class Fleet implements AsyncDisposable {
  readonly port = freePort();
  readonly #adminPort = freePort();
  readonly #ports = [freePort(), freePort()];
  readonly #servers: Program[] = [];
  #haproxy: Program | undefined;

  static async start(path: string, folder: string): Promise<Fleet> {
    const fleet = new Fleet();
    await Promise.all([0, 1].map((i) => fleet.#startServer(i)));
    const ports: Record<string, number> = {
      9000: fleet.port,
      9001: fleet.#ports[0]!,
      9002: fleet.#ports[1]!,
      9010: fleet.#adminPort,
    };
    const config = exampleText("haproxy.cfg").replaceAll(
      /^( +.*127\.0\.0\.1:)(90\d\d)\b/gm,
      (_, line, port) => line + ports[port],
    );
    fleet.#haproxy = await startHAProxy(path, folder, config, fleet.port);
    return fleet;
  }

  async #startServer(i: number): Promise<void> {
    const server = startExample("echo_server.ts", [
      `127.0.0.1:${this.#ports[i]}`,
      "--proxy-protocol",
    ]);
    this.#servers[i] = server;
    await server.says(/Listening/);
  }

  /** Tells the balancer something, as `nc` does in its configuration. */
  async #tell(command: string): Promise<void> {
    using conn = await Deno.connect({ port: this.#adminPort });
    await conn.write(new TextEncoder().encode(`${command}\n`));
    const answer = new Uint8Array(1000);
    const n = await conn.read(answer);
    assertEquals(new TextDecoder().decode(answer.subarray(0, n ?? 0)), "\n");
  }

  /** Restarts a server, as the configuration says. */
  async restart(i: number): Promise<void> {
    const name = `servers/${["first", "second"][i]}`;
    const haproxy = this.#haproxy!;
    const seen = haproxy.output.length;
    await this.#tell(`set server ${name} state drain`);
    await sleep(300);
    const server = this.#servers[i]!;
    server.kill("SIGTERM");
    const output = await server.succeeds();
    assertEquals(output.trim().split("\n").length, 1, output); // No errors.
    await haproxy.says(new RegExp(`${name} is DOWN`), seen);
    await this.#startServer(i);
    await haproxy.says(new RegExp(`${name} is UP`), seen);
    await this.#tell(`set server ${name} state ready`);
    // Long enough for connections to move over to it.
    await sleep(1_000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#haproxy?.[Symbol.asyncDispose]();
    for (const server of this.#servers) await server[Symbol.asyncDispose]();
  }
}

testPeers("haproxy.cfg, two echo_server.ts and echo_client.ts work together", [
  "haproxy",
], async ({ haproxy }, folder) => {
  await using fleet = await Fleet.start(haproxy, folder);
  await using client = startExample("echo_client.ts", [
    `127.0.0.1:${fleet.port}`,
    "hello",
    "world",
  ]);
  assertEquals(await client.succeeds(), "hello\nworld\n");
});

testPeers(
  "Two servers restart one after the other under load, and no request fails",
  [
    "haproxy",
  ],
  async ({ haproxy }, folder) => {
    await using fleet = await Fleet.start(haproxy, folder);
    // Echoes may be handled twice. A request that is not idempotent can be lost
    // here: the one that is on the way to a server at the moment it closes.
    const clients = [1, 8].map((pipelining) =>
      new Client({
        port: fleet.port,
        maxCap: 8,
        pipelining,
        idempotent: true,
        maxLifetime: 500,
      })
    );
    let stop = false;
    let answered = 0;
    const caller = async (client: Client, id: number) => {
      for (let n = 0; !stop; n++) {
        const request = crypto.getRandomValues(new Uint8Array(id * n % 5_000));
        assert(equals(await client.send(request), request), "a wrong response");
        answered++;
        // Connections are idle now and then, as they are in the field.
        if (n % 7 === 0) await sleep(n % 3);
      }
    };
    const running = Promise.allSettled(
      clients.flatMap((client) =>
        Array.from({ length: 12 }, (_, id) => caller(client, id))
      ),
    );
    try {
      for (const i of [0, 1, 0, 1]) await fleet.restart(i);
    } finally {
      stop = true;
    }
    for (const outcome of await running) {
      if (outcome.status === "rejected") throw outcome.reason;
    }
    // Otherwise nothing was ever at stake.
    assertGreater(answered, 1_000);
    for (const client of clients) {
      const { retries, failures, pool } = client.stats();
      assertGreater(retries, 0);
      assertEquals(failures, 0);
      assertGreater(pool.openedCount, 8);
      await client.close();
    }
  },
);

for (const version of ["send-proxy", "send-proxy-v2"]) {
  testPeers(`A server knows its clients' addresses from HAProxy's ${version}`, [
    "haproxy",
  ], async ({ haproxy }, folder) => {
    const errors: unknown[] = [];
    await using server = serve({
      proxyProtocol: true,
      onError: (error) => errors.push(error),
    }, (_, { remoteAddr, localAddr }) => {
      const addresses = [remoteAddr, localAddr] as Deno.NetAddr[];
      return new TextEncoder().encode(
        JSON.stringify(addresses.map(({ hostname, port }) => [hostname, port])),
      );
    });
    const { port } = server.addr as Deno.NetAddr;
    const front = freePort();
    await using _balancer = await startHAProxy(
      haproxy,
      folder,
      `
        defaults
            mode tcp
            timeout connect 5s
            timeout client 1m
            timeout server 1m
        listen front
            bind 127.0.0.1:${front}
            bind [::1]:${front}
            server only 127.0.0.1:${port} ${version} check inter 100ms
      `,
      front,
    );
    for (const hostname of ["127.0.0.1", "::1"]) {
      using conn = await Deno.connect({ hostname, port: front });
      const { localAddr, remoteAddr } = conn;
      await conn.write(encodeFrame(new Uint8Array()));
      const answer = await new FrameReader(conn).read();
      assertEquals(JSON.parse(new TextDecoder().decode(answer!)), [
        [localAddr.hostname, localAddr.port],
        [remoteAddr.hostname, remoteAddr.port],
      ]);
    }
    // The balancer's own checks come with a header of their own, or hang up.
    const connections = () => {
      const { totalConnections, acceptErrors } = server.stats();
      return totalConnections + acceptErrors;
    };
    const before = connections();
    while (connections() < before + 3) await sleep(20);
    assertEquals(errors, []);

    // Whoever does not come by the balancer is shut out.
    using conn = await Deno.connect({ port });
    await conn.write(encodeFrame(new Uint8Array(100)));
    const end = await conn.read(new Uint8Array(1)).catch(() => null);
    assertEquals(end, null);
    assertEquals(errors.length, 1);
  });
}
