/** The memory that all connections of a server share, without connections. */
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { Budget, Share, type ShareOwner } from "../_budget.ts";
import { chosenSeed, Random } from "./random_support.ts";

const MIB = 1024 * 1024;

/** 16 MiB, of which 4 are for turns, 6 for strangers, 9 for the known and 12 for
 * regulars; a
 * frame of 4 MiB must move 4 MiB a second, and may be silent for 400 ms. */
const LIMITS = {
  maxBuffered: 16 * MIB,
  maxFrameLength: 4 * MIB,
  readTimeout: 1000,
};

/** One direction of a connection, which notes what it is told. */
class Holder implements ShareOwner {
  readonly share: Share;
  readonly #budget: Budget;
  grants = 0;
  error: Error | undefined;

  constructor(budget: Budget, direction: "in" | "out" = "in") {
    this.#budget = budget;
    this.share = new Share(this, direction);
  }

  granted(): void {
    this.grants++;
  }

  cut(error: Error): void {
    this.error = error;
    this.#budget.leave(this.share);
  }

  /** Asks for part of a frame, as a stranger unless it has moved bytes. */
  ask(bytes: number, worth = 0, whole = 4 * MIB): boolean {
    return this.#budget.ask(this.share, bytes, whole, worth);
  }

  get waiting(): boolean {
    return this.share.waiting;
  }
}

/** A budget, as many holders as asked for, and looks on a clock by hand. */
function setup(count: number): {
  budget: Budget;
  holders: Holder[];
  look(ms: number): void;
} {
  const budget = new Budget(LIMITS);
  const holders = Array.from({ length: count }, () => new Holder(budget));
  let now = 0;
  return {
    budget,
    holders,
    look(ms) {
      for (const end = now + ms; now < end;) {
        now += 50;
        budget.look(now);
      }
    },
  };
}

/** Lets go of everything, so that nothing looks any more. */
function leaveAll(budget: Budget, holders: Holder[]): void {
  for (const { share } of holders) budget.leave(share);
  assertEquals([budget.used, budget.waiting], [0, 0]);
}

Deno.test("Strangers get less than the known, these less than regulars, and whoever finds no room gets a turn", () => {
  const { budget, holders } = setup(8);
  const [a, b, c, d, known] = holders as [
    Holder,
    Holder,
    Holder,
    Holder,
    Holder,
  ];
  assert(a.ask(4 * MIB));
  assert(b.ask(2 * MIB, 0, 2 * MIB));
  // What there is for strangers is not enough for all of its frame: the turn is
  // its, at once.
  assert(c.ask(1));
  assertEquals(c.share.turn, 4 * MIB);
  assert(!d.ask(1));
  assert(known.ask(3 * MIB, 3 * MIB));
  // Who has moved less than it wants to hold is a stranger.
  assert(!holders[5]!.ask(2 * MIB, MIB));
  assert(!holders[6]!.ask(2 * MIB, 31 * MIB));
  assert(holders[7]!.ask(2 * MIB, 32 * MIB));
  assertEquals(budget.used, 15 * MIB);
  assertEquals(budget.waiting, 3);
  leaveAll(budget, holders);
});

Deno.test("Room goes to those who wait as it becomes free, and the most is never exceeded", () => {
  const { budget, holders } = setup(100);
  for (const holder of holders) holder.ask(MIB);
  assertLessOrEqual(budget.used, LIMITS.maxBuffered);
  let grants = 0;
  for (const holder of holders) {
    const served = holders.filter(({ share }) => share.held > 0);
    assertLessOrEqual(budget.used, LIMITS.maxBuffered);
    // One after the other has its whole frame, and is done.
    const [next] = served;
    if (next === undefined) break;
    assert(next.ask(4 * MIB) || next.waiting);
    budget.leave(next.share);
    grants += holder.grants;
  }
  assertEquals([budget.used, budget.waiting], [0, 0]);
  assert(grants > 0);
});

