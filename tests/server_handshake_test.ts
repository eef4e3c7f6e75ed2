/**
 * `handshake`: what it reads and writes, its state, refusals, its limit in time
 * together with TLS and the PROXY header, what was read ahead, and its end at a
 * shutdown.
 */
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import {
  encodeFrame,
  FrameTooLargeError,
  type HandshakeConnection,
  transportPair,
} from "../codec.ts";
import {
  type CloseReason,
  type ConnectionOptions,
  serve,
  serveConnection,
} from "../server.ts";
import { ascii, bytes, textOf } from "./bytes_support.ts";
import { unwireIds, wireIds } from "./server_correlated_support.ts";
import {
  BAD_HEADER,
  echo,
  FakeListener,
  FakeTime,
  heads,
  microtasks,
  Peer,
  Resetter,
  settle,
  StubConnection,
  until,
  wire,
} from "./server_support.ts";
import { CA, CERT, KEY } from "./tls_support.ts";

/** Greets, and takes a name. */
async function login(conn: HandshakeConnection): Promise<{ user: string }> {
  await conn.write(ascii("hello"));
  const user = textOf(await conn.read());
  if (user === "mallory") {
    await conn.write(ascii("401"));
    throw new Error("Refused");
  }
  return { user };
}

Deno.test("What handshake returns is the state of every request", async () => {
  await using server = serve(
    { handshake: login },
    (_payload, { state }) => ascii(state.user),
  );
  for (const name of ["ann", "bob"]) {
    using peer = await Peer.connect(server);
    assertEquals(await peer.receive(), ascii("hello"));
    // Along with the first request: what is read ahead is not lost.
    await peer.send(ascii(name), 1, 2);
    assertEquals(await peer.receiveAll(2), [ascii(name), ascii(name)]);
    assertEquals(await peer.ask(3), ascii(name));
  }
});

Deno.test("Without a handshake the state is undefined, and a synchronous one is good", async () => {
  const states: unknown[] = [];
  const all: ConnectionOptions[] = [{}, { handshake: () => 42 }];
  for (const options of all) {
    const conn = new StubConnection();
    conn.feed(wire([1]), null);
    await serveConnection(conn, (payload, { state }) => {
      states.push(state);
      return payload;
    }, options);
    assertEquals(heads(conn.answers()), [1]);
  }
  assertEquals(states, [undefined, 42]);
});

Deno.test("Bytes read ahead begin the stream of requests, however they come", async () => {
  const stream = wire([9, 1, 2, 3]);
  for (let cut = 0; cut <= stream.length; cut++) {
    for (const asksTwice of [false, true]) {
      const conn = new StubConnection();
      let second: Promise<unknown> | undefined;
      const done = serveConnection(conn, echo, {
        async handshake(conn) {
          const first = await conn.read();
          assertEquals(first, Uint8Array.of(9));
          // A read that is under way at the end is the requests'.
          if (asksTwice && cut === 9) second = conn.read();
        },
      });
      conn.feed(stream.subarray(0, cut));
      await microtasks();
      conn.feed(stream.subarray(cut), null);
      await done;
      assertEquals(heads(conn.answers()), [1, 2, 3], `cut at ${cut}`);
      if (second !== undefined) {
        assert(await second.then(() => false, () => true));
      }
    }
  }
});

Deno.test("A refusal with a last frame arrives, whatever the peer has sent meanwhile", async () => {
  const errors: unknown[] = [];
  const reasons: CloseReason[] = [];
  await using server = serve({
    handshake: login,
    onError: (error) => void errors.push(error),
    hooks: { connectionClose: (_, reason) => void reasons.push(reason) },
  }, echo);
  using peer = await Peer.connect(server);
  await peer.send(ascii("mallory"), ...Array(1000).fill(new Uint8Array(64)));
  assertEquals(await peer.receive(), ascii("hello"));
  // It reads late: a reset would have destroyed what lies in the kernel.
  await new Promise((resolve) => setTimeout(resolve, 50));
  await peer.send(1, 2, 3);
  assertEquals(await peer.receive(), ascii("401"));
  assertEquals(await peer.receive(), null);
  peer.conn.close();
  await until(() => server.stats().connections === 0, "it has ended");
  assertEquals(errors.map((error) => (error as Error).message), ["Refused"]);
  assertEquals(reasons, ["handshake"]);
  assertEquals([server.stats().requests, server.stats().errors], [0, 1]);
});

