/**
 * The codec against a slow reference, over options, frames and chunkings that
 * chance picks; against hostile bytes; and its work and its memory, counted.
 *
 * `WIREPOOL_LONG=1` runs many more rounds. A failure names its seed;
 * `WIREPOOL_SEED=<seed>` runs that round first.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
} from "@std/assert";
import { concat, equals } from "@std/bytes";
import {
  encodeFrame,
  FrameDecoder,
  FrameDecoderStream,
  FrameEncoder,
  FrameEncoderStream,
  FrameError,
  type FrameOptions,
  FrameReader,
  FrameWriter,
  TruncatedFrameError,
} from "../codec.ts";
import {
  bytes,
  chosenSeed,
  longRun,
  Meter,
  MIB,
  pattern,
  Random,
  RecordingSink,
  ScriptedSource,
} from "./codec_support.ts";
import {
  type Reference,
  referenceDecode,
  referenceEncode,
  type ReferenceFrame,
} from "./reference_decoder.ts";

const KIB = 1024;

const WIDTHS = [1, 2, 3, 4, 8] as const;

/** The most that may wait on a connection that has fallen silent: a message of
 * 16 KiB with its header. */
const IDLE = 17 * KIB;

/** Rounds in a long run for each round in a short one. */
const LONG = 40;

/** Runs `round` again and again, and names the seed of the one that failed. */
function rounds(
  name: string,
  count: number,
  round: (random: Random) => void | Promise<void>,
): void {
  Deno.test(name, async () => {
    const seed = chosenSeed();
    for (let i = 0; i < count * (longRun() ? LONG : 1); i++) {
      try {
        await round(new Random(seed + i));
      } catch (cause) {
        const message = cause instanceof Error ? cause.message : cause;
        throw new Error(`With WIREPOOL_SEED=${seed + i}: ${message}`, {
          cause,
        });
      }
    }
  });
}

// ---------------------------------------------------------------------------
// What chance picks

function randomOptions(random: Random): FrameOptions {
  const lengthFieldLength = random.pick(WIDTHS);
  const lengthFieldOffset = random.once(2) ? 0 : random.between(1, 6);
  const header = lengthFieldOffset + lengthFieldLength;
  const adjustments = [0, 0, 1, 2, 5, -1, -lengthFieldLength, -header, -header];
  const options: FrameOptions = {
    lengthFieldLength,
    lengthFieldOffset,
    byteOrder: random.once(2) ? "big" : "little",
    lengthAdjustment: random.pick(adjustments),
  };
  if (random.once(8)) {
    // So far below zero that the fields are near their highest value.
    const highest = Math.min(
      256 ** lengthFieldLength - 1,
      Number.MAX_SAFE_INTEGER,
    );
    options.lengthAdjustment = -random.pick([
      highest,
      highest - random.between(0, 300),
      Math.floor(highest / 2) - random.between(0, 300),
    ]);
  }
  if (random.once(2)) {
    options.initialBytesToStrip = random.between(0, header + 3);
  }
  if (random.once(3)) options.maxFrameLength = random.between(0, 300);
  return options;
}

/** Mostly short, at times around the sizes where the codec changes its ways. */
function randomLength(random: Random): number {
  const edges = [255, 256, 2 * KIB, 8 * KIB, 16 * KIB, 64 * KIB - 1, 64 * KIB];
  if (random.once(150)) {
    return random.pick(edges) + random.between(-20, 20);
  }
  if (random.once(1500)) return random.between(64 * KIB, 300 * KIB);
  return random.once(10) ? random.between(0, 1000) : random.between(0, 40);
}

/** Payloads of which the options allow each, with their bytes on the wire. */
function randomFrames(
  random: Random,
  options: FrameOptions,
): { payloads: Uint8Array[]; wires: Uint8Array[] } {
  const payloads: Uint8Array[] = [];
  const wires: Uint8Array[] = [];
  const most = random.between(1, 60);
  for (let i = 0; i < most; i++) {
    const payload = pattern(randomLength(random), random.between(0, 255));
    const expected = referenceEncode(payload, options);
    let wire: Uint8Array | string;
    try {
      wire = encodeFrame(payload, options);
    } catch (error) {
      assertInstanceOf(error, FrameError);
      wire = error.name;
    }
    assertSame(wire, expected, "encodeFrame() differs from the reference");
    if (typeof wire === "string") continue;
    payloads.push(payload);
    wires.push(wire);
  }
  return { payloads, wires };
}

