// What one would write by hand for one purpose, an echo of frames in the default
// layout: the limit that the library is held against. They do no more than they
// must, and they do it right: frames may be cut anywhere, and of any size up to
// MAX_FRAME.
//
// What they leave out is what a library is for: other layouts, limits of time
// and memory, handlers that wait, an end that loses nothing. One of them lets
// payloads be kept; the others read over what they handed out.

import { readAll, writeAll } from "./wire.ts";

const HEADER = 8;
const READ = 64 * 1024;
/** New memory where payloads may be kept: it takes a few reads. More would be no
 * faster, and each payload would keep more alive. */
const KEPT_READ = 16 * 1024;
/** The least of it that is left for a read. */
const LEAST = 4 * 1024;
/** Longest payload. A longer one ends the connection. */
const MAX_FRAME = 16 * 1024 * 1024;

/** Small frames: reads of 64 KiB, a view for each payload, one output buffer,
 * and one write for each read. */
export function echoMany(conn: Deno.Conn): Promise<void> {
  return echoViews(conn, { kept: false });
}

/** The same for payloads that may be kept, as what a library hands out may be:
 * what was read is never written over. */
export function echoKept(conn: Deno.Conn): Promise<void> {
  return echoViews(conn, { kept: true });
}

async function echoViews(
  conn: Deno.Conn,
  { kept }: { kept: boolean },
): Promise<void> {
  const size = kept ? KEPT_READ : READ;
  let input = new Uint8Array(size);
  let header = new DataView(input.buffer);
  let output = new Uint8Array(READ);
  for (let start = 0, end = 0;;) {
    const n = await conn.read(input.subarray(end));
    if (n === null) return;
    end += n;
    let at = start;
    let out = 0;
    /** Bytes of a frame that is not whole yet. */
    let wanted = 0;
    while (end - at >= HEADER) {
      const length = lengthAt(header, at);
      const whole = HEADER + length;
      if (whole > end - at) {
        wanted = whole;
        break;
      }
      const payload = new Uint8Array(input.buffer, at + HEADER, length);
      // An empty handler's place.
      output.set(payload, out + HEADER);
      writeHeader(output, out, payload.length);
      at += whole;
      out += whole;
    }
    if (out > 0) await writeAll(conn, output.subarray(0, out));
    const room = kept ? input.length - at : input.length;
    if (wanted > room || (kept && input.length - end < LEAST)) {
      const next = new Uint8Array(Math.max(size, wanted));
      next.set(input.subarray(at, end));
      input = next;
      header = new DataView(input.buffer);
      if (wanted > output.length) output = new Uint8Array(wanted);
    } else if (kept) {
      start = at;
      continue;
    } else if (end > at && at > 0) {
      input.copyWithin(0, at, end);
    }
    start = 0;
    end -= at;
  }
}

/** Large frames: each is read into memory of its own size at once, with its
 * header, and written back whole. */
export async function echoLarge(conn: Deno.Conn): Promise<void> {
  const header = new Uint8Array(HEADER);
  const view = new DataView(header.buffer);
  while (await readAll(conn, header)) {
    const frame = new Uint8Array(HEADER + lengthAt(view, 0));
    frame.set(header);
    const rest = frame.subarray(HEADER);
    if (rest.length > 0 && !await readAll(conn, rest)) return;
    await writeAll(conn, frame);
  }
}

/** The client of large responses: each is read into memory of its own size. */
export async function receiveLarge(
  conn: Deno.Conn,
  header: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array | null> {
  if (!await readAll(conn, header)) return null;
  const payload = new Uint8Array(lengthAt(new DataView(header.buffer), 0));
  return await readAll(conn, payload) ? payload : null;
}

function lengthAt(view: DataView, at: number): number {
  const length = view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
  if (length > MAX_FRAME) throw new Error(`Frame of ${length} bytes`);
  return length;
}

function writeHeader(bytes: Uint8Array, at: number, length: number): void {
  bytes[at] =
    bytes[at + 1] =
    bytes[at + 2] =
    bytes[at + 3] =
      0;
  bytes[at + 4] = length >>> 24;
  bytes[at + 5] = length >>> 16;
  bytes[at + 6] = length >>> 8;
  bytes[at + 7] = length;
}
