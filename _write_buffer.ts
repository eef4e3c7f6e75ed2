// The bytes that wait to be written: small ones side by side in memory that all
// share, large ones where they stand.
//
// Knows: pieces of bytes, in order. Must not know: frames, and who writes.

import { concat } from "@std/bytes";

/** Payloads up to this size are copied next to their header, so that many leave in
 * one write: a second write would cost more than the copy. Larger payloads are
 * written from where they stand. */
export const MAX_COPIED = 32 * 1024;

/** Size of a slab. Those who write in one turn share a slab, and it is filled anew
 * once all of them have written. It takes four answers of 32 KiB with their headers, or what
 * thirty connections answer to a read of 4 KiB each. */
const SLAB_SIZE = 132 * 1024;

/** How many slabs are kept to be used again. A new slab in every turn would cost
 * more than all that is copied into it. 32 connections that answer with 32 KiB
 * each need eight at once. */
const MAX_SPARE = 8;

/** The most that small pieces are joined to: what fills a write. */
const MAX_WRITE = 64 * 1024;

/** Pieces up to this size are joined, so that many leave in one write. */
const MAX_JOINED = 16 * 1024;

const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

/** In place of a list of pieces, for as long as there is none: most buffers
 * never have one, and nothing is added to this. */
const NONE: Uint8Array[] = [];

/**
 * Where buffers take room: an idle one holds nothing, and nobody allocates per
 * frame. A slab is filled from its start again whenever nothing in it is left to
 * be written, so that as a rule one is enough for all, and stays in the
 * processor's cache. A full slab is left to those who use it. Once they are done,
 * it is kept for later.
 */
class Slab {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Its length: asking a typed array costs more than asking a field. */
  readonly size: number;
  used = 0;
  /** Buffers that have bytes in it. One that is dropped with bytes in it is
   * counted until the slab is full. */
  users = 0;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.size = size;
  }
}

const NO_SLAB = new Slab(0);

/** The slab of all buffers that begin to be filled now. */
let current = NO_SLAB;

/** Slabs of `SLAB_SIZE` that nobody uses. */
const spare: Slab[] = [];

/** Bytes in the order in which they are to be written. */
export class WriteBuffer {
  /** Pieces that nothing more is added to, to be written before the open
   * one; empty but for large pieces and interleaved buffers. */
  #sealed: Uint8Array[] = NONE;
  /** The open piece: `#slab[#start, #end)`. It grows in place for as long as
   * no other buffer has taken the bytes behind it. */
  #slab: Uint8Array<ArrayBuffer> = EMPTY;
  #start = 0;
  #end = 0;
  #length = 0;
  /** The slab that this buffer is counted as a user of; the open piece, if
   * there is one, stands in it. */
  #share = NO_SLAB;
  /** Length of the last chunk given out, the most that may be advanced. */
  #offered = 0;

  /** Number of bytes that are still to be written. */
  get length(): number {
    return this.#length;
  }

  /** The most that may be said to have been written. */
  get offered(): number {
    return this.#offered;
  }

  /** The memory in which `reserve` says where. */
  get slab(): Uint8Array<ArrayBuffer> {
    return this.#slab;
  }

  /** Takes `n` bytes of the slab, to be filled by the caller at once; gives
   * where they begin. */
  reserve(n: number): number {
    const share = this.#share;
    const at = share.used;
    // The open piece is the last in the slab, as a rule: it grows.
    if (
      this.#end !== at || this.#slab !== share.bytes || share !== current ||
      n > share.size - at
    ) return this.#reserveElsewhere(n);
    this.#end = share.used = at + n;
    this.#length += n;
    return at;
  }

  #reserveElsewhere(n: number): number {
    if (n > current.size - current.used) current = takeSlab(n);
    const slab = current;
    if (this.#share !== slab) {
      this.#share = slab;
      slab.users++;
    }
    if (this.#slab !== slab.bytes || this.#end !== slab.used) {
      this.#seal();
      this.#slab = slab.bytes;
      this.#start = slab.used;
    }
    const at = slab.used;
    this.#end = slab.used = at + n;
    this.#length += n;
    return at;
  }

  /** Adds bytes without a copy: they must not change until they are written. */
  refer(bytes: Uint8Array): void {
    this.#seal();
    this.#add(bytes);
    this.#length += bytes.length;
  }

  /** The next bytes to write, or `null`; good until they are advanced over. */
  chunk(): Uint8Array | null {
    let chunk: Uint8Array | null = null;
    if (this.#sealed.length > 0) {
      this.#seal();
      this.#join();
      chunk = this.#sealed[0]!;
    } else if (this.#end > this.#start) {
      chunk = this.#slab.subarray(this.#start, this.#end);
    }
    this.#offered = chunk === null ? 0 : chunk.length;
    return chunk;
  }

  /** Says that `n` bytes of the chunk were written, at most `offered`. */
  advance(n: number): void {
    this.#offered -= n;
    this.#length -= n;
    const head = this.#sealed[0];
    if (head === undefined) {
      this.#start += n;
      if (this.#start === this.#end) this.#slab = EMPTY;
    } else if (n < head.length) {
      this.#sealed[0] = head.subarray(n);
    } else {
      this.#sealed.shift();
      if (this.#sealed.length === 0) this.#sealed = NONE;
    }
    if (this.#length === 0) this.#release();
  }

  /** Everything is written; the last to say so clears the slab. */
  #release(): void {
    const share = this.#share;
    this.#share = NO_SLAB;
    if (share === NO_SLAB || --share.users > 0) return;
    share.used = 0;
    if (share !== current) keepSlab(share);
  }

  /** Closes the open piece. */
  #seal(): void {
    if (this.#end > this.#start) {
      this.#add(this.#slab.subarray(this.#start, this.#end));
    }
    this.#slab = EMPTY;
    this.#start = this.#end = 0;
  }

  #add(piece: Uint8Array): void {
    if (this.#sealed === NONE) this.#sealed = [];
    this.#sealed.push(piece);
  }

  /** Joins the small pieces at the front, so that they leave in one write. */
  #join(): void {
    let count = 0;
    let length = 0;
    for (const piece of this.#sealed) {
      if (piece.length > MAX_JOINED || length + piece.length > MAX_WRITE) break;
      length += piece.length;
      count++;
    }
    if (count < 2) return;
    this.#sealed.splice(0, count, concat(this.#sealed.slice(0, count)));
  }
}

/** A slab with room for `n` bytes, which nobody uses. */
function takeSlab(n: number): Slab {
  const kept = n <= SLAB_SIZE ? spare.pop() : undefined;
  return kept ?? new Slab(Math.max(SLAB_SIZE, n));
}

function keepSlab(slab: Slab): void {
  if (slab.size === SLAB_SIZE && spare.length < MAX_SPARE) spare.push(slab);
}
