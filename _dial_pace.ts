// How soon the next dial may begin, while servers end connections as soon as they
// are made: dialling on and on would not help them, and `minIdle` would.
//
// Knows: how many connections ended so in a row. Must not know: how a dial is made.

/** Longest wait before a dial, in milliseconds. */
const MAX_DELAY = 1000;

/** Spaces dials out. */
export class DialPace {
  /** Connections in a row that ended before they were of any use. */
  #early = 0;
  #nextDial = 0;

  /** A connection has ended; `early` if it was of no use by then. */
  ended(early: boolean): void {
    this.#early = early ? this.#early + 1 : 0;
    // The first may have been on its way as the connection was made.
    if (this.#early < 2) return;
    const delay = Math.min(2 ** this.#early, MAX_DELAY);
    this.#nextDial = performance.now() + delay;
  }

  /** How long the next dial is to wait, in milliseconds. */
  get delay(): number {
    if (this.#nextDial === 0) return 0;
    return Math.max(0, this.#nextDial - performance.now());
  }
}

/** Lets time pass, unless the signal aborts: then it rejects with its reason. */
export function pause(delay: number, signal: AbortSignal): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, delay);
    signal.addEventListener("abort", abort, { once: true });
  });
}
