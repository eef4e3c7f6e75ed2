/**
 * memcached's binary protocol: answers by opaque, quiet commands as `notify`,
 * and what quiet commands do answer as pushes.
 */
import { assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { Client, type ClientOptions } from "@wirepool/net";
import { ascii, bytes, pattern, textOf } from "../bytes_support.ts";
import { freePort } from "../machine_support.ts";
import { type Program, startServer, testPeers } from "../programs_support.ts";
import { PROTOCOLS } from "../protocols_support.ts";
import { eventually, sleep } from "../time_support.ts";

/** Opcodes. */
const GET = 0x00, SET = 0x01, DELETE = 0x04, NOOP = 0x0a;
const GET_KEY_QUIETLY = 0x0d, SET_QUIETLY = 0x11;

function startMemcached(path: string, port: number): Promise<Program> {
  const user = Deno.uid() === 0 ? ["-u", "nobody"] : [];
  return startServer(port, path, [
    ...["-l", "127.0.0.1", "-p", String(port), "-U", "0", "-t", "2", ...user],
  ]);
}

/** A request as the codec wants it: without its length. */
function request(
  opcode: number,
  { key = "", extras = bytes(), value = bytes(), opaque = 0 }: {
    key?: string;
    extras?: Uint8Array;
    value?: Uint8Array;
    opaque?: number;
  } = {},
): Uint8Array {
  const header = new Uint8Array(20);
  const view = new DataView(header.buffer);
  header.set([0x80, opcode]);
  view.setUint16(2, key.length);
  header[4] = extras.length;
  view.setUint32(8, opaque);
  return concat([header, extras, ascii(key), value]);
}

interface Response {
  opcode: number;
  status: number;
  opaque: number;
  key: string;
  value: Uint8Array;
}

function parse(frame: Uint8Array): Response {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  assertEquals(frame[0], 0x81);
  assertEquals(view.getUint32(8), frame.length - 24);
  const key = 24 + frame[4]!; // behind the extras
  const value = key + view.getUint16(2);
  return {
    opcode: frame[1]!,
    status: view.getUint16(6),
    opaque: view.getUint32(12),
    key: textOf(frame.subarray(key, value)),
    value: frame.subarray(value),
  };
}

const set = (key: string, value: Uint8Array, opcode = SET) =>
  request(opcode, { key, value, extras: new Uint8Array(8) });

function newClient(port: number, options: Partial<ClientOptions> = {}): Client {
  return new Client({ port, ...PROTOCOLS.memcached, ...options });
}

testPeers(
  "Answers of memcached go to their requests by opaque",
  ["memcached"],
  async ({ memcached }) => {
    const port = freePort();
    await using _server = await startMemcached(memcached, port);
    await using client = newClient(port);
    const call = async (payload: Uint8Array) =>
      parse(await client.send(payload));
    // Sizes on both sides of every buffer.
    const values = Array.from(
      { length: 300 },
      (_, i) => pattern(2 ** (i % 18) - i % 3, i),
    );
    const stored = values.map((value, i) => call(set(`key${i}`, value)));
    for (const { opcode, status } of await Promise.all(stored)) {
      assertEquals([opcode, status], [SET, 0]);
    }
    const read = values.map((_, i) => call(request(GET, { key: `key${i}` })));
    const opaques = new Set<number>();
    for (
      const [i, { status, value, opaque }] of (await Promise.all(read))
        .entries()
    ) {
      assertEquals(status, 0);
      assertEquals(value, values[i]);
      opaques.add(opaque);
    }
    assertEquals(opaques.size, values.length);
    // Not found is an answer like others.
    assertEquals((await call(request(DELETE, { key: "none" }))).status, 1);
    assertEquals(client.stats().pool.openedCount, 1);
  },
);

testPeers(
  "Quiet commands of memcached are notifications, and its answers to them pushes",
  ["memcached"],
  async ({ memcached }) => {
    const port = freePort();
    await using _server = await startMemcached(memcached, port);
    const pushes: Response[] = [];
    await using client = newClient(port, {
      onPush: (frame) => void pushes.push(parse(frame)),
    });
    for (let i = 0; i < 50; i++) {
      await client.notify(set(`key${i}`, ascii(`value ${i}`), SET_QUIETLY));
    }
    // What was notified before it has been done.
    const last = parse(await client.send(request(GET, { key: "key49" })));
    assertEquals(textOf(last.value), "value 49");

    // Many keys at once, as the protocol's draft advises: hits alone answer, and
    // the one that is not quiet comes behind them. Opaques with the high bit set
    // are the caller's own.
    const asked = Array.from(
      { length: 100 },
      (_, i) =>
        client.notify(request(GET_KEY_QUIETLY, {
          key: `key${i}`,
          opaque: 0x8000_0000 + i,
        })),
    );
    const { opcode, status } = parse(await client.send(request(NOOP)));
    assertEquals([opcode, status], [NOOP, 0]);
    await Promise.all(asked);
    assertEquals(
      pushes.map(({ opaque, key, value }) => [opaque, key, textOf(value)]),
      Array.from(
        { length: 50 },
        (_, i) => [0x8000_0000 + i, `key${i}`, `value ${i}`],
      ),
    );
    assertEquals(client.stats().pool.openedCount, 1);
  },
);

testPeers(
  "A no-op of memcached is a ping, and tells of its death",
  ["memcached"],
  async ({ memcached }) => {
    const port = freePort();
    const server = await startMemcached(memcached, port);
    try {
      await using client = newClient(port, {
        ping: () => request(NOOP, { opaque: 0xffff_fffe }),
        pingInterval: 100,
        pingTimeout: 300,
      });
      await client.send(request(NOOP));
      await sleep(500);
      assertEquals(client.stats().pool.pingFailedCount, 0);
      assertEquals(client.stats().pool.openedCount, 1);
      // It neither answers nor closes.
      server.kill("SIGSTOP");
      await eventually("the end of the silent connection", () => {
        const { open, pingFailedCount } = client.stats().pool;
        return open === 0 && pingFailedCount === 1;
      });
      server.kill("SIGCONT");
      await client.send(request(NOOP));
      assertEquals(client.stats().pool.openedCount, 2);
    } finally {
      server.kill("SIGCONT");
      await server[Symbol.asyncDispose]();
    }
  },
);
