/**
 * OPTIONS.md against the options themselves: a row for each, with the default
 * that its documentation says, and no row for what does not exist.
 */
import { assert, assertEquals, assertGreater } from "@std/assert";
import { documentText } from "./docs_support.ts";

/** An option, as its interface documents it. */
interface Option {
  name: string;
  optional: boolean;
  /** What `@default {…}` says, if it does. */
  standard: string | undefined;
}

/** The interfaces by the section that tells of them. */
const SECTIONS: Record<string, [file: string, name: string][]> = {
  "The wire": [["codec.ts", "FrameOptions"]],
  "Correlation": [["codec.ts", "CorrelationOptions"]],
  "The server": [
    ["server.ts", "ConnectionOptions"],
    ["server.ts", "ServeOptions"],
  ],
  "The client": [["client.ts", "ClientOptions"]],
  "One request": [["client.ts", "SendOptions"]],
  "The pool": [["pool.ts", "PoolOptions"]],
};

const HOOKS = {
  server: ["server.ts", "ServerHooks"],
  client: ["client.ts", "ClientHooks"],
  pool: ["pool.ts", "PoolHooks"],
} as const;

/** Reads the members of an interface at the top level of a module. */
function optionsOf(file: string, name: string): Option[] {
  const [, body] = new RegExp(
    `^export interface ${name}\\b[^{]*(?:\\n> extends [^{]*)?\\{\\n(.*?)^\\}`,
    "ms",
  ).exec(documentText(file)) ?? [];
  assert(body !== undefined, `${file} has no interface ${name}`);
  // A member stands two spaces in; its comment is the one before it.
  const members = body.matchAll(
    /^ {2}\/\*\*((?:(?!\*\/).)*)\*\/\n {2}(?:readonly )?(\w+)(\??)[:(]/gms,
  );
  return Array.from(members, ([, comment, name, mark]) => ({
    name: name!,
    optional: mark === "?",
    standard: /@default \{(.*?)\}(?:\s|$)/s.exec(comment!)?.[1],
  }));
}

/** The rows of the tables of a section, cell by cell. */
function rowsOf(section: string): string[][] {
  const [, text = ""] = documentText("OPTIONS.md")
    .split(new RegExp(`^## ${section}$`, "m"));
  return text.split(/^## /m)[0]!.split("\n")
    .filter((line) => /^\| (?!-|option\b|of\b)/.test(line))
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
}

/** Without what only the eye needs. */
function plain(text: string): string {
  return text.replaceAll(/[`_]/g, "").replaceAll(/\s+/g, " ").trim();
}

for (const [section, interfaces] of Object.entries(SECTIONS)) {
  Deno.test(`OPTIONS.md, "${section}": a row for each option, with its default`, () => {
    const options = interfaces.flatMap((where) => optionsOf(...where));
    const rows = rowsOf(section);
    assertGreater(options.length, 0);
    assertEquals(
      rows.map(([name]) => plain(name!)).sort(),
      options.map(({ name }) => name).sort(),
    );
    for (const { name, optional, standard } of options) {
      const [, , cell] = rows.find(([first]) => plain(first!) === name)!;
      const expected = !optional
        ? "required"
        : standard === undefined || standard === "undefined"
        ? /^none\b/
        : standard;
      const said = plain(cell!);
      const right = typeof expected === "string"
        ? said.startsWith(plain(expected).split(/, with|, or/)[0]!)
        : expected.test(said);
      assert(right, `${name}: the table says ${cell}, its doc ${standard}`);
    }
  });
}

Deno.test('OPTIONS.md, "Hooks": a row for each hook', () => {
  const hooks = Object.entries(HOOKS).flatMap(([of, [file, name]]) =>
    optionsOf(file, name).map((hook) => `${of} ${hook.name}`)
  );
  const rows = rowsOf("Hooks").map(([of, hook]) =>
    `${of} ${/\w+/.exec(hook!)![0]}`
  );
  assertGreater(hooks.length, 0);
  assertEquals(rows.sort(), hooks.sort());
});