function assertSame(
  actual: Uint8Array | string,
  expected: Uint8Array | string,
  message: string,
): void {
  // `equals` is much faster than assertEquals, which is for the report.
  if (
    typeof actual !== "string" && typeof expected !== "string" &&
    equals(actual, expected)
  ) return;
  assertEquals(actual, expected, message);
}

/** How a stream is cut into chunks; each style has its own troubles. */
function randomChunkSize(random: Random, style: number): number {
  switch (style) {
    case 0:
      return 1;
    case 1:
      return random.between(1, 7);
    case 2:
      return random.between(0, 100);
    case 3:
      return random.between(1, 5000);
    case 4:
      return 64 * KIB;
    default:
      return random.once(5)
        ? random.between(1, 100 * KIB)
        : random.between(0, 9);
  }
}

// ---------------------------------------------------------------------------
// The decoder, held against the reference

/** Feeds `input` in pieces, and checks every step against the reference. */
function checkDecoder(
  random: Random,
  input: Uint8Array,
  options: FrameOptions,
  reference: Reference,
): void {
  const decoder = new FrameDecoder(options);
  const frames: Uint8Array[] = [];
  const style = random.between(0, input.length < 20_000 ? 5 : 3) +
    (input.length < 20_000 ? 0 : 2);
  const way = random.pick(["push", "space", "both"]);
  // Some callers decode after every chunk, some now and then.
  const lazy = random.once(3) ? 4 : 1;
  let fed = 0;
  let failure: unknown;
  while (fed < input.length && failure === undefined) {
    const size = Math.min(randomChunkSize(random, style), input.length - fed);
    const chunk = input.subarray(fed, fed + size);
    if (way === "push" || (way === "both" && random.once(2))) {
      pushScratch(decoder, chunk);
    } else fillRoom(random, decoder, chunk);
    fed += size;
    if (random.once(lazy)) {
      failure = takeAndCheck(decoder, frames, reference, fed);
    }
  }
  failure ??= takeAndCheck(decoder, frames, reference, fed);
  if (failure === undefined) {
    assertEquals(reference.fault, null, "the reference saw a fault");
    failure = caught(() => decoder.finish());
    if (reference.unfinished === null) assertEquals(failure, undefined);
    else {
      assertInstanceOf(failure, TruncatedFrameError);
      const { expected, received } = failure;
      assertEquals({ expected, received }, reference.unfinished);
    }
  }
  if (failure !== undefined) {
    assert(caught(() => decoder.decode()) === failure, "an error is sticky");
  }
  // Once more, now that everything has gone through the decoder: nothing that
  // was handed out has been written over.
  assertEquals(frames.length, reference.frames.length);
  reference.frames.forEach((frame, i) => checkPayload(frames[i]!, frame));
}

/** Takes what is whole; checks that it is what the reference has up to here. */
function takeAndCheck(
  decoder: FrameDecoder,
  frames: Uint8Array[],
  reference: Reference,
  fed: number,
): unknown {
  const failure = caught(() => {
    for (let f = decoder.decode(); f !== null; f = decoder.decode()) {
      const expected = reference.frames[frames.length];
      assert(
        expected !== undefined,
        "a frame that the reference does not have",
      );
      checkPayload(f, expected);
      frames.push(f);
    }
  });
  const next = reference.frames[frames.length];
  if (next !== undefined) {
    assertLess(fed, next.end, "a whole frame is held back");
  }
  const at = reference.fault?.at ?? Infinity;
  if (failure === undefined) {
    assertLess(fed, at, "a bad length was not told");
    const taken = reference.frames[frames.length - 1]?.end ?? 0;
    assertEquals(decoder.buffered, fed - taken, "buffered");
  } else {
    if (!(failure instanceof FrameError)) throw failure;
    assertEquals(failure.name, reference.fault?.name);
    assertLessOrEqual(at, fed, "a bad length was told before it was there");
  }
  return failure;
}

function checkPayload(frame: Uint8Array, expected: ReferenceFrame): void {
  assertSame(frame, expected.payload, `the frame at ${expected.start} differs`);
}

function caught(fn: () => void): unknown {
  try {
    fn();
  } catch (error) {
    return error;
  }
  return undefined;
}

