// deno run --allow-net=127.0.0.1 examples/listener.ts 9004
//
// Serves on a listening socket that was handed in. Here the program opens it
// itself and then gives up the permission to open anything: whatever goes wrong
// in a handler, it can reach no other machine. The wrapper also turns away
// strangers before a byte of theirs is read.

import { serve, type Transport, type TransportListener } from "@wirepool/net";

const MOST = 3; // Connections in a second from one address; more are refused.

const socket = Deno.listen({
  hostname: "127.0.0.1",
  port: Number(Deno.args[0] ?? 9004),
});
await Deno.permissions.revoke({ name: "net" });

/** The listener, without those who come too often. */
class Limited implements TransportListener<Deno.NetAddr> {
  readonly addr = socket.addr;
  #second = 0;
  #seen = new Map<string, number>();

  async accept(): Promise<Transport> {
    for (;;) {
      const conn = await socket.accept();
      const { hostname } = conn.remoteAddr;
      const second = Math.floor(performance.now() / 1_000);
      if (second !== this.#second) this.#seen.clear();
      this.#second = second;
      const count = (this.#seen.get(hostname) ?? 0) + 1;
      this.#seen.set(hostname, count);
      if (count <= MOST) return conn;
      console.log(`${hostname} comes too often`);
      conn.close();
    }
  }

  close(): void {
    socket.close();
  }

  ref(): void {
    socket.ref();
  }

  unref(): void {
    socket.unref();
  }
}

const server = serve({
  listener: new Limited(),
  onListen: ({ port }) => console.log(`Listening on port ${port}`),
}, async (payload) => {
  try {
    await Deno.connect({ hostname: "127.0.0.1", port: 9004 });
    return new TextEncoder().encode("This must not be");
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    return payload.toReversed();
  }
});

Deno.addSignalListener("SIGINT", () => server.shutdown());
await server.finished;
