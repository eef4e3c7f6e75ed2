// The memory that a connection reads into: how much of it there is, and when
// bytes move on to new memory.
//
// Knows: how many bytes reads have brought, and how long the frame in progress
// is. Must not know: how a length is written, and which lengths are allowed.
//
//    #start: what is held begins here    #end: the next read goes here
//   +-----------------+-----------------+-----------------+
//   | handed out      | held            | room            |
//   +-----------------+-----------------+-----------------+
//
// Bytes before #end are never written again, since views on them may have been
// handed out. Three things pull at the size of the room:
//
//   silence    A pending read keeps its room alive, and a server has thousands
//              of silent connections. Those that have said little so far wait
//              with FIRST_ROOM. The others wait with room for a few bursts like
//              their last one, or with MIN_ROOM at least.
//   bursts     A read that fills its room says that more is waiting. The room
//              grows with each such read, and shrinks with the first other one.
//   frames     A frame that does not fit gets memory of its own, but only in
//              proportion to the bytes of it that have arrived: what a stranger
//              only claims is not reserved.

/** The first room. It is small, since anybody can open connections that stay
 * silent. */
const FIRST_ROOM = 512;

/** The least size of any later room. It takes a batch of small requests in one
 * read, so that their responses leave in one write. */
const MIN_ROOM = 2 * 1024;

/** The most room kept after a read that did not fill what it was offered: a
 * connection that falls silent after a burst keeps no more than this. It takes
 * a message of 16 KiB, header included, in one read. */
const MAX_IDLE_ROOM = 17 * 1024;

/** The most room offered for reads of many frames; beyond it, a larger read
 * saves no measurable time. */
const MAX_ROOM = 64 * 1024;

/** So many bytes pay for all of a frame's memory, if the frame is no longer than
 * `MAX_ROOM`. After a frame of that kind which was too long for one read, the next
 * one is waited for with this room. The bytes in this room will be copied to the
 * frame's own memory, so the room is no larger than it has to be. */
const CLAIM_ROOM = 8 * 1024;

/** Room smaller than this is not worth a read of its own. */
const LEAST_ROOM = 256;

/** How many bursts like the last one the room takes: new memory is then needed
 * for one read in so many. */
const BURSTS = 2;

/** By how much the room grows after a read that has filled it. */
const ROOM_GROWTH = 4;

/** A frame's memory grows to at most this many times the bytes of it that have
 * arrived, while they are few: two would copy all of it, and more would reserve
 * more on a stranger's word. */
const FRAME_GROWTH = 4;

/** The same once so many bytes have arrived: more steps would copy more, and clear
 * more. A block of about a MiB or more, as a rule, takes memory only where it is
 * written. A smaller one takes all of it at once, so that a stranger's claim can
 * cost so many times what he has sent. */
const LARGE_FRAME_GROWTH = 16;
const LARGE_FRAME_HELD = 16 * 1024;

const EMPTY: Uint8Array<ArrayBuffer> = new Uint8Array(0);

/** Memory that is filled by reads, and of which frames are views. */
export class ReadBuffer {
  #chunk: Uint8Array<ArrayBuffer> = EMPTY;
  /** Its buffer: a view made of it costs less than `subarray`, which asks for
   * buffer and class first. That is a fifth of decoding a small frame. */
  #memory: ArrayBuffer = EMPTY.buffer;
  #start = 0;
  #end = 0;
  /** A view on the chunk was handed out. */
  #shared = false;
  /** A chunk of which nothing was handed out, kept for the next room: a frame
   * with memory of its own has left it. */
  #spare: Uint8Array<ArrayBuffer> | undefined;
  /** Room given out and not yet taken back: the most that may be filled. */
  #offered = 0;
  /** The room that the next chunk should have, learnt from the reads. */
  #roomWanted = FIRST_ROOM;
  /** How much the last burst brought: a read that did not fill its room, and
   * the full ones right before it. */
  #burst = 0;
  #wasFull = false;

  /** Number of bytes held. */
  get length(): number {
    return this.#end - this.#start;
  }

  /** The most that the room that was given out may be filled with. */
  get offered(): number {
    return this.#offered;
  }

  /** The memory, in which what is held begins at `start`. It is to be read, and
   * written only where nothing was handed out yet. */
  get chunk(): Uint8Array<ArrayBuffer> {
    return this.#chunk;
  }

  /** Where in `chunk` the held bytes begin. */
  get start(): number {
    return this.#start;
  }

  /** Where in `chunk` the held bytes end. */
  get end(): number {
    return this.#end;
  }

  /** Copies bytes behind those held. */
  append(bytes: Uint8Array, frameLength: number): void {
    if (bytes.length > this.#chunk.length - this.#end) {
      const held = this.length;
      // Growing in proportion keeps the copying linear. A frame in progress
      // gets no more than itself; frames that nobody takes double.
      const grown = held < frameLength
        ? frameSize(held, frameLength)
        : 2 * held;
      this.#move(Math.max(held + bytes.length, MIN_ROOM, grown));
    }
    this.#chunk.set(bytes, this.#end);
    this.#end += bytes.length;
    this.#offered = 0;
  }

