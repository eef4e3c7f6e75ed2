/**
 * The codec against a slow reference, over options, frames and chunkings that
 * chance picks; and against hostile bytes.
 *
 * `WIREPOOL_LONG=1` runs many more rounds. A failure names its seed;
 * `WIREPOOL_SEED=<seed>` runs that round first.
 */
import {
  assert,
  assertEquals,
  assertGreater,
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
import { bytes, KIB, pattern } from "./bytes_support.ts";
import {
  type Reference,
  referenceDecode,
  referenceEncode,
  type ReferenceFrame,
} from "./codec_reference_support.ts";
import { RecordingSink, ScriptedSource } from "./codec_support.ts";
import { thrownBy } from "./promise_support.ts";
import { chosenSeed, longRun, Random } from "./random_support.ts";

const WIDTHS = [1, 2, 3, 4, 8] as const;

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

// What chance picks -----------------------------------------------------------

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

// The decoder, held against the reference -------------------------------------

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
    failure = thrownBy(() => decoder.finish());
    if (reference.unfinished === null) assertEquals(failure, undefined);
    else {
      assertInstanceOf(failure, TruncatedFrameError);
      const { expected, received } = failure;
      assertEquals({ expected, received }, reference.unfinished);
    }
  }
  if (failure !== undefined) {
    assert(thrownBy(() => decoder.decode()) === failure, "an error is sticky");
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
  const failure = thrownBy(() => {
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
      Math.max(
        64 * KIB,
        (held < 16 * KIB ? 4 : 16) * (held + room.byteOffset + KIB),
      ),
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
