/**
 * Responses that find their requests by ids: in any order, late, failed, pushed
 * and unknown; and when a connection is replaced for those that never come.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertThrows,
} from "@std/assert";
import {
  Client,
  ClientClosedError,
  ConnectionLostError,
  RequestFailedError,
  RequestTimeoutError,
} from "../client.ts";
import { FrameError } from "../codec.ts";
import { ascii, bytes, textOf } from "./bytes_support.ts";
import { MemoryServer } from "./client_memory_support.ts";
import { PORT } from "./client_support.ts";
import { immediate, outcomeOf, rejection } from "./promise_support.ts";
import { eventually, sleep } from "./time_support.ts";

const INSERTED = { length: 4 } as const;

/** A server that inserts ids, and a client of it. */
function pair(options: Record<string, unknown> = {}) {
  const server = new MemoryServer({ correlation: INSERTED });
  const client = new Client({
    connect: server.connect,
    correlation: INSERTED,
    ...options,
  });
  return { server, client };
}

Deno.test("Responses reach their requests in whatever order they come", async () => {
  const { server, client } = pair();
  const sent = ["a", "b", "c", "d"].map((text) => client.send(ascii(text)));
  const peer = await server.peer(0);
  const ids = await peer.expect("a", "b", "c", "d");
  assertEquals(ids, [1, 2, 3, 4]);
  for (const i of [2, 0, 3, 1]) await peer.send(`to ${i}`, ids[i]);
  assertEquals((await Promise.all(sent)).map(textOf), [
    "to 0",
    "to 1",
    "to 2",
    "to 3",
  ]);
  assertEquals(server.peers.length, 1);
  await client.close();
});

for (
  const [protocol, frame, correlation, request, id] of [
    ["DNS", { lengthFieldLength: 2 }, { length: 2, requestOffset: 0 }, 0, 0],
    [
      "Kafka",
      { lengthFieldLength: 4 },
      {
        length: 4,
        requestOffset: 4,
        responseOffset: 0,
      },
      4,
      0,
    ],
    [
      "MongoDB",
      {
        lengthFieldLength: 4,
        byteOrder: "little",
        lengthAdjustment: -4,
      },
      { length: 4, requestOffset: 0, responseOffset: 4 },
      0,
      4,
    ],
    [
      "Modbus TCP",
      {
        lengthFieldOffset: 4,
        lengthFieldLength: 2,
        initialBytesToStrip: 0,
      },
      { length: 2, requestOffset: -6 },
      0,
      0,
    ],
  ] as const
) {
  Deno.test(`Ids stand where ${protocol} has them, and the payload stays the caller's`, async () => {
    const wire = { frame, correlation };
    const server = new MemoryServer(wire);
    const client = new Client({
      connect: server.connect,
      correlation,
      ...frame,
    });
    const payloads = ["first request", "second request"].map(ascii);
    const sent = payloads.map((payload) => client.send(payload));
    const peer = await server.peer(0);
    const arrived = [await peer.receive(), await peer.receive()];
    assertEquals(arrived.map(({ id }) => id), [1, 2]);
    assertEquals(payloads.map(textOf), ["first request", "second request"]);
    const at = protocol === "Modbus TCP" ? 0 : request;
    for (const { text, id } of arrived) {
      const width = correlation.length;
      const written = ascii(text).subarray(at, at + width);
      const little = protocol === "MongoDB";
      assertEquals(written.at(little ? 0 : -1), id);
    }
    for (const { id } of arrived.toReversed()) {
      await peer.send(`response to ${id}....`, id);
    }
    const responses = (await Promise.all(sent)).map(textOf);
    for (const [i, response] of responses.entries()) {
      const rest = response.slice(id + correlation.length);
      assert(`response to ${i + 1}....`.endsWith(rest.slice(-10)), response);
    }
    await client.close();
  });
}

Deno.test("A request too short to hold its id is refused before anything is written", async () => {
  const server = new MemoryServer();
  const client = new Client({
    connect: server.connect,
    lengthFieldLength: 4,
    correlation: { length: 4, requestOffset: 4, responseOffset: 0 },
  });
  assertInstanceOf(await rejection(client.send(ascii("1234567"))), FrameError);
  assertEquals([server.peers.length, client.stats().requests], [0, 0]);
  await client.close();
});

Deno.test("A response too short to hold its id ends the connection", async () => {
  const correlation = { length: 4, requestOffset: 0 } as const;
  const server = new MemoryServer({ correlation });
  const client = new Client({ connect: server.connect, correlation });
  const sent = outcomeOf(client.send(ascii("12345")));
  const peer = await server.peer(0);
  await peer.receive();
  await peer.write(bytes(0, 0, 0, 0, 0, 0, 0, 3, "abc"));
  const error = await sent;
  assertInstanceOf(error, ConnectionLostError);
  assertInstanceOf(error.cause, FrameError);
  await peer.closed();
  await client.close();
});

