/**
 * FrameEncoderStream and FrameDecoderStream: frames through pipes, the flow
 * that stops while nobody reads, and errors, ends and cancels on both sides.
 */
import {
  assertEquals,
  assertFalse,
  assertGreater,
  assertInstanceOf,
  assertLessOrEqual,
  assertStrictEquals,
} from "@std/assert";
import { concat } from "@std/bytes";
import {
  encodeFrame,
  FrameDecoderStream,
  FrameEncoderStream,
  type FrameOptions,
} from "../codec.ts";
import { bytes, pattern } from "./bytes_support.ts";
import { assertFrameError, W2, W4 } from "./codec_support.ts";
import { rejection, turn } from "./promise_support.ts";

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
    const error = await rejection(reader.read());
    assertFrameError(error, name, name);
    assertStrictEquals(await rejection(reader.read()), error);
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
    assertStrictEquals(await rejection(reader.read()), broken);
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
  const error = await rejection(reader.read());
  assertFrameError(error, "FrameTooLargeError", "reader");
  assertStrictEquals(await rejection(writer.closed), error);
  assertStrictEquals(await rejection(writer.write(bytes("c"))), error);
  await Promise.all(writes);
});

Deno.test("FrameDecoderStream tells the writing side that the bytes ended inside a frame", async () => {
  const bytesOf = (...parts: (number | string)[]) =>
    ReadableStream.from([bytes(...parts)]);
  const cut = new FrameDecoderStream(W2);
  const piped = rejection(bytesOf(0, 1, "a", 0, 2, "b").pipeTo(cut.writable));
  const reader = cut.readable.getReader();
  assertEquals((await reader.read()).value, bytes("a"));
  const error = await rejection(reader.read());
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
    assertInstanceOf(await rejection(reader.read()), TypeError);
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
