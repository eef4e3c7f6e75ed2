/**
 * The programs in the documents: what a reader would copy, and what its
 * comments say that it prints.
 */
import { Program, type ProgramOptions } from "./programs_support.ts";

const ROOT = new URL("..", import.meta.url);

/** One fenced block of TypeScript in a document. */
export interface Block {
  /** The heading above it. */
  heading: string;
  code: string;
}

/** The text of a document, by its path from the root. */
export function documentText(path: string): string {
  return Deno.readTextFileSync(new URL(path, ROOT));
}

/** The blocks of TypeScript of a document, in order. */
export function blocksOf(path: string): Block[] {
  const blocks: Block[] = [];
  let heading = "";
  let block: { language: string; lines: string[] } | undefined;
  for (const line of documentText(path).split("\n")) {
    const fence = /^```(\w*)/.exec(line);
    if (block === undefined) {
      heading = /^#+ (.+)$/.exec(line)?.[1] ?? heading;
      if (fence !== null) block = { language: fence[1]!, lines: [] };
    } else if (fence === null) {
      block.lines.push(line);
    } else {
      const code = `${block.lines.join("\n")}\n`;
      if (block.language === "ts") blocks.push({ heading, code });
      block = undefined;
    }
  }
  return blocks;
}

/** What a program prints, by the comments behind its `console.log`s. */
export function expectedOutput(code: string): string {
  const comments = code.matchAll(/console\.log\(.*\).*; \/\/ (.+)$/gm);
  return Array.from(comments, ([, text]) => `${text}\n`).join("");
}

/**
 * Starts a program of a document as if it stood in a file of a user who has
 * installed the package.
 *
 * @param options `allow`: its permissions; those in its first line, or the
 * loopback's, if left out. `folder`: where it runs.
 */
export function startBlock(
  code: string,
  { folder = ROOT, ...options }: ProgramOptions & { folder?: URL } = {},
): Program {
  const command = /^\/\/ (?:\w+\.ts: )?(?:\S+=\S+ )?deno run (.*) \S+\.ts/
    .exec(code)?.[1] ?? "--allow-net=127.0.0.1";
  return new Program("deno", [
    "run",
    "--quiet",
    "--no-prompt",
    `--config=${new URL("deno.json", ROOT).pathname}`,
    ...command.split(" "),
    "-",
  ], { ...options, cwd: folder, input: new TextEncoder().encode(code) });
}