/** Pushes a chunk that its owner uses for something else right after. */
function pushScratch(decoder: FrameDecoder, chunk: Uint8Array): void {
  const scratch = chunk.slice();
  decoder.push(scratch);
  scratch.fill(0xee);
}

/** Fills the decoder's own room, as a source that scribbles behind would. */
function fillRoom(
  random: Random,
  decoder: FrameDecoder,
  chunk: Uint8Array,
): void {
  for (let at = 0; at < chunk.length;) {
    const held = decoder.buffered;
    const room = decoder.space();
    assertGreater(room.length, 0);
    assertLessOrEqual(
      room.buffer.byteLength,
      Math.max(64 * KIB, 4 * (held + room.byteOffset) + KIB),
      "more is reserved than has arrived",
    );
    const n = Math.min(room.length, chunk.length - at);
    if (random.once(20)) room.fill(0xee);
    room.set(chunk.subarray(at, at + n));
    decoder.advance(n);
    at += n;
  }
}

rounds(
  "FrameDecoder gives back what was encoded, for any options, frames and chunks",
  1600,
  (random) => {
    const options = randomOptions(random);
    const { wires } = randomFrames(random, options);
    const input = concat(wires);
    const reference = referenceDecode(input, options);
    assertEquals(reference.frames.length, wires.length);
    checkDecoder(random, input, options, reference);
  },
);

rounds(
  "FrameDecoder makes of a cut stream what the reference makes of it",
  300,
  (random) => {
    const options = randomOptions(random);
    const whole = concat(randomFrames(random, options).wires);
    const input = whole.subarray(0, random.between(0, whole.length));
    checkDecoder(random, input, options, referenceDecode(input, options));
  },
);

rounds(
  "FrameDecoder makes of a damaged stream what the reference makes of it",
  300,
  (random) => {
    const options = randomOptions(random);
    const input = concat(randomFrames(random, options).wires);
    for (let i = random.between(1, 5); i > 0 && input.length > 0; i--) {
      input[random.between(0, input.length - 1)] = random.between(0, 255);
    }
    checkDecoder(random, input, options, referenceDecode(input, options));
  },
);

rounds(
  "FrameDecoder makes of random bytes what the reference makes of them",
  500,
  (random) => {
    const options = randomOptions(random);
    const input = random.bytes(random.between(0, 2000));
    // Many zeros make many short frames, and with them long streams.
    if (random.once(2)) {
      for (let i = 0; i < input.length; i++) {
        if (!random.once(4)) input[i] = 0;
        else if (random.once(2)) input[i] = random.between(0, 9);
      }
    }
    checkDecoder(random, input, options, referenceDecode(input, options));
  },
);

rounds(
  "FrameEncoder gives the bytes of encodeFrame(), for any options, frames and writes",
  150,
  (random) => {
    const options = randomOptions(random);
    // Several at once, since they share the memory they write to.
    const encoders = [new FrameEncoder(options), new FrameEncoder(options)];
    const expected: Uint8Array[][] = [[], []];
    const written: Uint8Array[][] = [[], []];
    const lengths = [0, 0];
    const { payloads, wires } = randomFrames(random, options);
    for (let i = 0; i < payloads.length; i++) {
      const to = random.between(0, 1);
      const payload = payloads[i]!.slice();
      assertEquals(encoders[to]!.push(payload), wires[i]!.length);
      if (payload.length <= 1000) payload.fill(0xee); // small ones are copied
      expected[to]!.push(wires[i]!);
      lengths[to]! += wires[i]!.length;
      if (random.once(3)) {
        lengths[to]! -= writeSome(random, encoders[to]!, written[to]!);
      }
      assertEquals(encoders.map((encoder) => encoder.buffered), lengths);
    }
    for (const to of [0, 1]) {
      while (encoders[to]!.buffered > 0) {
        writeSome(random, encoders[to]!, written[to]!);
      }
      assertEquals(encoders[to]!.chunk(), null);
      assertSame(
        concat(written[to]!),
        concat(expected[to]!),
        "the bytes differ",
      );
    }
  },
);

/** Writes a part of what is queued; returns how much. */
function writeSome(
  random: Random,
  encoder: FrameEncoder,
  out: Uint8Array[],
): number {
  const chunk = encoder.chunk();
  if (chunk === null) return 0;
  const n = random.once(3)
    ? chunk.length
    : random.between(0, Math.min(chunk.length, 500));
  out.push(chunk.slice(0, n));
  encoder.advance(n);
  return n;
}

