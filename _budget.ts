// The memory that all connections of a server share for unfinished frames and
// unwritten responses: who may have how much of it, who waits, and who is cut.
//
// Knows: how many bytes each direction of a connection holds, wants and moves,
// and what time it is when it looks. Must not know: what a connection is, and
// what the bytes are.
//
// The memory has two parts, so that nobody can keep everybody else waiting:
//
//                          maxBuffered
// +----------------------------------------------+----------------------+
// | common                                       | turns                |
// +----------------------+-----------+-----------+----------------------+
// | strangers up to here | the known | regulars  | a quarter, or one    |
// |                      |           |           | frame if that is more|
// +----------------------+-----------+-----------+----------------------+
//
// Whoever comes takes from the common part. How far he may fill it depends on
// the bytes that his connection has moved to their end before, its worth: who
// wants to hold memory to no purpose must first have done as much to purpose.
//
// As long as there is plenty, a stranger's frame takes memory in steps, as its
// bytes come. Many frames that each hold a part and wait for more would fill the
// memory to no purpose. So, while memory is short, a stranger goes on only where
// all of his frame finds room. What is begun goes on first, the oldest first.
//
// Who finds no room waits in line, and gets a turn: room for all of his frame,
// whatever becomes of the common part. If few wait, half of the turns go to the
// one that has waited longest, and everybody is served within a reasonable time.
// If many wait, almost all turns go to the one that came last: a newcomer need not
// outwait a thousand who only pretend to be sending.
//
// While anybody waits, those who hold memory and move too slowly are cut, the
// slowest first.

import { namedError } from "./_errors.ts";
import { Sweeper } from "./_timers.ts";

/** What each direction of a connection may hold without being counted: most
 * connections never hold more, and cost nothing here. */
export const UNCOUNTED = 32 * 1024;

/** How long who holds memory may be silent while others wait for it: a
 * thirtieth of `readTimeout`, and no less or more than these, in milliseconds.
 * A round trip, or a packet that is sent again, must not cost a connection. */
const MIN_PATIENCE = 400;
const MAX_PATIENCE = 1000;

/** Milliseconds between looks at those who hold memory. */
const INTERVAL = 50;

/** While more wait than these, patience shrinks in proportion. */
const FEW_WAITING = 16;

/** A regular has moved so many times what it wants to hold. */
const REGULAR = 16;

/** One that has always been answered with little is believed to go on so, once
 * it has moved so many bytes. */
const PROVEN_SMALL = 4 * 1024;

/** Few wait if no more do than were let in within this time, in milliseconds. */
const RECENT = 10_000;

/** One in so many that are let in is the oldest, the others are the newest. If few
 * wait, everybody is let in within twice `RECENT` so. If many wait, most of them
 * would have given up before; the newest has not. */
const OLDEST_OF_FEW = 2;
const OLDEST_OF_MANY = 64;

/** A frame's rate has no meaning without a `readTimeout`; this one is taken. */
const DEFAULT_READ_TIMEOUT = 30_000;

/** How much longer writes may be silent. The system takes more bytes only when
 * a third of its buffer is free, so even a steady reader's come in jerks. */
const WRITE_PATIENCE = 1.5;

/** The limits of a {@linkcode Budget}. */
export interface BudgetLimits {
  /** Most bytes held, at least twice `maxFrameLength`. */
  readonly maxBuffered: number;
  /** The longest frame, in bytes. */
  readonly maxFrameLength: number;
  /** What a whole frame may take, in milliseconds; 0 is for ever. */
  readonly readTimeout: number;
}

/** Who holds a {@linkcode Share}. */
export interface ShareOwner {
  /**
   * What was asked for is granted. It is called in the midst of another
   * connection's business, so it may take note and no more.
   */
  granted(): void;
  /** It has held memory that others wait for, and moved too slowly. */
  cut(error: Error): void;
}

/** What one direction of a connection holds: of frames that come in, or of
 * responses that go out. Its fields are the budget's. */
export class Share {
  readonly owner: ShareOwner;
  readonly direction: "in" | "out";
  /** Bytes that it may owe before it is cut, as a part of a frame's. */
  readonly patience: number;
  /** Bytes counted. */
  held = 0;
  /** Bytes set aside for its turn; 0 without one. */
  turn = 0;
  /** Bytes set aside in the common part until its frame has ended; 0 if none are. */
  reserved = 0;
  /** It does not move because of us, and is not judged for it. */
  paused = false;

  /** Bytes moved since the last look. */
  moved = 0;
  /** Bytes that it may still fall behind. */
  credit = 0;
  /** It has not been looked at since it may move. */
  fresh = true;

