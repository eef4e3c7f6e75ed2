/**
 * Resolvers that answer out of order on one connection, as RFC 7766 lets them:
 * unbound and BIND, each in front of a slow server of the test's own. So both
 * sides are tried: the `Client` that asks them, and the `serve` that they ask.
 */
import { assert, assertEquals, assertGreater, assertLess } from "@std/assert";
import { Client, type ClientOptions, serve, type Server } from "@wirepool/net";
import { ascii, bytes } from "../bytes_support.ts";
import { freePort } from "../machine_support.ts";
import { type Program, startServer, testPeers } from "../programs_support.ts";
import { PROTOCOLS } from "../protocols_support.ts";
import { sleep } from "../time_support.ts";

const { DNS } = PROTOCOLS;

/** A question for the address of a name; its id is the client's to write. */
function question(name: string): Uint8Array {
  const labels = name.split(".").flatMap((l) => [l.length, ...ascii(l)]);
  const header = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]; // Recurse.
  return bytes(...header, ...labels, 0, 0, 1, 0, 1); // Type A, class IN.
}

/** The name that a message asks for, and where its question ends. */
function asked(message: Uint8Array): { name: string; end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let n; (n = message[at]!) > 0; at += 1 + n) {
    const label = message.subarray(at + 1, at + 1 + n);
    labels.push(String.fromCharCode(...label).toLowerCase());
  }
  return { name: labels.join("."), end: at + 5 };
}

/** The address of a name such as `n7.after50.test`. */
function addressOf(name: string): number[] {
  const n = Number(/^n(\d+)\./.exec(name)![1]);
  return [192, 0, 2 + (n >> 8), n & 0xff];
}

/** A server for such names, which takes as many milliseconds as they say. */
function startSlowServer(): Server {
  return serve(DNS, async (query) => {
    const { name, end } = asked(query);
    await sleep(Number(/\.after(\d+)\.test$/.exec(name)![1]));
    return bytes(
      ...query.subarray(0, 2), // the id
      ...[0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0], // authoritative, one answer
      query.subarray(12, end),
      ...[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4], // that name, for 0 s
      ...addressOf(name),
    );
  });
}

/**
 * Runs a copy of a program: where AppArmor confines the original, by its path,
 * to the folders of its package, it could not read the test's.
 */
async function copied(path: string, folder: string): Promise<string> {
  const copy = `${folder}/${path.split("/").at(-1)}`;
  await Deno.copyFile(path, copy);
  return copy;
}

/** Unbound asks again what takes much longer than other questions did, unless it
 * is told to expect that. */
async function startUnbound(
  path: string,
  folder: string,
  port: number,
  upstream: number,
): Promise<Program> {
  const file = `${folder}/unbound.conf`;
  await Deno.writeTextFile(
    file,
    `
server:
  interface: 127.0.0.1
  port: ${port}
  directory: "${folder}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  do-daemonize: no
  do-ip6: no
  do-not-query-localhost: no
  infra-cache-min-rtt: 5000
  module-config: "iterator"
  qname-minimisation: no
  local-zone: "test." nodefault
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@${upstream}
  forward-tcp-upstream: yes
`,
  );
  const program = await copied(path, folder);
  return await startServer(port, program, ["-d", "-c", file]);
}

async function startBind(
  path: string,
  folder: string,
  port: number,
  upstream: number,
): Promise<Program> {
  const file = `${folder}/named.conf`;
  await Deno.writeTextFile(
    file,
    `
options {
  directory "${folder}";
  listen-on port ${port} { 127.0.0.1; };
  listen-on-v6 { none; };
  pid-file none;
  lock-file none;
  session-keyfile none;
  recursion yes;
  allow-recursion { any; };
  dnssec-validation no;
  qname-minimization off;
  max-cache-size 8m;
  forward only;
  forwarders { 127.0.0.1 port ${upstream}; };
};
controls { };
server 127.0.0.1 { tcp-only yes; edns no; };
`,
  );
  const program = await copied(path, folder);
  return await startServer(port, program, ["-g", "-c", file]);
}

interface Answer {
  name: string;
  /** How many had come before it. */
  place: number;
}

/** Asks for names all at once, and checks that each answer is to its name. */
async function ask(client: Client, names: string[]): Promise<Answer[]> {
  let place = 0;
  const answers = names.map(async (name): Promise<Answer> => {
    const answer = await client.send(question(name));
    const at = place++;
    assertEquals(asked(answer).name, name);
    assertEquals(answer[3]! & 0x0f, 0, `${name} failed`);
    assertEquals([...answer.subarray(-4)], addressOf(name));
    return { name, place: at };
  });
  return await Promise.all(answers);
}

function newClient(port: number, options: Partial<ClientOptions> = {}): Client {
  return new Client({
    port,
    ...DNS,
    maxCap: 1,
    requestTimeout: 20_000,
    ...options,
  });
}

const resolvers = { unbound: startUnbound, named: startBind };

for (const [resolver, start] of Object.entries(resolvers)) {
  testPeers(
    `Answers of ${resolver} that overtake each other go to their questions`,
    [resolver],
    async (paths, folder) => {
      await using upstream = startSlowServer();
      const [port, { port: upstreamPort }] = [
        freePort(),
        upstream.addr as Deno.NetAddr,
      ];
      const path = paths[resolver]!;
      await using _resolver = await start(path, folder, port, upstreamPort);
      await using client = newClient(port);

      // The slowest first, so that in order it would hold up all behind it.
      const delays = [1000, 700, 400, 200, 100, 0, 0, 0, 0, 0];
      const names = delays.map((ms, n) => `n${n}.after${ms}.test`);
      const answers = await ask(client, names);
      const places = new Map(answers.map(({ name, place }) => [name, place]));
      const place = (n: number) => places.get(names[n]!)!;
      for (let n = 0; n < 4; n++) assertGreater(place(n), place(n + 1));
      for (let n = 5; n < 10; n++) assertLess(place(n), place(3));
      assertEquals(client.stats().pool.openedCount, 1);
    },
  );

  testPeers(
    `Of 400 questions to ${resolver} on one connection each gets its answer`,
    [resolver],
    async (paths, folder) => {
      await using upstream = startSlowServer();
      const [port, { port: upstreamPort }] = [
        freePort(),
        upstream.addr as Deno.NetAddr,
      ];
      const path = paths[resolver]!;
      await using _resolver = await start(path, folder, port, upstreamPort);
      await using client = newClient(port, { pipelining: 20 });

      const names = Array.from(
        { length: 400 },
        (_, n) => `n${n}.after${n % 7 === 0 ? 60 : n % 3}.test`,
      );
      const answers = await ask(client, names);
      const overtaken = answers.filter(({ place }, n) => place > n + 5).length;
      assertGreater(overtaken, 20);
      assertEquals(client.stats().pool.openedCount, 1);
      // What they ask is answered out of order, too, and none of it twice.
      const { requests, errors, totalConnections } = upstream.stats();
      assertEquals({ requests, errors }, { requests: 400, errors: 0 });
      assert(totalConnections <= 400);
    },
  );
}
