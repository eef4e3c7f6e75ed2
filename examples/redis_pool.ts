// deno run --allow-net=127.0.0.1 examples/redis_pool.ts 6379
//
// The generic pool over connections of a protocol of one's own: a small Redis
// client. An idle connection is tried with a real PING before it is lent, and
// replaced if it is dead.

import { Pool } from "@wirepool/net";

type Value = string | number | null | Error;
const encoder = new TextEncoder();

/** One connection, one command at a time. */
class Redis {
  #text = ""; // Of bytes, one character each, so that lengths are right.

  constructor(readonly conn: Deno.TcpConn) {}

  async call(...words: string[]): Promise<Value> {
    const command = words.map((word) =>
      `$${encoder.encode(word).length}\r\n${word}\r\n`
    );
    let bytes = encoder.encode(`*${words.length}\r\n${command.join("")}`);
    while (bytes.length > 0) {
      bytes = bytes.subarray(await this.conn.write(bytes));
    }
    const line = await this.#take((text) => text.indexOf("\r\n"));
    const [type, rest] = [line[0], line.slice(1)];
    if (type === "+") return rest;
    if (type === "-") return new Error(rest); // The connection is still good.
    if (type === ":") return Number(rest);
    if (type !== "$") throw new Error(`Unexpected reply ${line}`);
    if (rest === "-1") return null;
    const end = Number(rest);
    const value = await this.#take((text) => text.length < end + 2 ? -1 : end);
    const utf8 = Uint8Array.from(value, (char) => char.charCodeAt(0));
    return new TextDecoder().decode(utf8);
  }

  /** Reads until `find` says where the text ends that a line break follows. */
  async #take(find: (text: string) => number): Promise<string> {
    const chunk = new Uint8Array(16 * 1024);
    let end: number;
    while ((end = find(this.#text)) < 0) {
      const n = await this.conn.read(chunk);
      if (n === null) throw new Deno.errors.UnexpectedEof("Redis hung up");
      this.#text += String.fromCharCode(...chunk.subarray(0, n));
    }
    const taken = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 2);
    return taken;
  }
}

const port = Number(Deno.args[0] ?? 6379);
await using pool = new Pool<Redis>({
  factory: async (signal) => new Redis(await Deno.connect({ port, signal })),
  close: (redis) => redis.conn.close(),
  ping: async (redis) => await redis.call("PING") === "PONG",
  pingTimeout: 1_000,
  factoryTimeout: 3_000,
  getTimeout: 5_000,
  maxCap: 4,
  idleTimeout: 60_000,
});

/** A failure of the connection throws, and `use` then discards it. */
const redis = (...words: string[]) => pool.use((one) => one.call(...words));

console.log(await redis("SET", "greeting", "grüß dich"));
console.log(await redis("GET", "greeting"), await redis("GET", "nothing"));
const counts = Array.from({ length: 100 }, () => redis("INCR", "count"));
console.log("counted to", Math.max(...(await Promise.all(counts)).map(Number)));
console.log(String(await redis("INCR", "greeting"))); // An error as a value.

// Redis drops every connection; nobody who borrows one notices.
await redis("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no");
console.log(await redis("GET", "greeting"));
const { openedCount, pingFailedCount } = pool.stats();
console.log(`${openedCount} connections, ${pingFailedCount} found dead`);
