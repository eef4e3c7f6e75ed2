/**
 * Requests and responses: each request gets its own response, on the wire that
 * the options describe, whatever sizes and pieces they come in.
 */
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { Client, ConnectionLostError } from "../client.ts";
import {
  encodeFrame,
  FrameDecoder,
  type FrameOptions,
  FrameTooLargeError,
  InvalidFrameLengthError,
} from "../codec.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { pongServer, ScriptedServer } from "./client_server_support.ts";
import { PORT, silent, StubConn, StubNetwork } from "./client_support.ts";
import { outcomeOf, rejection, ticks } from "./promise_support.ts";

Deno.test("Client.send() resolves with the response", async () => {
  using server = pongServer();
  await using client = new Client({ port: server.port });
  assertEquals(textOf(await client.send(ascii("hello"))), "pong:hello");
  const sent = ["a", "b", "c"].map((r) => client.send(ascii(r)).then(textOf));
  assertEquals(await Promise.all(sent), ["pong:a", "pong:b", "pong:c"]);
});

Deno.test("Requests and responses may be empty, and may be large", async () => {
  using server = new ScriptedServer();
  const serving = server.run(async (peer) => {
    for (let r; (r = await peer.receive()) !== null;) await peer.respond(r);
  });
  const client = new Client({ port: server.port, maxCap: 1, pipelining: 9 });
  const requests = [0, 1, 0, 65_536, 0, 3_000_000, 16_384, 16_385, 0];
  const payloads = requests.map((length) => new Uint8Array(length).fill(65));
  const responses = await Promise.all(payloads.map((p) => client.send(p)));
  assertEquals(responses.map(({ length }) => length), requests);
  assert(responses.every((response) => response.every((byte) => byte === 65)));
  await client.close();
  server[Symbol.dispose]();
  await serving;
});

Deno.test("A client speaks the wire that its options describe", async () => {
  const wires: FrameOptions[] = [
    { lengthFieldLength: 1 },
    { lengthFieldLength: 4, byteOrder: "little", lengthAdjustment: -4 },
    { lengthFieldLength: 2, initialBytesToStrip: 0 },
    { lengthFieldOffset: 1, lengthFieldLength: 4, lengthAdjustment: -4 },
  ];
  for (const wire of wires) {
    using network = new StubNetwork(() => new StubConn(wire));
    await using client = new Client({ port: PORT, ...wire });
    const response = client.send(ascii("request"));
    await ticks();
    const [conn] = network.conns as [StubConn];
    assertEquals(conn.offers, [encodeFrame(ascii("request"), wire)]);
    const decoder = new FrameDecoder(wire);
    decoder.push(encodeFrame(ascii("response"), wire));
    conn.respond("response");
    assertEquals(await response, decoder.decode());
  }
});

Deno.test("A payload that cannot be framed is refused, and the client lives on", async () => {
  const options = { lengthFieldLength: 1, maxFrameLength: 250 } as const;
  using network = new StubNetwork(() => StubConn.pong(options));
  const client = new Client({ port: PORT, ...options });
  const tooLarge = await rejection(client.send(new Uint8Array(251)));
  assertInstanceOf(tooLarge, FrameTooLargeError);
  assertEquals([tooLarge.length, tooLarge.limit], [251, 250]);
  for (const payload of [undefined, null, "text", 5, [1], new ArrayBuffer(1)]) {
    const sending = client.send(payload as unknown as Uint8Array);
    assertInstanceOf(await rejection(sending), TypeError);
  }
  const narrow = new Client({ port: PORT, lengthFieldLength: 1 });
  assertInstanceOf(
    await rejection(narrow.send(new Uint8Array(256))),
    InvalidFrameLengthError,
  );
  assertEquals(network.conns.length, 0);
  assertEquals(client.stats().requests, 0);
  await client.send(new Uint8Array(245));
  await narrow.send(new Uint8Array(245));
  await client.close();
  await narrow.close();
});

