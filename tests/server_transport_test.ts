/**
 * Transports that misbehave: they make figures up, move nothing, throw, or
 * settle late or never.
 */
import { assertEquals } from "@std/assert";
import { NO_RESPONSE, serveConnection } from "../server.ts";
import {
  heads,
  microtasks,
  settle,
  StubConnection,
  wire,
} from "./server_support.ts";

Deno.test("A transport that makes figures up is an error", async () => {
  const errorsOf = async (conn: StubConnection): Promise<string[]> => {
    const errors: string[] = [];
    await serveConnection(conn, (payload) => payload, {
      onError: (error) => void errors.push(String(error)),
    });
    assertEquals(conn.closes, 1);
    return errors;
  };
  for (const n of [-1, NaN, 1.5, 1e9, "7", undefined, Infinity]) {
    const reading = new StubConnection({ read: () => n as number });
    assertEquals(await errorsOf(reading), [
      `RangeError: Advanced bytes must be an integer from 0 to 512, received ${
        JSON.stringify(n) ?? n
      }`.replace("null", String(n)),
    ]);
    const writing = new StubConnection({ write: () => n as number });
    writing.feed(wire([1]));
    assertEquals(await errorsOf(writing), [
      `RangeError: Written bytes must be an integer from 0 to 9, received ${
        JSON.stringify(n) ?? n
      }`.replace("null", String(n)),
    ]);
  }
});

Deno.test("A transport that moves nothing a hundred times in a row is an error", async () => {
  for (const [tries, fails] of [[99, false], [100, true]] as const) {
    const reading = new StubConnection();
    reading.feed(...Array(tries).fill(0), wire([1]));
    reading.feed(...Array(tries).fill(0), wire([2]), null);
    const writing = new StubConnection({
      write: (p, call) => (call + 1) % (tries + 1) === 0 ? p.length : 0,
    });
    writing.feed(wire([1]));
    for (const [conn, what] of [[reading, "read"], [writing, "write"]]) {
      const { feed } = conn as StubConnection;
      const errors: string[] = [];
      const done = serveConnection(
        conn as StubConnection,
        (payload) => payload,
        { onError: (error) => void errors.push((error as Error).message) },
      );
      for (let i = 0; i < 20; i++) await microtasks();
      if (!fails) feed.call(conn, null);
      await done;
      assertEquals(
        errors,
        fails
          ? [`No progress: 100 calls of ${what} in a row moved 0 bytes`]
          : [],
      );
    }
    assertEquals(heads(reading.answers()), fails ? [] : [1, 2]);
  }
});

Deno.test("A close that throws is taken for a close", async () => {
  const conn = new StubConnection({
    close() {
      throw new Deno.errors.BadResource("x");
    },
  });
  const errors: unknown[] = [];
  conn.feed(wire([1]), null);
  await serveConnection(conn, (payload) => payload, {
    onError: (error) => void errors.push(error),
  });
  assertEquals(conn.closes, 1);
  assertEquals(errors, []);
});

Deno.test("A close that is asynchronous and rejects is taken for a close", async () => {
  const conn = {
    closes: 0,
    read: () => Promise.resolve(null),
    write: (p: Uint8Array) => Promise.resolve(p.length),
    close(): Promise<void> {
      this.closes++;
      return Promise.reject(new Error("closed badly"));
    },
  };
  await serveConnection(conn, () => NO_RESPONSE);
  await settle();
  assertEquals(conn.closes, 1);
});

Deno.test("An onError whose answer cannot even be asked for ends its connection", async () => {
  for (const asynchronous of [true, false]) {
    const conn = new StubConnection();
    conn.feed(wire([1, 2]));
    const answer = Object.defineProperty({}, "then", {
      get() {
        throw new Error("No then");
      },
    });
    await serveConnection(conn, (payload) => {
      if (payload[0] === 1) return payload;
      if (asynchronous) return Promise.reject(new Error("later"));
      throw new Error("now");
    }, { onError: () => answer as never });
    assertEquals(heads(conn.answers()), [1]);
    assertEquals(conn.closes, 1);
  }
});

Deno.test("A transport that settles nothing when it is closed holds nobody up", async () => {
  const never = Promise.withResolvers<number>().promise;
  const abort = new AbortController();
  const reading = new StubConnection({ read: () => never, close() {} });
  const writing = new StubConnection({ write: () => never, close() {} });
  writing.feed(wire([1]));
  const all = [reading, writing].map((conn) =>
    serveConnection(conn, (payload) => payload, { signal: abort.signal })
  );
  await microtasks();
  abort.abort();
  await Promise.all(all);
  assertEquals([reading.closes, writing.closes], [1, 1]);
});

Deno.test("What settles after the end changes nothing", async () => {
  const abort = new AbortController();
  const read = Promise.withResolvers<number | null>();
  const write = Promise.withResolvers<number>();
  const handler = Promise.withResolvers<Uint8Array>();
  const failing = Promise.withResolvers<Uint8Array>();
  const handled: number[] = [];
  const errors: unknown[] = [];
  const conn = new StubConnection({
    read: (p) =>
      read.promise.then((n) => {
        p.set(wire([9]));
        return n;
      }),
    write: () => write.promise,
    close() {},
  });
  conn.feed(wire([1, 2, 3]));
  const done = serveConnection(conn, (payload) => {
    handled.push(payload[0]!);
    return payload[0] === 1
      ? payload
      : payload[0] === 2
      ? handler.promise
      : failing.promise;
  }, {
    concurrency: 3,
    signal: abort.signal,
    onError: (error) => void errors.push(error),
  });
  await microtasks();
  assertEquals(conn.writes.length, 1);
  abort.abort();
  await done;
  handler.resolve(Uint8Array.of(2));
  await microtasks();
  read.resolve(9);
  write.resolve(9);
  await microtasks();
  const late = new Error("late");
  failing.reject(late);
  await settle();
  assertEquals(handled, [1, 2, 3]);
  assertEquals(conn.writes.length, 1);
  assertEquals(conn.closes, 1);
  assertEquals(conn.reads, 2);
  assertEquals(errors, [late]);
});
