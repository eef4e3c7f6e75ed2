/**
 * Two transports in memory that are each other's other side: they behave as two
 * sockets do, so that a service is tested with the same life as over TCP.
 */
import { assertEquals, assertRejects } from "@std/assert";
import { FrameReader, FrameWriter, transportPair } from "../codec.ts";
import { bytes } from "./bytes_support.ts";

Deno.test("transportPair() carries bytes both ways, in order and in any pieces", async () => {
  const [here, there] = transportPair();
  await here.write(bytes(1, 2, 3));
  await here.write(bytes(4));
  await there.write(bytes(9));
  const room = new Uint8Array(2);
  assertEquals(await there.read(room), 2);
  assertEquals(room, bytes(1, 2));
  assertEquals(await there.read(room), 2);
  assertEquals(room, bytes(3, 4));
  assertEquals(await here.read(room), 1);
  assertEquals(room[0], 9);
  assertEquals(await here.read(new Uint8Array()), 0);
  assertEquals(await here.write(new Uint8Array()), 0);
});

Deno.test("transportPair() keeps nothing of a buffer that was written", async () => {
  const [here, there] = transportPair();
  const chunk = bytes(1, 2, 3);
  await here.write(chunk);
  chunk.fill(0);
  const room = new Uint8Array(3);
  await there.read(room);
  assertEquals(room, bytes(1, 2, 3));
});

Deno.test("transportPair() holds a writer back at 64 KiB, and takes what there is room for", async () => {
  const [here, there] = transportPair();
  const large = new Uint8Array(100_000);
  assertEquals(await here.write(large), 65_536);
  let taken = -1;
  const waiting = here.write(large).then((n) => taken = n);
  await Promise.resolve();
  assertEquals(taken, -1);
  assertEquals(await there.read(new Uint8Array(1000)), 1000);
  await waiting;
  assertEquals(taken, 1000);
});

Deno.test("transportPair() gives a read that waits what comes", async () => {
  const [here, there] = transportPair();
  const room = new Uint8Array(8);
  const read = there.read(room);
  await assertRejects(() => there.read(room), Error, "under way");
  assertEquals(await here.write(bytes(5, 6)), 2);
  assertEquals(await read, 2);
  assertEquals(room.subarray(0, 2), bytes(5, 6));
});

Deno.test("transportPair() can be closed in one direction", async () => {
  const [here, there] = transportPair();
  await here.write(bytes(1));
  await here.closeWrite!();
  await assertRejects(() => here.write(bytes(2)), Error);
  const room = new Uint8Array(8);
  assertEquals(await there.read(room), 1);
  assertEquals(await there.read(room), null);
  await there.write(bytes(3));
  assertEquals(await here.read(room), 1);
});

Deno.test("transportPair() settles what waits when a side is closed", async () => {
  for (const closing of ["here", "there"]) {
    const [here, there] = transportPair();
    const full = await here.write(new Uint8Array(65_536));
    assertEquals(full, 65_536);
    const write = here.write(bytes(1));
    const read = here.read(new Uint8Array(8));
    write.catch(() => {});
    read.catch(() => {});
    (closing === "here" ? here : there).close();
    await assertRejects(() => write, Error);
    if (closing === "here") {
      assertEquals(
        (await assertRejects(() => read, Error)).name,
        "BadResource",
      );
      // What was written can still be read, and then the end.
      assertEquals(await there.read(new Uint8Array(65_536)), 65_536);
      assertEquals(await there.read(new Uint8Array(8)), null);
    } else {
      assertEquals(await read, null);
    }
    here.close();
    there.close();
  }
});

Deno.test("transportPair() carries frames larger than what it holds", async () => {
  const [here, there] = transportPair();
  const payload = new Uint8Array(1_000_000).fill(7);
  const written = new FrameWriter(here).write(payload);
  assertEquals(await new FrameReader(there).read(), payload);
  await written;
});
