/**
 * What the codec's work costs: bytes copied and memory asked for, counted, per
 * byte of the stream; and the memory that a decoder holds while it waits.
 */
import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertLessOrEqual,
} from "@std/assert";
import { concat, equals } from "@std/bytes";
import {
  encodeFrame,
  FrameDecoder,
  FrameEncoder,
  type FrameOptions,
} from "../codec.ts";
import { shareLayout } from "../_layout.ts";
import { bytes, KIB, MIB, pattern } from "./bytes_support.ts";
import { type Cost, Meter } from "./memory_support.ts";

/** The most that may wait on a connection that has fallen silent: a message of
 * 16 KiB with its header. */
const IDLE = 17 * KIB;

// Work ------------------------------------------------------------------------

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
        return feed(decoder, input, size);
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
    return feed(decoder, input);
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
    return feed(decoder, input, 1000);
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

// Memory ----------------------------------------------------------------------

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
        decoder.buffered < 16 * KIB
          ? Math.max(64 * KIB, 4 * decoder.buffered + KIB)
          : 16 * decoder.buffered + 4 * KIB,
      );
      decoder.advance(Math.min(step, room.length));
    }
  }
});

Deno.test("A decoder's room grows while reads fill it, and shrinks when they stop", () => {
  for (const last of [1, 3000, 9000, 17_000, 40_000, 60_000]) {
    const decoder = new FrameDecoder({ lengthFieldLength: 1 });
    // Whoever has sent nothing costs little.
    assertLessOrEqual(decoder.space().buffer.byteLength, KIB / 2);
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

Deno.test("Connections with one layout share it", () => {
  const frame = (maxFrameLength: number): FrameOptions => ({
    lengthFieldLength: 4,
    maxFrameLength,
  });
  const layouts = [100, 200].map((most) => shareLayout(frame(most), undefined));
  assert(layouts[0] !== layouts[1]);
  // Others come and go, more than are remembered.
  for (let i = 0; i < 20; i++) {
    shareLayout(frame(1000 + i), { length: 4 });
    for (const [index, most] of [100, 200].entries()) {
      const again = shareLayout(frame(most), undefined);
      assertEquals(again.maxLength, most);
      if (i < 4) assert(again === layouts[index], `${most}`);
    }
  }
  const standard = shareLayout({}, undefined);
  assert(standard === shareLayout(undefined, undefined));
  assert(standard !== shareLayout({}, { length: 4 }));
});

Deno.test("A silent connection waits with little memory after a large frame", () => {
  const options: FrameOptions = { lengthFieldLength: 4 };
  const large = encodeFrame(pattern(MIB), options);
  const decoder = new FrameDecoder(options);
  fillWithEmptyFrames(decoder);
  feed(decoder, large);
  assertEquals(decoder.buffered, 0);
  assertLessOrEqual(decoder.space().buffer.byteLength, IDLE);
});

Deno.test("Messages that come one by one, of up to 16 KiB, take one read each and little memory", () => {
  const sizes = [1, 100, 1000, KIB, 2 * KIB, 3000, 4 * KIB, 5000, 8 * KIB];
  sizes.push(9000, 12_000, 15_000, 16 * KIB);
  for (const size of sizes) {
    const wire = encodeFrame(pattern(size));
    const decoder = new FrameDecoder();
    const count = 1000;
    const { result, copied, allocated } = receiveOneByOne(decoder, wire, count);
    assertEquals(result, count, `reads for frames of ${size} bytes`);
    // Once by this test itself.
    assertLessOrEqual(copied, count * wire.length);
    // The memory for several small ones is taken at a time, and used up.
    const most = size <= 4 * KIB ? 1.5 : 2.2;
    assertLess(allocated, most * count * wire.length + 8 * KIB, `${size}`);
    assertLessOrEqual(decoder.space().buffer.byteLength, IDLE, `${size}`);
  }
});

Deno.test("Messages that come one by one, of up to 64 KiB, take two reads each, and little of them is copied", () => {
  for (const size of [18 * KIB, 24 * KIB, 32 * KIB, 48 * KIB, 64 * KIB - 8]) {
    const wire = encodeFrame(pattern(size));
    const decoder = new FrameDecoder();
    const count = 100;
    const { result, copied, allocated } = receiveOneByOne(decoder, wire, count);
    assertEquals(result, 2 * count, `reads for frames of ${size} bytes`);
    // Once by this test itself.
    assertLessOrEqual(copied, count * (wire.length + 9 * KIB), `${size}`);
    // A full room may mean that another frame is behind.
    const most = Math.max(wire.length, 32 * KIB);
    assertLessOrEqual(allocated, count * most + 8 * KIB, `${size}`);
    assertLessOrEqual(decoder.space().buffer.byteLength, 9 * KIB, `${size}`);
  }
});

/** Has a decoder receive a message again and again, each behind the end of the
 * last; tells how many reads `count` of them took, and what they cost. */
function receiveOneByOne(
  decoder: FrameDecoder,
  wire: Uint8Array,
  count: number,
): Cost<number> {
  const receive = () => {
    let reads = 0;
    for (let at = 0; at < wire.length; reads++) {
      const room = decoder.space();
      assertLessOrEqual(room.buffer.byteLength, 64 * KIB);
      const n = Math.min(room.length, wire.length - at);
      room.set(wire.subarray(at, at + n));
      decoder.advance(n);
      at += n;
      while (decoder.decode() !== null);
    }
    return reads;
  };
  // The first ones are still finding out.
  for (let i = 0; i < 10; i++) receive();
  return Meter.run(() => {
    let reads = 0;
    for (let i = 0; i < count; i++) reads += receive();
    return reads;
  });
}

Deno.test("Encoders that answer in one turn use the same memory in the next", () => {
  const encoders = Array.from({ length: 32 }, () => new FrameEncoder());
  const payload = pattern(32 * KIB);
  const turn = () => {
    for (const encoder of encoders) encoder.push(payload);
    for (const encoder of encoders) {
      const chunk = encoder.chunk();
      assertEquals(chunk?.length, 8 + payload.length);
      encoder.advance(8 + payload.length);
      assertEquals(encoder.buffered, 0);
    }
  };
  turn();
  const { copied, allocations } = Meter.run(() => {
    for (let i = 0; i < 20; i++) turn();
  });
  assertEquals(allocations, 0);
  assertEquals(copied, 20 * 32 * payload.length);
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

/** Fills the room with `input`, by reads of `most` bytes, and decodes after each
 * of them; returns how many frames there were. */
function feed(
  decoder: FrameDecoder,
  input: Uint8Array,
  most = Infinity,
): number {
  let frames = 0;
  for (let at = 0; at < input.length;) {
    const room = decoder.space();
    const n = Math.min(room.length, most, input.length - at);
    room.set(input.subarray(at, at + n));
    decoder.advance(n);
    at += n;
    while (decoder.decode() !== null) frames++;
  }
  return frames;
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