Deno.test("A connection can be refused by its address before a byte is read", async () => {
  const conn = new StubConnection();
  conn.feed(wire([1]));
  const seen: unknown[] = [];
  const done = serveConnection(conn, echo, {
    onError: () => {},
    handshake({ remoteAddr, localAddr }) {
      seen.push(remoteAddr, localAddr, conn.reads);
      throw new Error("Not you");
    },
  });
  await done;
  assertEquals(seen, [conn.remoteAddr, conn.localAddr, 0]);
  assertEquals([conn.writes.length, conn.closeWrites, conn.closes], [0, 1, 1]);
});

Deno.test("A peer that says nothing in a handshake is cut by handshakeTimeout, not by idleTimeout", async () => {
  for (
    const says of ["nothing", "a part of a frame", "the PROXY header only"]
  ) {
    using time = new FakeTime();
    const errors: unknown[] = [];
    const reasons: CloseReason[] = [];
    let aborted: unknown;
    let failure: unknown;
    using listener = new FakeListener();
    const server = serve({
      handshakeTimeout: 500,
      idleTimeout: 50,
      readTimeout: 50,
      proxyProtocol: true,
      async handshake(conn) {
        conn.signal.onabort = () => aborted = conn.signal.reason;
        try {
          await conn.read();
        } catch (error) {
          failure = error;
          throw error;
        }
      },
      onError: (error) => void errors.push(error),
      hooks: { connectionClose: (_, reason) => void reasons.push(reason) },
    }, echo);
    const conn = new StubConnection();
    listener.push(conn);
    if (says !== "nothing") conn.feed(ascii("PROXY UNKNOWN\r\n"));
    // The limits are for all of it together.
    await time.advance(400);
    if (says === "a part of a frame") conn.feed(wire([1]).subarray(0, 8));
    await time.advance(99);
    assertEquals(conn.closes, 0);
    await time.advance(1);
    assertEquals(conn.closes, 1);
    assertInstanceOf(errors[0], Deno.errors.TimedOut);
    assertEquals(errors.length, 1);
    assertEquals(errors[0].message, "Handshake was not complete within 500 ms");
    assertEquals(reasons, ["handshake"]);
    if (says !== "nothing") {
      assertEquals(aborted, errors[0]);
      assertInstanceOf(failure, Deno.errors.Interrupted);
    }
    await time.until(server.shutdown());
    assertEquals(time.timers, 0);
  }
});

Deno.test("A handshake that never settles frees its place at handshakeTimeout", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve({
    maxConnections: 1,
    handshakeTimeout: 500,
    handshake: () => new Promise<never>(() => {}),
    onError: () => {},
  }, echo);
  const conns = [new StubConnection(), new StubConnection()];
  listener.push(...conns);
  await time.advance(499);
  assertEquals(server.stats().totalConnections, 1);
  await time.advance(501);
  assertEquals(server.stats().totalConnections, 2);
  assertEquals(conns.map(({ closes }) => closes), [1, 1]);
  await time.until(server.shutdown());
});