Deno.test("No request waits behind another that takes long", async () => {
  const { server, client } = pair();
  const slow = client.send(ascii("slow"));
  const peer = await server.peer(0);
  const [slowId] = await peer.expect("slow");
  for (let i = 0; i < 300; i++) {
    const fast = client.send(ascii(`fast ${i}`));
    const [id] = await peer.expect(`fast ${i}`);
    assertEquals(id, i + 2);
    await peer.send(`${i}`, id);
    assertEquals(textOf(await fast), `${i}`);
  }
  await peer.send("at last", slowId);
  assertEquals(textOf(await slow), "at last");
  assertEquals(server.peers.length, 1);
  await client.close();
});

Deno.test("A late response is dropped, and costs nobody anything", async () => {
  const { server, client } = pair({ requestTimeout: 0 });
  const giveUp = new AbortController();
  const { signal } = giveUp;
  const given = outcomeOf(client.send(ascii("given up"), { signal }));
  const kept = client.send(ascii("kept"));
  const peer = await server.peer(0);
  const [late, id] = await peer.expect("given up", "kept");
  giveUp.abort("reason");
  assertEquals(await given, "reason");
  const next = client.send(ascii("next"));
  const [nextId] = await peer.expect("next");
  // Its id is not given out again before its answer has come.
  assertEquals([late, id, nextId], [1, 2, 3]);
  await peer.send("late", late);
  await peer.send("K", id);
  await peer.send("N", nextId);
  assertEquals([textOf(await kept), textOf(await next)], ["K", "N"]);
  assertEquals(client.stats().lateResponses, 1);
  assertEquals([server.peers.length, client.stats().pool.idle], [1, 1]);
  await client.close();
});

Deno.test("A connection on which every request was given up is as good as any", async () => {
  const { server, client } = pair({ requestTimeout: 0 });
  const giveUp = new AbortController();
  const { signal } = giveUp;
  const given = outcomeOf(client.send(ascii("a"), { signal }));
  const peer = await server.peer(0);
  const [late] = await peer.expect("a");
  giveUp.abort("reason");
  assertEquals(await given, "reason");
  await immediate();
  assertEquals(client.stats().pool.idle, 1);
  const next = client.send(ascii("b"));
  const [id] = await peer.expect("b");
  await peer.send("late", late);
  await peer.send("B", id);
  assertEquals(textOf(await next), "B");
  assertEquals(server.peers.length, 1);
  await client.close();
});

Deno.test("No connection is closed for a timeout while others get answers", async () => {
  const { server, client } = pair();
  server.onPeer = (peer) =>
    peer.onRequest = ({ id, text }) => {
      if (!text.startsWith("slow")) peer.send(text, id);
    };
  for (let i = 0; i < 5; i++) {
    const slow = outcomeOf(client.send(ascii(`slow ${i}`), { timeout: 60 }));
    const stop = performance.now() + 150;
    while (performance.now() < stop) {
      assertEquals(textOf(await client.send(ascii("fast"))), "fast");
      await sleep(5);
    }
    assertInstanceOf(await slow, RequestTimeoutError);
  }
  assertEquals(server.peers.length, 1);
  await client.close();
});

Deno.test("A connection that is silent since a request was written is closed at its timeout", async () => {
  const { server, client } = pair({ idempotent: false });
  const first = client.send(ascii("first"));
  const peer = await server.peer(0);
  await peer.send("1", (await peer.expect("first"))[0]);
  await first;
  const start = performance.now();
  const timed = outcomeOf(client.send(ascii("timed"), { timeout: 60 }));
  const other = outcomeOf(client.send(ascii("other")));
  assertInstanceOf(await timed, RequestTimeoutError);
  const lost = await other;
  assertInstanceOf(lost, ConnectionLostError);
  assertEquals(lost.requestSent, true);
  assertLess(performance.now() - start, 5000);
  await peer.closed();
  await client.close();
});

