// deno run --allow-net=127.0.0.1,localhost --allow-read=cert.pem,key.pem examples/tls.ts cert.pem key.pem
//
// A server and a client over TLS. To try it, a certificate for this machine:
//
//   openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
//     -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
//     -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem

import { Client, ConnectError, serve } from "@wirepool/net";

const [certPath = "cert.pem", keyPath = "key.pem"] = Deno.args;
const cert = await Deno.readTextFile(certPath);
const key = await Deno.readTextFile(keyPath);

await using server = serve({ cert, key }, (payload) => payload.toReversed());
const { port } = server.addr;

// The certificate vouches for a name: that is what the client must dial.
const address = { hostname: "localhost", port };
await using client = new Client({
  ...address,
  // A certificate from a public authority needs only `tls: true`.
  tls: { caCerts: [cert] },
  // A handshake costs more than a dial does: keep connections warm.
  minIdle: 1,
});
const response = await client.send(new TextEncoder().encode("terces"));
console.log(new TextDecoder().decode(response));

// Without a reason to trust the certificate, there is no connection.
await using stranger = new Client({ ...address, tls: true });
try {
  await stranger.send(new Uint8Array());
} catch (error) {
  if (!(error instanceof ConnectError)) throw error;
  console.log("Refused:", (error.cause as Error).message);
}
