// What both sides of a raw connection need, written as one would by hand:
// loops over `read` and `write` on buffers that are allocated once.

/** Writes all of `bytes`. */
export async function writeAll(
  conn: Pick<Deno.Conn, "write">,
  bytes: Uint8Array,
): Promise<void> {
  let n = await conn.write(bytes);
  while (n < bytes.length) n += await conn.write(bytes.subarray(n));
}

/** Fills `buffer`; false at the end of the stream. */
export async function readAll(
  conn: Deno.Conn,
  buffer: Uint8Array<ArrayBuffer>,
): Promise<boolean> {
  let n = await conn.read(buffer);
  if (n === null) return false;
  while (n < buffer.length) {
    const more = await conn.read(buffer.subarray(n));
    if (more === null) return false;
    n += more;
  }
  return true;
}

/** Makes a payload that differs in every byte from its neighbours. */
export function makePayload(length: number): Uint8Array<ArrayBuffer> {
  const payload = new Uint8Array(length);
  for (let i = 0; i < length; i++) payload[i] = i * 31 + length;
  return payload;
}

/** Width of the ids that are put in where requests are correlated. */
export const ID = 4;

/** Frames a payload `count` times, with the default header; with ids from 1 if
 * requests are correlated. */
export function makeFrames(
  payload: Uint8Array,
  count: number,
  correlated = false,
): Uint8Array<ArrayBuffer> {
  const id = correlated ? ID : 0;
  const size = 8 + id + payload.length;
  const frames = new Uint8Array(count * size);
  const view = new DataView(frames.buffer);
  for (let i = 0; i < count; i++) {
    view.setBigUint64(i * size, BigInt(id + payload.length));
    if (correlated) view.setUint32(i * size + 8, i + 1);
    frames.set(payload, i * size + 8 + id);
  }
  return frames;
}

/** Throws unless `answer` is what was sent. */
export function check(answer: Uint8Array, sent: Uint8Array): void {
  let same = answer.length === sent.length;
  for (let i = 0; same && i < sent.length; i++) same = answer[i] === sent[i];
  if (!same) throw new Error("An answer is not what was sent");
}

/** What a request begins with that takes SLOW_TIME milliseconds. */
export const SLOW = 255;
export const SLOW_TIME = 500;

/** What the server of large responses answers. */
export const LARGE_RESPONSE: Uint8Array<ArrayBuffer> = makePayload(1024 * 1024);
