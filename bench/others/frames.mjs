// An echo of frames for runtimes with sockets that call back, as one would write
// it by hand: used by echo_node.mjs and echo_bun.mjs.

import { Buffer } from "node:buffer";

const HEADER = 8;
/** Longest payload that is copied next to its header. */
const COPIED = 16 * 1024;

/** What one connection has received of a frame that is not whole yet. */
export class Echo {
  #write;
  #parts = [];
  #held = 0;
  #wanted = HEADER;

  /** Gives `write` the answers. */
  constructor(write) {
    this.#write = write;
  }

  /** Takes bytes, and answers the frames that are whole. */
  feed(chunk) {
    if (this.#held > 0) {
      this.#parts.push(chunk);
      this.#held += chunk.length;
      if (this.#held < this.#wanted) return;
      chunk = Buffer.concat(this.#parts);
    }
    const ends = this.#split(chunk);
    let start = 0;
    for (let i = 0; i < ends.length;) {
      const first = ends[i] - start;
      if (first > HEADER + COPIED) {
        this.#write(chunk.subarray(start, start + HEADER));
        this.#write(chunk.subarray(start + HEADER, ends[i]));
        start = ends[i++];
        continue;
      }
      let last = i;
      while (
        last + 1 < ends.length &&
        ends[last + 1] - ends[last] <= HEADER + COPIED
      ) last++;
      this.#write(gather(chunk, start, ends, i, last));
      start = ends[last];
      i = last + 1;
    }
    this.#held = chunk.length - start;
    this.#parts = this.#held > 0 ? [chunk.subarray(start)] : [];
  }

  /** Where the whole frames end. */
  #split(chunk) {
    const ends = [];
    let at = 0;
    this.#wanted = HEADER;
    while (chunk.length - at >= HEADER) {
      const length = chunk.readUInt32BE(at) * 2 ** 32 +
        chunk.readUInt32BE(at + 4);
      this.#wanted = HEADER + length;
      if (chunk.length - at < this.#wanted) break;
      at += this.#wanted;
      this.#wanted = HEADER;
      ends.push(at);
    }
    return ends;
  }
}

/** The answers to some frames in one buffer. */
function gather(chunk, start, ends, first, last) {
  const answers = Buffer.allocUnsafe(ends[last] - start);
  let from = start;
  for (let i = first; i <= last; i++) {
    const payload = chunk.subarray(from + HEADER, ends[i]);
    const at = from - start;
    answers.writeUInt32BE(0, at);
    answers.writeUInt32BE(payload.length, at + 4);
    answers.set(payload, at + HEADER);
    from = ends[i];
  }
  return answers;
}
