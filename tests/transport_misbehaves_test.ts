/**
 * Transports and listeners of the user's own that misbehave: what they throw,
 * reject with or give in place of a transport concerns their own connection, and
 * never ends the process.
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Client, ConnectError, ConnectionLostError } from "../client.ts";
import { type Transport, transportPair } from "../codec.ts";
import { serve, serveConnection } from "../server.ts";
import { sleep } from "./time_support.ts";

const payload = new Uint8Array([1]);

Deno.test("A transport whose read throws at once fails its request, and is not dialled on and on", async () => {
  let dials = 0;
  const connect = () => {
    dials++;
    const [transport] = transportPair();
    transport.read = () => {
      throw new Error("no read");
    };
    return transport;
  };
  await using client = new Client({ connect, requestTimeout: 2000 });
  const error = await assertRejects(
    () => client.send(payload),
    ConnectionLostError,
  );
  assertEquals((error.cause as Error).message, "no read");
  assertEquals(dials, 1);
});

Deno.test("A transport whose close throws or rejects is closed all the same", async () => {
  for (
    const close of [
      () => Promise.reject(new Error("no close")),
      () => {
        throw new Error("no close");
      },
    ]
  ) {
    const served: Promise<void>[] = [];
    const connect = (): Transport => {
      const [here, there] = transportPair();
      served.push(serveConnection(there, (request) => request));
      const { read, write } = here;
      return {
        read: read.bind(here),
        write: write.bind(here),
        close() {
          here.close();
          return close();
        },
      };
    };
    const client = new Client({ connect });
    assertEquals(await client.send(payload), payload);
    await client.close();
    // A handshake that fails closes it, too.
    const refused = new Client({
      connect,
      handshake: () => Promise.reject(new Error("no")),
    });
    await assertRejects(() => refused.send(payload), ConnectError);
    await refused.close();
    await Promise.all(served);
  }
});

Deno.test("A listener that gives what is no transport has an accept fail, and goes on", async () => {
  const [here, there] = transportPair();
  const given: unknown[] = [undefined, null, {}, 5, there];
  const { promise: closed, resolve: close } = Promise.withResolvers<never>();
  const errors: unknown[] = [];
  const server = serve({
    listener: {
      addr: { transport: "unix", path: "memory" },
      accept: () =>
        given.length > 0 ? Promise.resolve(given.shift() as Transport) : closed,
      close: () => close(Promise.reject(new Error("closed")) as never),
    },
    onError: (error) => errors.push(error),
  }, (request) => request);
  await using client = new Client({ connect: () => here });
  assertEquals(await client.send(payload), payload);
  assertEquals(server.stats().acceptErrors, 4);
  await client.close();
  await server.shutdown();
});

Deno.test("A transport whose handshake throws at once is closed, and no other", async () => {
  const [here, there] = transportPair();
  const ill = Object.assign(transportPair()[0], {
    handshake: () => {
      throw new Error("no handshake");
    },
  });
  const given: Transport[] = [ill, there];
  const { promise: closed, resolve: close } = Promise.withResolvers<never>();
  const errors: string[] = [];
  const server = serve({
    listener: {
      addr: { transport: "unix", path: "memory" },
      accept: () => given.length > 0 ? Promise.resolve(given.shift()!) : closed,
      close: () => close(Promise.reject(new Error("closed")) as never),
    },
    onError: (error) => errors.push((error as Error).message),
  }, (request) => request);
  await using client = new Client({ connect: () => here });
  assertEquals(await client.send(payload), payload);
  while (errors.length === 0) await sleep(1);
  assertEquals(errors, ["no handshake"]);
  await client.close();
  await server.shutdown();
});

Deno.test("Hooks that are no functions, and addresses that say nothing, are refused at once", () => {
  for (
    const name of [
      "connectionOpen",
      "connectionClose",
      "requestStart",
      "requestEnd",
    ]
  ) {
    const error = assertThrows(
      () => serve({ hooks: { [name]: 1 } as never }, (request) => request),
      TypeError,
    );
    assert(error.message.includes(`hooks.${name}`), error.message);
  }
  for (const name of ["dial", "send", "settle"]) {
    assertThrows(
      () => new Client({ port: 1, hooks: { [name]: "x" } as never }),
      TypeError,
      `Option hooks.${name} must be a function, received "x"`,
    );
  }
  for (const options of [{ path: "" }, { hostname: "" }]) {
    assertThrows(() => serve(options, (request) => request), RangeError);
    assertThrows(() => new Client({ port: 1, ...options } as never));
  }
});

Deno.test("A client that keeps connections idle does not dial on and on where each is ended at once", async () => {
  let dials = 0;
  const client = new Client({
    minIdle: 1,
    connect: () => {
      dials++;
      const [here, there] = transportPair();
      there.close();
      return here;
    },
  });
  await sleep(100);
  // Doubling from 4 ms: some ten in a second, and not thousands.
  assert(dials > 1 && dials < 20, `${dials} dials`);
  await client.close();
});
