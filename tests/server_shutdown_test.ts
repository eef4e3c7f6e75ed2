/** The ends of a server: shutdown, close, and what keeps it alive. */
import { assertEquals } from "@std/assert";
import { serve } from "../server.ts";
import { until, wire } from "./server_support.ts";

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
