// Node and Bun: where they are, and the library laid out for them as a package,
// transpiled, as JSR does for those who install it with npm.

/** The oldest Node that the library supports. */
const OLDEST_NODE = 22;

/** What npm is asked for where a runtime is missing. */
const PACKAGES = { node: "node@24", bun: "bun@1" };

const ROOT = new URL("../", import.meta.url);

/** A runtime that is there. */
export interface Runtime {
  readonly command: string;
  readonly version: string;
}

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

/**
 * Finds a runtime that is new enough: installed, or in a folder that is kept,
 * where npm is asked to put it if it is missing and CI=true.
 */
export async function findRuntime(
  name: "node" | "bun",
): Promise<Runtime | undefined> {
  const cache = `${Deno.env.get("TMPDIR") ?? "/tmp"}/wirepool-runtimes`;
  const kept = `${cache}/node_modules/.bin/${name}`;
  for (const command of [name, kept]) {
    const version = await versionOf(command);
    if (version !== undefined && isSupported(name, version)) {
      return { command, version };
    }
  }
  if (Deno.env.get("CI") !== "true") return undefined;
  await Deno.mkdir(cache, { recursive: true });
  console.log(`+ npm install ${PACKAGES[name]}`);
  const { success, stderr } = await new Deno.Command("npm", {
    args: [
      "install",
      "--no-audit",
      "--no-fund",
      "--prefix",
      cache,
      PACKAGES[name],
    ],
    cwd: cache,
    stdin: "null",
  }).output().catch((error) => ({
    success: false,
    stderr: new TextEncoder().encode(String(error)),
  }));
  if (!success) console.log(new TextDecoder().decode(stderr));
  const version = await versionOf(kept);
  return version === undefined ? undefined : { command: kept, version };
}

async function versionOf(command: string): Promise<string | undefined> {
  try {
    const { success, stdout } = await new Deno.Command(command, {
      args: ["--version"],
    }).output();
    const text = new TextDecoder().decode(stdout).trim();
    // Where there is no Node, Deno may take its place.
    if (!success || text.startsWith("deno")) return undefined;
    return text.replace(/^v/, "");
  } catch {
    return undefined;
  }
}

function isSupported(name: "node" | "bun", version: string): boolean {
  return name === "bun" || parseInt(version) >= OLDEST_NODE;
}
