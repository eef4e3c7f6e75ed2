/**
 * A process whose descriptors are counted: it serves and sends over TLS as it is
 * told, a line of JSON at a time. Run by `tls_descriptors_test.ts`.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { Client } from "../client.ts";
import { serve, type Server } from "../server.ts";

let server: Server | undefined;
let client: Client | undefined;
let failures = 0;

type Command = (argument: never) => unknown;

const COMMANDS: Record<string, Command> = {
  /** Serves; a request of one byte is answered with so many MiB. */
  serve(options: Record<string, unknown>): number {
    server = serve(
      { ...options, onError() {} },
      (payload) =>
        payload.length === 1
          ? new Uint8Array(payload[0]! * 1024 * 1024)
          : payload,
    );
    return (server.addr as Deno.NetAddr).port;
  },
  /** Opens so many connections. */
  async open({ initialCap, ...options }: {
    initialCap: number;
    port: number;
  }): Promise<void> {
    client = new Client({ ...options, initialCap, onError() {} });
    while (client.stats().pool.idle < initialCap) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  },
  /** Sends so many requests of so many bytes, and waits for none of them. */
  send({ count, bytes, ...options }: {
    count: number;
    bytes: number;
    port: number;
  }): void {
    client ??= new Client({ ...options, onError() {} });
    for (let i = 0; i < count; i++) {
      client.send(new Uint8Array(bytes)).catch(() => failures++);
    }
  },
  closeServer: () => server?.close(),
  shutdownServer: () => void server?.shutdown(),
  closeClient: () => void client?.close({ signal: AbortSignal.abort() }),
  counts: () => ({
    sockets: sockets(),
    accepted: server?.stats().totalConnections,
    connections: server?.stats().connections,
    open: client?.stats().pool.open,
    failures,
  }),
};

/** TCP sockets that this process holds, listeners included, in whatever state;
 * the runtime has some others, by which its threads wake each other. */
function sockets(): number {
  const others = new Set(
    readFileSync("/proc/self/net/unix", "utf8").split("\n")
      .map((line) => line.trim().split(/\s+/)[6]),
  );
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      const link = readlinkSync(`/proc/self/fd/${fd}`);
      const inode = /^socket:\[(\d+)\]$/.exec(link)?.[1];
      return inode !== undefined && !others.has(inode);
    } catch {
      return false; // The folder's own.
    }
  }).length;
}

const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
let rest = "";
for await (const text of lines) {
  const parts = (rest + text).split("\n");
  rest = parts.pop()!;
  for (const line of parts) {
    const [name, argument] = JSON.parse(line);
    const result = await COMMANDS[name]!(argument as never);
    console.log(JSON.stringify(result ?? null));
  }
}
Deno.exit();
