// Stand-ins for @std/assert and @std/bytes where JSR cannot be reached.
//
//   deno task std        (demo, test, ok and the other tasks run it first)
//
// The sources import `jsr:@std/…`, as published code should. Where JSR answers,
// this script leaves Deno to fetch those packages. Where it does not but npm
// does, the script lays each out in `vendor/` the way Deno itself vendors a JSR
// package, with code from the pinned npm package `deno-std` (the standard
// library repackaged, without types) and the declarations below, which follow
// the standard library's own. Nothing here is published.

const JSR = "https://jsr.io";
const PATIENCE_MS = 3_000;
const VENDOR = new URL("../vendor/", import.meta.url);
/** Version of `deno-std`, and of the stand-ins: a version JSR does not have. */
const VERSION = "1.4.0";

/** What this project uses, and no more. After a change, remove `vendor/`: what
 * is laid out there already is left alone. */
const DECLARATIONS: Record<string, string> = {
  assert: `
type AnyConstructor = abstract new (...args: any[]) => any;
type ErrorConstructor<E extends Error> = abstract new (...args: any[]) => E;
type Falsy = false | 0 | 0n | "" | null | undefined;

export class AssertionError extends Error {
  constructor(message: string, options?: ErrorOptions);
}
export function assert(expr: unknown, msg?: string): asserts expr;
export function assertAlmostEquals(actual: number, expected: number, tolerance?: number, msg?: string): void;
export function assertEquals<T>(actual: T, expected: T, msg?: string): void;
export function assertExists<T>(actual: T, msg?: string): asserts actual is NonNullable<T>;
export function assertFalse(expr: unknown, msg?: string): asserts expr is Falsy;
export function assertGreater<T>(actual: T, expected: T, msg?: string): void;
export function assertGreaterOrEqual<T>(actual: T, expected: T, msg?: string): void;
export function assertInstanceOf<T extends AnyConstructor>(actual: unknown, expectedType: T, msg?: string): asserts actual is InstanceType<T>;
export function assertLess<T>(actual: T, expected: T, msg?: string): void;
export function assertLessOrEqual<T>(actual: T, expected: T, msg?: string): void;
export function assertMatch(actual: string, expected: RegExp, msg?: string): void;
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void;
export function assertNotStrictEquals<T>(actual: T, expected: T, msg?: string): void;
export function assertObjectMatch(actual: Record<PropertyKey, any>, expected: Record<PropertyKey, unknown>, msg?: string): void;
export function assertRejects(fn: () => PromiseLike<unknown>, msg?: string): Promise<unknown>;
export function assertRejects<E extends Error = Error>(fn: () => PromiseLike<unknown>, ErrorClass: ErrorConstructor<E>, msgIncludes?: string, msg?: string): Promise<E>;
export function assertStrictEquals<T>(actual: unknown, expected: T, msg?: string): asserts actual is T;
export function assertStringIncludes(actual: string, expected: string, msg?: string): void;
export function assertThrows(fn: () => unknown, msg?: string): unknown;
export function assertThrows<E extends Error = Error>(fn: () => unknown, ErrorClass: ErrorConstructor<E>, msgIncludes?: string, msg?: string): E;
export function fail(msg?: string): never;
export function unreachable(msg?: string): never;
`,
  bytes: `
export function concat(buffers: readonly Uint8Array[]): Uint8Array<ArrayBuffer>;
export function copy(src: Uint8Array, dst: Uint8Array, offset?: number): number;
export function endsWith(source: Uint8Array, suffix: Uint8Array): boolean;
export function equals(a: Uint8Array, b: Uint8Array): boolean;
export function includesNeedle(source: Uint8Array, needle: Uint8Array, start?: number): boolean;
export function indexOfNeedle(source: Uint8Array, needle: Uint8Array, start?: number): number;
export function startsWith(source: Uint8Array, prefix: Uint8Array): boolean;
`,
};

const missing: string[] = [];
for (const name of Object.keys(DECLARATIONS)) {
  if (!await isVendored(name)) missing.push(name);
}
if (missing.length > 0 && !await jsrAnswers()) {
  for (const name of missing) await vendor(name);
  console.log(
    `JSR does not answer: npm:deno-std@${VERSION} stands in for ` +
      missing.map((name) => `@std/${name}`).join(" and "),
  );
}

function packageDir(name: string): URL {
  return new URL(`${new URL(JSR).host}/@std/${name}/`, VENDOR);
}

/** `meta.json` is what Deno looks for first in a vendored package. */
async function isVendored(name: string): Promise<boolean> {
  try {
    return (await Deno.stat(new URL("meta.json", packageDir(name)))).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function jsrAnswers(): Promise<boolean> {
  try {
    const response = await fetch(`${JSR}/@std/bytes/meta.json`, {
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    // A proxy that answers in JSR's place does not answer with this.
    return (await response.json()).name === "bytes";
  } catch {
    return false;
  }
}

async function vendor(name: string): Promise<void> {
  const sources = {
    "/mod.js": `/* @ts-self-types="./mod.d.ts" */\n` +
      `export * from "npm:deno-std@${VERSION}/${name}/mod.js";\n`,
    "/mod.d.ts": DECLARATIONS[name]!.trimStart(),
  };
  const manifest: Record<string, { size: number; checksum: string }> = {};
  for (const [path, text] of Object.entries(sources)) {
    const bytes = new TextEncoder().encode(text);
    const digest = await crypto.subtle.digest("SHA-256", bytes);
    manifest[path] = {
      size: bytes.length,
      checksum: `sha256-${new Uint8Array(digest).toHex()}`,
    };
  }
  const files = {
    "meta.json": JSON.stringify({
      scope: "std",
      name,
      latest: VERSION,
      versions: { [VERSION]: {} },
    }),
    [`${VERSION}_meta.json`]: JSON.stringify({
      manifest,
      exports: { ".": "./mod.js" },
    }),
    ...Object.fromEntries(
      Object.entries(sources).map(([path, text]) => [VERSION + path, text]),
    ),
  };

  // Written aside and moved into place whole, so that a run cut short leaves
  // nothing that Deno, or the next run, would take for a package.
  const aside = new URL(`.std-${crypto.randomUUID()}/`, VENDOR);
  const target = packageDir(name);
  try {
    await Deno.mkdir(new URL(`${VERSION}/`, aside), { recursive: true });
    for (const [path, text] of Object.entries(files)) {
      await Deno.writeTextFile(new URL(path, aside), text);
    }
    await Deno.mkdir(new URL("../", target), { recursive: true });
    await Deno.rename(aside, target);
  } catch (error) {
    await Deno.remove(aside, { recursive: true }).catch(() => {});
    // Another run may have moved the same package into place first.
    if (!await isVendored(name)) throw error;
  }
}
