// Loops over reads or writes, for as long as they get somewhere.
//
// Knows: how many calls in a row may move nothing. Must not know: what is read
// or written.

/** Calls in a row that may move nothing before a transport is taken for broken,
 * as in Go's `io.ErrNoProgress`: a loop over it would never end. */
export const MAX_EMPTY_TRIES = 100;

/** Reads whose bytes are thrown away before others have a turn of the event loop:
 * a transport whose reads never wait would let no timer end them. */
export const READS_A_TURN = 64;

/**
 * Counts the calls in a row that moved nothing.
 *
 * @param call What was called, for the message.
 * @param n Bytes that the call moved.
 * @param empty The count before it.
 * @returns The count after it.
 * @throws {Error} If that is too many.
 */
export function countEmpty(
  call: "read" | "write",
  n: number,
  empty: number,
): number {
  if (n > 0) return 0;
  if (empty + 1 === MAX_EMPTY_TRIES) {
    throw new Error(
      `No progress: ${MAX_EMPTY_TRIES} calls of ${call} in a row moved 0 bytes`,
    );
  }
  return empty + 1;
}
