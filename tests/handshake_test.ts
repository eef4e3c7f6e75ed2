/**
 * The room of the handshake: frames before the first request, what was read
 * ahead of them, and what becomes of calls that nobody waits for.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { concat } from "@std/bytes";
import { Handshake } from "../_handshake.ts";
import {
  encodeFrame,
  FrameError,
  FrameTooLargeError,
  type Transport,
  transportPair,
} from "../codec.ts";
import { bytes } from "./bytes_support.ts";

const { signal } = new AbortController();

function begin(options: { bytes?: Uint8Array } = {}): {
  handshake: Handshake;
  peer: Transport;
  transport: Transport;
} {
  const [transport, peer] = transportPair();
  const handshake = new Handshake(transport, { maxFrameLength: 1000 }, {
    signal,
    ...options,
  });
  return { handshake, peer, transport };
}

Deno.test("Handshake.read() gives frames in order, and finish() what was read ahead", async () => {
  const { handshake, peer } = begin();
  const ahead = encodeFrame(bytes(3, 3)).subarray(0, 9);
  await peer.write(
    concat([encodeFrame(bytes(1)), encodeFrame(bytes(2)), ahead]),
  );
  assertEquals(
    await Promise.all([handshake.read(), handshake.read()]),
    [bytes(1), bytes(2)],
  );
  const { bytes: rest, pending } = await handshake.finish();
  assertEquals(rest, ahead);
  assertEquals(pending, undefined);
});

Deno.test("Handshake takes what was read before it", async () => {
  const { handshake } = begin({
    bytes: concat([encodeFrame(bytes(1)), bytes(0, 0)]),
  });
  assertEquals(await handshake.read(), bytes(1));
  assertEquals((await handshake.finish()).bytes, bytes(0, 0));
});

Deno.test("Handshake.read() rejects at the end of the stream, inside a frame too", async () => {
  for (const rest of [bytes(), bytes(0, 0, 0)]) {
    const { handshake, peer } = begin();
    if (rest.length > 0) await peer.write(rest);
    peer.close();
    const error = await assertRejects(() => handshake.read(), Error, "ended");
    assertEquals(error.name, "UnexpectedEof");
    assertEquals(await assertRejects(() => handshake.read()), error);
  }
});

Deno.test("A read that nobody waits for is handed over, with its bytes or the end", async () => {
  for (const sent of [bytes(7, 7, 7), null]) {
    const { handshake, peer } = begin();
    const read = handshake.read();
    const { bytes: rest, pending } = await handshake.finish();
    await assertRejects(() => read, Error, "The handshake is over");
    assertEquals(rest, bytes());
    assert(pending !== undefined);
    if (sent === null) peer.close();
    else await peer.write(sent);
    assertEquals(await pending, sent);
  }
});

Deno.test("Handshake.finish() waits for what was written, and rejects with what failed", async () => {
  const [transport, peer] = transportPair();
  let release = () => {};
  const held = new Promise<void>((resolve) => release = resolve);
  const slow: Transport = {
    read: (p) => transport.read(p),
    write: async (p) => {
      await held;
      return await transport.write(p);
    },
    close: () => transport.close(),
  };
  const handshake = new Handshake(slow, {}, { signal });
  // Nobody awaits it.
  handshake.write(bytes(1, 2));
  let finished = false;
  const finish = handshake.finish().then(() => finished = true);
  await new Promise((resolve) => setTimeout(resolve, 5));
  assertEquals(finished, false);
  release();
  await finish;
  const room = new Uint8Array(20);
  assertEquals(await peer.read(room), 10);

  const failing = new Handshake(
    {
      ...slow,
      write: () => Promise.reject(new Error("no way")),
    },
    {},
    { signal },
  );
  failing.write(bytes(1));
  await assertRejects(() => failing.finish(), Error, "no way");
});

Deno.test("A payload that cannot be framed fails alone", async () => {
  const { handshake, peer } = begin();
  handshake.write(bytes(1));
  await assertRejects(
    () => handshake.write(new Uint8Array(1001)),
    FrameTooLargeError,
  );
  await handshake.finish();
  assertEquals(await peer.read(new Uint8Array(100)), 9);
});

Deno.test("A bad frame fails the handshake, also where its error was dropped", async () => {
  const { handshake, peer } = begin();
  await peer.write(bytes(1, 0, 0, 0, 0, 0, 0, 0));
  await handshake.read().catch(() => {});
  await assertRejects(() => handshake.finish(), FrameError);
});

Deno.test("Nothing is read or written once it is over", async () => {
  const { handshake, peer } = begin();
  await handshake.finish();
  await assertRejects(() => handshake.read(), Error, "over");
  await assertRejects(() => handshake.write(bytes(1)), Error, "over");
  peer.close();
});
