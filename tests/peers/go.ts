/** The default wire against Go's `net`, both ways. */
import { equals } from "@std/bytes";
import { assert, assertEquals } from "@std/assert";
import { Client, serve } from "@wirepool/net";
import { Program, testPeers } from "../programs_support.ts";

async function build(go: string, folder: string): Promise<string> {
  const binary = `${folder}/wire`;
  const source = new URL("wire.go", import.meta.url).pathname;
  await using compiler = new Program(go, ["build", "-o", binary, source], {
    cwd: folder,
    // Nothing is fetched, and nothing is left behind.
    env: { GOCACHE: `${folder}/cache`, GOFLAGS: "-mod=mod", GOPROXY: "off" },
  });
  await compiler.succeeds();
  return binary;
}

testPeers("Go's net answers a Client, pipelined and not", ["go"], async (
  { go },
  folder,
) => {
  await using server = new Program(await build(go, folder), ["serve"]);
  const [, port] = await server.says(/port (\d+)/);
  for (const pipelining of [1, 16]) {
    await using client = new Client({
      port: Number(port),
      maxCap: 4,
      pipelining,
    });
    const requests = Array.from({ length: 1_000 }, (_, i) => {
      // Sizes on both sides of every buffer, the largest of 128 KiB.
      const length = Math.max(0, 2 ** (i % 18) - (i % 3));
      return new Uint8Array(length).map((_, at) => 31 * i + at);
    });
    const responses = await Promise.all(
      requests.map((request) => client.send(request)),
    );
    for (const [i, response] of responses.entries()) {
      assert(equals(response, requests[i]!.toReversed()), `request ${i}`);
    }
    assertEquals(client.stats().pool.openedCount, 4);
  }
});

testPeers(
  "serve answers a client of Go's net, pipelined and not",
  ["go"],
  async (
    { go },
    folder,
  ) => {
    const binary = await build(go, folder);
    await using server = serve({}, (payload) => payload.toReversed());
    const { port } = server.addr as Deno.NetAddr;
    const runs = [1, 64].flatMap((depth) => [depth, depth]).map(
      async (depth) => {
        await using client = new Program(binary, [
          "send",
          String(port),
          "2000",
          String(depth),
        ]);
        assertEquals(await client.succeeds(), "2000 responses\n");
      },
    );
    await Promise.all(runs);
    const { requests, errors } = server.stats();
    assertEquals({ requests, errors }, { requests: 8_000, errors: 0 });
  },
);
