// The loud end for states that cannot be.
//
// Knows: nothing. Must not know: anything.

/** Says that an invariant is broken: better loud than a pool that lends the
 * wrong thing. */
export function bug(what: string): never {
  throw new Error(`bug: ${what}`);
}