Deno.test("The addresses of a PROXY header reach the handshake, and what stands behind it, too", async () => {
  using listener = new FakeListener();
  const server = serve({
    proxyProtocol: true,
    async handshake(conn) {
      const name = textOf(await conn.read());
      const { hostname } = conn.remoteAddr as Deno.NetAddr;
      return `${name} from ${hostname}`;
    },
  }, (_payload, { state }) => ascii(state));
  const conn = new StubConnection();
  listener.push(conn);
  conn.feed(
    bytes(
      "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n",
      wire([ascii("ann"), 1, 2]),
    ),
    null,
  );
  await settle();
  assertEquals(conn.answers().map(textOf), [
    "ann from 1.2.3.4",
    "ann from 1.2.3.4",
  ]);
  await server.shutdown();
});

Deno.test("A handshake runs over TLS, within one limit", async () => {
  await using server = serve(
    { cert: CERT, key: KEY, handshake: login },
    (_payload, { state }) => ascii(state.user),
  );
  using conn = await Deno.connectTls({
    hostname: "localhost",
    port: server.addr.port,
    caCerts: [CA],
  });
  const peer = new Peer(conn);
  assertEquals(await peer.receive(), ascii("hello"));
  await peer.send(ascii("ann"), 1);
  assertEquals(await peer.receive(), ascii("ann"));
});

Deno.test("Frames of a handshake carry no ids", async () => {
  const conn = new StubConnection();
  const field = { length: 2 } as const;
  conn.feed(bytes(wire([ascii("ann")]), wireIds([[7, 1]], field)), null);
  await serveConnection(
    conn,
    (_payload, { state }) => ascii((state as { user: string }).user),
    { handshake: login, correlation: { length: 2 } },
  );
  const hello = wire([ascii("hello")]);
  assertEquals(conn.written.subarray(0, hello.length), hello);
  assertEquals(unwireIds(conn.written.subarray(hello.length), field), [
    [7, [...ascii("ann")]],
  ]);
});

Deno.test("A peer that leaves in its handshake is no error; one that sends no frames is", async () => {
  for (
    const [name, steps, counts] of [
      ["an end", [null], 0],
      ["an end in a frame", [wire([1]).subarray(0, 3), null], 0],
      ["a reset", [new Deno.errors.ConnectionReset("x")], 0],
      ["garbage", [BAD_HEADER], 1],
    ] as const
  ) {
    const conn = new StubConnection();
    const errors: unknown[] = [];
    const reasons: CloseReason[] = [];
    conn.feed(...steps);
    await serveConnection(conn, echo, {
      handshake: (conn) => conn.read(),
      onError: (error) => void errors.push(error),
      hooks: { connectionClose: (_, reason) => void reasons.push(reason) },
    });
    assertEquals(errors.length, counts, name);
    if (counts > 0) assertInstanceOf(errors[0], FrameTooLargeError);
    assertEquals(reasons, ["handshake"], name);
    assertEquals(conn.closes, 1, name);
  }
});

Deno.test("A handshake may answer garbage, and the answer arrives", async () => {
  await using server = serve({
    onError: () => {},
    async handshake(conn) {
      try {
        return await conn.read();
      } catch (error) {
        await conn.write(ascii("400"));
        throw error;
      }
    },
  }, echo);
  using peer = await Peer.connect(server);
  await peer.write(new Uint8Array(100_000).fill(255));
  assertEquals(await peer.receive(), ascii("400"));
  assertEquals(await peer.receive(), null);
});

Deno.test("What a handshake wrote without waiting leaves before the first response", async () => {
  const conn = new StubConnection({
    write: async (p) => {
      await microtasks();
      return Math.min(3, p.length);
    },
  });
  conn.feed(wire([1]));
  const done = serveConnection(conn, echo, {
    handshake(conn) {
      conn.write(ascii("one"));
      conn.write(ascii("two"));
    },
  });
  conn.feed(null);
  await done;
  assertEquals(conn.answers().map(textOf), ["one", "two", "\x01"]);
  assertEquals(conn.mostWriting, 1);
});

