/**
 * FrameWriter over sinks that are slow, short, broken or wrong; and any frames
 * from a FrameWriter to a FrameReader.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertLessOrEqual,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { concat } from "@std/bytes";
import {
  encodeFrame,
  FrameReader,
  FrameTooLargeError,
  FrameWriter,
  InvalidFrameLengthError,
} from "../codec.ts";
import { bytes, MIB, pattern } from "./bytes_support.ts";
import {
  RecordingSink,
  ScriptedSource,
  type Step,
  W1,
  W2,
  W4,
} from "./codec_support.ts";
import { isCollected } from "./memory_support.ts";
import { rejection, turn } from "./promise_support.ts";

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
  const writes = [rejection(writer.write(bytes("1")))];
  await turn();
  writes.push(rejection(writer.write(bytes("2"))));
  writes.push(rejection(writer.write(pattern(50_000))));
  gate.resolve();
  assertEquals(await Promise.all(writes), [broken, broken, broken]);
  assertStrictEquals(await rejection(writer.write(bytes("3"))), broken);
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
  const second = rejection(writer.write(bytes("def")));
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
  assertStrictEquals(await rejection(writer.write(bytes("a"))), broken);
  assertStrictEquals(await rejection(writer.write(bytes("a"))), broken);
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
  const [first, second] = await Promise.all(both.map(rejection));
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
    const error = await rejection(writer.write(bytes("abc")));
    assert(error instanceof Error, `a count of ${String(n)} was taken`);
    assertStrictEquals(await rejection(writer.write(bytes("abc"))), error);
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
    await rejection(writer.write(bytes("a")));
    await rejection(writer.write(bytes("b")));
    const reader = new FrameReader({
      read: () => Promise.reject(new Error("broken")),
    });
    await rejection(reader.read());
    await rejection(reader.read());
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
