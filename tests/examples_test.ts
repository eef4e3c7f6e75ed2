/**
 * The examples that need no program of others, each run as its first line says
 * and with no more permissions than it names.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import { Client, serve } from "@wirepool/net";
import { freePort, testUnless } from "./machine_support.ts";
import { startCollector } from "./opentelemetry_support.ts";
import {
  exampleCommand,
  type Program,
  startExample,
} from "./programs_support.ts";
import { sleep } from "./time_support.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Deno cannot send a signal that a program may act on under Windows. */
const signals = Deno.build.os !== "windows";

async function portOf(program: Program): Promise<number> {
  const [, port] = await program.says(/Listening on port (\d+)/);
  return Number(port);
}

Deno.test("Every example says in its first line how to run it, within 80 lines", () => {
  let count = 0;
  for (const { name } of Deno.readDirSync("examples")) {
    if (!name.endsWith(".ts")) continue;
    const command = exampleCommand(name);
    assert(command.includes(`examples/${name}`), `${name}: ${command}`);
    assertEquals(command.filter((word) => /^(-A|--allow-all)$/.test(word)), []);
    const lines = Deno.readTextFileSync(`examples/${name}`).split("\n").length;
    // The last line ends, too. The demo is a program with a table to draw.
    if (name !== "demo.ts") assertLess(lines, 81, name);
    count++;
  }
  assertGreater(count, 10);
});

Deno.test("echo_client.ts gets from echo_server.ts what it sent", async () => {
  await using server = startExample("echo_server.ts", ["127.0.0.1:0"]);
  const port = await portOf(server);
  await using client = startExample("echo_client.ts", [
    `127.0.0.1:${port}`,
    "hello",
    "wörld",
  ]);
  assertEquals(await client.succeeds(), "hello\nwörld\n");
  if (signals) {
    server.kill("SIGINT");
    await server.succeeds();
  }
});

Deno.test("kv_server.ts answers kv_client.ts with values and with errors", async () => {
  await using server = startExample("kv_server.ts", ["0"]);
  const port = await portOf(server);
  await using client = startExample("kv_client.ts", [String(port)]);
  assertEquals(
    await client.succeeds(),
    "color is GREEN\nhits 100\nconflict: color is no count\n",
  );
});

Deno.test("kv_server.ts answers a bad call on a connection that lives on", async () => {
  await using server = startExample("kv_server.ts", ["0"]);
  await using client = new Client({ port: await portOf(server), maxCap: 1 });
  const call = async (text: string) =>
    JSON.parse(decoder.decode(await client.send(encoder.encode(text))));
  const refused = { ok: false, code: "bad_request", reason: "No such call" };
  const bad = [
    "",
    "{",
    "null",
    "[]",
    '{"method":"toString","params":[]}',
    '{"method":"get"}',
    '{"method":"get","params":[]}',
    '{"method":"get","params":[1]}',
    '{"method":"set","params":["key"]}',
  ];
  for (const text of bad) assertEquals(await call(text), refused, text);
  const get = '{"method":"get","params":["nothing"]}';
  assertEquals(await call(get), { ok: true, value: null });
  assertEquals(client.stats().pool.openedCount, 1);
  assertEquals(server.output.trim().split("\n").length, 1); // Nothing to report.
});

testUnless(
  !signals && "no signal to ask with",
  "kv_server.ts drains on SIGTERM: what has arrived is answered",
  async () => {
    await using server = startExample("kv_server.ts", ["0"]);
    const port = await portOf(server);
    // Pipelined, so that requests are on the way when the signal comes.
    await using client = new Client({ port, maxCap: 1, pipelining: 1_000 });
    const call = () =>
      client.send(encoder.encode('{"method":"increment","params":["n"]}'));
    await call();
    const calls = Array.from({ length: 1_000 }, call);
    await calls[0];
    server.kill("SIGTERM");
    const answers = await Promise.all(calls);
    assertEquals(JSON.parse(decoder.decode(answers.at(-1))).value, 1_001);
    await server.succeeds();
  },
);

Deno.test("dns_client.ts reads the answers of dns_server.ts", async () => {
  await using server = startExample("dns_server.ts", ["0"]);
  const address = `127.0.0.1:${await portOf(server)}`;
  await using client = startExample(
    "dns_client.ts",
    [address, "one.test", "nothing.test", "TWO.test"],
    { address: ["1.1.1.1:53", address] },
  );
  const output = await client.succeeds();
  assertMatch(output, /^one\.test 192\.0\.2\.1$/m);
  assertMatch(output, /^TWO\.test 192\.0\.2\.2$/m);
  assertMatch(output, /^nothing\.test: NXDOMAIN$/m);
  // One connection carried all of them.
  const ports = server.output.matchAll(/^(\d+) \S+\.test$/gm);
  assertEquals(new Set(Array.from(ports, ([, port]) => port)).size, 1);
});

