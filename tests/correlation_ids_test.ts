/**
 * The ids in use on one connection: drawn in turn, never twice, and as fast with
 * all but one in use as with none.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { correlationOption, IdTable, isReserved } from "../_correlation.ts";

/** Draws as the table does, the slow and obvious way. */
class ReferenceIds {
  readonly used = new Set<number>();
  #last = 0;

  constructor(readonly capacity: number) {}

  take(): number {
    do this.#last = this.#last % this.capacity + 1; while (
      this.used.has(this.#last)
    );
    this.used.add(this.#last);
    return this.#last;
  }
}

for (const capacity of [1, 2, 31, 32, 33, 126, 1024, 1025, 32_766]) {
  Deno.test(`IdTable draws as the reference does, with ${capacity} ids`, () => {
    const table = new IdTable<number>(capacity);
    const reference = new ReferenceIds(capacity);
    let state = capacity;
    const random = () => (state = (state * 48_271) % 0x7fff_ffff) / 0x7fff_ffff;
    for (let step = 0; step < 20_000; step++) {
      const { used } = reference;
      // Near-empty and near-full phases by turns.
      const full = step % 4000 < 2000 ? 0.9 : 0.1;
      if (used.size < capacity && random() < full || used.size === 0) {
        assertEquals(table.take(step), reference.take());
      } else {
        let id = 1 + Math.floor(random() * capacity);
        if (!used.has(id)) id = used.values().next().value!;
        used.delete(id);
        assert(table.get(id) !== undefined);
        table.release(id);
        assertEquals(table.get(id), undefined);
      }
      assertEquals(table.size, used.size);
    }
    while (reference.used.size < capacity) {
      assertEquals(table.take(0), reference.take());
    }
    // With all but one in use, that one is found wherever it is.
    for (const id of [1, capacity, Math.ceil(capacity / 2)]) {
      table.release(id);
      assertEquals(table.take(0), id);
    }
    assertThrows(() => table.take(0), Error, "bug");
  });
}

Deno.test("IdTable begins at 1 and passes over what is in use as it runs round", () => {
  const table = new IdTable<string>(3);
  assertEquals([table.take("a"), table.take("b"), table.take("c")], [1, 2, 3]);
  table.release(3);
  table.release(1);
  table.release(1);
  assertEquals(table.size, 1);
  assertEquals(table.take("d"), 1);
  assertEquals(table.get(2), "b");
  assertEquals([table.get(1), table.get(3)], ["d", undefined]);
});

Deno.test("IdTable keeps old ids apart from those that take their places", () => {
  const table = new IdTable<number>(2 ** 31 - 2);
  const old = new Set<number>();
  for (let n = 1; n <= 5000; n++) {
    const id = table.take(n);
    assertEquals(id, n);
    if (n % 97 === 0) old.add(id);
    else table.release(id);
    assertEquals(table.size, old.size);
    for (const id of old) assertEquals(table.get(id), id);
  }
  assertEquals(table.values().toSorted((a, b) => a - b), [...old]);
  for (const id of old) {
    table.release(id);
    assertEquals(table.get(id), undefined);
  }
  assertEquals([table.size, table.get(0)], [0, undefined]);
});

Deno.test("IdTable of four bytes passes over what is in use", () => {
  const table = new IdTable<number>(2 ** 31 - 2);
  assertEquals([table.take(0), table.take(0)], [1, 2]);
});

Deno.test("The ids of each width keep failures and the goaway apart", () => {
  for (
    const [length, capacity, highBit, goaway] of [
      [1, 126, 0x80, 0xff],
      [2, 32_766, 0x8000, 0xffff],
      [4, 2 ** 31 - 2, 2 ** 31, 2 ** 32 - 1],
    ] as const
  ) {
    const correlation = correlationOption({ correlation: { length } })!;
    assertEquals(correlation.inserted, true);
    assertEquals(correlation.capacity, capacity);
    assertEquals(correlation.highBit, highBit);
    assertEquals(correlation.goaway, goaway);
    assert(capacity + highBit < goaway, "a failure looks like the goaway");
    for (const id of [0, highBit, highBit + 1, goaway]) {
      assert(isReserved(correlation, id));
    }
    for (const id of [1, capacity]) assert(!isReserved(correlation, id));
  }
});

Deno.test("One offset alone is both", () => {
  const resolve = (correlation: Parameters<typeof correlationOption>[0]) => {
    const { request, response, inserted } = correlationOption(correlation)!;
    return [request.offset, response.offset, inserted];
  };
  assertEquals(resolve({ correlation: { length: 4 } }), [
    undefined,
    undefined,
    true,
  ]);
  assertEquals(resolve({ correlation: { length: 2, requestOffset: 0 } }), [
    0,
    0,
    false,
  ]);
  assertEquals(resolve({ correlation: { length: 4, responseOffset: 3 } }), [
    3,
    3,
    false,
  ]);
  assertEquals(
    resolve({
      correlation: { length: 4, requestOffset: 4, responseOffset: 0 },
    }),
    [4, 0, false],
  );
  assertEquals(correlationOption({}), undefined);
});

Deno.test("Bad options of correlation are refused", () => {
  for (const length of [0, 3, 8, NaN]) {
    assertThrows(
      () => correlationOption({ correlation: { length: length as 4 } }),
      RangeError,
      `Option correlation.length must be 1, 2 or 4, received ${length}`,
    );
  }
  for (const correlation of [null, 4, true, {}, { length: "4" }]) {
    assertThrows(
      () => correlationOption({ correlation: correlation as never }),
      TypeError,
    );
  }
  assertThrows(
    () =>
      correlationOption({
        correlation: { length: 4, requestOffset: "0" as never },
      }),
    TypeError,
    'Option correlation.requestOffset must be a number, received "0"',
  );
});