rounds(
  "FrameWriter and FrameReader carry any frames over short writes and short reads",
  100,
  async (random) => {
    const options = randomOptions(random);
    const { payloads, wires } = randomFrames(random, options);
    const sink = new RecordingSink((p) =>
      random.once(9) ? 0 : random.between(1, random.once(2) ? p.length : 50)
    );
    const short = new RecordingSink((p, call) =>
      Math.min(p.length, sink.accept(p, call) as number)
    );
    const writer = new FrameWriter(short, options);
    const pending: Promise<void>[] = [];
    for (const payload of payloads) {
      const write = writer.write(payload);
      pending.push(write);
      if (random.once(4)) await write;
    }
    await Promise.all(pending);
    assertSame(short.written, concat(wires), "the bytes differ");

    const reader = new FrameReader(new ScriptedSource(short.writes), options);
    const expected = referenceDecode(short.written, options).frames;
    const reads: Promise<Uint8Array | null>[] = [];
    for (let i = 0; i <= expected.length; i++) {
      const read = reader.read();
      reads.push(read);
      if (random.once(3)) await read;
    }
    const frames = await Promise.all(reads);
    assertEquals(frames.pop(), null);
    frames.forEach((frame, i) => checkPayload(frame!, expected[i]!));
  },
);

rounds(
  "FrameEncoderStream and FrameDecoderStream carry any frames over any chunks",
  60,
  async (random) => {
    const options = randomOptions(random);
    const { payloads, wires } = randomFrames(random, options);
    const style = random.between(2, 5);
    let rest = new Uint8Array(0);
    const recut = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        rest = concat([rest, chunk]);
        const n = Math.min(randomChunkSize(random, style), rest.length);
        controller.enqueue(rest.slice(0, n));
        rest = rest.slice(n);
      },
      flush: (controller) => controller.enqueue(rest),
    });
    const stream = ReadableStream.from(payloads)
      .pipeThrough(new FrameEncoderStream(options))
      .pipeThrough(recut)
      .pipeThrough(new FrameDecoderStream(options));
    const expected = referenceDecode(concat(wires), options).frames;
    const frames: Uint8Array[] = [];
    for await (const frame of stream) frames.push(frame);
    assertEquals(frames.length, expected.length);
    frames.forEach((frame, i) => checkPayload(frame, expected[i]!));
  },
);

Deno.test("Every two cuts of a stream give the same frames, for every width, byte order and layout", () => {
  for (const lengthFieldLength of WIDTHS) {
    for (const byteOrder of ["big", "little"] as const) {
      const layouts: FrameOptions[] = [
        {},
        { lengthFieldOffset: 2, lengthAdjustment: -lengthFieldLength },
        { lengthAdjustment: 1, initialBytesToStrip: 0 },
      ];
      for (const layout of layouts) {
        const options = { ...layout, lengthFieldLength, byteOrder };
        const payloads = ["ab", "abc", "abcdefghij", "abcd"];
        const input = concat(
          payloads.map((text) => encodeFrame(bytes(text), options)),
        );
        const { frames: expected } = referenceDecode(input, options);
        assertEquals(expected.length, payloads.length);
        for (let i = 0; i <= input.length; i++) {
          for (let j = i; j <= input.length; j++) {
            const decoder = new FrameDecoder(options);
            const frames: Uint8Array[] = [];
            decoder.push(input.subarray(0, i));
            frames.push(...decoder);
            decoder.space().set(input.subarray(i, j));
            decoder.advance(j - i);
            frames.push(...decoder);
            decoder.push(input.subarray(j));
            frames.push(...decoder);
            decoder.finish();
            assertEquals(frames.length, expected.length);
            frames.forEach((frame, k) => checkPayload(frame, expected[k]!));
          }
        }
      }
    }
  }
});

// ---------------------------------------------------------------------------
// Work, counted: bytes copied and memory asked for, per byte of the stream

