/** The client over TLS. The certificate is for localhost; see `testdata`. */
import { assert, assertEquals, assertFalse, assertGreater } from "@std/assert";
import { Client, ConnectionLostError } from "../client.ts";
import { ascii, ScriptedServer } from "./client_support.ts";
import { sleep } from "./traffic.ts";

function testdata(name: string): string {
  return Deno.readTextFileSync(new URL(`testdata/${name}`, import.meta.url));
}

const CA = testdata("ca.pem");
const CERT = testdata("localhost.pem");
const KEY = testdata("localhost_key.pem");

function tlsServer(alpnProtocols: string[] = []): ScriptedServer {
  const options = { hostname: "127.0.0.1", port: 0, cert: CERT, key: KEY };
  return new ScriptedServer(Deno.listenTls({ ...options, alpnProtocols }));
}

Deno.test("What a write over TLS held when it was cut short counts as sent", async () => {
  using server = tlsServer();
  const client = new Client({
    hostname: "localhost",
    port: server.port,
    tls: { caCerts: [CA] },
    maxCap: 1,
    pipelining: 2000,
  });
  const first = client.send(ascii("hello"));
  const one = await server.accept();
  await one.expect("hello");
  await one.respond("hello");
  await first;

  // More than the sockets hold, so that a write is cut short; Deno hands on
  // what that write held all the same.
  const names = Array.from({ length: 1000 }, (_, i) => `${i}`.padEnd(12_000));
  const outcomes = names.map((name) =>
    client.send(ascii(name)).then(() => "answered", (error) => error)
  );
  await sleep(50);
  await one.write(new Uint8Array(8).fill(0xff));
  const two = await server.accept();
  const serving = two.serve();
  // All that the first was given, to the last byte.
  const seen = new Set<string | null>();
  await (async () => {
    for (let r; (r = await one.receive()) !== null;) seen.add(r);
  })().catch(() => {});
  let resent = 0;
  for (const [i, outcome] of outcomes.entries()) {
    const result = await outcome;
    if (result === "answered") {
      assertFalse(seen.has(names[i]!), `Request ${i} was handled twice`);
      resent++;
    } else {
      assert(result instanceof ConnectionLostError && result.requestSent);
    }
  }
  assertEquals(two.requests.length, resent);
  assertGreater(resent, 0);
  await client.close();
  await serving;
});
