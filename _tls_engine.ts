// Deno's engine of TLS, driven directly: what is read is decrypted and what is
// written is encrypted by one call each, without Node's streams on either side
// of them. That halves what TLS costs, and needs what Deno does not document.
//
// Knows: the handle of a TLS socket in Deno 2.9. Must not know: handshakes,
// certificates, and which side of TLS it is.

import type { TLSSocket } from "node:tls";
import type { Transport } from "./codec.ts";
import { ignore } from "./_callbacks.ts";
import { namedError } from "./_errors.ts";
import { countEmpty } from "./_progress.ts";

/** Most bytes encrypted at a time: what the engine takes in one call. */
const MAX_WRITE = 48 * 1024;

/** Rooms for what is read from below: at first, and for a stream that fills it. */
const MIN_ROOM = 1024;
const MAX_ROOM = 64 * 1024;

/** So many reads in a row that would have fitted the small room bring it back:
 * an idle connection should not hold much. */
const SMALL_READS = 16;

/** Versions whose handle is known to be as it is used here. In others streams do
 * the same, at twice the cost. */
const KNOWN = /^2\.9\./;

/** The handle, as far as it is used. */
interface Handle {
  /** Takes encrypted bytes; what they come to is given to `onread`. */
  readBuffer(bytes: Uint8Array): void;
  /** Takes bytes to encrypt. */
  writeBuffer(request: object, bytes: Uint8Array): number;
  /** Gives the encrypted bytes that are to be written. */
  drainEncOut(): Uint8Array;
  /** Says that the stream below has ended. */
  emitEof(): void;
  /** Adds the message that says that no more is written. */
  shutdown(request: object): number;
  /** Has `onread` called from now on. */
  readStart(): number;
  /** Given bytes, or nothing at the end. */
  onread: (bytes?: ArrayBuffer | Uint8Array) => void;
}

const METHODS = [
  "readBuffer",
  "writeBuffer",
  "drainEncOut",
  "emitEof",
  "shutdown",
  "readStart",
] as const satisfies readonly (keyof Handle)[];

/** Whom the engine would tell that a write has left it; nobody asks. */
const REQUEST = {};
const NOTHING = new Uint8Array(0);

/** Whether the engine can be driven directly here. */
export function hasEngine(): boolean {
  const { Deno } = globalThis as { Deno?: { version?: { deno?: string } } };
  return KNOWN.test(Deno?.version?.deno ?? "");
}

/** A connection whose handshake is over, by its engine. */
export class TlsEngine {
  readonly #handle: Handle;
  /** The methods themselves: a handle's own ones also drive streams. */
  readonly #methods: Omit<Handle, "onread">;
  readonly #transport: Transport;
  /** Decrypted bytes that nobody has read yet. */
  readonly #plain: Uint8Array[] = [];
  #room = new Uint8Array(MIN_ROOM);
  #smallReads = 0;
  #ended = false;
  #gone = false;
  #failure: unknown;
  #reading = false;
  #writing = false;
  /** Encrypted bytes being written, whoever they are of. */
  #flushing: Promise<void> | null = null;
  /** Encrypted bytes that the transport has taken. */
  #taken = 0;

  private constructor(
    handle: Handle,
    methods: Omit<Handle, "onread">,
    transport: Transport,
  ) {
    this.#handle = handle;
    this.#methods = methods;
    this.#transport = transport;
  }

  /**
   * Takes the engine of a socket over. Nothing may be under way on the socket,
   * and nobody else may use it from now on.
   *
   * @param release Has whoever used it let go of it, and give what it has read.
   * @returns Nothing if it is not as it should be, and the socket is untouched.
   */
  static takeOver(
    socket: TLSSocket,
    transport: Transport,
    release: () => Uint8Array[],
  ): TlsEngine | undefined {
    const handle = (socket as unknown as { _handle?: Handle })._handle;
    if (handle === undefined || handle === null) return undefined;
    const methods = Object.getPrototypeOf(handle) as Handle;
    if (METHODS.some((name) => typeof methods[name] !== "function")) {
      return undefined;
    }
    const engine = new TlsEngine(handle, methods, transport);
    // What came along with the end of the handshake.
    engine.#plain.push(...release());
    for (let chunk; (chunk = socket.read()) !== null;) {
      engine.#plain.push(chunk as Uint8Array);
    }
    handle.onread = (bytes) => {
      if (bytes === undefined || bytes === null) engine.#ended = true;
      else engine.#plain.push(new Uint8Array(bytes as ArrayBuffer));
    };
    methods.readStart.call(handle);
    return engine;
  }