Deno.test("Turns go to those who came last, and half of them to who has waited longest once all can soon be served", () => {
  const { budget, holders } = setup(10);
  const [full, ...line] = holders as [Holder, ...Holder[]];
  // Responses may use up everything that is in common.
  budget.hold(full.share, 12 * MIB);
  for (const holder of line) holder.ask(MIB);
  const order: number[] = [];
  for (let i = 0; i < line.length; i++) {
    const at = line.findIndex(({ share }) => share.turn > 0);
    order.push(at);
    budget.leave(line[at]!.share);
  }
  assertEquals(order, [0, 8, 7, 6, 5, 4, 1, 3, 2]);
  leaveAll(budget, holders);
});

Deno.test("What was begun goes on before anything is begun, the oldest first", () => {
  const { budget, holders } = setup(12);
  const [old, young, full, turn, ...fresh] = holders as [
    Holder,
    Holder,
    Holder,
    Holder,
    ...Holder[],
  ];
  assert(old.ask(MIB));
  assert(young.ask(MIB));
  assert(full.ask(4 * MIB, 0, 4 * MIB));
  assert(turn.ask(MIB));
  for (const holder of fresh) assert(!holder.ask(MIB, 0, MIB));
  // They ask in the other order.
  assert(!young.ask(2 * MIB, 0, 2 * MIB));
  assert(!old.ask(2 * MIB));
  const granted = () =>
    holders.flatMap(({ grants }, i) => grants > 0 ? [i] : []);
  // There is room for the young one, and for some that are fresh, but not yet
  // for all that the old one's frame will take.
  budget.hold(full.share, 2 * MIB);
  assertEquals(granted(), []);
  budget.hold(full.share, MIB);
  assertEquals(granted(), [0]);
  // What is set aside for it, nobody else gets.
  assert(old.ask(4 * MIB));
  assertEquals(granted(), [0]);
  budget.leave(full.share);
  assertEquals(granted(), [0, 1]);
  budget.leave(old.share);
  assertEquals(granted().slice(0, 2), [0, 1]);
  assertEquals(granted().length, 2 + 4);
  leaveAll(budget, holders);
});

Deno.test("Strangers who could not all come to the end of their frames do not begin them all", () => {
  const { budget, holders } = setup(100);
  // Each gets a little as long as there is much of it.
  for (const holder of holders) holder.ask(64 * 1024);
  const begun = () => holders.filter(({ share }) => share.held > 0);
  assert(begun().length > 40);
  assertLessOrEqual(budget.used, LIMITS.maxBuffered - 6 * MIB);
  // They all go on, and each that does comes to its end.
  for (let ended = 0; ended < 100;) {
    const before = ended;
    for (const holder of begun()) {
      for (let bytes = 128 * 1024; !holder.waiting; bytes *= 2) {
        if (bytes > 4 * MIB) {
          budget.leave(holder.share);
          ended++;
          break;
        }
        holder.ask(bytes);
      }
    }
    assert(ended > before);
    assertLessOrEqual(begun().length, 60);
  }
  leaveAll(budget, holders);
});

Deno.test("Who holds memory and is silent is cut once others wait, and nobody before", () => {
  const { budget, holders, look } = setup(4);
  const [silent, other, turn, waiting] = holders as [
    Holder,
    Holder,
    Holder,
    Holder,
  ];
  for (const holder of [silent, other]) {
    assert(holder.ask(3 * MIB, 0, 3 * MIB));
  }
  look(60_000);
  assertEquals(silent.error, undefined);
  assert(turn.ask(MIB));
  assert(!waiting.ask(MIB, 0, MIB));
  look(400);
  assertEquals([silent.error, waiting.grants], [undefined, 0]);
  look(100);
  assertEquals([silent.error?.name, waiting.grants], ["TimedOut", 1]);
  // No more than it takes.
  assertEquals([other.error, turn.error], [undefined, undefined]);
  look(60_000);
  assertEquals([other.error, turn.error], [undefined, undefined]);
  leaveAll(budget, holders);
});

