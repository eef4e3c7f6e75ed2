// What both sides of a raw connection need, written as one would by hand:
// loops over `read` and `write` on buffers that are allocated once.

/** Writes all of `bytes`. */
export async function writeAll(
  conn: Deno.Conn,
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
  return Uint8Array.from({ length }, (_, i) => i * 31 + length);
}

/** Frames a payload `count` times, with the default header. */
export function makeFrames(
  payload: Uint8Array,
  count: number,
): Uint8Array<ArrayBuffer> {
  const size = 8 + payload.length;
  const frames = new Uint8Array(count * size);
  const view = new DataView(frames.buffer);
  for (let i = 0; i < count; i++) {
    view.setBigUint64(i * size, BigInt(payload.length));
    frames.set(payload, i * size + 8);
  }
  return frames;
}

/** Throws unless `answer` is what was sent. */
export function check(answer: Uint8Array, sent: Uint8Array): void {
  let same = answer.length === sent.length;
  for (let i = 0; same && i < sent.length; i++) same = answer[i] === sent[i];
  if (!same) throw new Error("An answer is not what was sent");
}
