/**
 * Requests that can be told apart, the account of what became of each, and
 * workers that send them: what the reliability suites have in common.
 */
import { equals } from "@std/bytes";
import {
  type Client,
  ConnectError,
  ConnectionLostError,
  RequestTimeoutError,
  type SendOptions,
} from "../client.ts";
import { longRun, type Random } from "./random_support.ts";
import { PATIENCE, sleep } from "./time_support.ts";

/** Every odd request is idempotent, every even one is not. */
export function isIdempotent(id: number): boolean {
  return id % 2 === 1;
}

/** The request of that number: four bytes say it, the others follow from it. */
export function requestOf(id: number): Uint8Array<ArrayBuffer> {
  return payloadOf(id, 0x5bd1e995);
}

/** The one right response to the request of that number. */
export function responseTo(id: number): Uint8Array<ArrayBuffer> {
  return payloadOf(id, 0x27d4eb2f);
}

/** The number of a request, of whose bytes each must be right. */
export function idOf(request: Uint8Array): number {
  const id = new DataView(request.buffer, request.byteOffset).getUint32(0);
  if (!equals(request, requestOf(id))) {
    throw new Error(`Request ${id} arrived damaged`);
  }
  return id;
}

/** Mostly a few bytes; one in 64 is longer than a read. */
function payloadOf(id: number, salt: number): Uint8Array<ArrayBuffer> {
  const hash = Math.imul(id + 1, salt) >>> 0;
  const length = 4 + (hash % 64 === 0 ? hash % 40_000 : hash % 250);
  const payload = new Uint8Array(length).fill(hash >>> 24);
  for (let i = 4; i < length; i += 61) payload[i] = hash >>> (i % 23);
  new DataView(payload.buffer).setUint32(0, id);
  return payload;
}

const COUNT = 0x0f;
const ANSWERED = 0x40;
const UNSEEN = 0x80;

/**
 * Says of each request how often it was handled and what its sender was told,
 * and complains at once where the two do not fit.
 */
export class Ledger {
  /** What went wrong; empty is right. */
  readonly breaches: string[] = [];
  /** Requests given out. */
  issued = 0;
  /** Requests handled, those handled twice counted twice. */
  handled = 0;
  readonly #entries: Uint8Array;

  /** Makes a ledger that remembers the last `capacity` requests. */
  constructor(capacity: number) {
    // Filled, so that what it takes is taken now and not found to grow.
    this.#entries = new Uint8Array(capacity).fill(0xff);
  }

  /** Opens the account of one more request. */
  issue(): number {
    const id = this.issued++;
    this.#entries[id % this.#entries.length] = 0;
    return id;
  }

  /** The server is about to handle a request. */
  handle(id: number): void {
    const at = id % this.#entries.length;
    const entry = ++this.#entries[at]!;
    this.handled++;
    const count = entry & COUNT;
    if (count > (isIdempotent(id) ? 2 : 1)) {
      this.breach(`Request ${id} was handled ${count} times`);
    }
    if ((entry & UNSEEN) !== 0) {
      this.breach(`Request ${id} was handled, but reported as never sent`);
    }
  }

  /** The sender has its response. */
  answer(id: number, response: Uint8Array): void {
    if (!equals(response, responseTo(id))) {
      const other = response.length >= 4
        ? new DataView(response.buffer, response.byteOffset).getUint32(0)
        : "nobody";
      this.breach(`Request ${id} got the response of ${other}`);
    }
    this.#entries[id % this.#entries.length]! |= ANSWERED;
  }

  /** The sender was told that the server cannot have seen the request. */
  unseen(id: number): void {
    this.#entries[id % this.#entries.length]! |= UNSEEN;
    const count = this.count(id);
    if (count > 0) {
      this.breach(`Request ${id} was reported as never sent, but handled`);
    }
  }

  /** How often a request was handled. */
  count(id: number): number {
    return this.#entries[id % this.#entries.length]! & COUNT;
  }