  /** What it waits for: bytes to hold, and what a turn would take. */
  wanted = 0;
  whole = 0;
  /** Room that the common part must have for it, and what is set aside then. */
  need = 0;
  toReserve = 0;
  line: Line | null = null;
  previous: Share | null = null;
  next: Share | null = null;
  /** Tells who came first. */
  ticket = 0;

  constructor(owner: ShareOwner, direction: "in" | "out") {
    this.owner = owner;
    this.direction = direction;
    this.patience = direction === "in" ? 1 : WRITE_PATIENCE;
  }

  /** Whether it is in line. */
  get waiting(): boolean {
    return this.line !== null;
  }
}

/**
 * One budget for all connections of a server.
 *
 * - What is asked for is granted at once or when there is room; what is held is
 *   never taken back, unless its connection is cut.
 * - A call takes the same time, however many hold or wait, with one exception: a
 *   frame that goes on waits at the place of its age, and so passes the younger
 *   ones in its line.
 * - A look takes time for each that holds, and there are looks only while somebody
 *   waits.
 */
export class Budget {
  /** The longest frame, in bytes. */
  readonly maxFrameLength: number;
  /** How far each may fill the common part. */
  readonly #forStrangers: number;
  readonly #forKnown: number;
  readonly #forRegulars: number;
  readonly #forTurns: number;
  readonly #forTurnsOut: number;
  /** Bytes a millisecond that whoever holds memory must move. */
  readonly #rate: number;
  readonly #sweeper: Sweeper;
  readonly #patience: number;

  /** Bytes held outside turns: of frames that come in, and of responses. */
  #frames = 0;
  #responses = 0;
  /** Bytes set aside for turns, and for those of responses. */
  #turns = 0;
  #turnsOut = 0;
  /** Shares that hold anything. */
  readonly #holders = new Set<Share>();
  /** Buffers that responses refer to. One that many responses share is held
   * once. */
  readonly #pins = new Map<ArrayBufferLike, Pin>();

  /** Who waits to read on: strangers who hold memory already are apart from
   * those who hold none. */
  readonly #in = new Queue();
  readonly #regulars: Line;
  readonly #known: Line;
  readonly #begun: Line;
  readonly #fresh: Line;
  /** Who waits to begin with a request. */
  readonly #out = new Queue();
  readonly #knownToBegin: Line;
  readonly #freshToBegin: Line;
  /** Lines whose first comes first, in the order in which they are asked. */
  readonly #inOrder: readonly Line[];
  #tickets = 0;
  /** The direction that is asked first for the next turn. */
  #nextTurn: "in" | "out" = "in";
  /** Who asks just now, and is told by what is returned. */
  #asking: Share | undefined;
  /** Somebody has waited since the last look; when that was. */
  #pressed = false;
  #looked = -1;