Deno.test("A frame of 4 MiB fed a byte at a time is copied less than twice", () => {
  const length = 4 * MIB;
  const header = encodeFrame(new Uint8Array(0)).fill(0);
  new DataView(header.buffer).setUint32(4, length);
  const one = Uint8Array.of(7);

  const pushed = Meter.run(() => {
    const decoder = new FrameDecoder();
    decoder.push(header);
    for (let i = 1; i < length; i++) {
      decoder.push(one);
      if (decoder.decode() !== null) throw new Error("a frame too early");
    }
    decoder.push(one);
    return decoder.decode()!;
  });
  assertEquals(pushed.result.length, length);
  assertEquals(pushed.result.indexOf(0), -1);
  // Once by push() itself, and a third for growing.
  assertLess(pushed.copied, 1.5 * length);
  assertLess(pushed.allocated, 1.5 * length);

  const filled = Meter.run(() => {
    const decoder = new FrameDecoder();
    decoder.push(header);
    for (let i = 1; i < length; i++) {
      decoder.space()[0] = 7;
      decoder.advance(1);
      if (decoder.decode() !== null) throw new Error("a frame too early");
    }
    decoder.space()[0] = 7;
    decoder.advance(1);
    return decoder.decode()!;
  });
  assertEquals(filled.result.length, length);
  assertEquals(filled.result.indexOf(0), -1);
  assertLess(filled.copied, 0.5 * length);
  assertLess(filled.allocated, 1.5 * length);
});

Deno.test("A million tiny frames in one chunk are copied once", () => {
  const count = 1_000_000;
  const input = new Uint8Array(2 * count).fill(1);
  const options: FrameOptions = { lengthFieldLength: 1 };
  const { result, copied, allocated } = Meter.run(() => {
    const decoder = new FrameDecoder(options);
    decoder.push(input);
    let frames = 0;
    while (decoder.decode() !== null) frames++;
    decoder.finish();
    return frames;
  });
  assertEquals(result, count);
  assertLessOrEqual(copied, 1.1 * input.length);
  assertLessOrEqual(allocated, 1.1 * input.length);
});

Deno.test("Frames that nobody decodes for long are copied a few times at most", () => {
  const count = 300_000;
  const options: FrameOptions = { lengthFieldLength: 1 };
  const chunk = bytes(2, "ab");
  const push = (decoder: FrameDecoder) => decoder.push(chunk);
  const fill = (decoder: FrameDecoder) => {
    decoder.space().set(chunk);
    decoder.advance(chunk.length);
  };
  for (const turns of [[push], [fill], [push, fill]]) {
    const { result, copied, allocated } = Meter.run(() => {
      const decoder = new FrameDecoder(options);
      for (let i = 0; i < count; i++) turns[i % turns.length]!(decoder);
      let frames = 0;
      while (decoder.decode() !== null) frames++;
      return frames;
    });
    assertEquals(result, count);
    assertLess(copied, 4 * 3 * count);
    assertLess(allocated, 5 * 3 * count);
  }
});

Deno.test("Reads of every size move unfinished bytes only, and seldom", () => {
  for (const frameLength of [10, 300, 2000, 3000, 20_000, 100_000]) {
    const frame = encodeFrame(pattern(frameLength), { lengthFieldLength: 4 });
    const count = Math.ceil(500_000 / frame.length);
    const input = concat(Array.from({ length: count }, () => frame));
    for (const size of [1, 100, 1500, 9000, 64 * KIB]) {
      const { result, copied, allocated } = Meter.run(() => {
        const decoder = new FrameDecoder({ lengthFieldLength: 4 });
        let frames = 0;
        for (let at = 0; at < input.length;) {
          const room = decoder.space();
          const n = Math.min(size, room.length, input.length - at);
          room.set(input.subarray(at, at + n));
          decoder.advance(n);
          at += n;
          while (decoder.decode() !== null) frames++;
        }
        return frames;
      });
      const label = `frames of ${frameLength} in reads of ${size}`;
      assertEquals(result, count, label);
      // Once by this test itself, into the room.
      assertLess(copied, 2 * input.length, label);
      assertLess(allocated, 3 * input.length, label);
    }
  }
});

Deno.test("A small payload does not cost an allocation of its own, read or written", () => {
  const count = 10_000;
  const options: FrameOptions = { lengthFieldLength: 2 };
  const payload = bytes("0123456789");
  const wire = new FrameEncoder(options);
  const encoded = Meter.run(() => {
    for (let i = 0; i < count; i++) wire.push(payload);
    const out: Uint8Array[] = [];
    for (let c = wire.chunk(); c !== null; c = wire.chunk()) {
      out.push(c);
      wire.advance(c.length);
    }
    return out;
  });
  assertLess(encoded.allocations, count / 100);
  assertLess(encoded.copied, 2 * 12 * count);

  const input = concat(encoded.result);
  assertEquals(input.length, 12 * count);
  const decoded = Meter.run(() => {
    const decoder = new FrameDecoder(options);
    let frames = 0;
    for (let at = 0; at < input.length;) {
      const room = decoder.space();
      const n = Math.min(room.length, input.length - at);
      room.set(input.subarray(at, at + n));
      decoder.advance(n);
      at += n;
      while (decoder.decode() !== null) frames++;
    }
    return frames;
  });
  assertEquals(decoded.result, count);
  assertLess(decoded.allocations, count / 100);
});

