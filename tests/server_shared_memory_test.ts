/**
 * `maxBuffered`: what all connections together hold, who waits for it, and who
 * is cut.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertThrows,
} from "@std/assert";
import { Client } from "../client.ts";
import { encodeFrame } from "../codec.ts";
import { serve, type ServeOptions, type Server } from "../server.ts";
import { measureAttack } from "./attack_support.ts";
import { KIB, MIB } from "./bytes_support.ts";
import { collectGarbage } from "./memory_support.ts";
import { echo, Peer, until } from "./server_support.ts";
import { sleep } from "./time_support.ts";

/** A frame of 1 MiB must move 1 MiB a second. */
const LIMITS: ServeOptions = {
  maxFrameLength: MIB,
  maxBuffered: 4 * MIB,
  readTimeout: 1000,
};

/** A client of a server. */
function clientOf(server: Server): Client {
  const { port } = server.addr as Deno.NetAddr;
  return new Client({ port, maxFrameLength: MIB, requestTimeout: 20_000 });
}

/** Sends a frame of 1 MiB but for its end. */
async function sendUnfinished(peer: Peer, bytes: number): Promise<void> {
  try {
    await peer.write(encodeFrame(new Uint8Array(MIB)).subarray(0, bytes));
  } catch {
    // It was cut before all was taken.
  }
}

Deno.test("maxBuffered is at least twice maxFrameLength, and may be Infinity", async () => {
  for (const maxBuffered of [0, 2 * MIB - 1, -1, 2.5 * MIB + 0.5, NaN]) {
    assertThrows(
      () => serve({ maxFrameLength: MIB, maxBuffered }, echo),
      RangeError,
      "maxBuffered",
    );
  }
  assertThrows(
    () => serve({ maxBuffered: "1" as unknown as number }, echo),
    TypeError,
    "maxBuffered",
  );
  for (const maxBuffered of [2 * MIB, Infinity]) {
    await serve({ maxFrameLength: MIB, maxBuffered }, echo).shutdown();
  }
  // The default grows with the frames.
  await serve({ maxFrameLength: 1024 * MIB }, echo).shutdown();
  await serve({ maxFrameLength: Number.MAX_SAFE_INTEGER }, echo).shutdown();
});

Deno.test("Frames that stop coming are held up to maxBuffered, and keep no honest frame waiting for long", async () => {
  const errors: Error[] = [];
  await using server = serve({
    ...LIMITS,
    // They are not cut for it.
    readTimeout: 30_000,
    onError: (error) => void errors.push(error as Error),
  }, echo);
  const peers = await Promise.all(
    Array.from({ length: 40 }, () => Peer.connect(server)),
  );
  const sent = peers.map((peer) => sendUnfinished(peer, 0.95 * MIB));
  await until(() => server.stats().bytesIn > 3 * MIB, "it has read much");
  let seen = -1;
  while (seen !== server.stats().bytesIn) {
    seen = server.stats().bytesIn;
    assertLess(seen - errors.length * MIB, 4 * MIB + 40 * 64 * KIB);
    await sleep(20);
  }
  await using client = clientOf(server);
  for (const size of [64, 64 * KIB, MIB, MIB]) {
    const start = performance.now();
    assertEquals((await client.send(new Uint8Array(size))).length, size);
    assertLess(performance.now() - start, 10_000);
  }
  for (const { message } of errors) assert(message.includes("too slowly"));
  assertGreater(errors.length, 0);
  for (const peer of peers) peer[Symbol.dispose]();
  await Promise.all(sent);
});

Deno.test("Claims reserve nothing, and bytes as they come are not paused for them", async () => {
  await using server = serve({
    ...LIMITS,
    onError: () => assert(false),
    readTimeout: 30_000,
  }, echo);
  // What they claim is ten times what there is.
  const peers = await Promise.all(
    Array.from({ length: 40 }, () => Peer.connect(server)),
  );
  for (const peer of peers) await sendUnfinished(peer, 30 * KIB);
  await until(() => server.stats().bytesIn === 40 * 30 * KIB, "all is read");
  await using client = clientOf(server);
  assertEquals((await client.send(new Uint8Array(MIB))).length, MIB);
  for (const peer of peers) {
    await peer.write(encodeFrame(new Uint8Array(MIB)).subarray(30 * KIB));
    assertEquals((await peer.receive())?.length, MIB);
    peer[Symbol.dispose]();
  }
});

