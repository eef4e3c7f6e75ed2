// Places that a call of the factory keeps after it has failed.
//
// Knows: which failure keeps its place, and until when. Must not know: what the
// factory opens.
//
// A call that its own maker gave up may hold something for a while: a dial that
// cannot be cancelled holds a descriptor. Its waiter is to know of the failure at
// once, but the next call is to wait until there is room for it.

const held = new WeakMap<object, Promise<void>>();

/** Has the failure of a factory keep its place until a promise resolves; it must
 * never reject. Returns the failure. */
export function holdPlace<E extends object>(
  failure: E,
  until: Promise<void>,
): E {
  held.set(failure, until);
  return failure;
}

/** Until when a failure keeps its place; `undefined` if it does not. */
export function placeHeldUntil(failure: unknown): Promise<void> | undefined {
  return typeof failure === "object" && failure !== null
    ? held.get(failure)
    : undefined;
}
