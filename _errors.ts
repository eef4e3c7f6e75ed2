// What a transport's errors say, on every runtime, and errors of ours that are
// named like them.
//
// Knows: the classes of `Deno.errors`, and the codes that Node and Bun put on
// theirs. Must not know: what is to be done about an error.

/** The names in `Deno.errors` that this library uses for errors of its own. */
type ErrorName =
  | "BadResource"
  | "BrokenPipe"
  | "Busy"
  | "InvalidData"
  | "TimedOut"
  | "UnexpectedEof";

type ErrorClass = new (message: string, options?: ErrorOptions) => Error;

const classes = (globalThis as {
  Deno?: { errors?: { readonly [name: string]: ErrorClass | undefined } };
}).Deno?.errors;

/** Makes an error of the class that Deno has for it, and in other runtimes an
 * `Error` of that name. */
export function namedError(
  name: ErrorName,
  message: string,
  options?: ErrorOptions,
): Error {
  const ErrorClass = classes?.[name];
  if (ErrorClass !== undefined) return new ErrorClass(message, options);
  const error = new Error(message, options);
  error.name = name;
  return error;
}

/** Names and codes of errors that only say that the other side has gone. */
const DISCONNECTS = new Set([
  "ConnectionReset",
  "BrokenPipe",
  "ConnectionAborted",
  "NotConnected",
  "UnexpectedEof",
  "Interrupted",
  "BadResource",
  "ECONNRESET",
  "EPIPE",
  "ECONNABORTED",
  "ENOTCONN",
  "ERR_STREAM_DESTROYED",
  "ERR_STREAM_PREMATURE_CLOSE",
  "ERR_SOCKET_CLOSED",
  // TCP's own probes were not answered; a limit of ours carries no code.
  "ETIMEDOUT",
]);

/** Whether an error only says that the other side has gone, or that this side
 * has closed the connection. */
export function isDisconnect(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return DISCONNECTS.has(error.name) || DISCONNECTS.has(codeOf(error) ?? "");
}

const EXHAUSTIONS = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]);

/** Whether an operation failed for want of descriptors or memory. Some of these
 * errors carry a code, some only the system's number in their text. */
export function isExhaustion(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = codeOf(error);
  if (code !== undefined) return EXHAUSTIONS.has(code);
  return /os error (12|23|24|55|105|10024|10055)\)/.test(error.message);
}

function codeOf(error: Error): string | undefined {
  const { code } = error as Error & { code?: unknown };
  return typeof code === "string" ? code : undefined;
}
