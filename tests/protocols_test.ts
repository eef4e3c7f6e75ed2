/**
 * Client and server with the options that read each protocol with ids: answers
 * in any order, over transports in memory. And PROTOCOLS.md, which gives these
 * options.
 */
import { assert, assertEquals } from "@std/assert";
import {
  Client,
  FrameDecoder,
  FrameEncoder,
  FrameError,
  serve,
  serveConnection,
  type Transport,
  transportPair,
} from "../mod.ts";
import { pattern } from "./bytes_support.ts";
import { startBlock } from "./docs_support.ts";
import {
  protocol,
  type ProtocolName,
  type ProtocolOptions,
  PROTOCOLS,
} from "./protocols_support.ts";
import { rejection } from "./promise_support.ts";

const ROOT = new URL("..", import.meta.url);
const names = Object.keys(PROTOCOLS) as ProtocolName[];
const options: Record<ProtocolName, ProtocolOptions> = PROTOCOLS;
const correlated = names.filter((name) => options[name].correlation);

/** Requests under way at once. */
const REQUESTS = 20;

/** A message that ends with its number; whatever stands before that. */
function message(n: number): Uint8Array {
  const payload = pattern(64, n);
  payload[63] = n;
  return payload;
}

/** Reads frames from a transport, until there are so many. */
async function readFrames(
  transport: Transport,
  decoder: FrameDecoder,
  count: number,
): Promise<{ id: number; n: number }[]> {
  const frames: { id: number; n: number }[] = [];
  while (frames.length < count) {
    const n = await transport.read(decoder.space());
    if (n === null) throw new Error("The stream has ended");
    decoder.advance(n);
    for (let frame; (frame = decoder.decode()) !== null;) {
      frames.push({ id: decoder.id, n: frame.at(-1)! });
    }
  }
  return frames;
}

/** Lets handlers that wait settle one after the other, the last one first. */
function answerBackwards(waiting: (() => void)[]): void {
  waiting.reduceRight((before, next) => before.then(next), Promise.resolve());
}

/** Writes all that an encoder holds. */
async function drain(transport: Transport, encoder: FrameEncoder) {
  for (let chunk; (chunk = encoder.chunk()) !== null;) {
    encoder.advance(await transport.write(chunk));
  }
}

for (const name of correlated) {
  Deno.test(`${name}: a Client takes answers in any order`, async () => {
    const { frame, request, response } = protocol(name);
    const [here, there] = transportPair();
    await using client = new Client({ ...options[name], connect: () => here });
    const sent = Array.from(
      { length: REQUESTS },
      (_, n) => client.send(message(n)),
    );
    const frames = await readFrames(
      there,
      new FrameDecoder(frame, request),
      REQUESTS,
    );
    assertEquals(frames.map(({ n }) => n), [...Array(REQUESTS).keys()]);
    assertEquals(new Set(frames.map(({ id }) => id)).size, REQUESTS);
    const encoder = new FrameEncoder(frame, response);
    for (const { id, n } of frames.toReversed()) {
      encoder.push(message(100 + n), id);
    }
    await drain(there, encoder);
    for (const [n, answer] of (await Promise.all(sent)).entries()) {
      assertEquals(answer.at(-1), 100 + n);
    }
  });

  Deno.test(`${name}: serveConnection() answers in any order`, async () => {
    const { frame, request, response } = protocol(name);
    const [here, there] = transportPair();
    const waiting: (() => void)[] = [];
    const serving = serveConnection(here, async (payload) => {
      const n = payload.at(-1)!;
      await new Promise<void>((resolve) => {
        if (waiting.push(resolve) < REQUESTS) return;
        answerBackwards(waiting);
      });
      return message(100 + n);
    }, options[name]);
    const encoder = new FrameEncoder(frame, request);
    const ids = Array.from({ length: REQUESTS }, (_, n) => 3 * n + 1);
    for (const [n, id] of ids.entries()) encoder.push(message(n), id);
    await drain(there, encoder);
    const frames = await readFrames(
      there,
      new FrameDecoder(frame, response),
      REQUESTS,
    );
    assertEquals(
      frames,
      ids.map((id, n) => ({ id, n: 100 + n })).toReversed(),
    );
    there.close();
    await serving;
  });
}

for (const name of correlated) {
  if (protocol(name).request?.offset === undefined) continue; // It gets room.
  Deno.test(`${name}: a request without room for its id is refused`, async () => {
    const [here] = transportPair();
    await using client = new Client({ ...options[name], connect: () => here });
    const error = await rejection(client.send(new Uint8Array(1)));
    assert(error instanceof FrameError, `${error}`);
    assertEquals(client.stats().inFlight, 0);
  });
}

// Without the codec on the other side: by hand, from Modbus's specification.

/** Reads exactly so many bytes. */
async function readExactly(conn: Deno.Conn, length: number) {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const n = await conn.read(bytes.subarray(at));
    if (n === null) throw new Error("The stream has ended");
    at += n;
  }
  return bytes;
}

/** Reads one message: transaction, protocol, length; then unit and PDU. */
async function readModbus(conn: Deno.Conn) {
  const header = await readExactly(conn, 6);
  const view = new DataView(header.buffer);
  assertEquals(view.getUint16(2), 0);
  const body = await readExactly(conn, view.getUint16(4));
  return { transaction: view.getUint16(0), body };
}

