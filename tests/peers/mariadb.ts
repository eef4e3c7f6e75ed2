/**
 * MariaDB, whose server speaks first: its greeting is read, and the password's
 * proof given, in `handshake`.
 */
import { assertEquals, assertInstanceOf, assertMatch } from "@std/assert";
import { concat } from "@std/bytes";
import {
  Client,
  type ClientOptions,
  ConnectError,
  type HandshakeConnection,
} from "@wirepool/net";
import { ascii, bytes, textOf } from "../bytes_support.ts";
import { freePort } from "../machine_support.ts";
import { Program, startServer, testPeers } from "../programs_support.ts";
import { PROTOCOLS } from "../protocols_support.ts";
import { rejection } from "../promise_support.ts";
import { eventually } from "../time_support.ts";

/** Commands. The sequence number, 0, begins each of them. */
const STATISTICS = bytes(0, 0x09), PING = bytes(0, 0x0e);
const query = (sql: string) => bytes(0, 0x03, ascii(sql));

/** Makes the tables of a new server, and starts it. */
async function startMariaDB(
  path: string,
  folder: string,
  port: number,
): Promise<Program> {
  const data = `${folder}/data`;
  await Deno.mkdir(data);
  const user = Deno.uid() === 0 ? ["--user=root"] : [];
  const options = ["--no-defaults", `--datadir=${data}`, ...user];
  const scripts = ["mysql_system_tables.sql", "mysql_system_tables_data.sql"]
    .map((name) => Deno.readTextFileSync(`/usr/share/mysql/${name}`));
  await using bootstrap = new Program(path, [...options, "--bootstrap"], {
    input: ascii(
      `create database mysql;\nuse mysql;\nset @auth_root_socket=null;\n${
        scripts.join("\n")
      }`,
    ),
  });
  await bootstrap.succeeds();
  const init = `${folder}/init.sql`;
  await Deno.writeTextFile(
    init,
    "CREATE USER wire@localhost IDENTIFIED BY 'pool';\n",
  );
  return await startServer(port, path, [
    ...options,
    `--socket=${folder}/socket`,
    "--bind-address=127.0.0.1",
    `--port=${port}`,
    `--init-file=${init}`,
  ]);
}

async function sha1(...parts: Uint8Array<ArrayBuffer>[]) {
  return new Uint8Array(await crypto.subtle.digest("SHA-1", concat(parts)));
}

/** The proof of a password, as mysql_native_password has it. */
async function prove(password: string, challenge: Uint8Array<ArrayBuffer>) {
  const once = await sha1(ascii(password));
  const mask = await sha1(challenge, await sha1(once));
  return once.map((byte, i) => byte ^ mask[i]!);
}

/** Reads the greeting, and logs in. Returns the number of the server's thread. */
async function login(
  conn: HandshakeConnection,
  user: string,
  password: string,
): Promise<number> {
  const greeting = await conn.read();
  // Sequence 0, protocol 10; then the version, up to a 0.
  assertEquals([...greeting.subarray(0, 2)], [0, 10]);
  const at = greeting.indexOf(0, 2) + 1;
  assertMatch(textOf(greeting.subarray(2, at)), /MariaDB/);
  // Behind the thread's number, 8 bytes of the challenge; 12 more farther on.
  const challenge = concat([
    greeting.subarray(at + 4, at + 12),
    greeting.subarray(at + 31, at + 43),
  ]);
  const proof = await prove(password, challenge);
  await conn.write(bytes(
    1, // the sequence
    // PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH.
    ...[0x00, 0x82, 0x08, 0x00],
    ...[0, 0, 0, 1], // packets of up to 16 MiB
    45, // utf8mb4
    new Uint8Array(23),
    ...[user, 0, proof.length, proof, "mysql_native_password", 0],
  ));
  const answer = await conn.read();
  if (answer[1] === 0xff) throw new Error(textOf(answer.subarray(10)));
  assertEquals([...answer.subarray(0, 2)], [2, 0x00]); // OK
  return new DataView(greeting.buffer, greeting.byteOffset).getUint32(at, true);
}

function newClient(port: number, options: Partial<ClientOptions> = {}): Client {
  return new Client({
    port,
    ...PROTOCOLS["MySQL and MariaDB"],
    handshake: (conn) => login(conn, "wire", "pool"),
    ping: () => PING,
    ...options,
  });
}

/** Whether a response is an OK packet, the second of its sequence. */
function isOk(response: Uint8Array): boolean {
  return response[0] === 1 && response[1] === 0x00;
}

testPeers(
  "A Client logs in to MariaDB, whose greeting is never taken for an answer",
  ["mariadbd"],
  async ({ mariadbd }, folder) => {
    const port = freePort();
    await using _server = await startMariaDB(mariadbd, folder, port);
    for (const pipelining of [1, 8]) {
      await using client = newClient(port, { maxCap: 4, pipelining });
      const pings = Array.from({ length: 100 }, () => client.send(PING));
      for (const answer of await Promise.all(pings)) {
        assertEquals(isOk(answer), true);
      }
      assertEquals(client.stats().pool.openedCount, 4);
      // A command whose answer is a text alone.
      const statistics = await client.send(STATISTICS);
      assertMatch(textOf(statistics.subarray(1)), /^Uptime: \d+ +Threads: \d+/);
      assertEquals(isOk(await client.send(query("SET @a = 1"))), true);
      const error = await client.send(query("NONSENSE"));
      assertEquals([...error.subarray(0, 2)], [1, 0xff]);
      assertMatch(textOf(error.subarray(4)), /^#42000You have an error in/);
    }
  },
);

testPeers(
  "What MariaDB refuses in its handshake is the cause of a ConnectError",
  ["mariadbd"],
  async ({ mariadbd }, folder) => {
    const port = freePort();
    await using _server = await startMariaDB(mariadbd, folder, port);
    await using client = newClient(port, {
      handshake: (conn) => login(conn, "wire", "wrong"),
    });
    const error = await rejection(client.send(PING));
    assertInstanceOf(error, ConnectError);
    assertMatch(
      String(error.cause),
      /Access denied for user 'wire'@'localhost' \(using password: YES\)/,
    );
    assertEquals(client.stats().pool.open, 0);
  },
);

testPeers(
  "An idle connection that MariaDB ends is dropped at once",
  ["mariadbd"],
  async ({ mariadbd }, folder) => {
    const port = freePort();
    await using _server = await startMariaDB(mariadbd, folder, port);
    const threads: number[] = [];
    await using client = newClient(port, {
      handshake: async (conn) =>
        void threads.push(await login(conn, "wire", "pool")),
    });
    assertEquals(isOk(await client.send(PING)), true);
    await using other = newClient(port);
    assertEquals(isOk(await other.send(query(`KILL ${threads[0]}`))), true);
    await eventually("its end", () => client.stats().pool.open === 0);
    assertEquals(isOk(await client.send(PING)), true);
    assertEquals(client.stats().retries, 0);
    assertEquals(threads.length, 2);
  },
);
