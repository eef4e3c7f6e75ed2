// What Deno's own TLS would have to offer before the library could use it: shown
// without anything of the library's.
//
//   deno run -A bench/deno_tls_faults.ts
//
// 1. Closing a connection frees its descriptor, in whatever state the peer has
//    left it. As of Deno 2.9.6 it does not: while the peer stays silent in the
//    handshake, or does not read what was written, the descriptor stays open.
// 2. A way to switch Nagle's algorithm off on accepted connections.
// 3. Where `node:tls` is used instead: a paused socket stops reading from the
//    system, and a chain of certificates that cannot be parsed is refused.

import { readdirSync, readlinkSync } from "node:fs";
import { connect as connectTls, createServer } from "node:tls";

const folder = new URL("../tests/testdata/", import.meta.url);
const [ca, cert, key] = ["ca", "localhost", "localhost_key"].map((name) =>
  Deno.readTextFileSync(new URL(`${name}.pem`, folder))
) as [string, string, string];
const HOST = "127.0.0.1";
const PEERS = 20;

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

function sockets(): number {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith("socket:");
    } catch {
      return false;
    }
  }).length;
}

/** Accepts connections of peers, closes them, and counts what is left of them a
 * second later. */
async function closeAll(
  what: string,
  reach: (port: number) => Promise<Deno.Conn>,
  use: (conn: Deno.TlsConn) => unknown,
): Promise<void> {
  using listener = Deno.listenTls({ hostname: HOST, port: 0, cert, key });
  const peers: Deno.Conn[] = [];
  const conns: Deno.TlsConn[] = [];
  for (let i = 0; i < PEERS; i++) {
    const accepting = listener.accept();
    peers.push(await reach(listener.addr.port));
    const conn = await accepting;
    conn.handshake().catch(() => {});
    use(conn);
    conns.push(conn);
  }
  await sleep(500);
  for (const conn of conns) conn.close();
  await sleep(1000);
  const held = sockets();
  for (const peer of peers) peer.close();
  await sleep(500);
  console.log(`${what}: ${held - sockets() - PEERS} of ${PEERS} are left open`);
}

await closeAll(
  "Closed while its peer is silent in the handshake",
  (port) => Deno.connect({ hostname: HOST, port }),
  () => {},
);
await closeAll(
  "Closed while its peer does not read",
  async (port) => {
    const options = { hostname: HOST, port, caCerts: [ca] };
    const conn = await Deno.connectTls(options);
    conn.handshake().catch(() => {});
    return conn;
  },
  async (conn) => {
    try {
      for (;;) await conn.write(new Uint8Array(1024 * 1024));
    } catch {
      // Closed, as it should be.
    }
  },
);

// A socket of node:tls that is paused.
let taken = 0;
const server = createServer({ cert, key }, (socket) => {
  socket.on("error", () => {});
  socket.pause();
  setTimeout(() => {
    console.log(`Paused, and ${socket.bytesRead} bytes were read all the same`);
    Deno.exit();
  }, 1500);
});
server.listen(0, HOST, () => {
  const { port } = server.address() as { port: number };
  const socket = connectTls({ host: HOST, port, ca }, () => {
    const send = () => {
      while (taken < 256) {
        taken++;
        if (!socket.write(new Uint8Array(1024 * 1024))) break;
      }
    };
    socket.on("drain", send);
    send();
  });
  socket.on("error", () => {});
});
