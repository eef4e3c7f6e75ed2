/**
 * ZooKeeper: a session begun in `handshake`, answers by xid, watch events as
 * pushes, and pings that keep the session.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
} from "@std/assert";
import { concat } from "@std/bytes";
import { Client, type ClientOptions, ConnectError } from "@wirepool/net";
import { ascii, textOf } from "../bytes_support.ts";
import { freePort } from "../machine_support.ts";
import { Program, testPeers } from "../programs_support.ts";
import { PROTOCOLS } from "../protocols_support.ts";
import { rejection } from "../promise_support.ts";
import { eventually, sleep } from "../time_support.ts";

const PROGRAMS = ["java", "zookeeper.jar", "slf4j-nop.jar"] as const;

/** What all sessions are told to last, in milliseconds: two ticks, the least
 * that the server agrees to. */
const SESSION = 1_000;

/** Types of requests. */
const CREATE = 1, DELETE = 2, EXISTS = 3, GET = 4, SET = 5, PING = 11;

/** xids of what is no answer to a request. */
const PING_XID = -2;

async function startZooKeeper(
  paths: Record<typeof PROGRAMS[number], string>,
  folder: string,
  port: number,
): Promise<Program> {
  const file = `${folder}/zoo.cfg`;
  await Deno.writeTextFile(
    file,
    `
tickTime=${SESSION / 2}
dataDir=${folder}/data
clientPort=${port}
clientPortAddress=127.0.0.1
admin.enableServer=false
4lw.commands.whitelist=srvr
`,
  );
  const jars = `${paths["zookeeper.jar"]}:${paths["slf4j-nop.jar"]}`;
  const main = "org.apache.zookeeper.server.ZooKeeperServerMain";
  const program = new Program(paths.java, [
    ...["-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", jars, main, file],
  ]);
  await program.listens(port);
  // It listens before it serves.
  while (!/^Zookeeper version: \d/.test(await status(port))) await sleep(20);
  return program;
}

/** What the server says of itself; nothing while it is only just starting, and
 * may neither answer nor close. */
async function status(port: number): Promise<string> {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const timer = setTimeout(() => conn[Symbol.dispose](), 1_000);
  try {
    await conn.write(ascii("srvr"));
    return await new Response(conn.readable).text();
  } catch {
    return "";
  } finally {
    clearTimeout(timer);
  }
}

/** A record in Jute: an int is a number, a long a bigint. */
function jute(
  ...fields: (number | bigint | string | boolean | Uint8Array)[]
): Uint8Array {
  return concat(fields.map((field) => {
    if (typeof field === "string") field = ascii(field);
    if (field instanceof Uint8Array) {
      return concat([jute(field.length), field]);
    }
    if (typeof field === "boolean") return Uint8Array.of(field ? 1 : 0);
    const view = new DataView(new ArrayBuffer(8));
    if (typeof field === "bigint") view.setBigInt64(0, field);
    else view.setInt32(0, field);
    return new Uint8Array(view.buffer, 0, typeof field === "bigint" ? 8 : 4);
  }));
}

/** Reads a record, field by field. */
class Reader {
  readonly #view: DataView<ArrayBuffer>;
  #at = 0;

  constructor({ buffer, byteOffset, length }: Uint8Array<ArrayBuffer>) {
    this.#view = new DataView(buffer, byteOffset, length);
  }

  int(): number {
    this.#at += 4;
    return this.#view.getInt32(this.#at - 4);
  }

  long(): bigint {
    this.#at += 8;
    return this.#view.getBigInt64(this.#at - 8);
  }

  bytes(): Uint8Array {
    const length = this.int();
    this.#at += length;
    const { buffer, byteOffset } = this.#view;
    return new Uint8Array(buffer, byteOffset + this.#at - length, length);
  }

  text(): string {
    return textOf(this.bytes());
  }
}

/** The first message of a connection: a new session, or one that goes on. */
function connectRequest(
  session = 0n,
  password: Uint8Array = new Uint8Array(16),
): Uint8Array {
  return jute(0, 0n, SESSION, session, password);
}

interface Session {
  id: bigint;
  password: Uint8Array;
}

/** Reads the server's answer to it. */
function readSession(response: Uint8Array<ArrayBuffer>): Session {
  const reader = new Reader(response);
  assertEquals(reader.int(), 0); // the protocol's version
  const timeout = reader.int();
  if (timeout === 0) throw new Error("The session has expired");
  assertEquals(timeout, SESSION);
  return { id: reader.long(), password: reader.bytes().slice() };
}

interface WatchEvent {
  type: number;
  state: number;
  path: string;
}

function readEvent(payload: Uint8Array<ArrayBuffer>): WatchEvent {
  const reader = new Reader(payload);
  assertEquals([reader.int(), reader.long(), reader.int()], [-1, -1n, 0]);
  return { type: reader.int(), state: reader.int(), path: reader.text() };
}

/** One connection to ZooKeeper, whose session its handshake begins. */
class ZooKeeper implements AsyncDisposable {
  readonly client: Client;
  /** Sessions begun. */
  readonly sessions: Session[] = [];
  readonly events: WatchEvent[] = [];
  readonly errors: unknown[] = [];

  constructor(port?: number, options: Partial<ClientOptions> = {}) {
    this.client = new Client({
      ...(port !== undefined && { port }),
      ...PROTOCOLS.ZooKeeper,
      handshake: async (conn) => {
        const last = this.sessions.at(-1);
        await conn.write(connectRequest(last?.id, last?.password));
        this.sessions.push(readSession(await conn.read()));
      },
      onPush: (payload) => void this.events.push(readEvent(payload)),
      onError: (error) => void this.errors.push(error),
      ...options,
    });
  }

