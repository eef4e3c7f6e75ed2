// deno run --allow-net=127.0.0.1,localhost --allow-read=cert.pem,key.pem examples/tls.ts cert.pem key.pem
//
// Services that show each other certificates over TLS, and a server that renews
// its own while it runs. To try it, a certificate for this machine, which here
// both sides bear and both trust:
//
//   openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
//     -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
//     -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem

import {
  Client,
  ConnectError,
  ConnectionLostError,
  serve,
} from "@wirepool/net";

const [certPath = "cert.pem", keyPath = "key.pem"] = Deno.args;
const cert = await Deno.readTextFile(certPath);
const key = await Deno.readTextFile(keyPath);

await using server = serve({
  cert,
  key,
  // Without this the server asks nobody who they are.
  caCerts: [cert],
  onError() {},
}, (payload, { peerCertificate }) => {
  console.log("Asked by", peerCertificate?.subject);
  return payload.toReversed();
});
const { port } = server.addr;

// The certificate vouches for a name: that is what the client must dial.
const address = { hostname: "localhost", port };
await using client = new Client({
  ...address,
  // A certificate from a public authority needs no `caCerts`.
  tls: { caCerts: [cert], cert, key },
  // A handshake costs more than a dial does: keep connections warm.
  minIdle: 1,
});
const response = await client.send(new TextEncoder().encode("terces"));
console.log(new TextDecoder().decode(response));

// When a renewed certificate is there, as an authority's tool has put it:
// connections go on, and new ones are shown it.
server.setCertificate({
  cert: await Deno.readTextFile(certPath),
  key: await Deno.readTextFile(keyPath),
});

// Who shows no certificate is refused; with TLS 1.3 only after the handshake.
await using unknown = new Client({ ...address, tls: { caCerts: [cert] } });
// Who has no reason to trust the server's does not connect.
await using stranger = new Client({ ...address, tls: { cert, key } });
for (const refused of [unknown, stranger]) {
  try {
    await refused.send(new Uint8Array());
  } catch (error) {
    const known = error instanceof ConnectError ||
      error instanceof ConnectionLostError;
    if (!known) throw error;
    console.log("Refused:", (error.cause as Error).message);
  }
}
