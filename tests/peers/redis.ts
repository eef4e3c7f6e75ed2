/** The generic pool over connections to a real Redis. */
import { assertEquals, assertRejects } from "@std/assert";
import { Pool } from "@wirepool/net/pool";
import { freePort } from "../machine_support.ts";
import { Program, startExample, testPeers } from "../programs_support.ts";

async function startRedis(
  path: string,
  port: number,
  folder: string,
): Promise<Program> {
  const redis = new Program(path, [
    "--bind",
    "127.0.0.1",
    "--port",
    String(port),
    "--dir",
    folder,
    "--save",
    "",
  ]);
  await redis.says(/Ready to accept connections/);
  return redis;
}

/** Sends one inline command and reads its reply, which one read brings. */
async function call(conn: Deno.Conn, command: string): Promise<string> {
  await conn.write(new TextEncoder().encode(`${command}\r\n`));
  const reply = new Uint8Array(16 * 1024);
  const n = await conn.read(reply);
  if (n === null) throw new Deno.errors.UnexpectedEof("Redis hung up");
  return new TextDecoder().decode(reply.subarray(0, n));
}

testPeers(
  "redis_pool.ts shares connections, and replaces those that Redis has dropped",
  [
    "redis-server",
  ],
  async ({ "redis-server": path }, folder) => {
    const port = freePort();
    await using _redis = await startRedis(path, port, folder);
    await using example = startExample("redis_pool.ts", [String(port)]);
    assertEquals((await example.succeeds()).split("\n"), [
      "OK",
      "grüß dich null",
      "counted to 100",
      "Error: ERR value is not an integer or out of range",
      "grüß dich",
      "5 connections, 4 found dead",
      "",
    ]);
    using conn = await Deno.connect({ port });
    const commands = await call(conn, "INFO commandstats");
    const count = (command: string) =>
      Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(commands)?.[1]);
    assertEquals(count("incr"), 101);
    // Every idle connection that was lent, but for those found dead.
    assertEquals(count("ping") > 0, true, commands);
  },
);

testPeers("A Pool outlives its Redis", ["redis-server"], async (
  { "redis-server": path },
  folder,
) => {
  const port = freePort();
  await using pool = new Pool<Deno.Conn>({
    factory: (signal) => Deno.connect({ port, signal }),
    close: (conn) => conn.close(),
    ping: async (conn) => await call(conn, "PING") === "+PONG\r\n",
    maxCap: 3,
  });
  const ping = () => pool.use((conn) => call(conn, "ECHO here"));
  await assertRejects(ping, Deno.errors.ConnectionRefused);
  for (let life = 1; life <= 2; life++) {
    await using _redis = await startRedis(path, port, folder);
    const replies = await Promise.all([ping(), ping(), ping(), ping()]);
    assertEquals(replies, Array(4).fill("$4\r\nhere\r\n"));
    assertEquals(pool.stats().open, 3);
  }
  // It is gone, and three connections to it are idle.
  await assertRejects(ping, Deno.errors.ConnectionRefused);
  const { open, pingFailedCount, openedCount } = pool.stats();
  assertEquals(
    { open, pingFailedCount, openedCount },
    { open: 0, pingFailedCount: 6, openedCount: 6 },
  );
});
