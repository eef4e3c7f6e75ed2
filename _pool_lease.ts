// A borrow that ends once, by itself at the end of a block.
//
// Knows: how a borrow ends. Must not know: what is borrowed.

/** How a borrow ends. */
export type Ending = "put" | "discard";

/** A lease: what ends the borrow is told which one it was. */
export class BorrowLease<T> implements Disposable, AsyncDisposable {
  readonly value: T;
  readonly #release: (how: Ending) => boolean;

  constructor(value: T, release: (how: Ending) => boolean) {
    this.value = value;
    this.#release = release;
  }

  put(): void {
    if (!this.#release("put")) throw new TypeError("The lease is over");
  }

  discard(): void {
    if (!this.#release("discard")) throw new TypeError("The lease is over");
  }

  [Symbol.dispose](): void {
    this.#release("put");
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#release("put");
    return Promise.resolve();
  }
}
