/**
 * A server in a process of its own, so that it can be killed, starved of
 * descriptors, and measured alone; and the handle by which tests hold it.
 *
 * It prints numbers of four bytes: its port, then, if it keeps a ledger, each
 * request that it handles, before it answers. What is in the pipe outlives it.
 */
import {
  serve,
  type ServeOptions,
  type Server,
  type ServerStats,
} from "../server.ts";
import type { Client } from "../client.ts";
import { sleep } from "./time_support.ts";
import { idOf, responseTo } from "./traffic_support.ts";

/** What the process does. */
export interface ChildOptions {
  /** The server's options; what is absent is the library's default. */
  serve?: ServeOptions;
  /** Writes down which requests it handles; otherwise it echoes. */
  ledger?: boolean;
  /** Greets each connection with a frame, before its first request. */
  greeting?: boolean;
  /** The bytes of the server's option `goaway`. */
  goaway?: number[];
  /** Limit of open descriptors, by way of `sh`. */
  descriptors?: number;
}

/** What an echoing child answers to {@linkcode FIGURES}. */
export interface ChildFigures {
  stats: ServerStats;
  memory: Deno.MemoryUsage;
}

/** What a server says first, where it greets. */
export const GREETING: Uint8Array<ArrayBuffer> = new Uint8Array([7, 7]);

/** The request for figures. */
const FIGURES = new TextEncoder().encode("figures, please");

/** A running child. */
export class ChildServer {
  readonly port: number;
  /** Resolves when it has ended and all that it printed has been read. */
  readonly ended: Promise<Deno.CommandStatus>;
  readonly #process: Deno.ChildProcess;

  private constructor(
    process: Deno.ChildProcess,
    port: number,
    ended: Promise<Deno.CommandStatus>,
  ) {
    this.#process = process;
    this.port = port;
    this.ended = ended;
  }

  /**
   * Starts a child.
   *
   * @param options What it does.
   * @param handled Told of each request that it handles.
   * @returns Once it listens.
   */
  static async start(
    options: ChildOptions = {},
    handled: (id: number) => void = () => {},
  ): Promise<ChildServer> {
    const { descriptors } = options;
    const deno = [
      "run",
      "--quiet",
      "--no-prompt",
      "--no-check",
      "--v8-flags=--expose-gc",
      "--allow-net=127.0.0.1",
      "--allow-env=WIREPOOL_LONG",
      import.meta.filename!,
      JSON.stringify(options),
    ];
    const command = descriptors === undefined
      ? new Deno.Command("deno", {
        args: deno,
        stdin: "piped",
        stdout: "piped",
      })
      : new Deno.Command("sh", {
        args: ["-c", `ulimit -n ${descriptors}; exec deno "$@"`, "sh", ...deno],
        stdin: "piped",
        stdout: "piped",
      });
    const process = command.spawn();
    const { promise: listening, resolve, reject } = Promise.withResolvers<
      number
    >();
    const read = async () => {
      let first = true;
      let rest = new Uint8Array(0);
      for await (const chunk of process.stdout) {
        const bytes = new Uint8Array(rest.length + chunk.length);
        bytes.set(rest);
        bytes.set(chunk, rest.length);
        const view = new DataView(bytes.buffer);
        let at = 0;
        for (; at + 4 <= bytes.length; at += 4) {
          if (first) resolve(view.getUint32(at));
          else handled(view.getUint32(at));
          first = false;
        }
        rest = bytes.subarray(at);
      }
      reject(new Error("The child ended before it listened"));
      const status = await process.status;
      // Closed only now, since its end is a reason for the child to go.
      await process.stdin.close().catch(() => {});
      return status;
    };
    const ended = read();
    return new ChildServer(process, await listening, ended);
  }

  /** Ends it at once; what it was about to do stays undone. */
  kill(): void {
    this.#process.kill("SIGKILL");
  }

  /** Asks it to shut down. */
  terminate(): void {
    this.#process.kill("SIGTERM");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.kill();
    } catch {
      // It has ended already.
    }
    await this.ended;
  }
}

/** Asks an echoing child for its figures, after it has collected garbage. */
export async function figuresOf(client: Client): Promise<ChildFigures> {
  return JSON.parse(new TextDecoder().decode(await client.send(FIGURES)));
}

if (import.meta.main) {
  const options: ChildOptions = JSON.parse(Deno.args[0]!);
  const record = new Uint8Array(4);
  const print = (number: number) => {
    new DataView(record.buffer).setUint32(0, number);
    Deno.stdout.writeSync(record);
  };
  const figures = (): Uint8Array => {
    (globalThis as { gc?: () => void }).gc?.();
    const memory = Deno.memoryUsage();
    return new TextEncoder().encode(
      JSON.stringify({ stats: server.stats(), memory }),
    );
  };
  const echo = (request: Uint8Array) =>
    request.length === FIGURES.length &&
      request.every((b, i) => b === FIGURES[i])
      ? figures()
      : request;
  const account = (request: Uint8Array) => {
    const id = idOf(request);
    print(id);
    return id % 2 === 0
      ? responseTo(id)
      : sleep(id % 4).then(() => responseTo(id));
  };
  const server: Server = serve({
    ...options.serve,
    ...(options.goaway && { goaway: Uint8Array.from(options.goaway) }),
    ...(options.greeting && {
      handshake: async (conn) => await conn.write(GREETING),
    }),
  }, options.ledger ? account : echo);
  print((server.addr as Deno.NetAddr).port);
  Deno.addSignalListener("SIGTERM", async () => {
    await server.shutdown();
    Deno.exit(0);
  });
  // Whoever started it may be gone, or have killed no more than a wrapper.
  for await (const _ of Deno.stdin.readable);
  Deno.exit(1);
}