  /** Looks for responses to requests that were never handled. */
  close(): void {
    const first = Math.max(0, this.issued - this.#entries.length);
    for (let id = first; id < this.issued; id++) {
      const entry = this.#entries[id % this.#entries.length]!;
      if ((entry & ANSWERED) !== 0 && (entry & COUNT) === 0) {
        this.breach(`Request ${id} was answered, but not handled`);
      }
    }
  }

  breach(what: string): void {
    this.breaches.push(what);
  }

  /** A client's `onError`. */
  readonly clientError = (error: unknown): void => {
    // A dial that nobody waits for any more may fail as any other.
    if (error instanceof ConnectError) return;
    this.breach(`The client reports ${error}`);
  };

  /** A handler that writes every request down before it answers. */
  readonly handler = (
    request: Uint8Array,
  ): Uint8Array | Promise<Uint8Array> => {
    const id = idOf(request);
    this.handle(id);
    const response = responseTo(id);
    // Some answer at once, some in a later turn, some after others.
    if (id % 3 === 0) return response;
    if (id % 3 === 1) return Promise.resolve(response);
    return sleep(id % 4).then(() => response);
  };
}

/** How {@linkcode Traffic} is made. */
export interface TrafficOptions {
  client: Client;
  ledger: Ledger;
  random: Random;
  /** Workers that send one request after the other. */
  workers: number;
  /** Gives requests up, by signal and by timeout. */
  impatient?: boolean;
  /** Whether a request is said to be idempotent; by default every odd one is. */
  idempotent?: (id: number) => boolean;
  /** Told of each request that was not answered, and why. */
  failed?: (id: number, error: unknown) => void;
  /** Longest pause of a worker between two requests, in milliseconds. */
  pause?: number;
}

/** Workers that keep sending, and count what they are told. */
export class Traffic {
  /** Requests that have settled, by how: `ok`, or the name of the error. */
  readonly outcomes: Record<string, number> = {};
  /** Requests settled. */
  settled = 0;
  readonly #options: TrafficOptions;

  constructor(options: TrafficOptions) {
    this.#options = options;
  }

  /** Sends until told to stop; rejects if requests stop settling. */
  async run(goOn: () => boolean): Promise<void> {
    const { promise: stalled, reject } = Promise.withResolvers<never>();
    let seen = -1;
    const watchdog = setInterval(() => {
      if (seen === this.settled) {
        const { client } = this.#options;
        const stats = JSON.stringify(client.stats());
        reject(new Error(`No request has settled for a minute: ${stats}`));
      }
      seen = this.settled;
    }, PATIENCE);
    const worker = async () => {
      while (goOn()) await this.#send();
    };
    try {
      const { workers } = this.#options;
      const all = Promise.all(Array.from({ length: workers }, worker));
      await Promise.race([all, stalled]);
    } finally {
      clearInterval(watchdog);
    }
  }

  async #send(): Promise<void> {
    const { client, ledger, random, impatient, pause = 0 } = this.#options;
    const { idempotent = isIdempotent } = this.#options;
    const id = ledger.issue();
    const options: SendOptions = { idempotent: idempotent(id) };
    let controller: AbortController | undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const whim = impatient ? random.between(1, 30) : 0;
    if (whim === 1) {
      controller = new AbortController();
      options.signal = controller.signal;
      const abort = () => controller?.abort(new Error("Given up"));
      timer = setTimeout(abort, random.between(0, 15));
    } else if (whim === 2) {
      options.timeout = random.between(1, 60);
    }
    let outcome = "ok";
    try {
      ledger.answer(id, await client.send(requestOf(id), options));
    } catch (error) {
      outcome = this.#judge(id, error, controller?.signal);
      this.#options.failed?.(id, error);
    } finally {
      clearTimeout(timer);
    }
    this.settled++;
    this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1;
    // Where nobody listens, requests would fail as fast as they can be made.
    if (outcome === "ConnectError") await sleep(random.between(1, 10));
    else if (pause > 0) await sleep(random.between(0, pause));
  }

  /** Names an outcome; whatever is not promised is a breach. */
  #judge(id: number, error: unknown, signal?: AbortSignal): string {
    const { ledger } = this.#options;
    if (signal?.aborted && error === signal.reason) return "given up";
    if (
      error instanceof ConnectError || error instanceof RequestTimeoutError
    ) return error.name;
    if (error instanceof ConnectionLostError) {
      if (!error.requestSent) ledger.unseen(id);
      return error.requestSent ? error.name : `${error.name}, unsent`;
    }
    ledger.breach(`Request ${id} failed in an unknown way: ${error}`);
    return String(error);
  }
}

/** Prints figures in long runs; short ones are for yes or no. */
export function report(what: string, figures: Record<string, unknown>): void {
  if (!longRun() && !Deno.env.get("WIREPOOL_F")) return;
  const parts = Object.entries(figures).map(([name, value]) =>
    `${name} ${typeof value === "number" ? round(value) : value}`
  );
  console.log(`${what}: ${parts.join(", ")}`);
}

function round(value: number): number {
  return Math.abs(value) >= 100
    ? Math.round(value)
    : Number(value.toPrecision(3));
}