Deno.test("A small frame that is cut by the end of the room moves on with room for others", () => {
  const options: FrameOptions = { lengthFieldLength: 2 };
  const frame = encodeFrame(pattern(300), options);
  const count = 3000;
  const input = concat(Array.from({ length: count }, () => frame));
  const { result, allocated, allocations } = Meter.run(() => {
    const decoder = new FrameDecoder(options);
    let frames = 0;
    for (let at = 0; at < input.length;) {
      const room = decoder.space();
      const n = Math.min(room.length, 1000, input.length - at);
      room.set(input.subarray(at, at + n));
      decoder.advance(n);
      at += n;
      while (decoder.decode() !== null) frames++;
    }
    return frames;
  });
  assertEquals(result, count);
  assertLess(allocations, input.length / 3000);
  assertLess(allocated, 1.5 * input.length);
});

Deno.test("Encoders that take turns, and a sink that takes little, cost a few copies at most", () => {
  const count = 4000;
  const options: FrameOptions = { lengthFieldLength: 2 };
  const payload = pattern(100);
  const total = 102 * count;
  for (const most of [1, 100, 1000, Infinity]) {
    const { result, copied } = Meter.run(() => {
      const encoders = [new FrameEncoder(options), new FrameEncoder(options)];
      for (let i = 0; i < count; i++) encoders[i % 2]!.push(payload);
      let written = 0;
      for (const encoder of encoders) {
        for (let c = encoder.chunk(); c !== null; c = encoder.chunk()) {
          const n = Math.min(most, c.length);
          encoder.advance(n);
          written += n;
        }
      }
      return written;
    });
    assertEquals(result, total);
    assertLess(copied, 4 * total, `writes of ${most}`);
  }
});

Deno.test("Large payloads are written without being copied", () => {
  const payload = pattern(MIB);
  const encoder = new FrameEncoder();
  const { result, copied, allocated } = Meter.run(() => {
    for (let i = 0; i < 20; i++) encoder.push(payload);
    let written = 0;
    for (let c = encoder.chunk(); c !== null; c = encoder.chunk()) {
      encoder.advance(c.length);
      written += c.length;
    }
    return written;
  });
  assertEquals(result, 20 * (8 + MIB));
  assertLess(copied, 0.05 * result);
  assertLess(allocated, 0.1 * result);
});

Deno.test("Ten times the frames take about ten times the time, not a hundred times", () => {
  const options: FrameOptions = { lengthFieldLength: 2 };
  const payload = pattern(20);
  const run = (count: number): number => {
    const start = performance.now();
    const encoder = new FrameEncoder(options);
    for (let i = 0; i < count; i++) encoder.push(payload);
    const decoder = new FrameDecoder(options);
    for (let c = encoder.chunk(); c !== null; c = encoder.chunk()) {
      decoder.push(c);
      encoder.advance(c.length);
    }
    let frames = 0;
    while (decoder.decode() !== null) frames++;
    assertEquals(frames, count);
    return performance.now() - start;
  };
  run(20_000);
  // What else runs on the machine only adds to either, so the best of each
  // counts, and one fair try is enough: quadratic work never comes below 100.
  let few = Infinity;
  let many = Infinity;
  for (let i = 0; i < 20 && !(many / few < 30); i++) {
    few = Math.min(few, run(20_000));
    many = Math.min(many, run(200_000));
  }
  assertLess(many / few, 50);
});

// ---------------------------------------------------------------------------
// Memory