  async read(p: Uint8Array<ArrayBuffer>): Promise<number | null> {
    if (this.#reading) {
      throw namedError("Busy", "A read is under way already");
    }
    this.#reading = true;
    try {
      for (let empty = 0;;) {
        const n = this.#take(p);
        if (n > 0 || p.length === 0) return n;
        if (this.#ended) return null;
        if (this.#gone) throw this.#failure;
        const read = await this.#transport.read(this.#room);
        // Decrypted by nobody: it would come after the end.
        if (this.#gone) throw this.#failure;
        if (read !== null) empty = countEmpty("read", read, empty);
        this.#feed(read);
      }
    } catch (error) {
      this.fail(error);
      throw this.#failure;
    } finally {
      this.#reading = false;
    }
  }

  async write(p: Uint8Array): Promise<number> {
    if (this.#writing) {
      throw namedError("Busy", "A write is under way already");
    }
    if (this.#gone) throw this.#failure;
    const chunk = p.length > MAX_WRITE ? p.subarray(0, MAX_WRITE) : p;
    const before = this.#taken;
    this.#writing = true;
    try {
      this.#methods.writeBuffer.call(this.#handle, REQUEST, chunk);
      await this.#flush();
      return chunk.length;
    } catch (error) {
      // Encrypted, they are a little more: so many may have left at most.
      const left = Math.min(chunk.length, this.#taken - before);
      if (left > 0) return left;
      throw this.#failure ?? error;
    } finally {
      this.#writing = false;
    }
  }

  async closeWrite(): Promise<void> {
    if (this.#gone) throw this.#failure;
    this.#methods.shutdown.call(this.#handle, REQUEST);
    await this.#flush();
    await this.#transport.closeWrite?.();
  }

  /** Ends, and says so to the peer if nothing else is being said. Who calls it
   * closes the transport then, which ends what is under way. */
  end(error: unknown): void {
    if (this.#gone) return;
    if (this.#flushing === null && !this.#writing) {
      this.#methods.shutdown.call(this.#handle, REQUEST);
      const bytes = this.#drain();
      // It leaves at once or never.
      if (bytes.length > 0) this.#transport.write(bytes).catch(ignore);
    }
    this.fail(error);
  }

  /** Makes all fail that comes later; what is under way ends with the
   * transport. */
  fail(error: unknown): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#failure = error;
  }

  /** Moves decrypted bytes to where they are wanted. */
  #take(p: Uint8Array): number {
    let at = 0;
    while (at < p.length) {
      const [first] = this.#plain;
      if (first === undefined) break;
      const n = Math.min(first.length, p.length - at);
      p.set(n === first.length ? first : first.subarray(0, n), at);
      at += n;
      if (n === first.length) this.#plain.shift();
      else this.#plain[0] = first.subarray(n);
    }
    return at;
  }

  /** Decrypts what was read into the room; null is the end of the stream. */
  #feed(read: number | null): void {
    if (read === null) {
      this.#methods.emitEof.call(this.#handle);
      this.#ended = true;
      return;
    }
    const room = this.#room;
    this.#methods.readBuffer.call(this.#handle, room.subarray(0, read));
    if (read === room.length && read < MAX_ROOM) {
      this.#room = new Uint8Array(MAX_ROOM);
    } else if (read >= MIN_ROOM) {
      this.#smallReads = 0;
    } else if (++this.#smallReads === SMALL_READS && room.length > MIN_ROOM) {
      this.#room = new Uint8Array(MIN_ROOM);
    }
    // It may have something to say of its own, to new keys for example.
    if (this.#flushing !== null) return;
    const bytes = this.#drain();
    if (bytes.length > 0) this.#flush(bytes).catch(ignore);
  }

  /** Writes what is encrypted, until nothing is left; one at a time. */
  async #flush(first?: Uint8Array): Promise<void> {
    // Whoever is writing takes along what has been encrypted meanwhile.
    if (this.#flushing !== null) return this.#flushing;
    const flushing = this.#flushing = this.#writeAll(first ?? this.#drain());
    try {
      await flushing;
    } finally {
      this.#flushing = null;
    }
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    for (; bytes.length > 0; bytes = this.#drain()) {
      for (let at = 0, empty = 0; at < bytes.length;) {
        const n = await this.#transport.write(
          at === 0 ? bytes : bytes.subarray(at),
        );
        empty = countEmpty("write", n, empty);
        at += n;
        this.#taken += n;
      }
      // Has it encrypt what it has not, where it takes less at a time.
      if (bytes.length > MAX_WRITE / 4) {
        this.#methods.readBuffer.call(this.#handle, NOTHING);
      }
    }
  }

  #drain(): Uint8Array {
    return this.#methods.drainEncOut.call(this.#handle);
  }
}