Deno.test("Who moves fast enough is not cut, however others wait, and the slowest goes first", () => {
  const { budget, holders, look } = setup(5);
  const [steady, slow, slower, turn, waiting] = holders as [
    Holder,
    Holder,
    Holder,
    Holder,
    Holder,
  ];
  for (const holder of [steady, slow, slower]) {
    assert(holder.ask(2 * MIB, 0, 2 * MIB));
  }
  assert(turn.ask(2 * MIB));
  assert(!waiting.ask(2 * MIB, 0, 2 * MIB));
  const rate = 4 * MIB / 1000;
  for (let i = 0; i < 1000 && slower.error === undefined; i++) {
    // In jerks, as networks deliver.
    steady.share.moved += i % 4 === 0 ? 4 * 50 * rate : 0;
    turn.share.moved += 50 * rate;
    slow.share.moved += 0.5 * 50 * rate;
    slower.share.moved += 0.4 * 50 * rate;
    look(50);
  }
  assertEquals(slower.error?.name, "TimedOut");
  assertEquals(
    [steady, slow, turn].map(({ error }) => error),
    [undefined, undefined, undefined],
  );
  assertEquals(waiting.grants, 1);
  leaveAll(budget, holders);
});

Deno.test("Who cannot move because of us, or waits itself, is not judged", () => {
  const { budget, holders, look } = setup(4);
  const [paused, waiting, turn, other] = holders as [
    Holder,
    Holder,
    Holder,
    Holder,
  ];
  paused.share.paused = true;
  assert(paused.ask(3 * MIB, 0, 3 * MIB));
  assert(waiting.ask(3 * MIB, 0, 3 * MIB));
  assert(turn.ask(MIB));
  turn.share.paused = true;
  assert(!waiting.ask(4 * MIB));
  assert(!other.ask(MIB, 0, MIB));
  look(60_000);
  for (const { error } of holders) assertEquals(error, undefined);
  budget.resume(paused.share);
  look(500);
  assertEquals(paused.error?.name, "TimedOut");
  assertEquals([waiting.grants, other.grants], [1, 1]);
  leaveAll(budget, holders);
});

Deno.test("A thousand that stop sending do not keep a newcomer waiting for a thousand", () => {
  const { budget, holders, look } = setup(1000);
  for (const holder of holders) holder.ask(3.9 * MIB);
  for (let i = 0; i < 3; i++) {
    const newcomer = new Holder(budget);
    let waited = 0;
    for (let bytes = MIB; bytes <= 4 * MIB; bytes *= 2) {
      if (newcomer.ask(bytes)) continue;
      for (; newcomer.waiting; waited += 50) look(50);
    }
    // Other turns are the oldest's, and the next is the newcomer's.
    assertLessOrEqual(waited, 1000);
    assertEquals(newcomer.error, undefined);
    budget.leave(newcomer.share);
  }
  const cut = () => holders.filter(({ error }) => error !== undefined).length;
  for (let i = 0; i < 1000 && cut() < 990; i++) {
    look(500);
    assertLessOrEqual(budget.used, LIMITS.maxBuffered);
  }
  assert(cut() >= 990);
  leaveAll(budget, holders);
});

Deno.test("A buffer that many responses refer to is held once", () => {
  const { budget } = setup(0);
  const buffer = new ArrayBuffer(5 * MIB);
  for (let i = 0; i < 100; i++) budget.pin(buffer);
  assertEquals(budget.used, 5 * MIB);
  for (let i = 0; i < 99; i++) budget.unpin(buffer);
  assertEquals(budget.used, 5 * MIB);
  buffer.transfer(0);
  budget.unpin(buffer);
  assertEquals(budget.used, 0);
});

