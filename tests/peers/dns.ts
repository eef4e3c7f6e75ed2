/** DNS over TCP: our client asks dnsmasq, and dig asks our server. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Client } from "@wirepool/net";
import { freePort } from "../machine_support.ts";
import { Program, startExample, testPeers } from "../programs_support.ts";

async function startDnsmasq(path: string, port: number): Promise<Program> {
  const dnsmasq = new Program(path, [
    "--keep-in-foreground",
    "--log-facility=-",
    "--log-queries",
    "--conf-file=/dev/null",
    "--pid-file=",
    "--no-resolv",
    "--no-hosts",
    "--bind-interfaces",
    "--listen-address=127.0.0.1",
    `--port=${port}`,
    "--host-record=one.test,192.0.2.1",
    "--host-record=both.test,192.0.2.2,2001:db8::2",
    "--cname=alias.test,one.test",
    "--address=/many.test/192.0.2.3",
    "--local=/test/",
  ]);
  await dnsmasq.says(/started/);
  return dnsmasq;
}

testPeers("dns_client.ts reads the answers of dnsmasq", ["dnsmasq"], async (
  { dnsmasq },
) => {
  const port = freePort();
  await using _server = await startDnsmasq(dnsmasq, port);
  const address = `127.0.0.1:${port}`;
  const names = ["one.test", "both.test", "alias.test", "nothing.test"];
  await using client = startExample("dns_client.ts", [address, ...names], {
    address: ["1.1.1.1:53", address],
  });
  const output = await client.succeeds();
  assertMatch(output, /^one\.test 192\.0\.2\.1$/m);
  assertMatch(output, /^both\.test 192\.0\.2\.2$/m);
  // A record that is no address comes first, with a name that refers back.
  assertMatch(output, /^alias\.test 192\.0\.2\.1$/m);
  assertMatch(output, /^nothing\.test: NXDOMAIN$/m);
});

testPeers("A Client pipelines to dnsmasq", ["dnsmasq"], async ({ dnsmasq }) => {
  const port = freePort();
  await using server = await startDnsmasq(dnsmasq, port);
  await using client = new Client({
    port,
    lengthFieldLength: 2,
    maxCap: 2,
    pipelining: 16,
  });
  const ask = async (id: number) => {
    const query = new TextEncoder().encode(
      `..\x01\0\0\x01\0\0\0\0\0\0\x06host${
        10 + id
      }\x04many\x04test\0\0\x01\0\x01`,
    );
    new DataView(query.buffer).setUint16(0, id);
    const answer = await client.send(query);
    const view = new DataView(answer.buffer, answer.byteOffset, answer.length);
    // The id, no error, our question, one answer, and its address.
    assertEquals(view.getUint16(0), id);
    assertEquals(view.getUint16(2) & 0x0f, 0);
    assertEquals(
      answer.subarray(12, query.length),
      query.subarray(12),
    );
    assertEquals(view.getUint16(6), 1);
    assertEquals(answer.subarray(-4), Uint8Array.of(192, 0, 2, 3));
  };
  // Fewer than 100, after which dnsmasq closes a connection.
  await Promise.all(Array.from({ length: 90 }, (_, id) => ask(id)));
  assertEquals(client.stats().pool.openedCount, 2);
  assertStringIncludes(
    server.output,
    "query[A] host99.many.test from 127.0.0.1",
  );
});

testPeers(
  "dns_server.ts answers dig, one connection for all queries",
  ["dig"],
  async (
    { dig },
  ) => {
    await using server = startExample("dns_server.ts", ["0"]);
    const [, port] = await server.says(/Listening on port (\d+)/);
    const ask = async (...queries: string[]) => {
      await using program = new Program(dig, [
        "@127.0.0.1",
        `-p${port}`,
        "+tcp",
        "+keepopen",
        "+tries=1",
        ...queries,
      ]);
      return await program.succeeds();
    };

    const output = await ask("one.test", "A", "Two.Test", "A", "no.test", "A");
    assertMatch(output, /^one\.test\.\s+60\s+IN\s+A\s+192\.0\.2\.1$/m);
    assertMatch(output, /^Two\.Test\.\s+60\s+IN\s+A\s+192\.0\.2\.2$/m);
    assertMatch(output, /status: NXDOMAIN/);
    assertEquals(output.match(/flags: qr aa rd;/g)?.length, 3);
    assertEquals(/malformed|mismatch|extra bytes/i.exec(output), null);
    const ports = Array.from(
      server.output.matchAll(/^(\d+) \S+\.test$/gmi),
      ([, port]) => port,
    );
    assertEquals(ports.length, 3);
    assertEquals(new Set(ports).size, 1);

    // A name that is known, of a type that it has not.
    const none = await ask("one.test", "MX");
    assertMatch(none, /status: NOERROR/);
    assertMatch(none, /ANSWER: 0/);
  },
);