  constructor({ maxBuffered, maxFrameLength, readTimeout }: BudgetLimits) {
    this.maxFrameLength = maxFrameLength;
    this.#forTurns = Math.max(maxFrameLength, Math.floor(maxBuffered / 4));
    this.#forTurnsOut = Math.max(maxFrameLength, this.#forTurns / 4);
    this.#forRegulars = maxBuffered - this.#forTurns;
    this.#forKnown = Math.floor(3 * this.#forRegulars / 4);
    this.#forStrangers = Math.floor(this.#forRegulars / 2);
    this.#regulars = this.#in.line(this.#forRegulars);
    this.#known = this.#in.line(this.#forKnown);
    this.#begun = this.#in.line(this.#forStrangers);
    this.#fresh = this.#in.line(this.#forStrangers);
    this.#knownToBegin = this.#out.line(this.#forKnown);
    // What a handler has made lives on, when nobody takes it, until the next
    // collection of garbage: less of that is let in.
    this.#freshToBegin = this.#out.line(Math.floor(3 * this.#forStrangers / 4));
    this.#inOrder = [
      this.#knownToBegin,
      this.#regulars,
      this.#known,
      this.#begun,
    ];
    const timeout = readTimeout > 0 ? readTimeout : DEFAULT_READ_TIMEOUT;
    this.#rate = maxFrameLength / timeout;
    this.#patience = Math.min(
      MAX_PATIENCE,
      Math.max(MIN_PATIENCE, timeout / 30),
    );
    this.#sweeper = new Sweeper(INTERVAL, (now) => this.look(now));
  }

  /** Bytes held, and set aside for turns. */
  get used(): number {
    return this.#common + this.#turns;
  }

  /** Shares in line. */
  get waiting(): number {
    return this.#in.length + this.#out.length;
  }

  get #common(): number {
    return this.#frames + this.#responses;
  }

  /**
   * Asks to hold so many bytes instead of what the share holds now. Less is
   * always granted.
   *
   * @param whole What it will want at most: all of its frame.
   * @param worth Bytes that its connection has moved to their end before.
   * @returns Whether it is granted; if not, `granted` will be called.
   */
  ask(share: Share, bytes: number, whole: number, worth: number): boolean {
    if (share.waiting) return false;
    if (bytes <= Math.max(share.held, share.turn, share.reserved)) {
      this.hold(share, bytes);
      return true;
    }
    // A frame that goes on keeps the place in line that it had at first.
    if (share.held === 0) share.ticket = this.#tickets++;
    share.wanted = bytes;
    share.whole = Math.max(whole, bytes);
    const line = worth >= REGULAR * bytes
      ? this.#regulars
      : worth >= bytes
      ? this.#known
      : share.held > 0
      ? this.#begun
      : this.#fresh;
    const isShort = this.waiting > 0 || this.#frames >= this.#forStrangers / 2;
    const isStranger = line === this.#begun || line === this.#fresh;
    share.toReserve = isShort && isStranger ? share.whole : 0;
    share.need = Math.max(bytes, share.toReserve) - counted(share);
    return this.#grant(share, line);
  }

  /**
   * Asks to begin with something that will hold memory, it is not known how
   * much: a handler's response. What it is expected to hold is set aside until
   * `hold` says what it is.
   *
   * @param request What holds its request, which is let go of then.
   * @param expected Bytes that it will probably hold; 0 where it is not known,
   * and the most is to be expected.
   * @param worth Bytes that its connection has moved to their end before.
   * @returns Whether it is granted; if not, `granted` will be called.
   */
  askToBegin(
    share: Share,
    request: Share,
    expected: number,
    worth: number,
  ): boolean {
    if (share.waiting) return false;
    if (share.turn > 0 || share.held > 0) return true;
    if (request.turn > 0) {
      // It is still its turn.
      const { turn } = request;
      this.#setTurn(request, 0);
      this.#setTurn(share, turn);
      this.#frames += counted(request);
      this.#holders.add(share);
      return true;
    }
    share.wanted = expected > 0 ? expected : this.maxFrameLength;
    share.need = share.wanted - request.held;
    share.whole = this.maxFrameLength;
    share.ticket = this.#tickets++;
    const isKnown = expected > 0 && worth >= expected;
    return this.#grant(
      share,
      isKnown ? this.#knownToBegin : this.#freshToBegin,
    );
  }

  /** Whether something may begin that will probably hold little, without asking
   * for more: for those who have shown it for a while until everything is used
   * up, and for others up to where there is room for strangers. */
  mayBeginSmall(worth: number): boolean {
    const isProven = worth >= PROVEN_SMALL;
    return this.#common < this.#forRegulars + this.#forTurns &&
      (isProven || this.#responses < this.#forStrangers);
  }

  /** Whether so much room is left that anybody may begin without asking. */
  get mayBegin(): boolean {
    return this.#freshToBegin.length === 0 &&
      this.#responses < this.#freshToBegin.limit &&
      this.#common < this.#forRegulars;
  }

  /** Whether so much room is left that nobody needs to be sparing of it. */
  get isAmple(): boolean {
    return this.#fresh.length === 0 && this.#begun.length === 0 &&
      this.#common < this.#forStrangers;
  }

  /** Holds so many bytes, granted or not. */
  hold(share: Share, bytes: number): void {
    if (share.held === bytes) return;
    const before = counted(share);
    share.held = bytes;
    this.#changed(share, before);
  }

  /** Says that its frame, or its response, has come to its end: the turn is
   * over. */
  endTurn(share: Share): void {
    if (share.turn === 0 && share.reserved === 0) return;
    const before = counted(share);
    share.reserved = 0;
    this.#setTurn(share, 0);
    this.#changed(share, before);
    this.#serve();
  }

  /** Its bytes may move again, after they could not because of us. */
  resume(share: Share): void {
    if (!share.paused) return;
    share.paused = false;
    share.fresh = true;
  }

  /** A response refers to a buffer until it is written. */
  pin(buffer: ArrayBufferLike): void {
    const pin = this.#pins.get(buffer);
    if (pin !== undefined) {
      pin.count++;
      return;
    }
    // The length is kept: a buffer that its owner transfers away has none.
    this.#pins.set(buffer, { count: 1, bytes: buffer.byteLength });
    this.#responses += buffer.byteLength;
  }

  /** One response less refers to a buffer. */
  unpin(buffer: ArrayBufferLike): void {
    const pin = this.#pins.get(buffer);
    if (pin === undefined || --pin.count > 0) return;
    this.#pins.delete(buffer);
    this.#responses -= pin.bytes;
    this.#serve();
  }

  /** Takes no part any more. */
  leave(share: Share): void {
    share.line?.remove(share);
    share.whole = 0;
    const before = counted(share);
    this.#setTurn(share, 0);
    share.held = 0;
    this.#changed(share, before);
    this.#serve();
  }

  /**
   * Judges everybody who holds memory, if anybody waits for it, and cuts who
   * has fallen too far behind: the slowest first, and no more than it takes.
   *
   * @param now Milliseconds, on whatever clock.
   */
  look(now: number): void {
    // While the thread is busy nothing is read, and nobody is to be cut for it.
    const elapsed = this.#looked < 0
      ? 0
      : Math.min(2 * INTERVAL, now - this.#looked);
    this.#looked = now;
    for (const queue of [this.#in, this.#out]) queue.age(elapsed);
    if (!this.#pressed && this.waiting === 0) return this.#rest();
    this.#pressed = this.waiting > 0;
    const due = this.#rate * elapsed;
    const patience = Math.max(
      MIN_PATIENCE,
      this.#patience * Math.min(1, FEW_WAITING / this.waiting),
    );
    const slow: Share[] = [];
    for (const share of this.#holders) {
      const most = this.#rate * patience * share.patience;
      if (share.fresh || share.paused || share.waiting) {
        share.fresh = share.paused || share.waiting;
        share.credit = most;
      } else {
        share.credit = Math.min(most, share.credit + share.moved) - due;
        if (share.credit <= 0) slow.push(share);
      }
      share.moved = 0;
    }
    slow.sort((a, b) => a.credit - b.credit);
    for (const { owner } of slow) {
      if (this.waiting === 0) break;
      owner.cut(
        namedError(
          "TimedOut",
          "Connection moved too slowly while others waited for the memory that it held",
        ),
      );
    }
  }

  /** In the common part, or by a turn, or else in line. */
  #grant(share: Share, line: Line): boolean {
    // Others who wait do not stop it: they need more than there is, and get
    // their turns.
    if (this.#fits(share, line)) {
      this.#give(share, 0);
      return true;
    }
    line.insert(share);
    this.#pressed = true;
    this.#asking = share;
    this.#serve();
    this.#asking = undefined;
    if (!share.waiting) return true;
    share.fresh = true;
    if (!this.#sweeper.running) {
      // What was held before is judged from now on.
      for (const holder of this.#holders) holder.fresh = true;
      this.#looked = -1;
      this.#sweeper.start();
      this.#sweeper.unref();
    }
    return false;
  }

  /** Gives what has become free to those who wait. */
  #serve(): void {
    while (this.waiting > 0) {
      const share = this.#nextInCommon();
      if (share !== null) this.#admit(share, 0);
      else if (
        !this.#giveTurn(this.#nextTurn) &&
        !this.#giveTurn(other(this.#nextTurn))
      ) break;
    }
    if (this.waiting === 0 && this.#holders.size === 0) this.#rest();
  }

  /** Who of those in line finds room in the common part. */
  #nextInCommon(): Share | null {
    for (const line of this.#inOrder) {
      if (this.#fits(line.first, line)) return line.first;
    }
    for (const line of [this.#freshToBegin, this.#fresh]) {
      // What is begun comes first: it was there before, and ends sooner.
      if (line === this.#fresh && this.#begun.length > 0) continue;
      const share = line.queue.prefersOldest ? line.first : line.last;
      if (this.#fits(share, line)) return share;
    }
    return null;
  }

  /** Whether there is room in the common part. */
  #fits(share: Share | null, line: Line): boolean {
    if (share === null) return false;
    const held = line.queue === this.#in ? this.#frames : this.#responses;
    return held + share.need <= line.limit &&
      this.#common + share.need <= this.#forRegulars;
  }

  #giveTurn(direction: "in" | "out"): boolean {
    const queue = direction === "in" ? this.#in : this.#out;
    const { oldest } = queue;
    const preferred = queue.prefersOldest ? oldest : queue.newest;
    // Who has waited longest is not passed for being large: the room that it
    // needs is kept until there is enough.
    const share = this.#hasTurn(preferred) ? preferred : oldest;
    if (!this.#hasTurn(share)) return false;
    this.#nextTurn = other(direction);
    this.#admit(share!, Math.min(share!.whole, this.#forTurns));
    return true;
  }

  #hasTurn(share: Share | null): boolean {
    if (share === null) return false;
    const bytes = Math.min(share.whole, this.#forTurns);
    return this.#turns + bytes <= this.#forTurns &&
      (share.direction === "in" ||
        this.#turnsOut + bytes <= this.#forTurnsOut);
  }

  #setTurn(share: Share, bytes: number): void {
    this.#turns += bytes - share.turn;
    if (share.direction === "out") this.#turnsOut += bytes - share.turn;
    share.turn = bytes;
  }

  #admit(share: Share, turn: number): void {
    share.line!.queue.picked();
    share.line!.remove(share);
    this.#give(share, turn);
    share.fresh = true;
    if (share !== this.#asking) share.owner.granted();
  }

  /** Has it hold what it has asked for, by a turn or else in the common part. */
  #give(share: Share, turn: number): void {
    const before = counted(share);
    share.reserved = turn > 0 ? 0 : share.toReserve;
    this.#setTurn(share, turn);
    share.held = share.wanted;
    this.#changed(share, before);
  }

  #changed(share: Share, before: number): void {
    if (share.held === 0) share.reserved = 0;
    const after = counted(share);
    if (share.direction === "in") this.#frames += after - before;
    else this.#responses += after - before;
    if (share.held > 0 || share.turn > 0) this.#holders.add(share);
    else this.#holders.delete(share);
    if (after < before) this.#serve();
  }

  /** Looks no more until somebody waits again. */
  #rest(): void {
    this.#pressed = false;
    this.#sweeper.stop();
  }
}

/** A buffer that is held. */
interface Pin {
  count: number;
  readonly bytes: number;
}

/** All who wait in one direction. */
class Queue {
  readonly #lines: Line[] = [];
  /** Shares in its lines. */
  length = 0;
  /** How many were let in. */
  #picked = 0;
  /** The same within `RECENT`, as an average that fades. */
  #pickedLately = 0;

  /** Another line of the queue. */
  line(limit: number): Line {
    const line = new Line(this, limit);
    this.#lines.push(line);
    return line;
  }

  get oldest(): Share | null {
    return this.#lines.map(({ first }) => first).reduce(older);
  }

  get newest(): Share | null {
    return this.#lines.map(({ last }) => last).reduce(newer);
  }

  /** Whether the oldest is next, rather than the newest. */
  get prefersOldest(): boolean {
    const areFew = this.length <= this.#pickedLately;
    return this.#picked % (areFew ? OLDEST_OF_FEW : OLDEST_OF_MANY) === 0;
  }

  /** One of its shares is let in. */
  picked(): void {
    this.#picked++;
    this.#pickedLately++;
  }

  /** So many milliseconds have passed. */
  age(elapsed: number): void {
    this.#pickedLately *= Math.exp(-elapsed / RECENT);
  }
}

/** Shares that wait, in the order in which their frames came. */
class Line {
  readonly queue: Queue;
  /** Up to where its members may fill the common part, with all that moves in
   * their direction. */
  readonly limit: number;
  first: Share | null = null;
  last: Share | null = null;
  length = 0;

  constructor(queue: Queue, limit: number) {
    this.queue = queue;
    this.limit = limit;
  }

  insert(share: Share): void {
    let previous = this.last;
    let next: Share | null = null;
    if (this.first !== null && share.ticket < this.first.ticket) {
      // As a rule: it was first before, got some of what it needs, and goes on.
      [previous, next] = [null, this.first];
    }
    while (previous !== null && share.ticket < previous.ticket) {
      [previous, next] = [previous.previous, previous];
    }
    share.line = this;
    share.previous = previous;
    share.next = next;
    if (previous === null) this.first = share;
    else previous.next = share;
    if (next === null) this.last = share;
    else next.previous = share;
    this.length++;
    this.queue.length++;
  }

  remove(share: Share): void {
    const { previous, next } = share;
    if (previous === null) this.first = next;
    else previous.next = next;
    if (next === null) this.last = previous;
    else next.previous = previous;
    share.line = share.previous = share.next = null;
    this.length--;
    this.queue.length--;
  }
}

/** What a share takes of the common part. */
function counted(share: Share): number {
  return Math.max(0, share.held - share.turn, share.reserved);
}

function other(direction: "in" | "out"): "in" | "out" {
  return direction === "in" ? "out" : "in";
}

function older(a: Share | null, b: Share | null): Share | null {
  if (a === null || b === null) return a ?? b;
  return a.ticket < b.ticket ? a : b;
}

function newer(a: Share | null, b: Share | null): Share | null {
  if (a === null || b === null) return a ?? b;
  return a.ticket > b.ticket ? a : b;
}