Deno.test("Who is about to hold an unknown much waits while there is no room, and gets a turn", () => {
  const { budget } = setup(0);
  const holders = Array.from({ length: 4 }, () => new Holder(budget, "out"));
  const [full, a, b, known] = holders as [Holder, Holder, Holder, Holder];
  const nothing = new Share(full, "in");
  const begin = ({ share }: Holder, expected = 0) =>
    budget.askToBegin(share, nothing, expected, expected);
  assert(budget.mayBegin);
  // As much as there may be is set aside, until it is known how much it is.
  assert(begin(known, MIB));
  assertEquals(budget.used, MIB);
  assert(begin(known, MIB));
  budget.hold(known.share, 100);
  assertEquals(budget.used, 100);
  budget.leave(known.share);

  budget.hold(full.share, 5 * MIB);
  assert(!budget.mayBegin);
  assert(begin(a));
  assertEquals(a.share.turn, 4 * MIB);
  assert(begin(a));
  assert(!begin(b));
  assert(begin(known, 100));
  budget.hold(a.share, 3 * MIB);
  assertEquals(budget.used, 9 * MIB + 100);
  budget.leave(a.share);
  assertEquals([b.grants, b.share.turn], [1, 4 * MIB]);

  const small = () => [0, 4 * 1024].map((worth) => budget.mayBeginSmall(worth));
  budget.hold(full.share, 5 * MIB);
  assertEquals(small(), [true, true]);
  budget.hold(full.share, 6 * MIB);
  assertEquals(small(), [false, true]);
  budget.hold(full.share, 16 * MIB);
  assertEquals(small(), [false, false]);
  leaveAll(budget, holders);
});

Deno.test("Frames that fill their part keep no small request from being answered", () => {
  const { budget, holders } = setup(100);
  for (const holder of holders) holder.ask(MIB, 0, MIB);
  assertEquals(budget.used, 10 * MIB);
  assert(budget.mayBegin);
  leaveAll(budget, holders);
});

Deno.test("A budget works the same with many in line, whoever leaves it", () => {
  const { budget, holders, look } = setup(20_000);
  for (const holder of holders) holder.ask(MIB);
  assert(budget.waiting > 19_980);
  // Every other one goes, from the middle of the line.
  for (let i = 0; i < holders.length; i += 2) budget.leave(holders[i]!.share);
  look(1000);
  assert(budget.waiting > 9_900);
  leaveAll(budget, holders);
});

Deno.test("At random, nothing is lost, nobody is forgotten, and the most is kept to", () => {
  const random = new Random(chosenSeed());
  for (let round = 0; round < 200; round++) {
    const budget = new Budget(LIMITS);
    const holders = Array.from(
      { length: 40 },
      (_, i) => new Holder(budget, i % 2 === 0 ? "in" : "out"),
    );
    const nothing = new Share(holders[0]!, "in");
    let now = 0;
    for (let step = 0; step < 200; step++) {
      const holder = random.pick(holders);
      const { share } = holder;
      const worth = random.between(0, 1) === 0
        ? 0
        : random.between(0, 64 * MIB - 1);
      switch (random.between(0, 5)) {
        case 0:
        case 1:
          if (share.direction === "in") {
            holder.ask(random.between(0, 4 * MIB - 1) + 1, worth);
          } else {
            const expected = random.between(0, 1) *
              random.between(0, 4 * MIB - 1);
            budget.askToBegin(share, nothing, expected, worth);
          }
          break;
        case 2:
          // What is known to be held is no more than was set aside.
          if (!share.waiting) {
            budget.hold(share, random.between(0, share.held));
          }
          break;
        case 3:
          if (share.waiting) break;
          budget.hold(share, 0);
          budget.endTurn(share);
          break;
        case 4:
          budget.leave(share);
          break;
        default:
          share.moved += random.between(0, MIB - 1);
          now += 50;
          budget.look(now);
      }
      assertLessOrEqual(budget.used, LIMITS.maxBuffered);
      const waiting = holders.filter((holder) => holder.waiting);
      assertEquals(budget.waiting, waiting.length);
      // Somebody has a turn, as long as anybody waits.
      if (waiting.length > 0) {
        assert(holders.some(({ share }) => share.turn > 0));
      }
    }
    // Everybody is served in the end, whoever goes before.
    for (let i = 0; i < 1000 && budget.waiting > 0; i++) {
      const served = holders.find(({ share }) =>
        !share.waiting && (share.held > 0 || share.turn > 0)
      );
      assert(served !== undefined);
      budget.leave(served.share);
    }
    leaveAll(budget, holders);
  }
});