Deno.test("load.ts speaks the wire it is told, and reports what was answered", async () => {
  let bytes = 0;
  await using server = serve(
    { lengthFieldLength: 2, byteOrder: "little", concurrency: 4 },
    (payload) => {
      bytes += payload.length;
      return payload;
    },
  );
  const { port } = server.addr;
  await using load = startExample("load.ts", [
    `127.0.0.1:${port}`,
    "--lengthFieldLength=2",
    "--byteOrder=little",
    "--connections=3",
    "--pipelining=4",
    "--duration=1.2",
    "--text=five!",
  ]);
  const output = await load.succeeds();
  const answers = Number(/\{ answers: (\d+) \}/.exec(output)![1]);
  const { requests, totalConnections } = server.stats();
  assertEquals(requests, answers + 1); // One before the clock starts.
  assertEquals(bytes, 5 * requests);
  assertEquals(totalConnections, 3);
  assertMatch(output, /^1 s: \d+ answers$/m);
  // The bars count every answer, and the percentiles come in order.
  const bars = [...output.matchAll(/^ *[\d.e+]+ ms #+ (\d+)$/gm)];
  assertEquals(bars.reduce((sum, [, n]) => sum + Number(n), 0), answers);
  const percentiles = [...output.matchAll(/^[\d.]+ % within ([\d.e+]+) ms$/gm)]
    .map(([, ms]) => Number(ms));
  assertEquals(percentiles.length, 5);
  assertEquals(percentiles, percentiles.toSorted((a, b) => a - b));
});

Deno.test("load.ts keeps to its rate, and counts from when a request was due", async () => {
  let requests = 0;
  await using server = serve({}, async (payload) => {
    // The one before the clock starts, the one that stalls, and the others.
    if (++requests === 2) await sleep(300);
    return payload;
  });
  const { port } = server.addr;
  await using load = startExample("load.ts", [
    `127.0.0.1:${port}`,
    "--connections=1",
    "--rate=100",
    "--duration=1",
  ]);
  const output = await load.succeeds();
  const answers = Number(/\{ answers: (\d+) \}/.exec(output)![1]);
  assertLess(answers, 102);
  // One request stalled, but all that were due meanwhile are late.
  let late = 0;
  for (const [, ms, n] of output.matchAll(/^ *([\d.e+]+) ms #+ (\d+)$/gm)) {
    if (Number(ms) > 130) late += Number(n);
  }
  assertGreater(late, 5);
});

Deno.test("load.ts has ids inserted where it is told", async () => {
  await using server = serve(
    { correlation: { length: 2 } },
    (payload) => payload,
  );
  await using load = startExample("load.ts", [
    `127.0.0.1:${server.addr.port}`,
    "--ids=2",
    "--connections=1",
    "--pipelining=8",
    "--duration=0.3",
  ]);
  const output = await load.succeeds();
  const answers = Number(/\{ answers: (\d+) \}/.exec(output)![1]);
  assertGreater(answers, 0);
  assertEquals(server.stats().requests, answers + 1);
});

Deno.test("load.ts refuses an option that it does not know", async () => {
  await using load = startExample("load.ts", ["127.0.0.1:1", "--conections=1"]);
  await load.says(/No option --conections=1/);
});

Deno.test("metrics.ts prints a page that Prometheus can read", async () => {
  const [port, metricsPort] = [freePort(), freePort()];
  await using program = startExample("metrics.ts", [
    String(port),
    String(metricsPort),
  ]);
  await program.says(/Listening/);
  const read = async () => {
    const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`);
    assertStringIncludes(response.headers.get("content-type")!, "text/plain");
    return await response.text();
  };
  const value = (page: string, name: string) =>
    Number(new RegExp(`^${name} (\\S+)$`, "m").exec(page)?.[1] ?? "none");

  let page = await read();
  const before = value(page, "server_requests_total");
  while (value(page, "server_requests_total") < before + 3) page = await read();
  for (const line of page.trimEnd().split("\n")) {
    assertMatch(
      line,
      /^(# TYPE [a-z_]+ (counter|gauge|histogram)|[a-z_]+(\{le="[^"]+"\})? \d+(\.\d+)?(e-\d+)?)$/,
    );
  }
  const types = [...page.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
  assertEquals(types.length, new Set(types).size);
  const handled = value(page, "server_request_seconds_count");
  assertEquals(handled, value(page, "server_requests_total"));
  assertEquals(
    handled,
    value(page, 'server_request_seconds_bucket\\{le="\\+Inf"\\}'),
  );
  assertEquals(value(page, "client_failures_total"), 0);
});

testUnless(
  Deno.build.os !== "linux" && "only Linux spreads connections",
  "multicore.ts spreads requests, and loses none when a process is killed",
  async () => {
    const port = freePort();
    await using parent = startExample("multicore.ts", [String(port)]);
    const [, spread] = await parent.says(/answers by process: (\{[^}]*\})/);
    assertMatch(parent.output, /failed: 0$/m);
    assertMatch(parent.output, /worker \d+ ended: SIGKILL/);
    const counts = Array.from(
      spread!.matchAll(/"(\d+)": (\d+)/g),
      ([, pid, n]) => [Number(pid), Number(n)],
    );
    // Those at the start, and the one that came for the killed.
    assertEquals(
      counts.length,
      Math.max(2, navigator.hardwareConcurrency) + 1,
    );
    for (const [pid, n] of counts) assertGreater(n!, 0, `process ${pid}`);
    parent.kill("SIGTERM");
    await parent.succeeds();
    // The workers ended with it.
    await using client = new Client({ port });
    const answer = await client.send(new Uint8Array()).catch(() => null);
    assertEquals(answer, null);
  },
);

Deno.test("demo.ts compares the modes, and ends with a sentence on what was seen", async () => {
  await using program = startExample("demo.ts", ["300"]); // A phase's length.
  const output = await program.succeeds();
  const [, plain, beside] = output.split(/^(?:payloads|fast ones).*$/m);
  const number = "[\\d,.]+";
  const compared = `(?:${number} times (?:lower|higher)|about the same)`;
  const first = ` +${number} +${number} +${number}`;
  const other = ` +${number} ${compared}`.repeat(3);
  for (
    const [table, rows] of [
      [plain, [first, other, other, other]],
      [beside, ["", first, other, other]],
    ] as const
  ) {
    for (const [i, row] of rows.entries()) {
      const name =
        ["a connection each", "one at a time", "pipelined", "correlated"][i];
      if (row !== "") assertMatch(table!, new RegExp(`^${name} ${row}$`, "m"));
    }
  }
  const last = output.trimEnd().split("\n").at(-1)!;
  assertMatch(last, /^8 shared connections carried .+; next, load .+\.$/);
});

Deno.test("without_sockets.ts needs no permission", async () => {
  assertEquals(exampleCommand("without_sockets.ts").length, 3);
  await using program = startExample("without_sockets.ts", []);
  const output = await program.succeeds();
  assertEquals(output.match(/^ok: /gm)?.length, 3);
});

Deno.test("token.ts lets in who has a token, and says no to others", async () => {
  await using program = startExample("token.ts", ["0"]);
  const output = await program.succeeds();
  assertMatch(output, /^read 200 Ada\nwrite 200 Ada\n/);
  assertMatch(output, /^read 200 Bob\nwrite 403\n/m);
  // The refusal arrives before the connection ends.
  assertMatch(output, /^Error: The server says 401$/m);
  assertMatch(output, /^Error: Unknown token$/m);
});

Deno.test("failover.ts goes on with the next server when one ends", async () => {
  const first = await serveEcho();
  await using second = await serveEcho();
  const addresses = [first, second].map(({ port }) => `127.0.0.1:${port}`);
  await using program = startExample("failover.ts", addresses);
  await program.says(/^1 answers$/m);
  assertEquals(second.server.stats().requests, 0);
  await first[Symbol.asyncDispose]();
  await program.says(/^11 answers$/m);
  assertMatch(program.output, new RegExp(`^${addresses[0]} failed$`, "m"));
  assertGreater(second.server.stats().requests, 5);
});

async function serveEcho() {
  const server = serve({}, (payload) => payload);
  return await Promise.resolve({
    server,
    port: server.addr.port,
    [Symbol.asyncDispose]: () => server.shutdown(),
  });
}

Deno.test("listener.ts serves without the permission to open a socket, and turns away who comes too often", async () => {
  await using program = startExample("listener.ts", ["0"]);
  const port = await portOf(program);
  await using client = new Client({ port, maxCap: 1 });
  const answer = await client.send(Uint8Array.of(1, 2, 3));
  assertEquals(answer, Uint8Array.of(3, 2, 1));
  // More than may come in a second, wherever that begins.
  const conns = await Promise.all(
    Array.from({ length: 8 }, () => Deno.connect({ port })),
  );
  await program.says(/^127\.0\.0\.1 comes too often$/m);
  for (const conn of conns) conn.close();
  assertEquals(await client.send(Uint8Array.of(4)), Uint8Array.of(4));
});

testUnless(
  !signals && "no signal to end a collector with",
  "log_shipper.ts loses only what was on its way to a collector that restarts, and counts it",
  async () => {
    const port = freePort();
    const count = 200_000;
    const input = encoder.encode(
      Array.from({ length: count }, (_, i) => `line ${i}\n`).join(""),
    );
    // It waits for the collector, with no more than its buffer holds.
    await using shipper = startExample("log_shipper.ts", [String(port)], {
      input,
    });
    const collected: number[] = [];
    for (const signal of ["SIGTERM", "SIGTERM", undefined] as const) {
      await using collector = startExample("log_collector.ts", [String(port)]);
      await portOf(collector);
      if (signal === undefined) {
        await shipper.succeeds();
      } else {
        await sleep(300);
        assertEquals(shipper.output, ""); // Not at its end yet.
      }
      collector.kill("SIGTERM");
      const output = await collector.succeeds();
      collected.push(Number(/^(\d+) lines$/m.exec(output)![1]));
    }
    for (const lines of collected) assertGreater(lines, 0);
    const [arrived, doubtful, left] =
      /^(\d+) arrived, (\d+) in doubt, (\d+) left$/
        .exec(shipper.output.trim())!.slice(1).map(Number) as [
          number,
          number,
          number,
        ];
    assertEquals(left, 0);
    assertEquals(arrived + doubtful, count);
    // What is in doubt has arrived or not; nothing else is missing, or twice.
    const total = collected.reduce((sum, lines) => sum + lines);
    assertGreaterOrEqual(total, arrived);
    assertLessOrEqual(total, count);
    // It is no more than what is on its way between two checks.
    assertLess(doubtful, count / 10);
  },
);

testUnless(
  !signals && "no signal to end a server with",
  "pub_sub.ts: a subscription survives a server that is killed and started again",
  async () => {
    const port = freePort();
    const start = () => startExample("pub_sub.ts", ["server", String(port)]);
    const publish = async (topic: string, message: string) => {
      const args = ["publish", String(port), topic, message];
      await using program = startExample("pub_sub.ts", args);
      return await program.succeeds();
    };
    const before = start();
    await portOf(before);
    const args = ["subscribe", String(port), "news"];
    await using subscriber = startExample("pub_sub.ts", args);
    await subscriber.says(/subscribed/);
    assertEquals(await publish("news", "one"), "1 subscribers\n");
    assertEquals(await publish("weather", "rain"), "0 subscribers\n");
    await subscriber.says(/^one$/m);
    const heard = subscriber.output.length;
    before.kill("SIGKILL");
    await before[Symbol.asyncDispose]();
    await using after = start();
    await portOf(after);
    await subscriber.says(/subscribed/, heard);
    assertEquals(await publish("news", "two"), "1 subscribers\n");
    await subscriber.says(/^two$/m, heard);
    assert(!subscriber.output.includes("rain"));
  },
);

Deno.test("opentelemetry.ts exports a span on each side of each request, the server's below the client's", async () => {
  await using collector = startCollector();
  await using program = startExample("opentelemetry.ts", [], {
    env: collector.env,
  });
  assertEquals(
    await program.succeeds(),
    "Hello, Ada\nRequestFailedError: Server could not handle the request\n",
  );
  const [ask, failedAsk] = collector.spans("ask");
  const [greet, failedGreet] = collector.spans("greet");
  assertEquals(collector.spans("ask").length, 2);
  assertEquals(collector.spans("greet").length, 2);

  for (const [client, server] of [[ask, greet], [failedAsk, failedGreet]]) {
    assertEquals(server!.traceId, client!.traceId);
    assertEquals(server!.parentSpanId, client!.spanId);
    assertEquals(client!.parentSpanId, "");
    assertEquals([client!.kind, server!.kind], ["client", "server"]);
    assertLessOrEqual(client!.start, server!.start);
    assertLessOrEqual(server!.end, client!.end);
  }
  assertNotEquals(ask!.traceId, failedAsk!.traceId);
  assertEquals(greet!.attributes, { "request.size": 3 });
  assertEquals(ask!.attributes, { "response.size": 10 });
  assertEquals(failedAsk!.attributes, { "response.size": 0 });
  assertEquals([ask!.failure, greet!.failure], [null, null]);
  assertEquals(failedGreet!.failure, "Error: Nobody to greet");
  assertMatch(failedAsk!.failure!, /^RequestFailedError: /);
});
