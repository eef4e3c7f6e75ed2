// A socket of `node:net` or `node:tls` as a transport.
//
// Knows: how Node's streams are read, written, ended and destroyed, and in what
// Deno and Bun differ there. Must not know: how the socket was made, and what
// is spoken over it.

import type { Socket } from "node:net";
import type { Transport, TransportAddress } from "./codec.ts";
import { namedError } from "./_errors.ts";

/** Most bytes given to a socket at a time. A write resolves when all of them
 * are taken, and a limit in time on writes is to see a slow reader's progress. */
const MAX_WRITE = 64 * 1024;

/** Bytes that may lie here unread before the socket is paused. */
const MAX_AHEAD = 64 * 1024;

interface PendingRead {
  readonly room: Uint8Array<ArrayBuffer>;
  readonly resolve: (n: number | null) => void;
  readonly reject: (error: unknown) => void;
}

interface PendingWrite {
  readonly length: number;
  readonly resolve: (n: number) => void;
  readonly reject: (error: unknown) => void;
}

/** What lies below a socket that encrypts, as far as its adapter asks. */
export interface Underlying {
  /** Bytes that it has taken so far, of all that were written. */
  readonly taken: number;
  /** Why it failed, if it did: more exact than what the socket says. */
  readonly failure: unknown;
  /** A read of the socket waits for bytes, or no more. */
  demand(wanted: boolean): void;
  /** Frees the descriptor. */
  close(): void;
}

/**
 * A transport over a Node socket.
 *
 * - One read and one write at a time, as server and client use them.
 * - What comes and is not read waits here, 64 KiB and what came with them; then
 *   the socket is paused. That is its back-pressure.
 * - A write resolves when the socket has handed on all of it. When it is cut
 *   short, it tells how much may have left: all of it, where nobody knows. Only
 *   what cannot have left is rejected.
 */
export class NodeSocket implements Transport {
  readonly remoteAddr: TransportAddress;
  readonly localAddr: TransportAddress;
  readonly #socket: Socket;
  readonly #below: Underlying | undefined;
  /** What has come and was not read yet. */
  readonly #ahead: Uint8Array[] = [];
  #aheadBytes = 0;
  #paused = true;
  #reading: PendingRead | null = null;
  #writing: PendingWrite | null = null;
  /** What `below` had taken when the write began. */
  #takenBefore = 0;
  #failure: unknown;
  #ended = false;
  #gone = false;

