// How an idle connection is looked at: whether it still lives.
//
// Knows: turns of the event loop, and how long a ping may take. Must not know:
// when a connection is looked at, and what a ping says.

import type { PendingRequest } from "./_client_request.ts";
import { namedError } from "./_errors.ts";
import { startRealTurn, type Timer } from "./_timers.ts";

/** Turns of the event loop after which everything has been read that had arrived
 * before them. As a rule two are enough. Where other processes take most of the
 * processor, two were too few once in a hundred times. */
const TURNS = 4;

/** What of a connection a check needs. */
interface CheckedConnection {
  /** It takes requests. */
  readonly usable: boolean;
  /** Sends a ping. */
  send(ping: PendingRequest): void;
  /** Forgets a ping that was not answered. */
  giveUpPing(ping: PendingRequest): void;
  /** Closes the connection. */
  destroy(cause: unknown): void;
}

/** The check of one connection; there is one at a time. */
export class ConnectionCheck {
  readonly #connection: CheckedConnection;
  #endTurn: (() => void) | undefined;
  #over = false;
  /** A ping is under way. */
  pinging = false;

  constructor(connection: CheckedConnection) {
    this.#connection = connection;
  }

  /**
   * Finds out whether the connection still lives: whether its end has come to be
   * read meanwhile, and whether the server answers a ping, if there is one. One
   * that does not live is closed.
   *
   * After a thread was busy, overdue timers can take a turn of the event loop in
   * which nothing is read. So it takes several turns.
   */
  async run(
    ping: (() => PendingRequest) | undefined,
    timeout: number,
  ): Promise<boolean> {
    const connection = this.#connection;
    for (let turn = 0; turn < TURNS; turn++) await this.#turn();
    if (!connection.usable) return false;
    if (ping === undefined) return true;
    try {
      await this.#ping(ping(), timeout);
    } catch (error) {
      connection.destroy(error);
    }
    return connection.usable;
  }

  /** Ends the look: the connection is closed. */
  end(): void {
    this.#over = true;
    this.#endTurn?.();
  }

  /** Lets the event loop turn once: what has arrived meanwhile is read. An
   * immediate would not do, since Deno runs those before it polls. */
  #turn(): Promise<void> {
    if (this.#over) return Promise.resolve();
    return new Promise((resolve) => this.#endTurn = startRealTurn(resolve));
  }

  async #ping(request: PendingRequest, timeout: number): Promise<void> {
    const connection = this.#connection;
    let timer: Timer | undefined;
    if (timeout > 0) {
      timer = setTimeout(async () => {
        // The thread may have been busy: what has come meanwhile is read first.
        await this.#turn();
        if (request.connection === undefined) return;
        connection.giveUpPing(request);
        request.reject(
          namedError("TimedOut", `Ping was not answered within ${timeout} ms`),
        );
      }, timeout);
    }
    this.pinging = true;
    try {
      connection.send(request);
      await request.promise;
    } finally {
      clearTimeout(timer);
      this.pinging = false;
    }
  }
}