async function writeModbus(
  conn: Deno.Conn,
  transaction: number,
  body: number[],
) {
  const header = new Uint8Array(6);
  const view = new DataView(header.buffer);
  view.setUint16(0, transaction);
  view.setUint16(4, body.length);
  await conn.write(Uint8Array.of(...header, ...body));
}

/** Unit 1, function 3: one register from this one on. */
const readRegister = (at: number) => [1, 3, at >> 8, at & 0xff, 0, 1];
/** Its answer: two bytes, the register's value. */
const register = (value: number) => [1, 3, 2, value >> 8, value & 0xff];

Deno.test("Modbus TCP: a Client asks a server written by hand, which answers the last request first", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serving = (async () => {
    using conn = await listener.accept();
    for (let round = 0; round < 5; round++) {
      const requests: Awaited<ReturnType<typeof readModbus>>[] = [];
      while (requests.length < REQUESTS) requests.push(await readModbus(conn));
      for (const { transaction, body } of requests.toReversed()) {
        const at = body[2]! << 8 | body[3]!;
        assertEquals([...body], readRegister(at));
        await writeModbus(conn, transaction, register(3 * at));
      }
    }
  })();
  await using client = new Client({
    ...PROTOCOLS["Modbus TCP"],
    port: listener.addr.port,
  });
  for (let round = 0; round < 5; round++) {
    const answers = Array.from({ length: REQUESTS }, async (_, n) => {
      const at = 1000 * round + n;
      const payload = Uint8Array.of(0, 0, 0, 0, ...readRegister(at));
      assertEquals([...await client.send(payload)], register(3 * at));
    });
    await Promise.all(answers);
  }
  assertEquals(client.stats().pool.openedCount, 1);
  await serving;
});

Deno.test("Modbus TCP: serve answers a client written by hand, the last request first", async () => {
  const waiting: (() => void)[] = [];
  await using server = serve(PROTOCOLS["Modbus TCP"], async (frame) => {
    await new Promise<void>((resolve) => {
      if (waiting.push(resolve) < REQUESTS) return;
      answerBackwards(waiting.splice(0));
    });
    const at = frame[2]! << 8 | frame[3]!;
    return Uint8Array.of(0, 0, 0, 0, ...register(3 * at));
  });
  using conn = await Deno.connect({ port: server.addr.port });
  for (const first of [100, 65_500]) {
    const transactions = Array.from({ length: REQUESTS }, (_, n) => first + n);
    for (const [n, transaction] of transactions.entries()) {
      await writeModbus(conn, transaction, readRegister(n));
    }
    for (const [n, transaction] of [...transactions.entries()].toReversed()) {
      const answer = await readModbus(conn);
      assertEquals(answer.transaction, transaction);
      assertEquals([...answer.body], register(3 * n));
    }
  }
});

/** The sections of PROTOCOLS.md, by their headings. */
function sections(): Map<string, string> {
  const text = Deno.readTextFileSync(new URL("PROTOCOLS.md", ROOT));
  const parts = text.split(/^## /m).slice(1);
  return new Map(parts.map((part) => {
    const end = part.indexOf("\n");
    return [part.slice(0, end), part.slice(end)];
  }));
}

/** The options of a section, written so that they compile when they are used. */
const LITERAL = /^const options = (\{$[^]*?^\}) as const;$/m;

Deno.test("PROTOCOLS.md gives for each protocol the options that are tested", () => {
  const found = sections();
  for (const name of names) {
    const section = found.get(name);
    assert(section !== undefined, `${name} is missing`);
    const literal = LITERAL.exec(section)?.[1];
    assert(literal !== undefined, `${name} has no options`);
    assertEquals(new Function(`return (${literal})`)(), options[name], name);
  }
});

Deno.test("PROTOCOLS.md gives options that compile where they are used, as they stand there", async () => {
  const uses = names.map((name) =>
    `{
      ${LITERAL.exec(sections().get(name)!)![0]}
      await using server = serve(options, (payload) => payload);
      await using client = new Client({ ...options, port: server.addr.port });
      used += client.stats().requests + 1;
    }`
  );
  await using program = startBlock(
    `// deno run --check --allow-net=127.0.0.1 x.ts
    import { Client, serve } from "@wirepool/net";
    let used = 0;
    ${uses.join("\n")}
    console.log(used);
  `,
  );
  assertEquals(await program.succeeds(), `${names.length}\n`);
});

Deno.test("PROTOCOLS.md names a proof for each protocol, and its handshake and ids", () => {
  const found = sections();
  for (const name of names) {
    const section = found.get(name)!;
    for (const word of ["Handshake", "Ids", "Proof"]) {
      assert(section.includes(`- **${word}**:`), `${name}: no ${word}`);
    }
    const [, proof] = section.split("- **Proof**:");
    const files = [...proof!.matchAll(/`([a-z]+\/[^`]+)`/g)];
    assert(files.length > 0, `${name}: its proof is no file`);
    for (const [, file] of files) Deno.statSync(new URL(file!, ROOT));
  }
});

Deno.test("PROTOCOLS.md has a row in its table for each protocol", () => {
  const text = Deno.readTextFileSync(new URL("PROTOCOLS.md", ROOT));
  const rows = [...text.matchAll(/^\| \[[^\]]+\]\(#([a-z0-9-]+)\)/gm)];
  assertEquals(
    rows.map(([, anchor]) => anchor),
    names.map((name) => name.toLowerCase().replaceAll(/[^a-z0-9 -]/g, ""))
      .map((name) => name.replaceAll(" ", "-")),
  );
});
