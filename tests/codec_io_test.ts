/**
 * The shells around the codec: FrameReader, FrameWriter and the two streams,
 * over sources and sinks that are slow, short, broken or wrong.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertLessOrEqual,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { concat } from "@std/bytes";
import {
  encodeFrame,
  FrameDecoderStream,
  FrameEncoderStream,
  type FrameOptions,
  FrameReader,
  FrameTooLargeError,
  FrameWriter,
  InvalidFrameLengthError,
  TruncatedFrameError,
} from "../codec.ts";
import {
  assertFrameError,
  bytes,
  isCollected,
  MIB,
  pattern,
  RecordingSink,
  rejectionOf,
  ScriptedSource,
  type Step,
  turn,
} from "./codec_support.ts";

const W1: FrameOptions = { lengthFieldLength: 1 };
const W2: FrameOptions = { lengthFieldLength: 2 };
const W4: FrameOptions = { lengthFieldLength: 4 };

const NINE = bytes(0, 0, 0, 9, "abcdefghi");
const THREE = bytes(0, 0, 0, 3, "123");
const ELEVEN = bytes(0, 0, 0, 11, "hello world");
const STREAM = concat([NINE, THREE, ELEVEN]);

// ---------------------------------------------------------------------------
// FrameReader

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
      if (fails) assertEquals(String(await rejectionOf(read)), "Error: broken");
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
    assertStrictEquals(await rejectionOf(reader.read()), broken);
  }
  assertEquals(source.reads, 2);
});

Deno.test("FrameReader rejects every concurrent read with the source's error", async () => {
  const broken = new Error("broken");
  const reader = new FrameReader(new ScriptedSource([THREE, broken]), W4);
  const first = reader.read();
  const others = [reader.read(), reader.read()].map(rejectionOf);
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
  assertStrictEquals(await rejectionOf(reader.read()), error);
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
    assertStrictEquals(await rejectionOf(reader.read()), error);
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
  assertStrictEquals(await rejectionOf(idle.read()), error);
});

Deno.test("FrameReader refuses a source that reports what cannot be", async () => {
  for (const n of [-1, 1.5, NaN, Infinity, 1e9, "3", undefined, {}]) {
    const reader = new FrameReader(
      { read: () => Promise.resolve(n as number) },
      W2,
    );
    const error = await rejectionOf(reader.read());
    assert(error instanceof Error, `a count of ${String(n)} was taken`);
    assertStrictEquals(await rejectionOf(reader.read()), error);
  }
});

Deno.test("FrameReader takes a source that throws instead of rejecting", async () => {
  const broken = new Error("broken");
  const reader = new FrameReader({
    read: () => {
      throw broken;
    },
  });
  assertStrictEquals(await rejectionOf(reader.read()), broken);
  assertStrictEquals(await rejectionOf(reader.read()), broken);
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

// ---------------------------------------------------------------------------
// FrameWriter

Deno.test("FrameWriter.write() writes one frame and resolves when it is out", async () => {
  const sink = new RecordingSink();
  const writer = new FrameWriter(sink, W2);
  await writer.write(bytes("abc"));
  assertEquals(sink.writes, [bytes(0, 3, "abc")]);
  await writer.write(bytes());
  assertEquals(sink.writes, [bytes(0, 3, "abc"), bytes(0, 0)]);
});

Deno.test("FrameWriter puts what is written in one turn into one write", async () => {
  const sink = new RecordingSink();
  const writer = new FrameWriter(sink, W2);
  const texts = Array.from({ length: 100 }, (_, i) => `frame ${i}`);
  await Promise.all(texts.map((text) => writer.write(bytes(text))));
  assertEquals(
    sink.written,
    concat(texts.map((t) => encodeFrame(bytes(t), W2))),
  );
  assertEquals(sink.writes.length, 1);
});

Deno.test("FrameWriter puts what was written during a write into the next one, in order", async () => {
  const gate = Promise.withResolvers<void>();
  const sink = new RecordingSink(async (p, call) => {
    if (call === 0) await gate.promise;
    return p.length;
  });
  const writer = new FrameWriter(sink, W2);
  const order: number[] = [];
  const writes = [writer.write(bytes("0")).then(() => order.push(0))];
  await turn();
  assertEquals(sink.active, 1);
  for (let i = 1; i < 50; i++) {
    writes.push(writer.write(bytes(String(i))).then(() => order.push(i)));
    if (i % 10 === 0) await turn();
  }
  assertEquals(order, []);
  gate.resolve();
  await Promise.all(writes);
  assertEquals(order, Array.from({ length: 50 }, (_, i) => i));
  assertEquals(sink.writes.length, 2);
  assertEquals(sink.mostActive, 1);
  const wire = Array.from(
    { length: 50 },
    (_, i) => encodeFrame(bytes(String(i)), W2),
  );
  assertEquals(sink.written, concat(wire));
});

Deno.test("FrameWriter never has two writes under way, and completes short ones", async () => {
  const payloads = Array.from({ length: 40 }, (_, i) => pattern(i * 37, i));
  payloads.push(pattern(100_000), pattern(3), pattern(90_000), pattern(0));
  const expected = concat(payloads.map((p) => encodeFrame(p, W4)));
  for (const most of [1, 7, 1000, 70_000]) {
    if (most === 1 && expected.length > 300_000) continue;
    let call = 0;
    const sink = new RecordingSink((p) => {
      call++;
      return Math.min(p.length, 1 + (call * 7919) % most);
    });
    const writer = new FrameWriter(sink, W4);
    await Promise.all(payloads.map((p) => writer.write(p)));
    assertEquals(sink.mostActive, 1);
    assertEquals(sink.written, expected, `at most ${most}`);
  }
});

Deno.test("FrameWriter resolves a write when its own frame is out, not when the queue is", async () => {
  const gates = [0, 1].map(() => Promise.withResolvers<void>());
  // The first write takes exactly the first frame.
  const sink = new RecordingSink(async (p, call) => {
    await gates[call]?.promise;
    return call === 0 ? 5 : p.length;
  });
  const writer = new FrameWriter(sink, W2);
  const done: string[] = [];
  const writes = ["abc", "def"].map((text) =>
    writer.write(bytes(text)).then(() => done.push(text))
  );
  await turn();
  gates[0]!.resolve();
  await turn();
  assertEquals(done, ["abc"]);
  gates[1]!.resolve();
  await Promise.all(writes);
  assertEquals(done, ["abc", "def"]);
});

Deno.test("FrameWriter copies small payloads when write() is called", async () => {
  const sink = new RecordingSink();
  const writer = new FrameWriter(sink, W2);
  const payload = bytes("before");
  const written = writer.write(payload);
  payload.fill(0);
  await written;
  assertEquals(sink.written, bytes(0, 6, "before"));
});

Deno.test("FrameWriter sends a large payload without copying it", async () => {
  const sink = new RecordingSink();
  const writer = new FrameWriter(sink, W4);
  const large = pattern(MIB);
  await Promise.all([
    writer.write(bytes("a")),
    writer.write(large),
    writer.write(bytes("b")),
  ]);
  // A little of it may leave with its header, so that the peer gets no
  // packet with a header alone.
  const own = sink.writes.filter((_, i) => sink.buffers[i] === large.buffer);
  const uncopied = own.reduce((sum, write) => sum + write.length, 0);
  assertGreater(uncopied, 0.9 * large.length);
  assertEquals(own.length, 1, "what is not copied leaves in one write");
  assertGreater(sink.writes[0]!.length, 1000, "a header left alone");
  assertEquals(
    sink.written,
    concat([
      bytes(0, 0, 0, 1, "a", 0, 16, 0, 0),
      large,
      bytes(0, 0, 0, 1, "b"),
    ]),
  );
});

Deno.test("FrameWriter rejects everything queued with the error of a failed write, and all later writes", async () => {
  const broken = new Error("broken");
  const gate = Promise.withResolvers<void>();
  const sink = new RecordingSink(async (p, call) => {
    if (call === 1) {
      await gate.promise;
      throw broken;
    }
    return p.length;
  });
  const writer = new FrameWriter(sink, W2);
  await writer.write(bytes("ok"));
  const writes = [rejectionOf(writer.write(bytes("1")))];
  await turn();
  writes.push(rejectionOf(writer.write(bytes("2"))));
  writes.push(rejectionOf(writer.write(pattern(50_000))));
  gate.resolve();
  assertEquals(await Promise.all(writes), [broken, broken, broken]);
  assertStrictEquals(await rejectionOf(writer.write(bytes("3"))), broken);
  assertEquals(sink.written, bytes(0, 2, "ok"));
  assertEquals(sink.writes.length, 2, "nothing is written after a failure");
});

Deno.test("FrameWriter keeps what was out before a write failed", async () => {
  const broken = new Error("broken");
  const sink = new RecordingSink((_, call) => {
    if (call === 0) return 5;
    throw broken;
  });
  const writer = new FrameWriter(sink, W2);
  const first = writer.write(bytes("abc"));
  const second = rejectionOf(writer.write(bytes("def")));
  await first;
  assertStrictEquals(await second, broken);
});

Deno.test("FrameWriter takes a sink that throws instead of rejecting", async () => {
  const broken = new Error("broken");
  const writer = new FrameWriter({
    write: () => {
      throw broken;
    },
  });
  assertStrictEquals(await rejectionOf(writer.write(bytes("a"))), broken);
  assertStrictEquals(await rejectionOf(writer.write(bytes("a"))), broken);
});

Deno.test("FrameWriter refuses a bad payload alone: the others go out", async () => {
  const sink = new RecordingSink();
  const writer = new FrameWriter(sink, { ...W1, maxFrameLength: 300 });
  const [first, large, wide, last] = await Promise.allSettled([
    writer.write(bytes("a")),
    writer.write(new Uint8Array(301)),
    writer.write(new Uint8Array(256)),
    writer.write(bytes("b")),
  ]);
  assertEquals(first?.status, "fulfilled");
  assertEquals(last?.status, "fulfilled");
  assert(large?.status === "rejected" && wide?.status === "rejected");
  assertInstanceOf(large.reason, FrameTooLargeError);
  assertInstanceOf(wide.reason, InvalidFrameLengthError);
  assertEquals(sink.written, bytes(1, "a", 1, "b"));
});

Deno.test("FrameWriter refuses a payload that is not bytes, and goes on", async () => {
  const sink = new RecordingSink();
  const writer = new FrameWriter(sink, W1);
  for (const payload of ["text", null, undefined, 5, {}, new ArrayBuffer(3)]) {
    await assertRejects(
      async () => await writer.write(payload as unknown as Uint8Array),
      TypeError,
    );
  }
  await writer.write(bytes("a"));
  assertEquals(sink.written, bytes(1, "a"));
});

Deno.test("FrameWriter lets a sink take nothing now and then, but not for ever", async () => {
  const patient = new RecordingSink((p, call) => call % 2 === 0 ? 0 : p.length);
  await new FrameWriter(patient, W2).write(bytes("hi"));
  assertEquals(patient.written, bytes(0, 2, "hi"));

  let calls = 0;
  const writer = new FrameWriter({
    write: () => {
      if (++calls > 1_000_000) throw new Error("still spinning");
      return Promise.resolve(0);
    },
  });
  const both = [writer.write(bytes("a")), writer.write(bytes("b"))];
  const [first, second] = await Promise.all(both.map(rejectionOf));
  assertInstanceOf(first, Error);
  assertStrictEquals(second, first);
  assertLessOrEqual(calls, 10_000);
});

Deno.test("FrameWriter refuses a sink that reports what cannot be", async () => {
  for (const n of [-1, 1.5, NaN, Infinity, 6, 1e9, "3", undefined, null, {}]) {
    const writer = new FrameWriter(
      { write: () => Promise.resolve(n as number) },
      W2,
    );
    const error = await rejectionOf(writer.write(bytes("abc")));
    assert(error instanceof Error, `a count of ${String(n)} was taken`);
    assertStrictEquals(await rejectionOf(writer.write(bytes("abc"))), error);
  }
});

Deno.test("FrameWriter calls write() as a method of its sink", async () => {
  const sink = new RecordingSink();
  class Wrapped {
    readonly #sink = sink;
    write(p: Uint8Array): Promise<number> {
      return this.#sink.write(p);
    }
  }
  await new FrameWriter(new Wrapped(), W2).write(bytes("x"));
  assertEquals(sink.written, bytes(0, 1, "x"));
});

Deno.test("FrameWriter leaves no unhandled rejection behind a write that nobody awaits twice", async () => {
  const unhandled: unknown[] = [];
  const note = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    unhandled.push(event.reason);
  };
  addEventListener("unhandledrejection", note);
  try {
    const writer = new FrameWriter({
      write: () => Promise.reject(new Error("broken")),
    });
    await rejectionOf(writer.write(bytes("a")));
    await rejectionOf(writer.write(bytes("b")));
    const reader = new FrameReader({
      read: () => Promise.reject(new Error("broken")),
    });
    await rejectionOf(reader.read());
    await rejectionOf(reader.read());
    await turn();
    assertEquals(unhandled, []);
  } finally {
    removeEventListener("unhandledrejection", note);
  }
});

Deno.test("FrameWriter and FrameReader carry any frames over short reads and short writes", async () => {
  const payloads = Array.from(
    { length: 200 },
    (_, i) => pattern(i * i % 5000, i),
  );
  const sink = new RecordingSink((p, call) =>
    Math.min(p.length, 1 + call * 13)
  );
  const writer = new FrameWriter(sink);
  await Promise.all(payloads.map((p) => writer.write(p)));
  const steps: Step[] = sink.writes;
  const reader = new FrameReader(new ScriptedSource(steps));
  for (const payload of payloads) assertEquals(await reader.read(), payload);
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

Deno.test("FrameWriter keeps no payload alive that it has written, or never will", async () => {
  for (const fails of [false, true]) {
    const sink = {
      write: (p: Uint8Array) =>
        // An Error would keep alive what was on the stack when it was made.
        fails ? Promise.reject("broken") : Promise.resolve(p.length),
    };
    const writer = new FrameWriter(sink, W4);
    const collected = await isCollected(writer, async () => {
      const payload = pattern(MIB);
      await writer.write(payload).catch(() => {});
      return payload.buffer;
    });
    assert(collected);
  }
});

// ---------------------------------------------------------------------------
// The two TransformStreams

Deno.test("FrameEncoderStream and FrameDecoderStream carry frames through a pipe", async () => {
  const payloads = [
    bytes("a"),
    bytes(),
    pattern(100_000),
    bytes("b"),
    pattern(20),
  ];
  const frames: Uint8Array[] = [];
  const wire: Uint8Array[] = [];
  const spy = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      wire.push(chunk.slice());
      controller.enqueue(chunk);
    },
  });
  const stream = ReadableStream.from(payloads)
    .pipeThrough(new FrameEncoderStream(W4))
    .pipeThrough(spy)
    .pipeThrough(new FrameDecoderStream(W4));
  for await (const frame of stream) frames.push(frame);
  assertEquals(frames, payloads);
  assertEquals(concat(wire), concat(payloads.map((p) => encodeFrame(p, W4))));
});

Deno.test("FrameDecoderStream gives the frames before an error to a reader that comes late", async () => {
  const table: [FrameOptions, Uint8Array, string][] = [
    [
      { ...W2, maxFrameLength: 5 },
      bytes(0, 1, "a", 0, 1, "b", 0, 1, "c", 0, 9),
      "FrameTooLargeError",
    ],
    [
      W2,
      bytes(0, 1, "a", 0, 1, "b", 0, 1, "c", 0, 9, "cut"),
      "TruncatedFrameError",
    ],
  ];
  for (const [options, wire, name] of table) {
    const reader = ReadableStream.from([wire])
      .pipeThrough(new FrameDecoderStream(options))
      .getReader();
    for (const text of ["a", "b", "c"]) {
      await turn();
      assertEquals((await reader.read()).value, bytes(text), name);
    }
    const error = await rejectionOf(reader.read());
    assertFrameError(error, name, name);
    assertStrictEquals(await rejectionOf(reader.read()), error);
    reader.releaseLock();
  }
});

Deno.test("FrameEncoderStream gives the frames before an error to a reader that comes late", async () => {
  const stream = new FrameEncoderStream({ ...W2, maxFrameLength: 5 });
  const writer = stream.writable.getWriter();
  const writes = [bytes("a"), bytes("b"), bytes("too long")]
    .map((p) => writer.write(p).catch((error) => error));
  writer.closed.catch(() => {});
  await turn();
  const reader = stream.readable.getReader();
  const wire: Uint8Array[] = [];
  let error: unknown;
  try {
    for (;;) {
      await turn();
      const { done, value } = await reader.read();
      assertFalse(done);
      wire.push(value!);
    }
  } catch (thrown) {
    error = thrown;
  }
  assertEquals(concat(wire), bytes(0, 1, "a", 0, 1, "b"));
  assertFrameError(error, "FrameTooLargeError", "after two frames");
  await Promise.all(writes);
});

Deno.test("FrameDecoderStream and FrameEncoderStream stop the flow while nobody reads", async () => {
  const streams = {
    encoder: () => new FrameEncoderStream(W2),
    decoder: () => new FrameDecoderStream(W2),
  };
  for (const [name, make] of Object.entries(streams)) {
    let pulled = 0;
    const chunk = encodeFrame(encodeFrame(bytes("x"), W2), W2);
    const source = new ReadableStream<Uint8Array>({
      pull(controller) {
        pulled++;
        controller.enqueue(chunk.slice());
      },
    }, { highWaterMark: 0 });
    const stream = source.pipeThrough(make());
    for (let i = 0; i < 20; i++) await turn();
    const before = pulled;
    assertLessOrEqual(before, 4, name);
    const reader = stream.getReader();
    for (let i = 0; i < 50; i++) await reader.read();
    for (let i = 0; i < 20; i++) await turn();
    assertGreater(pulled, before, name);
    assertLessOrEqual(pulled, 60, name);
    await reader.cancel();
  }
});

Deno.test("FrameDecoderStream holds a chunk of many frames back until they are read", async () => {
  const frames = 1000;
  const many = concat(Array.from({ length: frames }, () => bytes(0, 1, "x")));
  let pulled = 0;
  const source = new ReadableStream<Uint8Array>({
    pull(controller) {
      pulled++;
      controller.enqueue(many.slice());
    },
  }, { highWaterMark: 0 });
  const reader = source.pipeThrough(new FrameDecoderStream(W2)).getReader();
  for (let i = 0; i < frames; i++) {
    assertEquals((await reader.read()).value, bytes("x"));
  }
  await turn();
  assertLessOrEqual(pulled, 4);
  await reader.cancel();
});

Deno.test("FrameDecoderStream passes on the source's error, and the reader's cancel", async () => {
  const broken = new Error("broken");
  for (
    const make of [
      () => new FrameDecoderStream(W2),
      () => new FrameEncoderStream(W2),
    ]
  ) {
    const failing = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.error(broken);
      },
    });
    const reader = failing.pipeThrough(make()).getReader();
    assertStrictEquals(await rejectionOf(reader.read()), broken);
    reader.releaseLock();

    let cancelled: unknown;
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.enqueue(bytes(0, 1, "x"));
      },
      cancel(reason) {
        cancelled = reason;
      },
    });
    const cancelling = endless.pipeThrough(make()).getReader();
    await cancelling.read();
    await cancelling.cancel(broken);
    await turn();
    assertStrictEquals(cancelled, broken);
  }
});

Deno.test("FrameDecoderStream tells the writing side of a bad frame", async () => {
  const stream = new FrameDecoderStream({ ...W2, maxFrameLength: 5 });
  const writer = stream.writable.getWriter();
  const reader = stream.readable.getReader();
  const writes = [
    writer.write(bytes(0, 1, "a")),
    writer.write(bytes(0, 6)),
    writer.write(bytes("b")),
  ].map((write) => write.catch((error) => error));
  assertEquals((await reader.read()).value, bytes("a"));
  const error = await rejectionOf(reader.read());
  assertFrameError(error, "FrameTooLargeError", "reader");
  assertStrictEquals(await rejectionOf(writer.closed), error);
  assertStrictEquals(await rejectionOf(writer.write(bytes("c"))), error);
  await Promise.all(writes);
});

Deno.test("FrameDecoderStream tells the writing side that the bytes ended inside a frame", async () => {
  const bytesOf = (...parts: (number | string)[]) =>
    ReadableStream.from([bytes(...parts)]);
  const cut = new FrameDecoderStream(W2);
  const piped = rejectionOf(bytesOf(0, 1, "a", 0, 2, "b").pipeTo(cut.writable));
  const reader = cut.readable.getReader();
  assertEquals((await reader.read()).value, bytes("a"));
  const error = await rejectionOf(reader.read());
  assertFrameError(error, "TruncatedFrameError", "reader");
  assertStrictEquals(await piped, error);

  const whole = new FrameDecoderStream(W2);
  const end = bytesOf(0, 1, "a", 0, 0).pipeTo(whole.writable);
  assertEquals(await Array.fromAsync(whole.readable), [bytes("a"), bytes()]);
  await end;
});

Deno.test("FrameDecoderStream refuses a chunk that is not bytes", async () => {
  for (
    const make of [
      () => new FrameDecoderStream(),
      () => new FrameEncoderStream(),
    ]
  ) {
    const stream = make();
    const writer = stream.writable.getWriter();
    const write = writer.write("text" as unknown as Uint8Array).catch(() => {});
    writer.closed.catch(() => {});
    const reader = stream.readable.getReader();
    assertInstanceOf(await rejectionOf(reader.read()), TypeError);
    await write;
  }
});

Deno.test("A frame from FrameDecoderStream stays as it is while later chunks come", async () => {
  const payloads = Array.from({ length: 300 }, (_, i) => pattern(i, i));
  const wire = concat(payloads.map((p) => encodeFrame(p, W2)));
  const frames: Uint8Array[] = [];
  const source = new ReadableStream<Uint8Array>({
    start(controller) {
      for (let i = 0; i < wire.length; i += 64) {
        controller.enqueue(wire.slice(i, i + 64));
      }
      controller.close();
    },
  });
  for await (const frame of source.pipeThrough(new FrameDecoderStream(W2))) {
    frames.push(frame);
  }
  assertEquals(frames, payloads);
});
