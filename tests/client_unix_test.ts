/**
 * The client over a Unix socket. Apart from the others because of what it may
 * do: see the task `test:unix`.
 */
import { assertEquals, assertInstanceOf } from "@std/assert";
import { Client, ConnectError, ConnectionLostError } from "../client.ts";
import { ascii, textOf } from "./bytes_support.ts";
import { ScriptedServer } from "./client_server_support.ts";
import { testUnix } from "./machine_support.ts";
import { outcomeOf, rejection } from "./promise_support.ts";
import { eventually } from "./time_support.ts";

testUnix("A client speaks over a Unix socket as over TCP", async (path) => {
  const client = new Client({ path, maxCap: 2, pipelining: 4 });
  const refused = await rejection(client.send(ascii("nobody listens")));
  assertInstanceOf(refused, ConnectError);
  assertEquals(refused.message, `Cannot connect to ${path}`);
  assertInstanceOf(refused.cause, Deno.errors.NotFound);

  const listener = Deno.listen({ transport: "unix", path });
  using server = new ScriptedServer(listener);
  const serving = server.run();
  const names = Array.from({ length: 20 }, (_, i) => `${i}`);
  const sent = names.map((name) => client.send(ascii(name)).then(textOf));
  const responses = names.map((name) => `pong:${name}`);
  assertEquals(await Promise.all(sent), responses);
  assertEquals(server.peers.length, 2);

  // An idle one that ends is dropped, and the next request needs no luck.
  for (const peer of server.peers) await peer.conn.closeWrite();
  await eventually("none is open", () => client.stats().pool.open === 0);
  assertEquals(textOf(await client.send(ascii("a"))), "pong:a");
  assertEquals(client.stats().retries, 0);
  await client.close();
  server[Symbol.dispose]();
  await serving;
});

testUnix("What a write to a Unix socket refused was not sent", async (path) => {
  const listener = Deno.listen({ transport: "unix", path });
  using server = new ScriptedServer(listener);
  const client = new Client({ path, maxCap: 1 });
  const large = new Uint8Array(8 * 1024 * 1024);
  const sent = outcomeOf(client.send(large));
  const peer = await server.accept();
  await peer.conn.read(new Uint8Array(1000));
  peer.conn.close();
  const error = await sent;
  assertInstanceOf(error, ConnectionLostError);
  assertEquals(error.requestSent, false);
  await client.close();
});
