/** FrameReader over sources that are slow, short, broken or wrong. */
import {
  assert,
  assertEquals,
  assertLessOrEqual,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { concat } from "@std/bytes";
import {
  encodeFrame,
  FrameReader,
  FrameTooLargeError,
  TruncatedFrameError,
} from "../codec.ts";
import { bytes, MIB, pattern } from "./bytes_support.ts";
import {
  NINE,
  ScriptedSource,
  STREAM,
  THREE,
  W2,
  W4,
} from "./codec_support.ts";
import { isCollected } from "./memory_support.ts";
import { rejection } from "./promise_support.ts";

Deno.test("FrameReader.read() gives frame after frame, then null for ever", async () => {
  const source = new ScriptedSource([STREAM]);
  const reader = new FrameReader(source, W4);
  assertEquals(await reader.read(), bytes("abcdefghi"));
  assertEquals(await reader.read(), bytes("123"));
  assertEquals(await reader.read(), bytes("hello world"));
  assertEquals(await reader.read(), null);
  const reads = source.reads;
  assertEquals(await reader.read(), null);
  assertEquals(await reader.read(), null);
  assertEquals(source.reads, reads, "a source that ended is not read again");
});

Deno.test("FrameReader reads no more than it needs for the frame at hand", async () => {
  const source = new ScriptedSource([STREAM]);
  const reader = new FrameReader(source, W4);
  await reader.read();
  assertEquals(source.reads, 1);
  await reader.read();
  await reader.read();
  assertEquals(source.reads, 1);
});

Deno.test("FrameReader serves concurrent reads in order, with one read of the source at a time", async () => {
  const source = new ScriptedSource(Array.from(STREAM, (byte) => bytes(byte)));
  const reader = new FrameReader(source, W4);
  const settled: number[] = [];
  const reads = Array.from(
    { length: 5 },
    (_, i) =>
      reader.read().then((frame) => {
        settled.push(i);
        return frame;
      }),
  );
  assertEquals(await Promise.all(reads), [
    bytes("abcdefghi"),
    bytes("123"),
    bytes("hello world"),
    null,
    null,
  ]);
  assertEquals(settled, [0, 1, 2, 3, 4]);
  assertEquals(source.mostActive, 1);
});

Deno.test("FrameReader queues a read that the source makes while it is asked", async () => {
  for (const fails of [false, true]) {
    const inner: Promise<unknown>[] = [];
    const steps = [bytes(0, 0, 0), bytes(1, "a", 0, 0, 0, 1), bytes("b")];
    let active = 0;
    const reader: FrameReader = new FrameReader({
      async read(room) {
        assertEquals(++active, 1);
        if (inner.length < 2) inner.push(reader.read());
        await null;
        active--;
        const step = steps.shift();
        if (step === undefined && fails) throw new Error("broken");
        room.set(step ?? []);
        return step?.length ?? null;
      },
    }, W4);
    const outer = reader.read();
    const last = reader.read();
    assertEquals(await outer, bytes("a"));
    assertEquals(await inner[0], bytes("b"));
    // In the order in which they were made.
    for (const read of [last, inner[1]!]) {
      if (fails) assertEquals(String(await rejection(read)), "Error: broken");
      else assertEquals(await read, null);
    }
  }
});

Deno.test("FrameReader gives the frames before a source error, then the error for ever", async () => {
  const broken = new Error("broken");
  const source = new ScriptedSource([concat([NINE, THREE]), broken, NINE]);
  const reader = new FrameReader(source, W4);
  assertEquals(await reader.read(), bytes("abcdefghi"));
  assertEquals(await reader.read(), bytes("123"));
  for (let i = 0; i < 3; i++) {
    assertStrictEquals(await rejection(reader.read()), broken);
  }
  assertEquals(source.reads, 2);
});

Deno.test("FrameReader rejects every concurrent read with the source's error", async () => {
  const broken = new Error("broken");
  const reader = new FrameReader(new ScriptedSource([THREE, broken]), W4);
  const first = reader.read();
  const others = [reader.read(), reader.read()].map(rejection);
  assertEquals(await first, bytes("123"));
  assertEquals(await Promise.all(others), [broken, broken]);
});

Deno.test("FrameReader gives the frames before a bad one, then the same error for ever", async () => {
  const source = new ScriptedSource([bytes(0, 1, "a", 0, 9), NINE]);
  const reader = new FrameReader(source, { ...W2, maxFrameLength: 8 });
  assertEquals(await reader.read(), bytes("a"));
  const error = await assertRejects(() => reader.read(), FrameTooLargeError);
  assertEquals(error.length, 9);
  assertEquals(error.limit, 8);
  assertStrictEquals(await rejection(reader.read()), error);
  assertEquals(source.reads, 1);
});

Deno.test("FrameReader rejects with TruncatedFrameError when the source ends in a frame, for ever", async () => {
  for (
    const [wire, expected, received] of [
      [bytes(0, 1, "a", 0), 2, 1],
      [bytes(0, 1, "a", 0, 5), 7, 2],
      [bytes(0, 1, "a", 0, 5, "bcde"), 7, 6],
    ] as const
  ) {
    const reader = new FrameReader(new ScriptedSource([wire]), W2);
    assertEquals(await reader.read(), bytes("a"));
    const error = await assertRejects(() => reader.read(), TruncatedFrameError);
    assertEquals([error.expected, error.received], [expected, received]);
    assertStrictEquals(await rejection(reader.read()), error);
  }
});

Deno.test("FrameReader is async iterable, and goes on where an iteration was left", async () => {
  const reader = new FrameReader(new ScriptedSource([STREAM]), W4);
  for await (const frame of reader) {
    assertEquals(frame, bytes("abcdefghi"));
    break;
  }
  assertEquals(await reader.read(), bytes("123"));
  const rest: Uint8Array[] = [];
  for await (const frame of reader) rest.push(frame);
  assertEquals(rest, [bytes("hello world")]);
  for await (const _ of reader) assert(false, "the end is the end");
});

Deno.test("FrameReader lets a source give nothing now and then, but not for ever", async () => {
  const patient = new FrameReader(
    new ScriptedSource([0, bytes(0, 2), 0, 0, bytes("hi"), 0]),
    W2,
  );
  assertEquals(await patient.read(), bytes("hi"));
  assertEquals(await patient.read(), null);

  let reads = 0;
  const idle = new FrameReader({
    read: () => {
      if (++reads > 1_000_000) throw new Error("still spinning");
      return Promise.resolve(0);
    },
  });
  const error = await assertRejects(() => idle.read(), Error);
  assertLessOrEqual(reads, 10_000);
  assertStrictEquals(await rejection(idle.read()), error);
});

Deno.test("FrameReader refuses a source that reports what cannot be", async () => {
  for (const n of [-1, 1.5, NaN, Infinity, 1e9, "3", undefined, {}]) {
    const reader = new FrameReader(
      { read: () => Promise.resolve(n as number) },
      W2,
    );
    const error = await rejection(reader.read());
    assert(error instanceof Error, `a count of ${String(n)} was taken`);
    assertStrictEquals(await rejection(reader.read()), error);
  }
});

Deno.test("FrameReader takes a source that throws instead of rejecting", async () => {
  const broken = new Error("broken");
  const reader = new FrameReader({
    read: () => {
      throw broken;
    },
  });
  assertStrictEquals(await rejection(reader.read()), broken);
  assertStrictEquals(await rejection(reader.read()), broken);
});

Deno.test("FrameReader calls read() as a method of its source", async () => {
  class Source {
    #left = bytes(0, 1, "x");
    read(p: Uint8Array): Promise<number | null> {
      if (this.#left.length === 0) return Promise.resolve(null);
      p.set(this.#left);
      const n = this.#left.length;
      this.#left = new Uint8Array(0);
      return Promise.resolve(n);
    }
  }
  const reader = new FrameReader(new Source(), W2);
  assertEquals(await reader.read(), bytes("x"));
  assertEquals(await reader.read(), null);
});

Deno.test("FrameReader reads a large payload straight into memory of its own", async () => {
  const payload = pattern(MIB);
  const wire = encodeFrame(payload, W4);
  const source = new ScriptedSource([wire]);
  const reader = new FrameReader(source, W4);
  const frame = await reader.read();
  assertEquals(frame, payload);
  assert(frame !== null);
  assertLessOrEqual(frame.buffer.byteLength, 2.5 * MIB);
  assertEquals(await reader.read(), null);
});

Deno.test("FrameReader keeps no frame alive that it has handed out", async () => {
  const wires = [encodeFrame(pattern(MIB), W4), encodeFrame(pattern(MIB), W4)];
  const reader = new FrameReader(new ScriptedSource(wires), W4);
  const alone = await isCollected(reader, async () => {
    return (await reader.read())!.buffer;
  });
  assert(alone, "after a lone read");
  const many = await isCollected(reader, async () => {
    const [frame, end] = await Promise.all([reader.read(), reader.read()]);
    assertEquals(end, null);
    return frame!.buffer;
  });
  assert(many, "after concurrent reads");

  // Two frames that fill a read: the second comes without another one.
  let reads = 0;
  const pairs = new FrameReader({
    read: (p) => {
      if (reads++ > 0) return Promise.resolve(null);
      const half = encodeFrame(pattern(p.length / 2 - 4), W4);
      p.set(half);
      p.set(half, half.length);
      return Promise.resolve(p.length);
    },
  }, W4);
  const second = await isCollected(pairs, async () => {
    await pairs.read();
    return (await pairs.read())!.buffer;
  });
  assertEquals(reads, 1);
  assert(second, "after a read that took what was there");
});
