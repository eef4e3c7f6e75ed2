/** The server on Unix sockets; run apart, see `test:unix` in deno.json. */
import { assertEquals, assertThrows } from "@std/assert";
import { type HandlerContext, NO_RESPONSE, serve } from "../server.ts";
import { testUnix } from "./machine_support.ts";
import { BAD_HEADER, heads, Peer, settle, until } from "./server_support.ts";

testUnix("A server listens on a Unix socket", async (path) => {
  const contexts: HandlerContext[] = [];
  await using server = serve({ path, concurrency: 2 }, (payload, context) => {
    contexts.push(context);
    return payload[0] === 1 ? Promise.resolve(payload) : payload;
  });
  assertEquals(server.addr, { transport: "unix", path });
  assertThrows(() => serve({ path }, () => NO_RESPONSE), Deno.errors.AddrInUse);
  using conn = await Deno.connect({ transport: "unix", path });
  const peer = new Peer(conn);
  await peer.send(1, 2, 3);
  assertEquals(heads(await peer.receiveAll(3)), [1, 2, 3]);
  assertEquals(contexts[0]!.localAddr, { transport: "unix", path });
  assertEquals(contexts[0]!.remoteAddr.transport, "unix");
  await peer.write(BAD_HEADER);
  assertEquals(await peer.receive(), null);
});

testUnix(
  "A server on a Unix socket shuts down, and another may follow",
  async (path) => {
    for (let round = 0; round < 2; round++) {
      const server = serve({ path }, async (payload) => {
        await settle(2);
        return payload;
      });
      using conn = await Deno.connect({ transport: "unix", path });
      using idle = await Deno.connect({ transport: "unix", path });
      const peer = new Peer(conn);
      await peer.send(1, 2);
      await until(() => server.stats().bytesIn === 18, "both are read");
      const shutdown = server.shutdown();
      assertEquals(heads(await peer.rest()), [1, 2]);
      assertEquals(await new Peer(idle).receive(), null);
      conn.close();
      await shutdown;
    }
  },
);
