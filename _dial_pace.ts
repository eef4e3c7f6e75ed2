// How soon the next dial may begin, while servers say goodbye as soon as they are
// connected to: dialling on and on would not help them to go.
//
// Knows: how many said so in a row. Must not know: how a dial is made.

/** Longest wait before a dial, in milliseconds. */
const MAX_DELAY = 1000;

/** Spaces dials out. */
export class DialPace {
  /** Connections in a row that said goodbye before they gave a response. */
  #goodbyes = 0;
  #nextDial = 0;

  /** A connection has said goodbye; `unused` if it had given no response. */
  goodbye(unused: boolean): void {
    this.#goodbyes = unused ? this.#goodbyes + 1 : 0;
    // The first may have been on its way as the connection was made.
    if (this.#goodbyes < 2) return;
    const delay = Math.min(2 ** this.#goodbyes, MAX_DELAY);
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
