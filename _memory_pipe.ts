// Two transports that are each other's other side, in memory.
//
// Knows: how a socket behaves: short writes, back-pressure, an end that comes
// behind the last byte, and operations that settle when a side is closed. Must
// not know: what the bytes mean.

import { namedError } from "./_errors.ts";

/** Bytes that one way holds: about what a socket's buffers do. */
const CAPACITY = 64 * 1024;

interface PendingRead {
  readonly room: Uint8Array;
  resolve(n: number | null): void;
  reject(error: unknown): void;
}

interface PendingWrite {
  readonly bytes: Uint8Array;
  resolve(n: number): void;
  reject(error: unknown): void;
}

/** One way, from the side that writes to the side that reads. */
class Pipe {
  /** What was written and not read, in order. */
  #chunks: Uint8Array[] = [];
  #held = 0;
  #read: PendingRead | undefined;
  #write: PendingWrite | undefined;
  /** The writer has ended it: what is held can still be read. */
  #ended = false;
  /** The reader has gone: nothing can be written any more. */
  #broken = false;

  read(room: Uint8Array): Promise<number | null> {
    if (this.#broken) return Promise.reject(closedHere());
    if (this.#read !== undefined) return Promise.reject(busy("read"));
    if (room.length === 0) return Promise.resolve(0);
    if (this.#held === 0 && !this.#ended) {
      return new Promise((resolve, reject) =>
        this.#read = { room, resolve, reject }
      );
    }
    return Promise.resolve(this.#take(room));
  }

  write(bytes: Uint8Array): Promise<number> {
    if (this.#broken || this.#ended) return Promise.reject(brokenPipe());
    if (this.#write !== undefined) return Promise.reject(busy("write"));
    if (bytes.length === 0) return Promise.resolve(0);
    if (this.#held === CAPACITY) {
      return new Promise((resolve, reject) =>
        this.#write = { bytes, resolve, reject }
      );
    }
    return Promise.resolve(this.#put(bytes));
  }

  /** The writer writes no more. */
  end(error: Error): void {
    this.#ended = true;
    this.#settleWrite(error);
    if (this.#held === 0) this.#settleRead(null);
  }

  /** The reader reads no more; what is held is lost. */
  break(): void {
    this.#broken = true;
    this.#chunks = [];
    this.#held = 0;
    const read = this.#read;
    this.#read = undefined;
    read?.reject(closedHere());
    this.#settleWrite(brokenPipe());
  }

  #take(room: Uint8Array): number | null {
    let n = 0;
    while (n < room.length && this.#chunks.length > 0) {
      const chunk = this.#chunks[0]!;
      const part = chunk.subarray(0, room.length - n);
      room.set(part, n);
      n += part.length;
      if (part.length === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(part.length);
    }
    this.#held -= n;
    const write = this.#write;
    if (write !== undefined && this.#held < CAPACITY) {
      this.#write = undefined;
      write.resolve(this.#put(write.bytes));
    }
    return n === 0 ? null : n;
  }

  #put(bytes: Uint8Array): number {
    const part = bytes.slice(0, CAPACITY - this.#held);
    this.#chunks.push(part);
    this.#held += part.length;
    const read = this.#read;
    if (read !== undefined) this.#settleRead(this.#take(read.room));
    return part.length;
  }

  #settleRead(n: number | null): void {
    const read = this.#read;
    this.#read = undefined;
    read?.resolve(n);
  }

  #settleWrite(error: Error): void {
    const write = this.#write;
    this.#write = undefined;
    write?.reject(error);
  }
}

/** One side of a pair. */
class Side {
  readonly #incoming: Pipe;
  readonly #outgoing: Pipe;

  constructor(incoming: Pipe, outgoing: Pipe) {
    this.#incoming = incoming;
    this.#outgoing = outgoing;
  }

  read(p: Uint8Array): Promise<number | null> {
    return this.#incoming.read(p);
  }

  write(p: Uint8Array): Promise<number> {
    return this.#outgoing.write(p);
  }

  close(): void {
    this.#outgoing.end(closedHere());
    this.#incoming.break();
  }

  closeWrite(): Promise<void> {
    this.#outgoing.end(closedHere());
    return Promise.resolve();
  }
}

/** Makes the two sides. */
export function pair(): [Side, Side] {
  const one = new Pipe();
  const other = new Pipe();
  return [new Side(one, other), new Side(other, one)];
}

function closedHere(): Error {
  return namedError("BadResource", "The transport is closed");
}

function brokenPipe(): Error {
  return namedError("BrokenPipe", "The other side has gone");
}

function busy(what: string): Error {
  return namedError("Busy", `Another ${what} is under way`);
}
