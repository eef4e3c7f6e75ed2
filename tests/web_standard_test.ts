/**
 * codec.ts and pool.ts use web-standard APIs only: here they run under Node,
 * from their own sources with the types taken out and nothing put in.
 */
import { assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { testUnless } from "./machine_support.ts";

/** Why there is no Node to run, or false. */
function whyNoNode(): string | false {
  const asked = { name: "run", command: "node" } as const;
  if (Deno.permissions.querySync(asked).state !== "granted") {
    return "may not run node";
  }
  try {
    new Deno.Command("node", { args: ["--version"] }).outputSync();
    return false;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "node is not installed";
    throw error;
  }
}

const whyNot = whyNoNode();

const testNode = (name: string, test: () => Promise<void>) =>
  testUnless(whyNot, name, test);

/** A module of this package and the rooms behind it, as JavaScript by name; and
 * what they import from elsewhere. */
interface Sources {
  readonly modules: Record<string, string>;
  readonly foreign: string[];
}

async function sourcesOf(module: string): Promise<Sources> {
  const modules: Record<string, string> = {};
  const foreign = new Set<string>();
  const visit = async (name: string) => {
    if (modules[name] !== undefined) return;
    const code = modules[name] = await transpile(name);
    const found = code.matchAll(/^(?:import|export)\b[^;]*?\bfrom "(.+)";$/gm);
    for (const [, specifier] of found) {
      if (specifier!.startsWith("./")) await visit(specifier!.slice(2));
      else foreign.add(specifier!);
    }
  };
  await visit(module);
  return { modules, foreign: [...foreign] };
}

async function transpile(module: string): Promise<string> {
  const { stdout, stderr, success } = await new Deno.Command("deno", {
    args: ["transpile", module],
    cwd: new URL("..", import.meta.url),
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

/** Has Node find the modules, which stand in no file that it could read. */
const LOADER = `
  let modules;
  export const initialize = (given) => { modules = given; };
  export const resolve = (specifier, context, next) => {
    const name = specifier.replace(/^\\.\\//, "");
    return modules[name] === undefined
      ? next(specifier, context)
      : { url: "wirepool:" + name, shortCircuit: true };
  };
  export const load = (url, context, next) =>
    url.startsWith("wirepool:")
      ? { format: "module", source: modules[url.slice(9)], shortCircuit: true }
      : next(url, context);
`;

function asModule(code: string): string {
  return `data:text/javascript,${encodeURIComponent(code)}`;
}

/** Runs `program` under Node, which may import the modules; it must end of
 * itself, and without an error. */
async function runNode(
  modules: Record<string, string>,
  program: string,
): Promise<void> {
  const child = new Deno.Command("node", {
    args: ["--input-type=module", "-"],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(60_000),
  }).spawn();
  const stdin = child.stdin.getWriter();
  const source = `
    import { register } from "node:module";
    register(${JSON.stringify(asModule(LOADER))}, { data: ${
    JSON.stringify(modules)
  } });
    await import(${JSON.stringify(asModule(program))});
  `;
  await stdin.write(new TextEncoder().encode(source));
  await stdin.close();
  const { code, stdout, stderr } = await child.output();
  assertEquals(new TextDecoder().decode(stderr), "");
  assertEquals(new TextDecoder().decode(stdout), "done\n");
  assertEquals(code, 0);
}

testNode("codec.ts runs under Node", async () => {
  const { modules, foreign } = await sourcesOf("codec.ts");
  assertEquals(foreign, ["@std/bytes"]);
  // The function itself, as it runs here.
  modules["@std/bytes"] = `export ${concat}`;
  await runNode(
    modules,
    `
    import assert from "node:assert/strict";
    import * as codec from "codec.ts";

    const bytes = (...b) => Uint8Array.from(b);
    const payloads = [bytes(), bytes(1), bytes(2, 3), new Uint8Array(100_000).fill(4)];

    for (const lengthFieldLength of [3, 4, 8]) {
      for (const byteOrder of ["big", "little"]) {
        const options = { lengthFieldLength, byteOrder };
        const decoder = new codec.FrameDecoder(options);
        const frames = [];
        for (const payload of payloads) {
          const wire = codec.encodeFrame(payload, options);
          for (let at = 0; at < wire.length; at += 999) {
            decoder.push(wire.subarray(at, at + 999));
            frames.push(...decoder);
          }
        }
        decoder.finish();
        assert.deepEqual(frames, payloads);
      }
    }

    // Buffer is a Uint8Array, and the frames are plain ones.
    const decoder = new codec.FrameDecoder({ lengthFieldLength: 2 });
    decoder.push(Buffer.from([0, 2, 7, 8]));
    assert.deepEqual(decoder.decode(), bytes(7, 8));

    // The errors.
    decoder.push(bytes(0));
    assert.throws(() => decoder.finish(), (error) =>
      error instanceof codec.TruncatedFrameError &&
      error instanceof codec.FrameError &&
      error.expected === 2 && error.received === 1);
    assert.throws(() => codec.encodeFrame(bytes(1, 2), { maxFrameLength: 1 }),
      codec.FrameTooLargeError);
    assert.throws(() => codec.encodeFrame(new Uint8Array(256), { lengthFieldLength: 1 }),
      codec.InvalidFrameLengthError);
    assert.throws(() => new codec.FrameDecoder({ maxFrameLength: NaN }), RangeError);
    const huge = new codec.FrameDecoder();
    huge.push(new Uint8Array(8).fill(255));
    assert.throws(() => huge.decode(), (error) => error.length === 2n ** 64n - 1n);

    // A writer and a reader, over short writes.
    const wires = [];
    const writer = new codec.FrameWriter({
      write: async (p) => {
        const n = Math.min(p.length, 5000);
        wires.push(p.slice(0, n));
        return n;
      },
    });
    await Promise.all(payloads.map((payload) => writer.write(payload)));
    const reader = new codec.FrameReader({
      read: async (p) => {
        const wire = wires.shift();
        if (wire === undefined) return null;
        const n = Math.min(p.length, wire.length);
        p.set(wire.subarray(0, n));
        if (n < wire.length) wires.unshift(wire.subarray(n));
        return n;
      },
    });
    const read = [];
    for await (const frame of reader) read.push(frame);
    assert.deepEqual(read, payloads);

    // The streams.
    const source = new ReadableStream({
      start(controller) {
        for (const payload of payloads) controller.enqueue(payload);
        controller.close();
      },
    });
    const piped = [];
    for await (
      const frame of source
        .pipeThrough(new codec.FrameEncoderStream())
        .pipeThrough(new codec.FrameDecoderStream())
    ) piped.push(frame);
    assert.deepEqual(piped, payloads);

    console.log("done");
  `,
  );
});

testNode(
  "pool.ts runs under Node, and its timers do not keep the process alive",
  async () => {
    const { modules, foreign } = await sourcesOf("pool.ts");
    assertEquals(foreign, []);
    await runNode(
      modules,
      `
    import assert from "node:assert/strict";
    import { Pool, PoolClosedError, PoolTimeoutError } from "pool.ts";

    let made = 0;
    const closed = [];
    const pool = await Pool.open({
      factory: async () => ({ id: ++made }),
      close: (resource) => void closed.push(resource.id),
      initialCap: 1,
      maxCap: 2,
      idleTimeout: 3_600_000,
    });
    const [first, second] = await Promise.all([pool.get(), pool.get()]);
    assert.notEqual(first, second);
    assert.equal(pool.tryGet(), undefined);
    await assert.rejects(pool.get({ timeout: 5 }), PoolTimeoutError);
    const third = pool.get();
    pool.put(first);
    assert.equal(await third, first);
    pool.discard(second);
    pool.put(first);
    assert.equal(await pool.use((resource) => resource.id), first.id);
    assert.equal(pool.stats().idle, 1);
    await pool.close();
    assert.deepEqual(closed.sort(), [1, 2]);
    await assert.rejects(pool.get(), PoolClosedError);

    // Left open, with a reaper that has something to wait for.
    const left = await Pool.open({
      factory: () => ({}),
      initialCap: 1,
      idleTimeout: 3_600_000,
    });
    assert.equal(left.stats().open, 1);
    console.log("done");
  `,
    );
  },
);
