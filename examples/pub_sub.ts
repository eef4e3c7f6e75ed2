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

if (role === "server") {
  const open = new Set<HandlerContext<string>>();
  const server = serve({
    ...wire,
    port: Number(port),
    async handshake(conn) {
      const topic = text(await conn.read());
      await conn.write(bytes("ok"));
      return topic; // It is `context.state` from now on.
    },
    hooks: {
      connectionOpen: (context) => open.add(context),
      connectionClose: (context) => open.delete(context),
    },
    onListen: ({ port }) => console.log(`Listening on port ${port}`),
  }, (payload) => {
    const { topic, message } = JSON.parse(text(payload));
    const subscribers = [...open].filter(({ state }) => state === topic);
    for (const subscriber of subscribers) {
      // Not awaited: a slow subscriber must not hold up the others. With 256
      // KiB unread its pushes fail, and it may begin anew.
      subscriber.push(bytes(message)).catch(() => subscriber.close());
    }
    return bytes(String(subscribers.length));
  });
  Deno.addSignalListener("SIGINT", () => server.shutdown());
  await server.finished;
}

if (role === "subscribe") {
  new Client({
    ...wire,
    port: Number(port),
    minIdle: 1, // A connection also while nobody sends, and a new one at once.
    idleTimeout: 0,
    async handshake(conn) {
      await conn.write(bytes(topic));
      await conn.read();
    },
    onPush: (payload) => console.log(text(payload)),
    ping: () => new Uint8Array(), // A network may lose it without a word.
    pingInterval: 15_000,
    hooks: { dial: ({ error }) => console.log(error ?? "subscribed") },
  });
  setInterval(() => {}, 2 ** 30); // Idle connections keep no process alive.
}

if (role === "publish") {
  await using client = new Client({
    ...wire,
    port: Number(port),
    async handshake(conn) {
      await conn.write(bytes("")); // It subscribes to nothing.
      await conn.read();
    },
  });
  const message = words.join(" ");
  const answer = await client.send(bytes(JSON.stringify({ topic, message })));
  console.log(`${text(answer)} subscribers`);
}
