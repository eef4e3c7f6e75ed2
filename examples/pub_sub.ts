// deno run --allow-net=127.0.0.1 examples/pub_sub.ts server 9006
//
// Publishes and subscribes. A subscription is made in the handshake, so that
// every new connection makes it again: it survives a restart of the server.
//
//   deno run --allow-net=127.0.0.1 examples/pub_sub.ts subscribe 9006 news
//   deno run --allow-net=127.0.0.1 examples/pub_sub.ts publish 9006 news Hello

import { Client, type HandlerContext, serve } from "@wirepool/net";

const [role, port = "9006", topic = "", ...words] = Deno.args;
const wire = { correlation: { length: 4 } } as const;
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

if (role === "server") await runServer();
else if (role === "subscribe") subscribe();
else await publish();

async function runServer(): Promise<void> {
  type Subscriber = HandlerContext<{ topic: string }>;
  const open = new Set<Subscriber>();
  const server = serve({
    ...wire,
    port: Number(port),
    // Whoever subscribes to nothing, publishes.
    handshake: async (conn) => ({ topic: text(await conn.read()) }),
    hooks: {
      connectionOpen: (context) => open.add(context),
      connectionClose: (context) => open.delete(context),
    },
    onListen: ({ port }) => console.log(`Listening on port ${port}`),
  }, (payload) => {
    const { topic, message } = JSON.parse(text(payload));
    let count = 0;
    for (const context of open) {
      // Undefined until the handshake is over.
      if (context.state?.topic !== topic) continue;
      count++;
      // Not awaited: a slow subscriber must not hold up the others. It may have
      // 256 KiB unread; then its pushes fail, and it is better off anew.
      context.push(bytes(message)).catch(() => context.close());
    }
    return bytes(String(count));
  });
  Deno.addSignalListener("SIGINT", () => server.shutdown());
  if (Deno.build.os !== "windows") {
    Deno.addSignalListener("SIGTERM", () => server.shutdown());
  }
  await server.finished;
}

function subscribe(): void {
  const client = new Client({
    ...wire,
    port: Number(port),
    maxCap: 1,
    minIdle: 1, // A connection even while nobody sends; a new one at once.
    idleTimeout: 0,
    handshake: async (conn) => {
      await conn.write(bytes(topic));
      console.log("subscribed");
    },
    onPush: (payload) => console.log(text(payload)),
    ping: () => new Uint8Array(), // A network may lose it without a word.
    pingInterval: 15_000,
    onError: (error) => console.error(String(error)),
  });
  Deno.addSignalListener("SIGINT", () => client.close());
}

async function publish(): Promise<void> {
  const handshake = (conn: { write(payload: Uint8Array): Promise<void> }) =>
    conn.write(bytes(""));
  await using client = new Client({ ...wire, port: Number(port), handshake });
  const message = words.join(" ");
  const answer = await client.send(bytes(JSON.stringify({ topic, message })));
  console.log(`${text(answer)} subscribers`);
}