Deno.test("A connection half of whose places are taken by requests that were given up is replaced", async () => {
  const { server, client } = pair({ pipelining: 8, requestTimeout: 0 });
  const giveUp = new AbortController();
  const { signal } = giveUp;
  const waits = client.send(ascii("waits"));
  const given = [1, 2, 3].map((i) =>
    outcomeOf(client.send(ascii(`${i}`), { signal }))
  );
  const peer = await server.peer(0);
  const [id] = await peer.expect("waits", "1", "2", "3");
  giveUp.abort("reason");
  await Promise.all(given);
  // Three of eight: it still takes requests.
  const fourth = new AbortController();
  const last = outcomeOf(client.send(ascii("4"), { signal: fourth.signal }));
  await peer.expect("4");
  fourth.abort("reason");
  await last;
  // Four of eight: what comes waits for another connection, since there is one
  // place; this one ends when its last request has its response.
  const next = client.send(ascii("next"));
  await immediate();
  assertEquals(peer.requests.length, 5);
  await peer.send("W", id);
  assertEquals(textOf(await waits), "W");
  await peer.closed();
  const other = await server.peer(1);
  await other.send("N", (await other.expect("next"))[0]);
  assertEquals(textOf(await next), "N");
  await client.close();
});

Deno.test("Requests share a connection only when all maxCap are busy, the least loaded first", async () => {
  const { server, client } = pair({ maxCap: 2 });
  const sent = [1, 2, 3, 4, 5].map((i) => client.send(ascii(`${i}`)));
  await eventually(
    "all have come",
    () => server.peers.flatMap(({ requests }) => requests).length === 5,
  );
  const counts = server.peers.map(({ requests }) => requests.length).sort();
  assertEquals(counts, [2, 3]);
  for (const peer of server.peers) {
    for (const { id, text } of peer.requests) await peer.send(text, id);
  }
  assertEquals((await Promise.all(sent)).map(textOf), [
    "1",
    "2",
    "3",
    "4",
    "5",
  ]);
  await client.close();
});

Deno.test("With one-byte ids no more requests are in flight than there are ids, and ids run round", async () => {
  const correlation = { length: 1 } as const;
  const server = new MemoryServer({ correlation });
  const client = new Client({
    connect: server.connect,
    correlation,
    pipelining: 1000,
  });
  const sent = Array.from(
    { length: 300 },
    (_, i) => client.send(ascii(`${i}`)),
  );
  const peer = await server.peer(0);
  await eventually("all ids are in use", () => peer.requests.length === 126);
  await immediate();
  assertEquals(peer.requests.length, 126);
  const held = peer.requests[0]!;
  peer.onRequest = ({ id, text }) => void peer.send(text, id);
  for (const { id, text } of peer.requests.slice(1)) await peer.send(text, id);
  await Promise.all(sent.slice(1));
  assertEquals(peer.requests.filter(({ id }) => id === held.id).length, 1);
  assert(peer.requests.every(({ id }) => id >= 1 && id <= 126));
  await peer.send("0", held.id);
  assertEquals(
    (await Promise.all(sent)).map(textOf),
    sent.map((_, i) => `${i}`),
  );
  await client.close();
});

Deno.test("A failure of the server's handler concerns its own request alone", async () => {
  const { server, client } = pair();
  const bad = outcomeOf(client.send(ascii("bad")));
  const good = client.send(ascii("good"));
  const peer = await server.peer(0);
  const [badId, goodId] = await peer.expect("bad", "good") as [number, number];
  await peer.send("", 2 ** 31 + badId);
  await peer.send("G", goodId);
  assertInstanceOf(await bad, RequestFailedError);
  assertEquals(textOf(await good), "G");
  assertEquals([server.peers.length, client.stats().failures], [1, 1]);
  await client.close();
});

for (const id of [0, 2 ** 31, 2 ** 31 + 77, 2 ** 32 - 1]) {
  Deno.test(`A frame with id ${id} that answers nothing is a push, also on an idle connection`, async () => {
    const pushes: string[] = [];
    const { server, client } = pair({
      onPush: (payload: Uint8Array) => pushes.push(textOf(payload)),
    });
    const sent = client.send(ascii("a"));
    const peer = await server.peer(0);
    const [a] = await peer.expect("a");
    await peer.send("one", id);
    await peer.send("A", a);
    assertEquals(textOf(await sent), "A");
    assertEquals(pushes, ["one"]);
    await peer.send("two", id);
    await peer.send("three", id);
    await eventually("both have come", () => pushes.length === 3);
    assertEquals(pushes, ["one", "two", "three"]);
    assertEquals(client.stats().pushes, 3);
    assertEquals(client.stats().pool.idle, 1);
    await client.close();
  });
}

