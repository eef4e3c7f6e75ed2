/**
 * In whose async context callbacks run (`AsyncLocalStorage`), and that no
 * connection and no timer keeps a request's context alive.
 */
import { assert, assertEquals } from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import { Client, type ClientOptions } from "../client.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { MemoryServer } from "./client_memory_support.ts";
import { eventually, sleep } from "./time_support.ts";

Deno.test("settle runs in its send's context; dials, handshakes, pings, pushes and pool hooks in the constructor's", async () => {
  const storage = new AsyncLocalStorage<string>();
  const seen: Record<string, Set<string | undefined>> = {};
  const note = (what: string) => {
    (seen[what] ??= new Set()).add(storage.getStore());
  };
  const server = new MemoryServer({ correlation: { length: 4 } });
  server.onPeer = (peer) =>
    peer.onRequest = async ({ id, text }) => {
      await peer.send("push", 0);
      await peer.send(text, id);
    };
  const client = storage.run("constructor", () =>
    new Client({
      connect: () => {
        note("connect");
        return server.connect();
      },
      correlation: { length: 4 },
      maxCap: 2,
      pipelining: 1,
      maxIdle: 1,
      pingAfterIdle: 0,
      ping: () => {
        note("ping");
        return ascii("ping");
      },
      handshake: () => note("handshake"),
      onPush: () => note("onPush"),
      hooks: {
        dial: () => note("dial"),
        send: () => note("send"),
        settle: ({ requestBytes }) => note(`settle ${requestBytes}`),
        pool: {
          opened: () => note("opened"),
          closed: () => note("closed"),
          waited: () => note("waited"),
          acquired: () => note("acquired"),
          released: () => note("released"),
        },
      },
    }));
  const requests = [1, 2, 3, 4, 5, 6].map((length) =>
    storage.run(`request ${length}`, async () => {
      await client.send(new Uint8Array(length));
      note(`after ${length}`);
      await client.notify(new Uint8Array(length));
      note(`after ${length}`);
      await client.send(new Uint8Array(length));
      note(`after ${length}`);
    })
  );
  await Promise.all(requests);
  await sleep(20);
  // On an idle connection, which is pinged.
  await storage.run("request 6", () => client.send(new Uint8Array(6)));
  const abort = new AbortController();
  const { signal } = abort;
  const aborted = storage.run(
    "request 7",
    () =>
      client.send(new Uint8Array(7), { signal }).catch(() => note("after 7")),
  );
  abort.abort();
  await aborted;
  await storage.run("closer", () => client.close());
  const { send, ...others } = seen;
  assertEquals(send!.size, 7);
  for (const [what, contexts] of Object.entries(others)) {
    const length = /^(?:settle|after) (\d)$/.exec(what)?.[1];
    const expected = length === undefined ? "constructor" : `request ${length}`;
    assertEquals([...contexts], [expected], what);
  }
  for (
    const what of [
      "connect",
      "handshake",
      "dial",
      "ping",
      "onPush",
      "opened",
      "closed",
      "waited",
      "acquired",
      "released",
      "settle 1",
      "settle 6",
    ]
  ) assert(what in seen, `${what} was not told of`);
});

/** A program that sends requests, each in a context of its own, and counts the
 * contexts that a collection leaves while the client lives on. */
const PROGRAM = `
import { AsyncLocalStorage } from "node:async_hooks";
const storage = new AsyncLocalStorage();
const contexts = [];
async function inContext(fn) {
  const context = { memory: new Uint8Array(1000) };
  contexts.push(new WeakRef(context));
  return await storage.run(context, fn);
}
async function left() {
  for (let i = 0; i < 20; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    globalThis.gc();
  }
  return contexts.filter((ref) => ref.deref() !== undefined).length;
}
const { server, options } = make();
const client = new Client({ port: server.addr.port, ...options });
`;