Deno.test("Nothing can be read or written through a handshake that is over", async () => {
  const conn = new StubConnection();
  let kept: HandshakeConnection | undefined;
  const done = serveConnection(conn, echo, {
    handshake: (c) => void (kept = c),
  });
  await microtasks();
  const outcomes = await Promise.allSettled([
    kept!.read(),
    kept!.write(ascii("late")),
  ]);
  assertEquals(outcomes.map(({ status }) => status), ["rejected", "rejected"]);
  conn.feed(wire([1]), null);
  await done;
  assertEquals(heads(conn.answers()), [1]);
});

Deno.test("Server.shutdown() lets a handshake finish, and answers what came along with it", async () => {
  for (const goaway of [undefined, ascii("bye")]) {
    const gate = Promise.withResolvers<void>();
    const server = serve({
      ...(goaway === undefined ? {} : { goaway }),
      async handshake(conn) {
        await conn.write(ascii("hello"));
        await gate.promise;
        return textOf(await conn.read());
      },
    }, (_payload, { state }) => ascii(state));
    using peer = await Peer.connect(server);
    assertEquals(await peer.receive(), ascii("hello"));
    const shutdown = server.shutdown();
    await settle(10);
    await peer.send(ascii("ann"), 1, 2);
    gate.resolve();
    const frames = await peer.rest();
    peer.conn.close();
    await shutdown;
    assertEquals(frames.map(textOf), [
      "ann",
      "ann",
      ...(goaway === undefined ? [] : ["bye"]),
    ]);
  }
});

Deno.test("A connection that is closed while its handshake runs ends once it is over", async () => {
  const reasons: CloseReason[] = [];
  const gate = Promise.withResolvers<void>();
  const conn = new StubConnection();
  const done = serveConnection(conn, echo, {
    goaway: ascii("bye"),
    handshake: () => gate.promise,
    hooks: {
      connectionOpen: (context) =>
        void microtasks().then(() => context.close()),
      connectionClose: (_, reason) => void reasons.push(reason),
    },
  });
  conn.feed(wire([1]));
  await microtasks();
  await microtasks();
  assertEquals([conn.closeWrites, conn.closes], [0, 0]);
  gate.resolve();
  await done;
  assertEquals(conn.answers().map(textOf), ["bye"]);
  assertEquals(reasons, ["close"]);
});

Deno.test("Both sides shake hands over transports in memory", async () => {
  const [here, there] = transportPair();
  const done = serveConnection(
    there,
    (_payload, { state }) => ascii(state.user),
    { handshake: login },
  );
  await here.write(encodeFrame(ascii("ann")));
  await here.write(encodeFrame(ascii("who?")));
  await here.closeWrite?.();
  const room = new Uint8Array(100);
  let used = 0;
  for (let n; (n = await here.read(room.subarray(used))) !== null;) used += n;
  assertEquals(room.subarray(0, used), wire([ascii("hello"), ascii("ann")]));
  await done;
});

Deno.test("A reset in the middle of a handshake ends that connection alone", async () => {
  await using server = serve(
    { handshake: login, onError: () => assert(false) },
    echo,
  );
  using other = await Peer.connect(server);
  await other.receive();
  await other.send(ascii("ann"));
  const resetter = new Resetter(server);
  await resetter.send();
  await until(() => server.stats().connections === 2, "both are accepted");
  await resetter.reset();
  await until(() => server.stats().connections === 1, "one has gone");
  assertEquals(await other.ask(5), Uint8Array.of(5));
});

Deno.test("A stream that ends while a handshake's last read is under way ends the connection", async () => {
  const conn = new StubConnection();
  const reasons: CloseReason[] = [];
  let late: Promise<unknown> | undefined;
  const done = serveConnection(conn, echo, {
    handshake: (conn) => void (late = conn.read()),
    hooks: { connectionClose: (_, reason) => void reasons.push(reason) },
  });
  await microtasks();
  assertEquals(conn.reads, 1);
  conn.feed(null);
  await done;
  assertEquals(reasons, ["end"]);
  assert(await late!.then(() => false, () => true));
});
