/**
 * The rooms of the library, as ARCHITECTURE.md draws them: what imports what,
 * that nothing goes in a circle, and that every room says what happens in it.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";

const ROOT = new URL("../", import.meta.url);
const PUBLIC = ["client.ts", "codec.ts", "mod.ts", "pool.ts", "server.ts"];

/** The modules at the top level by name: their text and what they import. */
const modules = new Map<string, { text: string; imports: string[] }>();
for (const { name } of Deno.readDirSync(ROOT)) {
  if (!name.endsWith(".ts")) continue;
  const text = Deno.readTextFileSync(new URL(name, ROOT));
  const found = text.matchAll(
    /^(?:import|export)\b[^;]*?\bfrom "([^"\n]+)";|^import "([^"\n]+)";/gm,
  );
  modules.set(name, {
    text,
    imports: Array.from(found, (match) => match[1] ?? match[2]!),
  });
}

/** A module and all that it imports, directly or not. */
function reach(name: string, seen = new Set<string>()): Set<string> {
  if (seen.has(name)) return seen;
  seen.add(name);
  for (const specifier of modules.get(name)?.imports ?? []) {
    reach(specifier.replace(/^\.\//, ""), seen);
  }
  return seen;
}

Deno.test("The top level holds the five public modules and private rooms", () => {
  const names = [...modules.keys()].sort();
  assertEquals(names.filter((name) => !name.startsWith("_")), PUBLIC);
  assert(names.length > PUBLIC.length);
});

Deno.test("Nothing imports in a circle, types included", () => {
  const done = new Set<string>();
  const visit = (name: string, path: string[]) => {
    assert(!path.includes(name), [...path, name].join(" -> "));
    if (done.has(name)) return;
    for (const specifier of modules.get(name)?.imports ?? []) {
      if (specifier.startsWith("./")) {
        visit(specifier.slice(2), [...path, name]);
      }
    }
    done.add(name);
  };
  for (const name of modules.keys()) visit(name, []);
});

Deno.test("Rooms import rooms and public modules, and @std/bytes alone from elsewhere", () => {
  for (const [name, { imports }] of modules) {
    for (const specifier of imports) {
      if (specifier.startsWith("./")) {
        assert(modules.has(specifier.slice(2)), `${name}: ${specifier}`);
      } else {
        const known = specifier === "@std/bytes" ||
          specifier.startsWith("node:");
        assert(known, `${name} imports ${specifier}`);
      }
    }
  }
});

Deno.test("Nobody knows the server, the codec and the pool know neither each other nor the client", () => {
  for (const name of modules.keys()) {
    if (name === "mod.ts") continue;
    const known = reach(name);
    known.delete(name);
    assert(!known.has("server.ts"), `${name} knows the server`);
    assert(!known.has("client.ts"), `${name} knows the client`);
    assert(!known.has("mod.ts"), `${name} knows mod.ts`);
  }
  assert(!reach("codec.ts").has("pool.ts"));
  assert(!reach("pool.ts").has("codec.ts"));
  assert(!reach("server.ts").has("pool.ts"));
});

Deno.test("No module that everything must pass through: each public module stands without the others' rooms", () => {
  const rooms = (name: string) =>
    [...reach(name)].filter((room) => room.startsWith("_"));
  for (const name of rooms("pool.ts")) {
    assert(!/^_(server|client|proxy|listen|connect|dial)/.test(name), name);
  }
  for (const name of rooms("codec.ts")) {
    assert(
      !/^_(server|client|pool|proxy|listen|connect|dial)/.test(name),
      name,
    );
  }
});

Deno.test("Every private room says first what happens in it, what it knows and what it must not know", () => {
  for (const [name, { text }] of modules) {
    if (!name.startsWith("_")) continue;
    const head = /^(?:\/\/.*\n)+/.exec(text)?.[0] ?? "";
    assertMatch(head, /Knows/, `${name} does not say what it knows`);
    assertMatch(head.replaceAll("\n// ", " "), /[Mm]ust not\s+know/, name);
  }
});

Deno.test("Nothing public is exported from a private room", () => {
  for (const name of PUBLIC) {
    const { text } = modules.get(name)!;
    const forwarded = text.matchAll(/^export [^;]*from "\.\/(_[^"]+)"/gm);
    assertEquals([...forwarded].map((match) => match[1]), [], name);
  }
});

/** The text of a head or of a table's cell, with white space folded. */
function folded(text: string): string {
  return text.replaceAll(/\s+/g, " ").trim().toLowerCase();
}

Deno.test("ARCHITECTURE.md says of every room what its own head says", () => {
  const page = Deno.readTextFileSync(new URL("ARCHITECTURE.md", ROOT));
  const rows = new Map(
    page.matchAll(/^\| `(\w+\.ts)` *\|(.*)\|$/gm).map((
      [, name, cells],
    ) => [name!, cells!.split("|").map(folded)]),
  );
  for (const [name, { text }] of modules) {
    if (name === "mod.ts") continue;
    const row = rows.get(name);
    assert(row !== undefined, `${name} has no row in ARCHITECTURE.md`);
    if (!name.startsWith("_")) continue;
    const head = /^(?:\/\/.*\n)+/.exec(text)![0].replaceAll(/^\/\/ ?/gm, "");
    const [, knows, mustNot] =
      /Knows:(.*?)Must\s+not\s+know:(.*?)(?:\n\n|$)/s.exec(head) ?? [];
    assertEquals(row, [
      folded(head.split("\n\n")[0]!),
      folded(knows ?? ""),
      folded(mustNot ?? ""),
    ], name);
  }
});
