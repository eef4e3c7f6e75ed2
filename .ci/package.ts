// Lays the library out as a package for Node and Bun: transpiled, as JSR does for
// those who install it with npm.

const ROOT = new URL("../", import.meta.url);

/**
 * Writes the library's modules, and others of the repository, as JavaScript.
 *
 * @param folder A folder that exists.
 * @param others Modules besides those of the top level, by their paths.
 */
export async function layOut(
  folder: string,
  others: readonly string[] = [],
): Promise<void> {
  const sources = [...others];
  for await (const { name } of Deno.readDir(ROOT)) {
    if (name.endsWith(".ts")) sources.push(name);
  }
  const { success, stderr } = await new Deno.Command("deno", {
    args: ["transpile", "--no-check", "--outdir", folder, ...sources],
    cwd: ROOT,
    stdout: "null",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  for (const source of sources) {
    const path = `${folder}/${asScript(source)}`;
    const code = await Deno.readTextFile(path);
    await Deno.writeTextFile(
      path,
      code.replaceAll(/(from "\.{1,2}\/[^"]+)\.ts"/g, '$1.js"'),
    );
  }
  await Deno.writeTextFile(`${folder}/package.json`, '{ "type": "module" }');
  // The one function of the standard library that is used, as it runs here.
  const { concat } = await import("@std/bytes");
  const std = `${folder}/node_modules/@std/bytes`;
  await Deno.mkdir(std, { recursive: true });
  await Deno.writeTextFile(
    `${std}/package.json`,
    '{ "name": "@std/bytes", "type": "module", "exports": "./mod.js" }',
  );
  await Deno.writeTextFile(`${std}/mod.js`, `export ${concat}\n`);
}

/** The path of what a module becomes. */
export function asScript(source: string): string {
  return source.replace(/\.ts$/, ".js");
}