  /** Room for the next read, never empty; the caller's until the next call of
   * `room` or `append`. A frame's new memory has room for at most `most` bytes
   * more than are held, or twice what is held. */
  room(frameLength: number, most: number): Uint8Array<ArrayBuffer> {
    if (this.length < frameLength) this.#makeRoomForFrame(frameLength, most);
    else this.#makeRoom();
    this.#offered = this.#chunk.length - this.#end;
    return this.#end === 0
      ? this.#chunk
      : new Uint8Array(this.#memory, this.#end, this.#offered);
  }

  /** Says that a read has brought `n` bytes into the room, at most `offered`. */
  filled(n: number, frameLength: number): void {
    const room = this.#offered;
    this.#offered -= n;
    this.#end += n;
    this.#burst = this.#wasFull ? this.#burst + n : n;
    // A full read says that more is waiting, unless the room ended with a
    // frame. Any other says that this was all, and that the next may be long
    // in coming.
    this.#wasFull = n === room && this.length !== frameLength;
    this.#roomWanted = this.#wasFull
      ? Math.min(MAX_ROOM, Math.max(this.#roomWanted, n) * ROOM_GROWTH)
      : frameLength > MAX_IDLE_ROOM && frameLength <= MAX_ROOM
      ? CLAIM_ROOM
      : Math.min(
        MAX_IDLE_ROOM,
        Math.max(MIN_ROOM, BURSTS * powerOfTwoFrom(this.#burst)),
      );
  }

  /** Hands out the first `length` bytes held, less the first `skipped`. */
  take(length: number, skipped: number): Uint8Array<ArrayBuffer> {
    const at = this.#start;
    const view = new Uint8Array(this.#memory, at + skipped, length - skipped);
    this.#start = at + length;
    this.#shared = true;
    // Used up: let go of it, so that only the views keep it alive.
    if (this.#start === this.#chunk.length) this.clear();
    return view;
  }

  /** Drops what is held from `end` on, which is counted as `start` is. */
  cut(end: number): void {
    this.#end = end;
  }

  /** Drops everything, the room as well. */
  clear(): void {
    this.#hold(EMPTY);
    this.#start = this.#end = this.#offered = 0;
  }

  #makeRoom(): void {
    const held = this.length;
    const wanted = this.#roomWanted;
    const room = this.#chunk.length - this.#end;
    const isShort = room < Math.max(LEAST_ROOM, Math.min(this.#burst, wanted));
    // Nothing is held, and the chunk is larger than an idle connection's.
    const isExcessive = held === 0 &&
      this.#chunk.length >
        Math.max(wanted, Math.min(4 * wanted, MAX_IDLE_ROOM));
    if (isShort || isExcessive) this.#move(Math.max(wanted, 2 * held));
  }

  /** A frame that does not fit where it stands moves once enough of it has
   * arrived to pay for all of it, or when the room is used up. */
  #makeRoomForFrame(frameLength: number, most: number): void {
    if (frameLength <= this.#chunk.length - this.#start) return;
    const wanted = this.#roomWanted;
    const room = this.#chunk.length - this.#end;
    const size = frameLength <= wanted ? wanted : Math.max(
      wanted,
      Math.min(
        frameSize(this.length, frameLength),
        this.length + Math.max(this.length, most),
      ),
    );
    if (size >= frameLength || room < LEAST_ROOM) this.#move(size);
  }

  /** Goes on in other memory of `size` bytes or a little more; only what is
   * held is copied. */
  #move(size: number): void {
    const left = this.#chunk;
    const wasShared = this.#shared;
    const chunk = this.#allocate(size);
    chunk.set(left.subarray(this.#start, this.#end));
    this.#end -= this.#start;
    this.#start = 0;
    this.#hold(chunk);
    const isKept = !wasShared && left.length >= MIN_ROOM &&
      left.length <= MAX_IDLE_ROOM;
    if (isKept) this.#spare = left;
    else if (!wasShared && left.length > MAX_ROOM) freeMemory(left.buffer);
  }

  #allocate(size: number): Uint8Array<ArrayBuffer> {
    const spare = this.#spare;
    if (
      spare === undefined || spare.length < size || spare.length > BURSTS * size
    ) return new Uint8Array(size);
    this.#spare = undefined;
    return spare;
  }

  #hold(chunk: Uint8Array<ArrayBuffer>): void {
    this.#chunk = chunk;
    this.#memory = chunk.buffer;
    this.#shared = false;
  }
}

/**
 * Gives memory back at once, of which nobody has a view. It would be there until
 * the next collection of garbage otherwise, and with large frames that may be
 * more than all that is in use.
 */
export function freeMemory(memory: ArrayBuffer): void {
  // Detaching frees it. Older browsers cannot, and wait for the collection.
  (memory as { transfer?: (length: number) => unknown }).transfer?.(0);
}

/**
 * The memory for a frame in progress, of which `held` bytes have arrived: the
 * whole, or the whole divided by the growth as often as need be. Steps that are
 * counted down from the whole copy a part of it at the last; counted up from
 * what is held, one might end just short of the whole and copy nearly all of it.
 * A frame of up to MAX_ROOM has one step, behind its first CLAIM_ROOM.
 */
function frameSize(held: number, frameLength: number): number {
  if (held >= CLAIM_ROOM && frameLength <= MAX_ROOM) return frameLength;
  const growth = held < LARGE_FRAME_HELD ? FRAME_GROWTH : LARGE_FRAME_GROWTH;
  // A step is as good as filled when no read's worth of room is left of it.
  const most = growth * (held + LEAST_ROOM);
  let size = frameLength;
  while (size > most) size = Math.ceil(size / growth);
  return size === frameLength ? size : Math.max(size, 2 * held);
}

/** The least power of two that is `n` or more, up to MAX_IDLE_ROOM or so. */
function powerOfTwoFrom(n: number): number {
  const few = Math.min(n, MAX_IDLE_ROOM);
  // `clz32` counts the zeros before the highest bit.
  return 1 << (32 - Math.clz32(few - 1));
}