  /**
   * @param socket It must be open and paused, with `allowHalfOpen`.
   * @param below What the socket writes to, where that is no socket.
   */
  constructor(
    socket: Socket,
    addresses: { remoteAddr: TransportAddress; localAddr: TransportAddress },
    below?: Underlying,
  ) {
    this.#socket = socket;
    this.#below = below;
    this.remoteAddr = addresses.remoteAddr;
    this.localAddr = addresses.localAddr;
    // Before it is listened to, lest it begin to flow.
    socket.pause();
    socket.on("data", this.#onData);
    socket.on("end", this.#onEnd);
    socket.on("error", this.#onError);
    socket.on("close", this.#onClose);
  }

  read(p: Uint8Array<ArrayBuffer>): Promise<number | null> {
    if (this.#reading !== null) {
      return Promise.reject(namedError("Busy", "A read is under way already"));
    }
    try {
      const n = this.#take(p);
      if (n !== undefined) return Promise.resolve(n);
    } catch (error) {
      return Promise.reject(error);
    }
    return new Promise((resolve, reject) => {
      this.#reading = { room: p, resolve, reject };
      if (this.#paused) {
        this.#paused = false;
        this.#socket.resume();
      }
      this.#below?.demand(true);
    });
  }

  write(p: Uint8Array): Promise<number> {
    if (this.#writing !== null) {
      return Promise.reject(namedError("Busy", "A write is under way already"));
    }
    if (this.#gone) return Promise.reject(this.#whyGone());
    const chunk = p.length > MAX_WRITE ? p.subarray(0, MAX_WRITE) : p;
    this.#takenBefore = this.#below?.taken ?? 0;
    return new Promise((resolve, reject) => {
      this.#writing = { length: chunk.length, resolve, reject };
      this.#socket.write(chunk, this.#onWritten);
      // Refused before anything could leave.
      if (this.#below === undefined && this.#socket.errored) {
        this.#rejectWrite(this.#socket.errored);
      }
    });
  }

  close(): void {
    if (!this.detach()) return;
    // The socket that encrypts must not write to what is closed.
    this.#socket.destroy();
    this.#below?.close();
  }

  /**
   * Ends what is under way, as `close` does, and leaves the socket to the
   * caller.
   *
   * @returns Whether it was open.
   */
  detach(): boolean {
    if (this.#gone) return false;
    this.#gone = true;
    const error = closedHere();
    this.#settleRead((read) => read.reject(error));
    this.#settleWrite(error);
    return true;
  }

  /** Whether a write is under way. */
  get writing(): boolean {
    return this.#writing !== null;
  }

  closeWrite(): Promise<void> {
    if (this.#gone) return Promise.reject(this.#whyGone());
    return new Promise((resolve, reject) => {
      // Called with an error, too, if the socket is destroyed before.
      this.#socket.end((error?: Error | null) => {
        if (error) reject(this.#failure ?? error);
        else resolve();
      });
    });
  }

  ref(): void {
    this.#socket.ref();
  }

  unref(): void {
    this.#socket.unref();
  }

  /** Switches Nagle's algorithm off, or on. */
  setNoDelay(noDelay = true): void {
    this.#socket.setNoDelay(noDelay);
  }

  /** Has TCP probe the peer while it is silent, or not. */
  setKeepAlive(keepAlive = true): void {
    this.#socket.setKeepAlive(keepAlive);
  }

  /** Makes the transport fail, as if the socket had, and leaves the socket to
   * the caller. */
  fail(error: unknown): void {
    this.#failure ??= error;
    this.#finish();
  }

  /** Bytes for a read: their number, null at the end, undefined while there
   * are none. Throws what the socket has failed with. */
  #take(p: Uint8Array): number | null | undefined {
    const [first] = this.#ahead;
    if (first !== undefined) {
      const n = Math.min(p.length, first.length);
      if (n === first.length) {
        p.set(first);
        this.#ahead.shift();
      } else {
        p.set(first.subarray(0, n));
        this.#ahead[0] = first.subarray(n);
      }
      this.#aheadBytes -= n;
      return n;
    }
    if (this.#ended) return null;
    if (this.#gone) throw this.#whyGone();
    return undefined;
  }

  readonly #onData = (chunk: Uint8Array): void => {
    const read = this.#reading;
    if (read !== null && chunk.length > 0) {
      const n = Math.min(read.room.length, chunk.length);
      const rest = chunk.subarray(n);
      read.room.set(rest.length === 0 ? chunk : chunk.subarray(0, n));
      this.#settleRead((read) => read.resolve(n));
      if (rest.length === 0) return;
      chunk = rest;
    }
    this.#ahead.push(chunk);
    this.#aheadBytes += chunk.length;
    if (this.#aheadBytes >= MAX_AHEAD && !this.#paused) {
      this.#paused = true;
      this.#socket.pause();
    }
  };

  readonly #onEnd = (): void => {
    this.#ended = true;
    this.#settleRead((read) => read.resolve(null));
  };

  readonly #onError = (error: unknown): void => {
    // What comes after the end is its echo.
    if (this.#gone) return;
    this.#failure ??= this.#below?.failure ?? error;
  };

  readonly #onClose = (): void => {
    // The listener for errors stays: what comes late must not be thrown.
    this.#socket.off("data", this.#onData);
    this.#socket.off("end", this.#onEnd);
    this.#socket.off("close", this.#onClose);
    this.#below?.close();
    this.#finish();
  };

  readonly #onWritten = (error?: Error | null): void => {
    if (error) {
      this.#onError(error);
      this.#settleWrite(this.#failure);
    } else {
      const write = this.#writing;
      this.#writing = null;
      write?.resolve(write.length);
    }
  };

  /** The socket has gone, by itself. */
  #finish(): void {
    if (this.#gone) return;
    this.#gone = true;
    const error = this.#whyGone();
    this.#settleRead((read) => read.reject(error));
    this.#settleWrite(error);
  }

  #settleRead(settle: (read: PendingRead) => void): void {
    const read = this.#reading;
    if (read === null) return;
    this.#reading = null;
    this.#below?.demand(false);
    settle(read);
  }

  /** Ends a write that was cut short. All of it may have left, where nothing
   * below tells more. */
  #settleWrite(error: unknown): void {
    const write = this.#writing;
    if (write === null) return;
    const left = this.#below === undefined
      ? write.length
      // Encrypted, they are a little more.
      : Math.min(write.length, this.#below.taken - this.#takenBefore);
    if (left <= 0) return this.#rejectWrite(error);
    this.#writing = null;
    write.resolve(left);
  }

  #rejectWrite(error: unknown): void {
    const write = this.#writing;
    this.#writing = null;
    write?.reject(error);
  }

  #whyGone(): unknown {
    return this.#failure ?? this.#below?.failure ?? closedHere();
  }
}

/** Why nothing more comes of a connection that was closed on this side. */
export function closedHere(): Error {
  return namedError("BadResource", "The connection was closed");
}

/** The addresses of a socket of `node:net`. They are gone once it is closed. */
export function addressesOf(
  socket: Socket,
  path?: string,
): { remoteAddr: TransportAddress; localAddr: TransportAddress } {
  if (path !== undefined) {
    const named = { transport: "unix", path } as const;
    return { remoteAddr: named, localAddr: named };
  }
  return {
    remoteAddr: tcp(socket.remoteAddress, socket.remotePort),
    localAddr: tcp(socket.localAddress, socket.localPort),
  };
}

function tcp(hostname = "", port = 0): TransportAddress {
  // A peer that came over IPv4 to a socket that listens on both is named so.
  return {
    transport: "tcp",
    hostname: hostname.replace(/^::ffff:(?=\d+\.)/, ""),
    port,
  };
}
