// deno run examples/without_sockets.ts
//
// Tests a service without sockets: client and server are joined in memory, so
// that the test needs no permission and no port. What is between them is real:
// frames, ids, the handshake, and what happens when the connection is lost.

import { assertEquals, assertRejects } from "@std/assert";
import {
  Client,
  type ClientOptions,
  ConnectionLostError,
  type Handler,
  serveConnection,
  type Transport,
  transportPair,
} from "@wirepool/net";

/** A client of a handler, and the connections between them. */
function join(handler: Handler, options: ClientOptions = {}) {
  const connections: Transport[] = [];
  const client = new Client({
    ...options,
    connect() {
      const [here, there] = transportPair();
      connections.push(there);
      serveConnection(there, handler);
      return here;
    },
  });
  return { client, connections };
}

await test("A counter counts", async () => {
  let count = 0;
  const { client } = join(() => Uint8Array.of(++count));
  await using _ = client;
  assertEquals(await client.send(new Uint8Array()), Uint8Array.of(1));
  assertEquals(await client.send(new Uint8Array()), Uint8Array.of(2));
});

await test("Nobody knows whether a request was handled when the connection is lost", async () => {
  const { promise: asked, resolve: ask } = Promise.withResolvers<void>();
  const { client, connections } = join(() => {
    ask();
    return new Promise(() => {}); // It never answers.
  });
  await using _ = client;
  const answer = client.send(new Uint8Array());
  const lost = assertRejects(() => answer, ConnectionLostError);
  await asked;
  connections[0]!.close();
  assertEquals((await lost).requestSent, true);
});

await test("An idempotent request survives its connection", async () => {
  const { client, connections } = join((payload) => {
    // The second request loses the first connection, and comes again.
    if (payload[0] === 2 && connections.length === 1) connections[0]!.close();
    return payload;
  }, { idempotent: true });
  await using _ = client;
  await client.send(Uint8Array.of(1));
  assertEquals(await client.send(Uint8Array.of(2)), Uint8Array.of(2));
  assertEquals(connections.length, 2);
});

/** Stands for `Deno.test`, so that this file is a program. */
async function test(name: string, run: () => Promise<void>): Promise<void> {
  await run();
  console.log(`ok: ${name}`);
}
