/** The codec reads a real PostgreSQL server's messages, and a client enters. */
import { assertEquals, assertInstanceOf, assertMatch } from "@std/assert";
import { Client, ConnectError } from "@wirepool/net/client";
import { encodeFrame, FrameReader, FrameWriter } from "@wirepool/net/codec";
import { bytes, textOf } from "../bytes_support.ts";
import { freePort } from "../machine_support.ts";
import {
  Program,
  type ProgramOptions,
  startExample,
  testPeers,
} from "../programs_support.ts";
import { PROTOCOLS } from "../protocols_support.ts";
import { rejection } from "../promise_support.ts";
import { eventually } from "../time_support.ts";

const PROGRAMS = ["initdb", "postgres"] as const;

/** PostgreSQL refuses to run as root: then it is nobody's. */
async function owner(folder: string): Promise<ProgramOptions> {
  if (Deno.uid() !== 0) return { cwd: folder };
  const [uid, gid] = [65_534, 65_534];
  await Deno.chown(folder, uid, gid);
  return { cwd: folder, uid, gid };
}

async function startPostgres(
  { initdb, postgres }: Record<typeof PROGRAMS[number], string>,
  folder: string,
  port: number,
): Promise<Program> {
  const options = await owner(folder);
  const data = `${folder}/data`;
  await using init = new Program(initdb, [
    "--no-sync",
    "--no-instructions",
    "--auth=trust",
    "--username=postgres",
    "--encoding=UTF8",
    "--locale=C",
    data,
  ], options);
  await init.succeeds();
  const server = new Program(postgres, [
    ...["-D", data, "-h", "127.0.0.1", "-p", String(port), "-k", "", "-F"],
  ], options);
  await server.says(/ready to accept connections/);
  return server;
}

testPeers("postgres_frames.ts reads a session of PostgreSQL", PROGRAMS, async (
  paths,
  folder,
) => {
  const port = freePort();
  await using _server = await startPostgres(paths, folder, port);
  await using example = startExample("postgres_frames.ts", [
    String(port),
    "postgres",
  ]);
  const lines = (await example.succeeds()).trim().split("\n");
  assertEquals(lines.slice(0, 2), ["Authentication ok", "ReadyForQuery"]);
  assertMatch(lines[2]!, /^DataRow 42 null \d+\.\d+/);
  assertEquals(lines.slice(3, 5), [
    "CommandComplete SELECT 1",
    "ReadyForQuery",
  ]);
  assertMatch(lines[5]!, /^ErrorResponse .*relation "nowhere" does not exist/);
  assertEquals(lines.slice(6), ["ReadyForQuery", "The server hung up"]);
});

testPeers(
  "A FrameReader gives every row of PostgreSQL, small and large",
  PROGRAMS,
  async (
    paths,
    folder,
  ) => {
    const port = freePort();
    await using _server = await startPostgres(paths, folder, port);
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    const layout = {
      lengthFieldOffset: 1,
      lengthFieldLength: 4,
      lengthAdjustment: -4,
    } as const;
    const reader = new FrameReader(conn, { ...layout, initialBytesToStrip: 0 });
    const writer = new FrameWriter(conn, layout);
    const encoder = new TextEncoder();
    const decoder = new TextDecoder();
    // Without a type byte, hence without the offset.
    await conn.write(
      encodeFrame(encoder.encode("\0\x03\0\0user\0postgres\0\0"), {
        lengthFieldLength: 4,
        lengthAdjustment: -4,
      }),
    );

    const rows: Uint8Array[] = [];
    const untilReady = async () => {
      for await (const frame of reader) {
        const type = String.fromCharCode(frame[0]!);
        // A row of one column: type, length, 1, the column's length, the column.
        if (type === "D") rows.push(frame.subarray(11));
        if (type === "E") throw new Error(decoder.decode(frame));
        if (type === "Z") return;
      }
    };
    await untilReady();

    // Two queries in one write; the first with more rows than any buffer holds.
    const small = writer.write(
      encoder.encode("QSELECT i FROM generate_series(1, 50000) AS i\0"),
    );
    const large = writer.write(
      encoder.encode(
        "QSELECT repeat(chr(64 + i), i * 1000000) FROM generate_series(1, 3) AS i\0",
      ),
    );
    await Promise.all([small, large, untilReady().then(untilReady)]);
    assertEquals(rows.length, 50_003);
    for (const [i, row] of rows.slice(0, 50_000).entries()) {
      if (decoder.decode(row) !== String(i + 1)) {
        assertEquals(decoder.decode(row), String(i + 1));
      }
    }
    for (const [i, row] of rows.slice(50_000).entries()) {
      assertEquals(row.length, (i + 1) * 1_000_000);
      assertEquals(row.every((byte) => byte === 65 + i), true);
    }
    await writer.write(encoder.encode("X"));
    assertEquals(await reader.read(), null);
  },
);

testPeers(
  "A Client enters PostgreSQL, is told what it refuses, and drops what it ends",
  PROGRAMS,
  async (paths, folder) => {
    const port = freePort();
    await using _server = await startPostgres(paths, folder, port);
    const processes: number[] = [];
    const newClient = (database: string) =>
      new Client({
        ...PROTOCOLS.PostgreSQL,
        maxCap: 1,
        // The first message alone has no type byte, so it is no frame.
        connect: async (signal) => {
          const conn = await Deno.connect({ port, signal });
          const startup = `\0\x03\0\0user\0postgres\0database\0${database}\0\0`;
          await conn.write(
            encodeFrame(bytes(startup), {
              lengthFieldLength: 4,
              lengthAdjustment: -4,
            }),
          );
          return conn;
        },
        handshake: async (conn) => {
          for (;;) {
            const frame = await conn.read();
            const type = String.fromCharCode(frame[0]!);
            if (type === "E") throw new Error(textOf(frame.subarray(5)));
            const view = new DataView(frame.buffer, frame.byteOffset);
            if (type === "K") processes.push(view.getInt32(5));
            if (type === "Z") return;
          }
        },
      });

    await using client = newClient("postgres");
    // Sync, whose answer is ReadyForQuery: idle.
    const sync = () => client.send(bytes("S"));
    const ready = bytes("Z", 0, 0, 0, 5, "I");
    assertEquals(await Promise.all([sync(), sync(), sync()]), [
      ready,
      ready,
      ready,
    ]);
    assertEquals(processes.length, 1);

    await using refused = newClient("nowhere");
    const error = await rejection(refused.send(bytes("S")));
    assertInstanceOf(error, ConnectError);
    assertMatch(String(error.cause), /database "nowhere" does not exist/);

    // The server's process for it says unasked that it is told to go, and goes.
    Deno.kill(processes[0]!, "SIGTERM");
    await eventually("its end", () => client.stats().pool.open === 0);
    assertEquals(await sync(), ready);
    assertEquals(client.stats().retries, 0);
  },
);