Deno.test("A response that is too large loses the connection, for its reason", async () => {
  using server = new ScriptedServer();
  const options = { maxFrameLength: 10, maxCap: 1, pipelining: 2 };
  const client = new Client({ port: server.port, ...options });
  const a = client.send(ascii("a"));
  const b = outcomeOf(client.send(ascii("b")));
  using peer = await server.accept();
  await peer.expect("a", "b");
  // The response before it still counts.
  await peer.respond("0123456789", "0123456789a");
  assertEquals(textOf(await a), "0123456789");
  const lost = await b;
  assertInstanceOf(lost, ConnectionLostError);
  assert(lost.requestSent);
  assertInstanceOf(lost.cause, FrameTooLargeError);
  assertEquals([lost.cause.length, lost.cause.limit], [11, 10]);
  await peer.closed();
  const c = client.send(ascii("c"));
  using other = await server.accept();
  await other.expect("c");
  await other.respond("C");
  assertEquals(textOf(await c), "C");
  await client.close();
});

Deno.test("Requests that were given up in any order never get or take another's response", async () => {
  // Every way to give up any of four requests that share a connection.
  for (let given = 0; given < 2 ** 4; given++) {
    using server = new ScriptedServer();
    const client = new Client({ port: server.port, maxCap: 1, pipelining: 5 });
    const names = ["a", "b", "c", "d"];
    const controllers = names.map(() => new AbortController());
    const sent = names.map((name, i) => {
      const { signal } = controllers[i]!;
      return outcomeOf(client.send(ascii(name), { signal }));
    });
    const last = client.send(ascii("last"));
    using peer = await server.accept();
    await peer.expect(...names, "last");
    for (let i = 3; i >= 0; i--) {
      if (given & (1 << i)) controllers[i]!.abort(`given up ${i}`);
    }
    await peer.respond("A", "B");
    await peer.respond("C");
    await peer.respond("D", "LAST");
    assertEquals(textOf(await last), "LAST");
    for (const [i, name] of names.entries()) {
      const outcome = await sent[i];
      if (given & (1 << i)) assertEquals(outcome, `given up ${i}`);
      else assertEquals(textOf(outcome as Uint8Array), name.toUpperCase());
    }
    // And the connection is as good as before.
    const more = client.send(ascii("more"));
    await peer.expect("more");
    await peer.respond("MORE");
    assertEquals(textOf(await more), "MORE");
    assertEquals(server.peers.length, 1);
    await client.close();
  }
});

Deno.test("A response in many pieces, and many in one piece, reach their requests", async () => {
  using network = silent();
  await using client = new Client({ port: PORT, maxCap: 1, pipelining: 3 });
  const sent = ["a", "b", "c"].map((r) => client.send(ascii(r)).then(textOf));
  await ticks();
  const [conn] = network.conns as [StubConn];
  const wire = [..."ABC"].map((r) => encodeFrame(ascii(r)));
  for (const byte of wire[0]!) conn.deliver(Uint8Array.of(byte));
  conn.deliver(new Uint8Array([...wire[1]!, ...wire[2]!.subarray(0, 5)]));
  await ticks();
  conn.deliver(wire[2]!.subarray(5));
  assertEquals(await Promise.all(sent), ["A", "B", "C"]);
});

Deno.test("A response that comes before its request was sent is not taken for its response", async () => {
  using network = silent();
  const client = new Client({ port: PORT, maxCap: 1, pipelining: 2 });
  const a = client.send(ascii("a"));
  await ticks();
  const [conn] = network.conns as [StubConn];
  conn.hold = true;
  const b = client.send(new Uint8Array(50_000));
  await ticks();
  conn.respond("A", "not B's");
  assertEquals(textOf(await a), "A");
  await ticks();
  assert(conn.closed);
  // It was not sent whole, and goes out again.
  assertEquals(network.conns[1]!.requests.length, 1);
  network.conns[1]!.respond("B");
  assertEquals(textOf(await b), "B");
  await client.close();
});