  /** Sends a request; returns what follows the header of its reply. */
  async call(type: number, ...fields: Parameters<typeof jute>) {
    const reply = await this.client.send(jute(0, type, ...fields));
    const reader = new Reader(reply);
    reader.int(); // the xid
    reader.long(); // the zxid
    const error = reader.int();
    if (error !== 0) throw new Error(`ZooKeeper's error ${error}`);
    return reader;
  }

  /** Creates a node; everybody may do everything with it. */
  async create(path: string, data: string, ephemeral = false) {
    const acl = [1, 31, "world", "anyone"]; // one entry
    const flags = ephemeral ? 1 : 0;
    return (await this.call(CREATE, path, data, ...acl, flags)).text();
  }

  async get(path: string, watch = false): Promise<string> {
    return (await this.call(GET, path, watch)).text();
  }

  async exists(path: string): Promise<boolean> {
    try {
      await this.call(EXISTS, path, false);
      return true;
    } catch (error) {
      assertMatch(String(error), /error -101$/); // NONODE
      return false;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.client.close();
  }
}

testPeers(
  "A Client begins a session of ZooKeeper, and gets its answers by xid",
  PROGRAMS,
  async (paths, folder) => {
    const port = freePort();
    await using _server = await startZooKeeper(paths, folder, port);
    await using zk = new ZooKeeper(port);
    const names = Array.from({ length: 200 }, (_, i) => `/node${i}`);
    const created = names.map((name) => zk.create(name, `data of ${name}`));
    assertEquals(await Promise.all(created), names);
    const read = names.map((name) => zk.get(name));
    assertEquals(
      await Promise.all(read),
      names.map((name) => `data of ${name}`),
    );
    // An error is an answer like others, and the connection lives on.
    assertMatch(String(await rejection(zk.get("/nowhere"))), /error -101$/);
    await zk.call(DELETE, "/node0", -1);
    assertEquals(await zk.exists("/node0"), false);
    assertEquals(zk.client.stats().pool.openedCount, 1);
    assertEquals(zk.sessions.length, 1);
    assertNotEquals(zk.sessions[0]!.id, 0n);
    assertEquals([zk.events, zk.errors], [[], []]);
  },
);

testPeers(
  "Watch events of ZooKeeper come to onPush, ahead of what they announce",
  PROGRAMS,
  async (paths, folder) => {
    const port = freePort();
    await using _server = await startZooKeeper(paths, folder, port);
    await using watcher = new ZooKeeper(port);
    await using writer = new ZooKeeper(port);
    const path = "/watched";
    await writer.create(path, "0");
    for (let round = 1; round <= 20; round++) {
      assertEquals(await watcher.get(path, true), `${round - 1}`);
      await writer.call(SET, path, `${round}`, -1);
      // ZooKeeper's guarantee: a watch is told of before the new data is seen.
      assertEquals(await watcher.get(path), `${round}`);
      assertEquals(watcher.events.length, round);
    }
    // NodeDataChanged while connected.
    const event = { type: 3, state: 3, path };
    assertEquals(watcher.events, Array(20).fill(event));

    // On an idle connection, too: NodeDeleted.
    await watcher.get(path, true);
    await writer.call(DELETE, path, -1);
    await eventually("the node's end", () => watcher.events.length === 21);
    assertEquals(watcher.events[20], { type: 2, state: 3, path });
    assertEquals(writer.events, []);
    assertEquals(watcher.client.stats().pool.openedCount, 1);
  },
);

testPeers(
  "Pings with the xid -2 keep a session of ZooKeeper that is idle",
  PROGRAMS,
  async (paths, folder) => {
    const port = freePort();
    await using _server = await startZooKeeper(paths, folder, port);
    await using pinging = new ZooKeeper(port, {
      ping: () => jute(PING_XID, PING),
      pingInterval: SESSION / 4,
    });
    await using silent = new ZooKeeper(port);
    await pinging.create("/pinging", "", true);
    await silent.create("/silent", "", true);
    await using observer = new ZooKeeper(port);

    // The server ends a session that it has not heard of, and its nodes.
    const deadline = performance.now() + 20 * SESSION;
    while (await observer.exists("/silent")) {
      assert(performance.now() < deadline, "The silent session goes on");
      await sleep(SESSION / 10);
    }
    await sleep(SESSION);
    assert(await observer.exists("/pinging"));
    assertEquals(await pinging.get("/pinging"), "");
    assertEquals(pinging.client.stats().pool.openedCount, 1);
    assertEquals(pinging.client.stats().pool.pingFailedCount, 0);
    assertEquals([pinging.events, pinging.errors], [[], []]);
    assertMatch(await status(port), /^Zookeeper version: /);
  },
);

testPeers(
  "A session of ZooKeeper goes on over a new connection, as its handshake asks",
  PROGRAMS,
  async (paths, folder) => {
    const port = freePort();
    await using _server = await startZooKeeper(paths, folder, port);
    const conns: Deno.Conn[] = [];
    await using resumed = new ZooKeeper(undefined, {
      connect: async (signal) => {
        const conn = await Deno.connect({ port, signal });
        conns.push(conn);
        return conn;
      },
    });
    await resumed.create("/resumed", "mine", true);
    // Lost without a farewell, so that the session outlives it.
    conns[0]!.close();
    assertEquals(await resumed.get("/resumed"), "mine");
    assertEquals(conns.length, 2);
    const [first, second] = resumed.sessions;
    assertEquals(first!.id, second!.id);

    // A session that nobody knows is refused, and the reason is told.
    await using refused = new ZooKeeper(port);
    refused.sessions.push({ id: 42n, password: new Uint8Array(16) });
    const error = await rejection(refused.get("/resumed"));
    assertInstanceOf(error, ConnectError);
    assertMatch(String(error.cause), /session has expired/);
  },
);
