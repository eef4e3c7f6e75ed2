/** The ends of a server: shutdown, close, and what keeps it alive. */
import { assertEquals } from "@std/assert";
import { serve } from "../server.ts";
import { Peer, settle, until, wire } from "./server_support.ts";

/** Connects, waits to be told to, and sends what it is given in one go; then
 * it says so to a thread that is blocked, and reads to the end. */
const SENDER = `
  onmessage = async ({ data: { address, bytes, flag } }) => {
    const conn = await Deno.connect(address);
    postMessage("connected");
    await new Promise((resolve) => onmessage = resolve);
    for (let at = 0; at < bytes.length;) {
      at += await conn.write(bytes.subarray(at));
    }
    Atomics.store(flag, 0, 1);
    Atomics.notify(flag, 0);
    let received = 0;
    try {
      for (const p = new Uint8Array(65536);;) {
        const n = await conn.read(p);
        if (n === null) break;
        received += n;
      }
      postMessage(received);
    } catch (error) {
      postMessage(String(error));
    }
    conn.close();
  };
`;

Deno.test("Server.shutdown() answers requests that have arrived and were not read", async () => {
  for (
    const { requests, length } of [
      { requests: 1, length: 1 },
      { requests: 1000, length: 1 },
      { requests: 20, length: 50_000 },
    ]
  ) {
    let handled = 0;
    const server = serve({}, (payload) => {
      handled++;
      return payload;
    });
    const bytes = wire(Array(requests).fill(new Uint8Array(length)));
    const flag = new Int32Array(new SharedArrayBuffer(4));
    const sender = new Worker(
      `data:text/javascript,${encodeURIComponent(SENDER)}`,
      { type: "module" },
    );
    const message = () =>
      new Promise<unknown>((resolve) =>
        sender.onmessage = ({ data }) => resolve(data)
      );
    sender.postMessage({ address: server.addr, bytes, flag });
    await message();
    await until(() => server.stats().connections === 1, "it is accepted");
    const received = message();
    sender.postMessage("go");
    // Nothing is read here while the bytes come in.
    Atomics.wait(flag, 0, 0, 10_000);
    await server.shutdown();
    assertEquals(handled, requests);
    assertEquals(await received, bytes.length);
    sender.terminate();
  }
});

Deno.test("Server.shutdown() does not reset a peer that is sending a frame", async () => {
  const response = new Uint8Array(1_000_000);
  const server = serve({}, () => response);
  using peer = await Peer.connect(server);
  await peer.send(1);
  await until(
    () => server.stats().bytesOut === 8 + response.length,
    "the response is on its way",
  );
  const { bytesIn } = server.stats();
  const frame = wire([new Uint8Array(1000)]);
  await peer.write(frame.subarray(0, 500));
  await until(() => server.stats().bytesIn === bytesIn + 500, "half is read");
  const shutdown = server.shutdown();
  await settle(5);
  // A closed socket would answer this with a reset, which overtakes.
  await peer.write(frame.subarray(500));
  assertEquals((await peer.receive())?.length, response.length);
  assertEquals(await peer.receive(), null);
  peer.conn.close();
  await shutdown;
});
