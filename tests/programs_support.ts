/**
 * Programs beside the tests: the examples, run by the command in their first
 * line, and the peers that others wrote. Each is ended by the test that started
 * it.
 */

const ROOT = new URL("..", import.meta.url);

/** How long a program may take to say what is waited for, or to end. */
const PATIENCE = 30_000;

/** Options of {@linkcode Program}. */
export interface ProgramOptions {
  cwd?: string | URL;
  env?: Record<string, string>;
  /** Written to its standard input, which then ends. */
  input?: Uint8Array;
  uid?: number;
  gid?: number;
}

/** A program that runs, with all it has said so far. */
export class Program implements AsyncDisposable {
  readonly #name: string;
  readonly #child: Deno.ChildProcess;
  /** Resolves when its output has ended and so has it. */
  readonly #ended: Promise<Deno.CommandStatus>;
  #alive = true;
  #output = "";
  #heard = Promise.withResolvers<void>();

  constructor(
    command: string,
    args: string[],
    { input, ...options }: ProgramOptions = {},
  ) {
    this.#name = [command, ...args].join(" ");
    this.#child = new Deno.Command(command, {
      args,
      cwd: ROOT,
      ...options,
      stdin: input === undefined ? "null" : "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#ended = this.#run(input);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** What it has written to both its outputs. */
  get output(): string {
    return this.#output;
  }

  /** Sends it a signal. */
  kill(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  /** Waits until its output, from some place on, matches. */
  async says(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    const deadline = performance.now() + PATIENCE;
    for (;;) {
      const match = pattern.exec(this.#output.slice(from));
      if (match !== null) return match;
      if (!this.#alive) throw this.#failure(`ended without ${pattern}`);
      const left = deadline - performance.now();
      if (left <= 0) throw this.#failure(`did not say ${pattern}`);
      await within(left, this.#heard.promise);
    }
  }

  /** Waits until somebody listens on a port, as it says that it will. */
  async listens(port: number): Promise<void> {
    const deadline = performance.now() + PATIENCE;
    for (;;) {
      try {
        (await Deno.connect({ hostname: "127.0.0.1", port })).close();
        return;
      } catch (error) {
        if (!(error instanceof Deno.errors.ConnectionRefused)) throw error;
      }
      const late = performance.now() > deadline;
      if (late || !this.#alive) throw this.#failure(`did not listen`);
      await within(20, this.#ended);
    }
  }

  /** Waits for its end, which must be a success, and returns its output. */
  async succeeds(): Promise<string> {
    const status = await within(PATIENCE, this.#ended);
    if (status === undefined) throw this.#failure("did not end");
    if (!status.success) {
      throw this.#failure(`ended with ${status.signal ?? status.code}`);
    }
    return this.#output;
  }

  /** Ends it, kindly first. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      if (!this.#alive) break;
      try {
        this.#child.kill(signal);
      } catch {
        // It has ended just now.
      }
      await within(5_000, this.#ended);
    }
  }

  async #run(input: Uint8Array | undefined): Promise<Deno.CommandStatus> {
    const hear = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) {
        this.#output += text;
        this.#wake();
      }
    };
    const write = async () => {
      if (input === undefined) return;
      const writer = this.#child.stdin.getWriter();
      await writer.write(input);
      await writer.close();
    };
    const [status] = await Promise.all([
      this.#child.status,
      hear(this.#child.stdout),
      hear(this.#child.stderr),
      write(),
    ]);
    this.#alive = false;
    this.#wake();
    return status;
  }

  #wake(): void {
    this.#heard.resolve();
    this.#heard = Promise.withResolvers();
  }

  #failure(what: string): Error {
    return new Error(`${this.#name} ${what}; its output:\n${this.#output}`);
  }
}

/**
 * Starts a program that listens on a port of the loopback, and waits until it
 * does.
 */
export async function startServer(
  port: number,
  command: string,
  args: string[],
  options: ProgramOptions = {},
): Promise<Program> {
  const program = new Program(command, args, options);
  try {
    await program.listens(port);
    return program;
  } catch (error) {
    await program[Symbol.asyncDispose]();
    throw error;
  }
}

/** Resolves to what `promise` does, or to undefined when the time is up. */
async function within<T>(
  ms: number,
  promise: Promise<T>,
): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, ms, undefined);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The text of a file in the examples' folder. */
export function exampleText(name: string): string {
  return Deno.readTextFileSync(new URL(`examples/${name}`, ROOT));
}

/** The words of the command in an example's first line. */
export function exampleCommand(name: string): string[] {
  const [line] = exampleText(name).split("\n");
  const command = /^\/\/ (deno run .+)$/.exec(line!);
  if (command === null) throw new Error(`${name} does not say how to run it`);
  return command[1]!.split(" ");
}

/**
 * Starts an example by the command in its first line: with its permissions,
 * and no others.
 *
 * @param args In place of those in the line.
 * @param address In place of one that the line names also as a permission.
 */
export function startExample(
  name: string,
  args: string[],
  options: ProgramOptions & { address?: [from: string, to: string] } = {},
): Program {
  const { address: [from, to] = ["", ""], ...rest } = options;
  const words = exampleCommand(name);
  const flags = words.slice(2, words.indexOf(`examples/${name}`));
  return new Program("deno", [
    "run",
    "--no-prompt",
    ...flags.map((flag) => flag.replace(from, to)),
    new URL(`examples/${name}`, ROOT).href,
    ...args,
  ], rest);
}

/**
 * Declares a test against programs that others wrote. Its name tells their
 * versions. Where one of them is not installed the test is ignored, and its name
 * says why.
 *
 * @param test Gets the programs' paths by their names, and a folder that is
 * removed afterwards.
 */
export function testPeers<Name extends string>(
  name: string,
  programs: readonly Name[],
  test: (paths: Record<Name, string>, folder: string) => Promise<void>,
): void {
  const found = programs.map((name) => [name, findProgram(name)] as const);
  const missing = found.filter(([, path]) => path === null);
  if (missing.length > 0) {
    const names = missing.map(([name]) => name).join(", ");
    return Deno.test.ignore(`${name} (not installed: ${names})`, () => {});
  }
  const paths = Object.fromEntries(found) as Record<Name, string>;
  const versions = new Set(
    found.map(([name, path]) => versionOf(path!) ?? name),
  );
  Deno.test(`${name} (${[...versions].join(", ")})`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      await test(paths, folder);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

/** Looks also where Debian keeps servers, which not every PATH names. */
function findProgram(name: string): string | null {
  const folders = (Deno.env.get("PATH") ?? "").split(":");
  folders.push("/usr/local/sbin", "/usr/sbin", "/sbin");
  // Not programs themselves, but what an interpreter runs.
  folders.push("/usr/share/java", "/usr/lib/python3/dist-packages");
  try {
    for (const { name } of Deno.readDirSync("/usr/lib/postgresql")) {
      folders.push(`/usr/lib/postgresql/${name}/bin`);
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  for (const folder of folders) {
    try {
      if (Deno.statSync(`${folder}/${name}`).isFile) return `${folder}/${name}`;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return null;
}

/** The Debian package that a program is of, and its version. */
function versionOf(path: string): string | undefined {
  const ask = (...args: string[]) => {
    const { success, stdout } = new Deno.Command("dpkg-query", { args })
      .outputSync();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  };
  try {
    // Behind links, such as those of alternatives, which no package is named for.
    const owner = ask("--search", Deno.realPathSync(path))?.split(":")[0];
    return owner && ask("--show", "--showformat=${Package} ${Version}", owner);
  } catch (error) {
    // Not a Debian.
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
