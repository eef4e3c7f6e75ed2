// The socket files of Unix servers: whose one is, and what becomes of it.
//
// Knows: that a runtime's listener does not take a path that exists, and removes
// whatever lies there when it closes. Must not know: how to listen.

import { ignore } from "./_callbacks.ts";
import { builtin } from "./_node.ts";

/** How long a server may take to answer before it is taken for alive, in
 * milliseconds. It answers by its kernel, also while it is busy. */
const PATIENCE = 3000;

/** What the worker finds. */
const REFUSED = 2;

/** Connects and says what came of it. It runs in a thread of its own, since
 * listening is synchronous and connecting is not. */
const PROBE = `
const { workerData } = process.getBuiltinModule("node:worker_threads");
const found = new Int32Array(workerData.found);
const tell = (what) => {
  Atomics.store(found, 0, what);
  Atomics.notify(found, 0);
};
const socket = process.getBuiltinModule("node:net").connect(workerData.path);
socket.on("connect", () => {
  socket.destroy();
  tell(1);
});
socket.on("error", (error) => tell(error.code === "ECONNREFUSED" ? ${REFUSED} : 3));
`;

/**
 * Removes the socket file of a server that was killed: nobody answers on it.
 *
 * @returns Whether there was one, so that the path is free now. Never where
 * somebody answers, or where it is not certain that nobody does.
 */
export function removeDead(path: string): boolean {
  try {
    const before = identify(path);
    if (before === undefined || !isDead(path)) return false;
    // Another server may have been quicker, and lives there by now.
    if (identify(path) !== before) return false;
    builtin("fs").unlinkSync(path);
    return true;
  } catch {
    // Not allowed to look, or to remove it: it stays.
    return false;
  }
}

function isDead(path: string): boolean {
  const { Worker } = builtin("worker_threads");
  const found = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(PROBE, {
    eval: true,
    workerData: { path, found: found.buffer },
  });
  worker.on("error", () => {});
  Atomics.wait(found, 0, 0, PATIENCE);
  worker.terminate();
  return Atomics.load(found, 0) === REFUSED;
}

/** A listener's own socket file. */
export class SocketFile {
  readonly #path: string;
  readonly #identity: string | undefined;

  /** Takes note of the file that a listener has just made. */
  constructor(path: string) {
    this.#path = path;
    this.#identity = identify(path);
  }

  /**
   * Puts the file aside if it is another's by now; to be called before the
   * listener is closed.
   *
   * @returns Puts it back, once the listener has removed what lay there.
   */
  putAside(): () => void {
    const path = this.#path;
    const present = identify(path);
    if (present === this.#identity || present === undefined) return ignore;
    const aside = `${path}.${crypto.randomUUID().slice(0, 8)}`;
    const { linkSync, renameSync, rmSync } = builtin("fs");
    try {
      // A second name, so that its clients find it until the first is removed.
      linkSync(path, aside);
    } catch {
      // Not allowed to keep it.
      return ignore;
    }
    return () => {
      renameSync(aside, path);
      // Where the first name was not removed, they are two names of one file,
      // and that leaves both.
      rmSync(aside, { force: true });
    };
  }
}

/** Names the socket at a path; undefined if there is none, or no way to know.
 * The time is part of the name, since the number of a file that was removed is
 * given to the next one. */
function identify(path: string): string | undefined {
  try {
    const stat = builtin("fs").lstatSync(path, { bigint: true });
    if (!stat.isSocket()) return undefined;
    return `${stat.dev}:${stat.ino}:${stat.birthtimeNs}`;
  } catch {
    return undefined;
  }
}