for (
  const [name, options, body] of [
    [
      "one request at a time",
      {},
      `for (let i = 0; i < 20; i++) {
         await inContext(() => client.send(new Uint8Array(10)));
       }`,
    ],
    [
      "requests in parallel, some of which share a connection, with timeouts",
      { maxCap: 3, pipelining: 4, requestTimeout: 5000, getTimeout: 4000 },
      `for (let round = 0; round < 3; round++) {
         await Promise.all(Array.from({ length: 30 }, (_, i) =>
           inContext(() => client.send(new Uint8Array(i + 1), { timeout: 500 + i }))));
       }`,
    ],
    [
      "requests under load without end",
      { maxCap: 1, pipelining: 4 },
      `let stop = false;
       const load = storage.run("load", async () => {
         while (!stop) await client.send(new Uint8Array(10));
       });
       const more = storage.run("load", async () => {
         while (!stop) await client.send(new Uint8Array(10));
       });
       for (let i = 0; i < 20; i++) {
         await inContext(() => client.send(new Uint8Array(10)));
       }
       globalThis.end = () => { stop = true; return Promise.all([load, more]); };`,
    ],
    [
      "minIdle, an abort, a timeout, a notification and an idle connection that is looked at",
      { maxCap: 4, minIdle: 2, maxLifetime: 300, idleTimeout: 5000 },
      `for (let i = 0; i < 10; i++) {
         const signal = new AbortController();
         const given = inContext(() =>
           client.send(new Uint8Array([9]), { signal: signal.signal }).catch(() => {}));
         inContext(() => client.send(new Uint8Array([9]), { timeout: 30 }).catch(() => {}));
         await inContext(() => client.notify(new Uint8Array([8])));
         await inContext(() => client.send(new Uint8Array([1])));
         signal.abort();
         await given;
         await new Promise((resolve) => setTimeout(resolve, 60));
       }
       await new Promise((resolve) => setTimeout(resolve, 1100));
       await inContext(() => client.send(new Uint8Array([1])));`,
    ],
    [
      "correlated requests",
      { correlation: { length: 4 } },
      `await Promise.all(Array.from({ length: 300 }, (_, i) =>
         inContext(() => client.send(new Uint8Array(i + 1)))));`,
    ],
  ] as [string, Record<string, unknown>, string][]
) {
  Deno.test(`No connection keeps a request's context alive: ${name}`, async () => {
    const here = (path: string) => new URL(path, import.meta.url).href;
    const correlation = JSON.stringify(options.correlation ?? null);
    const program = `
      import { Client } from ${JSON.stringify(here("../client.ts"))};
      import { NO_RESPONSE, serve } from ${
      JSON.stringify(here("../server.ts"))
    };
      function make() {
        const server = serve({ correlation: ${correlation} ?? undefined }, (payload) => {
          if (payload[0] === 8) return NO_RESPONSE;
          if (payload[0] === 9) return new Promise(() => {});
          return payload;
        });
        return { server, options: ${JSON.stringify(options)} };
      }
      ${PROGRAM}
      ${body}
      const kept = await left();
      const idle = client.stats().pool.open;
      await globalThis.end?.();
      await client.close();
      await server.close();
      console.log(JSON.stringify({ kept, idle, all: contexts.length }));
      Deno.exit();
    `;
    const output = await new Deno.Command("deno", {
      args: [
        "run",
        "--quiet",
        "--config=deno.json",
        "--no-check",
        "--allow-net=127.0.0.1",
        "--v8-flags=--expose-gc",
        `data:application/javascript,${encodeURIComponent(program)}`,
      ],
      cwd: new URL("..", import.meta.url),
    }).output();
    const decode = (bytes: Uint8Array) => textOf(bytes).trim();
    assert(output.success, decode(output.stderr));
    const { kept, idle, all } = JSON.parse(decode(output.stdout));
    assert(idle > 0, "no connection is left to keep anything");
    assert(all >= 20);
    assertEquals(kept, 0, `${kept} of ${all} contexts are kept`);
  });
}

Deno.test("A client made in a context keeps that one, and nothing of its requests", async () => {
  const storage = new AsyncLocalStorage<string>();
  const server = new MemoryServer();
  server.onPeer = (peer) => {
    peer.onRequest = ({ text }) => void peer.send(text);
  };
  const told: (string | undefined)[] = [];
  const options: ClientOptions = {
    connect: server.connect,
    maxCap: 1,
    hooks: { pool: { closed: () => void told.push(storage.getStore()) } },
  };
  const client = storage.run("constructor", () => new Client(options));
  await storage.run("a", () => client.send(ascii("a")));
  // Its end is noticed by a loop that was begun when it was dialled.
  server.peers[0]!.close();
  await eventually("it is gone", () => told.length === 1);
  assertEquals(told, ["constructor"]);
  await client.close();
});
