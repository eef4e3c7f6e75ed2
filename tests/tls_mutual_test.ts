/** Certificates of clients, renewed certificates, and such as nobody may accept. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Client, ConnectError, ConnectionLostError } from "../client.ts";
import { type PeerCertificate, serve, type ServeOptions } from "../server.ts";
import { echo, until } from "./server_support.ts";
import { rejection } from "./promise_support.ts";
import {
  CA,
  CERT,
  FORGED,
  FORGED_CHAIN,
  FORGED_KEY,
  KEY,
  OTHER_CA,
  OTHER_CERT,
  OTHER_KEY,
} from "./tls_support.ts";

const identity = { cert: CERT, key: KEY };
const other = { cert: OTHER_CERT, key: OTHER_KEY };

function portOf(server: { addr: Deno.Addr }): number {
  return (server.addr as Deno.NetAddr).port;
}

function clientOf(
  server: { addr: Deno.Addr },
  tls: { caCerts?: string[]; cert?: string; key?: string },
): Client {
  const hostname = "localhost";
  return new Client({ hostname, port: portOf(server), tls, maxCap: 1 });
}

Deno.test("A server with caCerts tells its handlers who the client is", async () => {
  const shown: (PeerCertificate | undefined)[] = [];
  await using server = serve(
    { ...identity, caCerts: [OTHER_CA] },
    (payload, context) => {
      shown.push(context.peerCertificate);
      return payload;
    },
  );
  await using client = clientOf(server, { caCerts: [CA], ...other });
  assertEquals(await client.send(Uint8Array.of(1)), Uint8Array.of(1));
  const [certificate] = shown;
  assert(certificate !== undefined);
  assertEquals(certificate.subject, "CN=localhost");
  assertEquals(certificate.issuer, "CN=another test CA");
  assertStringIncludes(certificate.subjectAltName!, "DNS:localhost");
  assert(
    certificate.validFrom < new Date() && new Date() < certificate.validTo,
  );
  const digest = await crypto.subtle.digest(
    "SHA-256",
    Uint8Array.from(certificate.raw),
  );
  assertEquals(
    certificate.fingerprint256.replaceAll(":", ""),
    new Uint8Array(digest).toHex().toUpperCase(),
  );
});

Deno.test("A client without a certificate, or with another authority's, is refused", async () => {
  const errors: unknown[] = [];
  let requests = 0;
  await using server = serve({
    ...identity,
    caCerts: [CA],
    onError: (error) => void errors.push(error),
  }, (payload) => {
    requests++;
    return payload;
  });
  const refused = [{}, other, { cert: FORGED, key: FORGED_KEY }];
  for (const certificate of refused) {
    await using client = clientOf(server, { caCerts: [CA], ...certificate });
    const error = await rejection(client.send(Uint8Array.of(1)));
    assert(
      error instanceof ConnectError || error instanceof ConnectionLostError,
    );
  }
  await until(() => server.stats().connections === 0, "all are cut");
  assertEquals(requests, 0);
  assertEquals(errors.length, refused.length);
  for (const error of errors) assertInstanceOf(error, Deno.errors.InvalidData);
  await using client = clientOf(server, { caCerts: [CA], ...identity });
  assertEquals(await client.send(Uint8Array.of(1)), Uint8Array.of(1));
});

Deno.test("Where clients are not asked, there is no certificate", async () => {
  let shown: unknown = "not asked yet";
  const observe = (options: ServeOptions) =>
    serve(options, (payload, context) => {
      shown = context.peerCertificate;
      return payload;
    });
  await using secure = observe(identity);
  await using one = clientOf(secure, { caCerts: [CA], ...identity });
  await one.send(Uint8Array.of(1));
  assertEquals(shown, undefined);
  shown = "not asked yet";
  await using clear = observe({});
  await using two = new Client({ port: portOf(clear) });
  await two.send(Uint8Array.of(1));
  assertEquals(shown, undefined);
});

Deno.test("Server.setCertificate() renews the certificate, and no connection is lost", async () => {
  await using server = serve(identity, echo);
  await using before = clientOf(server, { caCerts: [CA] });
  await before.send(Uint8Array.of(1));
  server.setCertificate(other);
  assertEquals(await before.send(Uint8Array.of(2)), Uint8Array.of(2));
  assertEquals(before.stats().pool.openedCount, 1);
  await using after = clientOf(server, { caCerts: [OTHER_CA] });
  assertEquals(await after.send(Uint8Array.of(3)), Uint8Array.of(3));
  await using late = clientOf(server, { caCerts: [CA] });
  assertInstanceOf(await rejection(late.send(Uint8Array.of(4))), ConnectError);
  // One that is not valid changes nothing.
  assertThrows(
    () => server.setCertificate({ cert: "none", key: OTHER_KEY }),
    Deno.errors.InvalidData,
  );
  assertThrows(
    () => server.setCertificate({ cert: OTHER_CERT } as typeof other),
    TypeError,
    "Option key must be a string, received undefined",
  );
  await using again = clientOf(server, { caCerts: [OTHER_CA] });
  assertEquals(await again.send(Uint8Array.of(5)), Uint8Array.of(5));
});

Deno.test("A renewed certificate goes on asking clients for theirs", async () => {
  await using server = serve({ ...identity, caCerts: [CA] }, echo);
  server.setCertificate(other);
  await using good = clientOf(server, { caCerts: [OTHER_CA], ...identity });
  assertEquals(await good.send(Uint8Array.of(1)), Uint8Array.of(1));
  await using bad = clientOf(server, { caCerts: [OTHER_CA] });
  const error = await rejection(bad.send(Uint8Array.of(1)));
  assert(error instanceof ConnectError || error instanceof ConnectionLostError);
});

Deno.test("What is wrong with certificates is thrown before anything listens", async () => {
  assertThrows(() => serve({ cert: "none", key: KEY }, echo));
  assertThrows(() => serve({ cert: CERT, key: "none" }, echo));
  assertThrows(() => serve({ cert: CERT, key: OTHER_KEY }, echo));
  assertThrows(
    () => serve({ caCerts: [CA] }, echo),
    TypeError,
    "Option caCerts needs cert and key",
  );
  await using server = serve({}, echo);
  assertThrows(() => server.setCertificate(identity), TypeError);
});

for (
  const [what, cert] of [
    ["of X.509 version 1", FORGED],
    ["through an intermediate of version 1", FORGED_CHAIN],
  ] as const
) {
  Deno.test(`A client does not trust a chain ${what} that only bears an authority's name`, async () => {
    await using server = serve(
      { cert, key: FORGED_KEY, onError() {} },
      echo,
    );
    await using client = clientOf(server, { caCerts: [CA] });
    const error = await rejection(client.send(Uint8Array.of(1)));
    assertInstanceOf(error, ConnectError);
    assertInstanceOf(error.cause, Deno.errors.InvalidData);
    assertEquals(server.stats().requests, 0);
  });
}
