/** One connection over a stub: what a socket cannot be made to do on demand. */
import { assertEquals, assertInstanceOf } from "@std/assert";
import { concat } from "@std/bytes";
import { FrameTooLargeError, InvalidFrameLengthError } from "../codec.ts";
import { serveConnection } from "../server.ts";
import {
  BAD_HEADER,
  heads,
  settle,
  StubConnection,
  wire,
} from "./server_support.ts";

Deno.test("What is read after a bad frame does not cost the responses before it", async () => {
  const conn = new StubConnection();
  const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const errors: unknown[] = [];
  const done = serveConnection(conn, async (payload) => {
    await gates[payload[0]!]!.promise;
    return payload;
  }, { concurrency: 2, onError: (error) => void errors.push(error) });

  // Both slots are taken, so a read is under way when the bad frame comes out.
  conn.feed(concat([wire([0, 1]), BAD_HEADER]));
  await settle();
  gates[0]!.resolve();
  await settle();
  conn.feed(new Uint8Array(10));
  await settle();
  gates[1]!.resolve();
  await done;

  assertEquals(heads(conn.answers()), [0, 1]);
  assertEquals(errors.length, 1);
  assertInstanceOf(errors[0], FrameTooLargeError);
  assertEquals(conn.closeWrites, 1);
});

Deno.test("A connection that reports 0 bytes for ever while it is read away ends", async () => {
  const conn: StubConnection = new StubConnection({
    closeWrite: () => Promise.resolve(),
    // Never a turn of the event loop, in which a timer could end it.
    read: (): number | Promise<never> =>
      conn.reads > 10_000 ? Promise.withResolvers<never>().promise : 0,
  });
  conn.feed(BAD_HEADER);
  await serveConnection(conn, (payload) => payload);
  assertEquals(conn.closeWrites, 1);
  assertEquals(conn.reads, 101);
  assertEquals(conn.closes, 1);
});

Deno.test("A response that cannot be encoded is a handler's failure also behind one that is awaited", async () => {
  for (
    const [response, ErrorClass] of [
      [new Uint8Array(101), FrameTooLargeError],
      ["text", TypeError],
      [7, TypeError],
    ] as const
  ) {
    const conn = new StubConnection();
    const first = Promise.withResolvers<Uint8Array>();
    const errors: unknown[] = [];
    const done = serveConnection(conn, (payload) => {
      if (payload[0] === 1) return first.promise;
      return payload[0] === 2 ? response as Uint8Array : payload;
    }, {
      concurrency: 3,
      maxFrameLength: 100,
      onError: (error) => void errors.push(error),
    });
    conn.feed(wire([1, 2, 3]));
    await settle();
    first.resolve(Uint8Array.of(1));
    await done;
    assertEquals(heads(conn.answers()), [1]);
    assertEquals(errors.length, 1);
    assertInstanceOf(errors[0], ErrorClass);
  }
});

Deno.test("A response that shrank while it waited costs its own connection only", async () => {
  const conn = new StubConnection();
  const first = Promise.withResolvers<Uint8Array>();
  const errors: unknown[] = [];
  const later = Uint8Array.of(2);
  const options = { lengthAdjustment: 1 };
  const done = serveConnection(
    conn,
    (payload) => payload[0] === 1 ? first.promise : later,
    { ...options, concurrency: 2, onError: (error) => void errors.push(error) },
  );
  conn.feed(wire([1, 2], options));
  await settle();
  later.buffer.transfer();
  first.resolve(Uint8Array.of(1));
  await done;
  assertEquals(errors.length, 1);
  assertInstanceOf(errors[0], InvalidFrameLengthError);
  assertEquals(conn.closes, 1);
});

Deno.test("Asynchronous callbacks that reject harm nobody, whatever they are told of", async () => {
  const told: string[] = [];
  const reject = (what: string) => {
    told.push(what);
    return Promise.reject(new Error(`rejected after ${what}`));
  };
  const conn = new StubConnection();
  conn.feed(wire([1]), BAD_HEADER);
  await serveConnection(conn, (payload) => payload, {
    onError: (error) => reject((error as Error).message),
    hooks: {
      requestStart: () => reject("start"),
      requestEnd: () => reject("end"),
    },
  });
  await settle();
  assertEquals(heads(conn.answers()), [1]);
  assertEquals(told.toSorted(), [
    "Frame of 18446744073709551615 bytes exceeds the limit of 16777216",
    "end",
    "rejected after end",
    "rejected after start",
    "start",
  ]);
});
