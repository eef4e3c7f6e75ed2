/** TLS with a certificate that openssl made, and openssl as the client. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { encodeFrame } from "@wirepool/net/codec";
import { serve } from "@wirepool/net/server";
import {
  exampleText,
  Program,
  startExample,
  testPeers,
} from "../programs_support.ts";

/** Makes `cert.pem` and `key.pem` by the command that tls.ts gives. */
async function makeCertificate(openssl: string, folder: string): Promise<void> {
  const command = /openssl (req [^]+?cert\.pem)/.exec(exampleText("tls.ts"))!;
  const args = command[1]!.replaceAll(/\\\n\/\//g, "").split(/\s+/);
  await using program = new Program(openssl, args, { cwd: folder });
  await program.succeeds();
}

testPeers(
  "tls.ts talks over TLS with certificates of both sides, and refuses who shows none and what nobody vouches for",
  [
    "openssl",
  ],
  async ({ openssl }, folder) => {
    await makeCertificate(openssl, folder);
    await using example = startExample("tls.ts", ["cert.pem", "key.pem"], {
      cwd: folder,
    });
    assertMatch(
      await example.succeeds(),
      /^Asked by CN=localhost\nsecret\nRefused: .+\nRefused: TLS failed: self-signed .+\n$/,
    );
  },
);

testPeers("serve answers openssl over TLS", ["openssl"], async (
  { openssl },
  folder,
) => {
  await makeCertificate(openssl, folder);
  await using server = serve({
    cert: Deno.readTextFileSync(`${folder}/cert.pem`),
    key: Deno.readTextFileSync(`${folder}/key.pem`),
    alpnProtocols: ["wire/1"],
  }, (payload) => payload.toReversed());
  const { port } = server.addr as Deno.NetAddr;
  const client = (...more: string[]) =>
    new Program(openssl, [
      "s_client",
      "-connect",
      `127.0.0.1:${port}`,
      "-servername",
      "localhost",
      "-CAfile",
      "cert.pem",
      "-verify_return_error",
      "-alpn",
      "wire/1",
      "-ign_eof",
      ...more,
    ], { cwd: folder, input: encodeFrame(new TextEncoder().encode("terces")) });

  await using program = client("-tls1_3");
  const response = new RegExp("\0".repeat(7) + "\x06secret");
  await program.says(response);
  assertStringIncludes(program.output, "ALPN protocol: wire/1");
  assertStringIncludes(program.output, "Verify return code: 0 (ok)");
  await using older = client("-tls1_2");
  await older.says(response);
  assertEquals(server.stats().requests, 2);
  assertEquals(server.stats().errors, 0);
});
