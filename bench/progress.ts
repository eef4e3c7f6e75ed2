// What is going on, while it is going on: on standard error, so that standard
// output holds the figures alone.

const BAR = 24;

/** A line that is rewritten on a terminal, and elsewhere a line for each new
 * thing that is measured. */
export class Progress {
  readonly #steps: number;
  readonly #terminal = Deno.stderr.isTerminal();
  #done = 0;
  #last = "";

  constructor(steps: number) {
    this.#steps = steps;
  }

  step(what: string): void {
    const share = this.#done++ / this.#steps;
    const percent = `${Math.floor(100 * share)} %`.padStart(5);
    if (this.#terminal) {
      const full = Math.round(BAR * share);
      const bar = "#".repeat(full) + ".".repeat(BAR - full);
      this.#print(`\r\x1b[K[${bar}]${percent}  ${what}`);
    } else if (what !== this.#last) {
      this.#print(`${percent}  ${what}\n`);
    }
    this.#last = what;
  }

  end(): void {
    if (this.#terminal) this.#print("\r\x1b[K");
  }

  #print(text: string): void {
    Deno.stderr.writeSync(new TextEncoder().encode(text));
  }
}
