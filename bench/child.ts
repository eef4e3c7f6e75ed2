// Processes of the benchmarks: a parent calls functions of a child by name,
// one line of JSON each way over the child's standard input and output.

import { PROFILING } from "./profiler.ts";

/** Calls that a child answers. */
// deno-lint-ignore no-explicit-any
export type Calls = Record<string, (...args: any[]) => unknown>;

interface Answer {
  id: number;
  result?: unknown;
  error?: string;
}

/** A child process, as its parent sees it. */
export class Child implements AsyncDisposable {
  readonly #script: string;
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #pending = new Map<
    number,
    { resolve: (result: unknown) => void; reject: (error: Error) => void }
  >();
  #calls = 0;

  /** Starts `script`, a module of this folder. */
  constructor(script: string, flags: readonly string[] = []) {
    this.#script = script;
    this.#process = new Deno.Command("deno", {
      args: [
        "run",
        "--quiet",
        "--allow-net=127.0.0.1",
        "--allow-read",
        "--allow-env",
        "--allow-sys",
        ...flags,
        new URL(script, import.meta.url).href,
      ],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#listen();
  }

  /** Calls a function of the child. */
  call<R>(name: string, ...args: unknown[]): Promise<R> {
    const id = this.#calls++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { resolve, reject });
    const line = JSON.stringify({ id, name, args }) + "\n";
    this.#input.write(new TextEncoder().encode(line))
      .catch(() => reject(this.#gone()));
    return promise as Promise<R>;
  }

  /** Ends the child: it exits at the end of its input. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close().catch(() => {});
    await this.#process.status;
  }

  async #listen(): Promise<void> {
    for await (const line of lines(this.#process.stdout)) {
      // A peer may print something of its own.
      if (!line.startsWith("{")) continue;
      const { id, result, error }: Answer = JSON.parse(line);
      const call = this.#pending.get(id);
      this.#pending.delete(id);
      if (error === undefined) call?.resolve(result);
      else call?.reject(new Error(`${this.#script}: ${error}`));
    }
    for (const { reject } of this.#pending.values()) {
      reject(this.#gone());
    }
  }

  #gone(): Error {
    return new Error(`${this.#script} has ended`);
  }
}

/** Answers calls until the input ends: the whole life of a child. Each can be
 * profiled. */
export async function answer(own: Calls): Promise<never> {
  const calls = { ...PROFILING, ...own };
  for await (const line of lines(Deno.stdin.readable)) {
    respond(calls, line);
  }
  Deno.exit();
}

async function respond(calls: Calls, line: string): Promise<void> {
  const { id, name, args } = JSON.parse(line);
  let answer: Answer;
  try {
    answer = { id, result: await calls[name]!(...args) };
  } catch (error) {
    const text = error instanceof Error ? error.stack : undefined;
    answer = { id, error: text ?? String(error) };
  }
  console.log(JSON.stringify(answer));
}

function lines(bytes: ReadableStream<Uint8Array>): AsyncIterable<string> {
  let rest = "";
  return bytes.pipeThrough(new TextDecoderStream() as TransformStream)
    .pipeThrough(
      new TransformStream<string, string>({
        transform(text, controller) {
          const parts = (rest + text).split("\n");
          rest = parts.pop()!;
          for (const part of parts) controller.enqueue(part);
        },
      }),
    );
}

/** Resolves after so many milliseconds. */
export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
