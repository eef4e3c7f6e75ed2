/**
 * The client's options and those of `send()`: what is refused, with which
 * error, before anything has changed; and that each is read once.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { Client, type ClientOptions, type SendOptions } from "../client.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { PORT, StubConn, StubNetwork } from "./client_support.ts";
import { rejection } from "./promise_support.ts";

const DURATIONS = [
  "idleTimeout",
  "maxLifetime",
  "getTimeout",
  "connectTimeout",
  "requestTimeout",
];

/** Values that an option refuses, and how. */
const REFUSED: [string, unknown[], new (message: string) => Error][] = [
  ...DURATIONS.map((name): typeof REFUSED[number] => [
    name,
    [-1, NaN, Infinity, 2 ** 31],
    RangeError,
  ]),
  ...DURATIONS.map((name): typeof REFUSED[number] => [
    name,
    ["1", true, 1n, {}, []],
    TypeError,
  ]),
  ["port", [undefined, null, "80", 80n, {}], TypeError],
  ["port", [-1, 0, 65_536, 1.5, NaN], RangeError],
  ["hostname", [5, null, {}, ["a"]], TypeError],
  ["tls", [5, "yes", null], TypeError],
  ["pipelining", ["1", null, {}], TypeError],
  ["pipelining", [0, -1, 1.5, NaN, Infinity], RangeError],
  ["idempotent", [1, "true", null, {}], TypeError],
  ["noDelay", [1, "true", null], TypeError],
  ["keepAlive", [1, "true", null], TypeError],
  ["onError", [5, {}, null], TypeError],
  ["hooks", [5, "dial", null], TypeError],
  ["maxCap", ["1", true], TypeError],
  ["maxCap", [0, -1, 1.5, NaN], RangeError],
  ["maxIdle", ["1"], TypeError],
  ["maxIdle", [-1, 1.5, NaN], RangeError],
  ["minIdle", ["1"], TypeError],
  ["minIdle", [-1, 1.5, NaN, 11], RangeError],
  ["initialCap", ["1"], TypeError],
  ["initialCap", [-1, 1.5, NaN, 11], RangeError],
  ["maxWaiting", ["1"], TypeError],
  ["maxWaiting", [-1, 1.5, NaN], RangeError],
  ["lengthFieldLength", [0, 5, 16], RangeError],
  ["byteOrder", ["middle"], RangeError],
  ["maxFrameLength", [-1, NaN], RangeError],
];

Deno.test("A client refuses options that are of the wrong type or out of range, and says which", () => {
  for (const [name, values, ErrorClass] of REFUSED) {
    for (const value of values) {
      const what = `${name}: ${Deno.inspect(value)}`;
      const options = { port: PORT, [name]: value } as ClientOptions;
      const error = assertThrows(
        () => new Client(options),
        ErrorClass,
        name,
        what,
      );
      assertFalse(error.message.endsWith("."), what);
    }
  }
  for (const options of [undefined, null, 5, "127.0.0.1:80"]) {
    assertThrows(
      () => new Client(options as unknown as ClientOptions),
      TypeError,
    );
  }
  const path = "/tmp/none";
  for (const more of [{ port: 1 }, { hostname: "a" }, { tls: true }]) {
    assertThrows(() => new Client({ path, ...more }), TypeError, "path");
  }
  assertThrows(
    () => new Client({ path: 5 } as unknown as ClientOptions),
    TypeError,
    "path",
  );
  const pool = { opened: 5 } as unknown as Record<never, never>;
  assertThrows(() => new Client({ port: PORT, hooks: { pool } }), TypeError);
});

Deno.test("Client.send() refuses options that are of the wrong type or out of range", async () => {
  using network = new StubNetwork();
  await using client = new Client({ port: PORT });
  const refused: [unknown, new (message: string) => Error][] = [
    [5, TypeError],
    [null, TypeError],
    [{ timeout: "1" }, TypeError],
    [{ timeout: -1 }, RangeError],
    [{ timeout: NaN }, RangeError],
    [{ timeout: 2 ** 31 }, RangeError],
    [{ idempotent: 1 }, TypeError],
    [{ signal: 5 }, TypeError],
    [{ signal: {} }, TypeError],
    [{ signal: "aborted" }, TypeError],
  ];
  for (const [options, ErrorClass] of refused) {
    // It rejects, and never throws.
    const sending = client.send(ascii("a"), options as SendOptions);
    const error = await rejection(sending);
    assertInstanceOf(error, ErrorClass, Deno.inspect(options));
  }
  assertEquals(network.conns.length, 0);
  assertEquals(client.stats().requests, 0);
  await client.send(ascii("a"), {});
});

Deno.test("Options may be a class's getters, and each is read once", async () => {
  using network = new StubNetwork(() =>
    StubConn.pong({ lengthFieldLength: 2 })
  );
  const reads = new Map<string | symbol, number>();
  class Config {
    get port() {
      return PORT;
    }
    get lengthFieldLength() {
      return 2;
    }
  }
  const options = new Proxy(new Config(), {
    get(target, key, receiver) {
      reads.set(key, (reads.get(key) ?? 0) + 1);
      return Reflect.get(target, key, receiver);
    },
  });
  const client = new Client(options as ClientOptions);
  assertEquals(textOf(await client.send(ascii("a"))), "pong:a");
  assertEquals(network.requests, ["a"]);
  assert(reads.size > 10);
  for (const [key, count] of reads) assertEquals(count, 1, String(key));
  await client.close();
});

Deno.test("A client reads its options once", async () => {
  using network = new StubNetwork();
  const options: ClientOptions = { port: PORT, maxCap: 2 };
  const client = new Client(options);
  options.lengthFieldLength = 1;
  options.port = 10;
  assertEquals(textOf(await client.send(ascii("a"))), "pong:a");
  assertEquals(network.requests, ["a"]);
  await client.close();
});

Deno.test("A duration that is null is refused, not taken for the default", async () => {
  const port = PORT;
  const requestTimeout = null as unknown as number;
  assertThrows(() => new Client({ port, requestTimeout }), TypeError);
  const client = new Client({ port });
  await assertRejects(
    () => client.send(new Uint8Array(), { timeout: requestTimeout }),
    TypeError,
  );
  await client.close();
});