Deno.test("Thousands of decoders that were promised 16 MiB each stay small", () => {
  const claim = new Uint8Array(16);
  new DataView(claim.buffer).setUint32(4, 16 * MIB);
  const count = 4000;
  const before = Deno.memoryUsage().external;

  const pushed = Meter.run(() =>
    Array.from({ length: count }, () => {
      const decoder = new FrameDecoder();
      decoder.push(claim);
      assertEquals(decoder.decode(), null);
      return decoder;
    })
  );
  assertLessOrEqual(pushed.allocated, count * 4 * KIB);

  let rooms = 0;
  const filled = Meter.run(() =>
    Array.from({ length: count }, () => {
      const decoder = new FrameDecoder();
      decoder.space().set(claim);
      decoder.advance(claim.length);
      assertEquals(decoder.decode(), null);
      rooms += decoder.space().buffer.byteLength;
      return decoder;
    })
  );
  assertLessOrEqual(rooms, count * 4 * KIB);
  assertLessOrEqual(filled.allocated, count * 4 * KIB);

  const grown = Deno.memoryUsage().external - before;
  assertLess(grown, 2 * count * 8 * KIB);
  // They are alive up to here.
  for (const decoder of [...pushed.result, ...filled.result]) {
    assertEquals(decoder.buffered, 16);
  }
});

Deno.test("A decoder promised a large frame reserves a small multiple of what has come", () => {
  const length = 16 * MIB;
  const header = new Uint8Array(8);
  new DataView(header.buffer).setUint32(4, length);
  for (const step of [10, 1000, 50_000]) {
    const decoder = new FrameDecoder();
    decoder.push(header);
    for (let fed = 0; fed < Math.min(length, 400 * step); fed += step) {
      assertEquals(decoder.decode(), null);
      const room = decoder.space();
      assertLessOrEqual(
        room.buffer.byteLength,
        Math.max(64 * KIB, 4 * decoder.buffered + KIB),
      );
      decoder.advance(Math.min(step, room.length));
    }
  }
});

Deno.test("A decoder's room grows while reads fill it, and shrinks when they stop", () => {
  for (const last of [1, 3000, 9000, 17_000, 40_000, 60_000]) {
    const decoder = new FrameDecoder({ lengthFieldLength: 1 });
    assertLessOrEqual(decoder.space().buffer.byteLength, 4 * KIB);
    fillWithEmptyFrames(decoder);
    decoder.space().fill(0, 0, last);
    decoder.advance(last);
    while (decoder.decode() !== null);
    assertLessOrEqual(decoder.space().buffer.byteLength, IDLE, `${last}`);
    // And then, where little comes, less.
    for (let i = 0; i < 3; i++) {
      decoder.space()[0] = 0;
      decoder.advance(1);
      assertEquals(decoder.decode(), bytes());
    }
    assertLessOrEqual(decoder.space().buffer.byteLength, 8 * KIB, `${last}`);
  }
});

Deno.test("A silent connection waits with little memory after a large frame", () => {
  const options: FrameOptions = { lengthFieldLength: 4 };
  const large = encodeFrame(pattern(MIB), options);
  const decoder = new FrameDecoder(options);
  fillWithEmptyFrames(decoder);
  for (let at = 0; at < large.length;) {
    const room = decoder.space();
    const n = Math.min(room.length, large.length - at);
    room.set(large.subarray(at, at + n));
    decoder.advance(n);
    at += n;
    while (decoder.decode() !== null);
  }
  assertEquals(decoder.buffered, 0);
  assertLessOrEqual(decoder.space().buffer.byteLength, IDLE);
});

Deno.test("Messages that come one by one, of up to 16 KiB, take one read each and little memory", () => {
  const sizes = [1, 100, 1000, KIB, 2 * KIB, 3000, 4 * KIB, 5000, 8 * KIB];
  sizes.push(9000, 12_000, 15_000, 16 * KIB);
  for (const size of sizes) {
    const wire = encodeFrame(pattern(size));
    const decoder = new FrameDecoder();
    const receive = () => {
      let reads = 0;
      for (let at = 0; at < wire.length;) {
        const room = decoder.space();
        assertLessOrEqual(room.buffer.byteLength, 64 * KIB);
        const n = Math.min(room.length, wire.length - at);
        room.set(wire.subarray(at, at + n));
        decoder.advance(n);
        at += n;
        reads++;
        while (decoder.decode() !== null);
      }
      return reads;
    };
    // The first ones are still finding out.
    for (let i = 0; i < 10; i++) receive();
    const count = 1000;
    const { result, copied, allocated } = Meter.run(() => {
      let reads = 0;
      for (let i = 0; i < count; i++) reads += receive();
      return reads;
    });
    assertEquals(result, count, `reads for frames of ${size} bytes`);
    // Once by this test itself.
    assertLessOrEqual(copied, count * wire.length);
    // The memory for several small ones is taken at a time, and used up.
    const most = size <= 4 * KIB ? 1.5 : 2.2;
    assertLess(allocated, most * count * wire.length + 8 * KIB, `${size}`);
    assertLessOrEqual(decoder.space().buffer.byteLength, IDLE, `${size}`);
  }
});

