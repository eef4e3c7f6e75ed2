// deno run --allow-net=127.0.0.1 examples/token.ts 9007
//
// Authenticates each connection by a token before its first request, and says
// no in a last frame that arrives. What the handshake returns is typed, and
// every handler gets it. Below it belongs TLS (`tls.ts`): in clear text a token
// is anybody's on the way.

import { Client, type HandlerContext, serve } from "@wirepool/net";

interface User {
  name: string;
  mayWrite: boolean;
}

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** Users by the digest of their token: who reads this has no token yet, and how
 * long the look-up takes tells nothing about one. */
const users = new Map<string, User>([
  [await digest("token-of-ada"), { name: "Ada", mayWrite: true }],
  [await digest("token-of-bob"), { name: "Bob", mayWrite: false }],
]);

await using server = serve({
  port: Number(Deno.args[0] ?? 9007),
  maxFrameLength: 4 * 1024, // Strangers send nothing longer, either.
  handshakeTimeout: 2_000, // Whoever says nothing goes soon.
  async handshake(conn): Promise<User> {
    const user = users.get(await digest(text(await conn.read())));
    await conn.write(bytes(user === undefined ? "401" : "200"));
    // What was written leaves before the connection ends.
    if (user === undefined) throw new Error("Unknown token");
    return user;
  },
  // A refusal is told here, and so is a handler that fails.
  onError: (error) => console.error(String(error)),
}, answer);

function answer(payload: Uint8Array, { state }: HandlerContext<User>) {
  if (text(payload) === "write" && !state.mayWrite) return bytes("403");
  return bytes(`200 ${state.name}`);
}

async function digest(token: string): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", bytes(token));
  return new Uint8Array(hash).toHex();
}

/** A client that shows a token on each of its connections. */
function connectWith(token: string): Client {
  return new Client({
    port: server.addr.port,
    async handshake(conn) {
      await conn.write(bytes(token));
      const code = text(await conn.read());
      if (code !== "200") throw new Error(`The server says ${code}`);
    },
  });
}

for (const token of ["token-of-ada", "token-of-bob", "guess"]) {
  await using client = connectWith(token);
  try {
    for (const request of ["read", "write"]) {
      console.log(request, text(await client.send(bytes(request))));
    }
  } catch (error) {
    // A `ConnectError`: its cause is what the handshake threw.
    console.log(String((error as Error).cause));
  }
}
