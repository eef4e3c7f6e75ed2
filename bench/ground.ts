// A child process that measures what the runtime itself costs, with nothing of
// ours in it: each call is a reproduction of one thing that stands between the
// library and its limit.

import { answer } from "./child.ts";

/** Times a call is repeated before it is timed, and while. */
const WARM_UP = 2000;
const REPEATS = 1000;
const CALLS = 9;

/** Keeps what was made from being optimized away. */
let kept: unknown;

await answer({
  /** Nanoseconds of one new buffer: it is cleared, whoever fills it next. */
  newBuffer: (size: number) => time(() => kept = new Uint8Array(size)),
  /** The same number of bytes written to memory that is there. */
  fill(size: number) {
    const bytes = new Uint8Array(size);
    return time(() => kept = bytes.fill(1));
  },
  /** A view of 64 bytes. */
  view() {
    const { buffer } = new Uint8Array(16 * 1024);
    return time(() => kept = new Uint8Array(buffer, 8, 64));
  },
  /** A copy of 64 bytes to where they are wanted. */
  copy() {
    const from = new Uint8Array(64);
    const to = new Uint8Array(16 * 1024);
    return time(() => kept = to.set(from, 8));
  },
  /** One reading of the monotonic clock. */
  clock: () => time(() => kept = performance.now()),
  /** One frame of `size` bytes behind a header, to a reader that only reads: in
   * one write, or in two as there is no write of several buffers. */
  async writes(size: number, writes: number) {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const dialled = Deno.connect({
      hostname: "127.0.0.1",
      port: listener.addr.port,
    });
    using conn = await listener.accept();
    using peer = await dialled;
    listener.close();
    conn.setNoDelay();
    const reading = drain(peer);
    const parts = writes === 1
      ? [new Uint8Array(8 + size)]
      : [new Uint8Array(8), new Uint8Array(size)];
    let best = Infinity;
    for (let call = 0; call < CALLS; call++) {
      const start = performance.now();
      for (let i = 0; i < REPEATS; i++) {
        for (const part of parts) {
          let n = await conn.write(part);
          while (n < part.length) n += await conn.write(part.subarray(n));
        }
      }
      best = Math.min(best, performance.now() - start);
    }
    await conn.closeWrite();
    await reading;
    return 1e6 * best / REPEATS;
  },
});

/** Nanoseconds of one call: the best of some, since all else only adds. */
function time(call: () => unknown): number {
  for (let i = 0; i < WARM_UP; i++) call();
  let best = Infinity;
  for (let i = 0; i < CALLS; i++) {
    const start = performance.now();
    for (let i = 0; i < REPEATS; i++) call();
    best = Math.min(best, performance.now() - start);
  }
  if (kept === null) throw new Error("Nothing was made");
  return 1e6 * best / REPEATS;
}

async function drain(conn: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(256 * 1024);
  while (await conn.read(buffer) !== null);
}