Deno.test("What a read has brought as its connection was closed is no push", async () => {
  const pushes: string[] = [];
  const { server, client } = pair({
    onPush: (payload: Uint8Array) => pushes.push(textOf(payload)),
  });
  const failing = rejection(client.send(ascii("a")));
  const peer = await server.peer(0);
  const [a] = await peer.expect("a");
  // The read has its bytes, and nobody has looked at them yet.
  const writing = [peer.send("", 2 ** 31 + a!), peer.send("push", 0)];
  const closed = client.close({ signal: AbortSignal.abort("now") });
  assertInstanceOf(await failing, ClientClosedError);
  await closed;
  await Promise.allSettled(writing);
  for (let i = 0; i < 10; i++) await immediate();
  assertEquals(pushes, []);
  assertEquals(client.stats().pushes, 0);
});

Deno.test("A push that comes in pieces while the connection is idle is taken whole", async () => {
  const pushes: string[] = [];
  const { server, client } = pair({
    initialCap: 1,
    onPush: (payload: Uint8Array) => pushes.push(textOf(payload)),
  });
  const peer = await server.peer(0);
  const frame = bytes(0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, "push");
  for (const byte of frame) {
    await peer.write(Uint8Array.of(byte));
    await immediate();
  }
  await eventually("it has come", () => pushes.length === 1);
  assertEquals(pushes, ["push"]);
  assertEquals(client.stats().pool.idle, 1);
  await client.close();
});

Deno.test("A failure of onPush goes to onError, and changes nothing", async () => {
  const errors: unknown[] = [];
  let calls = 0;
  const { server, client } = pair({
    initialCap: 1,
    onPush: () => {
      if (calls++ === 0) throw "thrown";
      return Promise.reject("rejected");
    },
    onError: (error: unknown) => void errors.push(error),
  });
  const peer = await server.peer(0);
  await peer.send("1", 0);
  await peer.send("2", 0);
  await eventually("both are told", () => errors.length === 2);
  assertEquals(errors, ["thrown", "rejected"]);
  const sent = client.send(ascii("a"));
  await peer.send("A", (await peer.expect("a"))[0]);
  assertEquals(textOf(await sent), "A");
  await client.close();
});

Deno.test("A push may close the client", async () => {
  const { server, client } = pair({
    initialCap: 1,
    onPush: () => void client.close({ signal: AbortSignal.abort("enough") }),
  });
  const peer = await server.peer(0);
  await peer.send("1", 0);
  await peer.send("2", 0).catch(() => {});
  await peer.closed();
  await client.close();
});

for (
  const [what, id, onPush] of [
    ["an id that is not in use", 5, true],
    ["id 0, and no onPush", 0, false],
    ["the high bit, and no onPush", 2 ** 31 + 9, false],
  ] as const
) {
  Deno.test(`A frame with ${what} ends the connection`, async () => {
    const { server, client } = pair(onPush ? { onPush: () => {} } : {});
    const sent = outcomeOf(client.send(ascii("a")));
    const peer = await server.peer(0);
    await peer.expect("a");
    await peer.send("nobody's", id);
    const error = await sent;
    assertInstanceOf(error, ConnectionLostError);
    assertInstanceOf(error.cause, Deno.errors.InvalidData);
    await peer.closed();
    await client.close();
  });
}

Deno.test("A notification carries id 0 where ids are inserted, and its own where they are not", async () => {
  const { server, client } = pair();
  await client.notify(ascii("n"));
  const peer = await server.peer(0);
  assertEquals(await peer.receive(), { id: 0, text: "n" });
  await client.close();

  const correlation = { length: 4, requestOffset: 0 } as const;
  const other = new MemoryServer({ correlation });
  const own = new Client({ connect: other.connect, correlation });
  await own.notify(bytes(0xff, 0xff, 0xff, 0xfe, "ping"));
  assertEquals((await (await other.peer(0)).receive()).id, 0xffff_fffe);
  await own.close();
});

Deno.test("Without correlation onPush is refused, and pipelining and maxCap default to what suits ids with it", async () => {
  assertThrows(
    () => new Client({ port: PORT, onPush: () => {} }),
    TypeError,
    "onPush",
  );
  for (const length of [0, 3, "4"]) {
    assertThrows(
      () => new Client({ port: PORT, correlation: { length } as never }),
      Error,
      "correlation.length",
    );
  }
  const { server, client } = pair();
  const sent = Array.from(
    { length: 130 },
    (_, i) => client.send(ascii(`${i}`)),
  );
  const peer = await server.peer(0);
  await eventually("as many as may", () => peer.requests.length === 128);
  await immediate();
  assertEquals([peer.requests.length, server.peers.length], [128, 1]);
  for (const { id, text } of [...peer.requests]) await peer.send(text, id);
  peer.onRequest = ({ id, text }) => void peer.send(text, id);
  for (const { id, text } of peer.requests.slice(128)) {
    await peer.send(text, id);
  }
  await Promise.all(sent);
  await client.close();
});