Deno.test("A frame that waits for memory longer than readTimeout is not cut for it", async () => {
  const readTimeout = 250;
  const cut: string[] = [];
  await using server = serve({
    maxFrameLength: 256 * KIB,
    maxBuffered: 512 * KIB,
    readTimeout,
    onError: (error) => void cut.push((error as Error).message),
  }, () => new Uint8Array(1));
  const frame = encodeFrame(new Uint8Array(256 * KIB));
  const stopping = async () => {
    const peer = await Peer.connect(server);
    await peer.write(frame.subarray(0, 200 * KIB));
    return peer;
  };
  const hostile: Peer[] = [];
  for (let i = 0; i < 12; i++) hostile.push(await stopping());
  using honest = await Peer.connect(server);
  await honest.write(frame);
  const start = performance.now();
  // Some get their turn before it.
  for (let i = 0; i < 12; i++) hostile.push(await stopping());
  assertEquals((await honest.receive())?.length, 1);
  assertGreater(performance.now() - start, readTimeout);
  assertGreater(cut.length, 0);
  for (const peer of hostile) peer[Symbol.dispose]();
});

Deno.test("A response that is a small part of its request does not keep all of it alive", async () => {
  await using server = serve(
    { maxFrameLength: MIB },
    (request) => request.subarray(0, 33 * KIB),
  );
  using peer = await Peer.connect(server);
  const held = () => {
    collectGarbage();
    return Deno.memoryUsage().external;
  };
  const frame = encodeFrame(new Uint8Array(MIB));
  const before = held();
  // Until it takes no more, since nothing is read.
  let sent = 0;
  const writing = (async () => {
    for (let i = 0; i < 400; i++) {
      await peer.write(frame);
      sent++;
    }
  })();
  for (let seen = -1; seen !== sent && sent < 400;) {
    seen = sent;
    await sleep(200);
  }
  assertGreater(server.stats().requests, 15);
  assertLess(held() - before, 6 * MIB);
  server.close();
  await writing.catch(() => {});
});

Deno.test("One buffer that answers everybody is held once", async () => {
  const response = new Uint8Array(MIB);
  await using server = serve({
    ...LIMITS,
    onError: () => assert(false),
  }, () => response);
  const peers = await Promise.all(
    Array.from({ length: 60 }, () => Peer.connect(server)),
  );
  // Nobody reads, and everybody is answered.
  for (const peer of peers) await peer.send(1);
  await until(() => server.stats().requests === 60, "all are handled");
  for (const peer of peers) {
    assertEquals((await peer.receive())?.length, MIB);
    peer[Symbol.dispose]();
  }
});

Deno.test("Responses that nobody reads stop further large ones, and those who hold them are cut", async () => {
  const errors: Error[] = [];
  await using server = serve({
    ...LIMITS,
    writeTimeout: 0,
    onError: (error) => void errors.push(error as Error),
  }, (request) => request[0] === 1 ? new Uint8Array(MIB) : request);
  await using client = clientOf(server);
  for (let i = 0; i < 100; i++) await client.send(new Uint8Array(64));
  const peers = await Promise.all(
    Array.from({ length: 300 }, () => Peer.connect(server)),
  );
  // More than the system takes off our hands.
  for (const peer of peers) {
    await peer.send(...Array<number>(8).fill(1)).catch(() => {});
  }
  await until(() => errors.length > 0, "some are cut");
  const start = performance.now();
  for (let i = 0; i < 100; i++) await client.send(new Uint8Array(64));
  assertLess(performance.now() - start, 10_000);
  for (const { message } of errors) assert(message.includes("too slowly"));
  for (const peer of peers) peer[Symbol.dispose]();
});

Deno.test("What is sent in handshakes counts, too", async () => {
  await using server = serve({
    ...LIMITS,
    onError() {},
    async handshake(conn) {
      assertEquals((await conn.read()).length, MIB);
    },
  }, echo);
  const peers = await Promise.all(
    Array.from({ length: 40 }, () => Peer.connect(server)),
  );
  const sent = peers.map((peer) => sendUnfinished(peer, 0.95 * MIB));
  await until(() => server.stats().bytesIn > 2 * MIB, "it has read much");
  let seen = -1;
  for (let i = 0; i < 5 && seen !== server.stats().bytesIn; i++) {
    const { bytesIn, errors } = server.stats();
    seen = bytesIn;
    assertLess(bytesIn - errors * MIB, 4 * MIB + 40 * 64 * KIB);
    await sleep(20);
  }
  using honest = await Peer.connect(server);
  await honest.send(new Uint8Array(MIB), 1);
  assertEquals(await honest.receive(), Uint8Array.of(1));
  for (const peer of peers) peer[Symbol.dispose]();
  await Promise.all(sent);
});

// All kinds, a thousand connections each, and for longer: `deno task attack`.
for (const attack of ["unfinished", "deaf", "pinned"] as const) {
  Deno.test(`Honest requests go on while a hundred connections attack: ${attack}`, async () => {
    const { before, peak, beside, newcomers } = await measureAttack(
      attack,
      100,
      2,
    );
    for (const { size, failed, failure } of beside) {
      assertEquals(failed, 0, `${size} bytes: ${failure}`);
    }
    for (const waited of newcomers) assertLess(waited, Infinity);
    // What handlers have made for those who were cut is there until the next
    // collection, which comes late on a busy machine.
    const most = (256 + 256) * MIB;
    assert(!(peak - before > most), `${(peak - before) / MIB} MiB`);
  });
}
