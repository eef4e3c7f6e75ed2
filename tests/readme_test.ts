/**
 * The documents that a newcomer reads: every program in them runs as it stands
 * and prints what it says, and every link in them leads somewhere.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertStringIncludes,
} from "@std/assert";
import { Client, serve } from "@wirepool/net";
import {
  type Block,
  blocksOf,
  documentText,
  expectedOutput,
  startBlock,
} from "./docs_support.ts";
import { freePort, testUnless, windows } from "./machine_support.ts";
import type { ProgramOptions } from "./programs_support.ts";

const TESTDATA = new URL("testdata/", import.meta.url);

/** What is published, and the documents among it. */
const { include: PUBLISHED }: { include: string[] } =
  JSON.parse(documentText("deno.json")).publish;
const DOCUMENTS = PUBLISHED.filter((name) => name.endsWith(".md"));

const readme = blocksOf("README.md");
const recipes = readme.filter(({ code }) =>
  !/^\/\/ (client|server)\.ts/.test(code)
);

/** What a recipe needs around it, by its heading. */
const surroundings: Record<
  string,
  (block: Block) => Promise<AsyncDisposable & Surroundings>
> = {
  "Through a proxy": startProxyAndServer,
};
const options: Record<string, ProgramOptions & { folder?: URL }> = {
  "Authentication by certificate": { folder: TESTDATA },
  "Tracing": { env: { OTEL_DENO: "true", OTEL_TRACES_EXPORTER: "none" } },
};

interface Surroundings {
  code: string;
}

/** They wait for requests or for a signal; tests of their own run them. */
const SERVERS = ["A graceful end"];

for (
  const [document, blocks] of [
    ["README.md", recipes],
    ["MIGRATING.md", blocksOf("MIGRATING.md")],
  ] as const
) {
  for (const block of blocks) runBlock(document, block);
}

function runBlock(document: string, block: Block): void {
  const { heading } = block;
  if (SERVERS.includes(heading)) return;
  Deno.test(`${document}, "${heading}": the program prints what it says`, async () => {
    const expected = expectedOutput(block.code);
    assertGreater(expected.length, 0);
    await using around = await surroundings[heading]?.(block) ?? null;
    const code = around?.code ?? block.code;
    await using program = startBlock(code, options[heading]);
    assertEquals(await program.succeeds(), expected);
  });
}

Deno.test("README.md: its client greets its server", async () => {
  const [server, client] = ["server.ts", "client.ts"].map((name) =>
    readme.find(({ code }) => code.startsWith(`// ${name}`))!.code
  );
  const port = freePort();
  const at = (code: string) => code.replace("4000", String(port));
  await using running = startBlock(at(server!));
  await running.says(new RegExp(`Listening on port ${port}\n`));
  await using caller = startBlock(at(client!));
  assertEquals(await caller.succeeds(), "Hello, Ada!\n");
  if (!windows) {
    running.kill("SIGINT");
    await running.succeeds();
  }
});

testUnless(
  windows && "no signal to ask with",
  'README.md, "A graceful end": it ends on SIGTERM, and then tidies up',
  async () => {
    const { code } = recipes.find(({ heading }) => heading === SERVERS[0])!;
    await using server = startBlock(code.replace("4000", "0"));
    const [, port] = await server.says(/Listening on port (\d+)\n/);
    // Once it answers, it also listens to signals.
    await using client = new Client({ port: Number(port) });
    assertEquals(await client.send(Uint8Array.of(1)), Uint8Array.of(1));
    server.kill("SIGTERM");
    assertStringIncludes(await server.succeeds(), "\nEnded\n");
  },
);

Deno.test("README.md: its recipes are those that were promised, within 30 lines each", () => {
  for (const { heading, code } of recipes) {
    assertLess(code.trimEnd().split("\n").length, 31, heading);
  }
  assertEquals(new Set(recipes.map(({ heading }) => heading)).size, 16);
});

Deno.test("README.md: there are at most two screens before the first recipe", () => {
  const [before] = documentText("README.md").split("\n## Recipes\n");
  assertLess(before!.split("\n").length, 2 * 50);
});

Deno.test("Links in the documents lead to what is published, and to headings that exist", () => {
  for (const name of ["README.md", "OPTIONS.md", "MIGRATING.md"]) {
    assert(DOCUMENTS.includes(name), `${name} is not published`);
  }
  let count = 0;
  for (const name of DOCUMENTS) {
    const text = documentText(name).replace(/^```.*?^```$/gms, "");
    const links = text.matchAll(/\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$/gm);
    for (const [, inline, reference] of links) {
      const link = inline ?? reference!;
      if (/^[a-z]+:/.test(link)) continue;
      const [path, anchor] = link.split("#");
      const target = path === ""
        ? name
        : new URL(path!, `file:///${name}`).pathname.slice(1);
      assert(PUBLISHED.includes(target), `${name}: ${link}`);
      if (anchor !== undefined) {
        assert(anchors(documentText(target)).has(anchor), `${name}: ${link}`);
      }
      count++;
    }
  }
  assertGreater(count, 20);
});

Deno.test("The documents name examples and tasks that exist", () => {
  const { tasks } = JSON.parse(documentText("deno.json"));
  let count = 0;
  for (const name of DOCUMENTS) {
    const text = documentText(name);
    for (const [example] of text.matchAll(/\bexamples\/\w+\.\w+/g)) {
      assert(documentText(example).length > 0, `${name}: ${example}`);
      count++;
    }
    for (const [, task] of text.matchAll(/\bdeno task ([\w:]+)/g)) {
      assert(Object.hasOwn(tasks, task!), `${name}: deno task ${task}`);
      count++;
    }
  }
  assertGreater(count, 20);
});

/** The names that a heading can be linked to by. */
function anchors(text: string): Set<string> {
  const titles = text.matchAll(/^#+ (.+)$/gm);
  return new Set(
    Array.from(
      titles,
      ([, title]) =>
        title!.toLowerCase().replace(/[^\w\- ]/g, "").replaceAll(" ", "-"),
    ),
  );
}

/** A proxy by the method CONNECT, as far as one recipe needs it. */
async function startProxyAndServer(
  { code }: Block,
): Promise<AsyncDisposable & Surroundings> {
  const server = serve({}, (payload) => payload);
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const tunnels: Promise<void>[] = [];
  const accepting = (async () => {
    for await (const conn of listener) tunnels.push(tunnel(conn));
  })();
  return await Promise.resolve({
    code: code
      .replace("3128", String(listener.addr.port))
      .replace("4000", String(server.addr.port)),
    async [Symbol.asyncDispose]() {
      listener.close();
      await accepting;
      await Promise.all(tunnels);
      await server.shutdown();
      assertGreater(tunnels.length, 0);
    },
  });
}

async function tunnel(conn: Deno.Conn): Promise<void> {
  const room = new Uint8Array(1024);
  let head = "";
  while (!head.endsWith("\r\n\r\n")) {
    const n = await conn.read(room);
    if (n === null) return conn.close();
    head += new TextDecoder().decode(room.subarray(0, n));
  }
  const port = Number(
    /^CONNECT 127\.0\.0\.1:(\d+) HTTP\/1\.1\r\n/.exec(head)![1],
  );
  const target = await Deno.connect({ hostname: "127.0.0.1", port });
  await conn.write(new TextEncoder().encode("HTTP/1.1 200 OK\r\n\r\n"));
  await Promise.allSettled([
    conn.readable.pipeTo(target.writable),
    target.readable.pipeTo(conn.writable),
  ]);
}