Deno.test("Once a quarter of a frame has come, the room takes all the rest of it", () => {
  // Where the frame starts in the room must not matter.
  for (const before of [0, 1000, 1990, 40_000, 65_000]) {
    const decoder = new FrameDecoder({ lengthFieldLength: 4 });
    if (before >= 40_000) fillWithEmptyFrames(decoder);
    if (before > 0) {
      feed(decoder, encodeFrame(pattern(before), { lengthFieldLength: 4 }));
    }
    const length = 30_000;
    const wire = encodeFrame(pattern(length), { lengthFieldLength: 4 });
    feed(decoder, wire.subarray(0, wire.length / 4));
    assertGreaterOrEqual(
      decoder.space().length,
      wire.length - wire.length / 4,
      `after ${before} bytes`,
    );
  }
});

/** Fills the room with `input`, decoding after each part of it. */
function feed(decoder: FrameDecoder, input: Uint8Array): void {
  for (let at = 0; at < input.length;) {
    const room = decoder.space();
    const n = Math.min(room.length, input.length - at);
    room.set(input.subarray(at, at + n));
    decoder.advance(n);
    at += n;
    while (decoder.decode() !== null);
  }
}

Deno.test("The room for a frame in progress at least doubles what has come, where it is used up", () => {
  // Lengths whose quarters fall just behind what a full room of 64 KiB holds.
  for (const rest of [1028, 1100, 1200, 1500, 3000]) {
    for (const quarters of [4, 16, 64]) {
      const length = quarters * 64 * KIB + rest * quarters / 4;
      const decoder = new FrameDecoder({ lengthFieldLength: 4 });
      fillWithEmptyFrames(decoder);
      const header = new Uint8Array(4);
      new DataView(header.buffer).setUint32(0, length - 4);
      // The header alone first, so that the room is known to be full later.
      let room = decoder.space();
      room.set(header);
      decoder.advance(room.length);
      assertEquals(decoder.decode(), null);
      while (decoder.buffered < length) {
        room = decoder.space();
        assertGreaterOrEqual(
          room.length,
          Math.min(length - decoder.buffered, decoder.buffered),
          `${length} bytes, ${decoder.buffered} of them here`,
        );
        decoder.advance(room.length);
      }
    }
  }
});

Deno.test("A payload larger than the room is read into memory of its own, and hardly copied", () => {
  const options: FrameOptions = { lengthFieldLength: 4 };
  // The powers of two among them: with its header, such a payload is just
  // larger than a buffer that doubles or quadruples.
  const sizes = [128, 200, 256, 300, 512, 700, 1024, 1500, 2048, 4096];
  for (const size of sizes) {
    for (const warm of [false, true]) {
      const decoder = new FrameDecoder(options);
      if (warm) fillWithEmptyFrames(decoder);
      const payload = pattern(size * KIB);
      const wire = encodeFrame(payload, options);
      const { result, copied, allocated } = Meter.run(() => {
        for (let at = 0; at < wire.length;) {
          const room = decoder.space();
          const n = Math.min(room.length, wire.length - at);
          room.set(wire.subarray(at, at + n));
          decoder.advance(n);
          at += n;
          const frame = decoder.decode();
          if (frame !== null) return frame;
        }
        throw new Error("no frame");
      });
      assert(equals(result, payload));
      const label = `${size} KiB, ${warm ? "warm" : "cold"}`;
      assertLessOrEqual(result.buffer.byteLength, wire.length, label);
      // Once into the room by this test; then what moved when memory grew.
      assertLess(copied, 1.7 * wire.length, label);
      assertLess(allocated, 1.7 * wire.length, label);
    }
  }
});

/** What a busy connection does to a decoder: reads that come back full. */
function fillWithEmptyFrames(decoder: FrameDecoder): void {
  for (let i = 0; i < 8; i++) {
    decoder.advance(decoder.space().fill(0).length);
    while (decoder.decode() !== null);
  }
  assertGreater(decoder.space().length, 32 * KIB);
}
