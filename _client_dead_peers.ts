// Which idle connections are looked at before they are lent.
//
// Knows: how long a connection was idle, and what a request that met silence
// says about the others. Must not know: how a connection is looked at, and what
// becomes of the request.
//
// A peer that is gone is noticed in one of three ways.
//
//   - It closed the connection, and the end lies in the kernel because this
//     process was frozen or busy: one turn of the event loop shows it.
//   - The network dropped the connection in silence. What has been idle for long
//     is pinged, where there is a ping.
//   - A request timed out in silence. Idle connections that were as silent are
//     then in doubt: they are pinged, or closed where there is no ping.

import type { Silence } from "./_client_connection.ts";
import type { PendingRequest } from "./_client_request.ts";

/** What lay idle for so long is looked at before a request is written to it: a
 * look costs about two milliseconds, so what is warmer is not looked at. */
const LOOK_AFTER = 1000;

/** What is known of an idle connection. */
interface IdleConnection {
  readonly idleSince: number;
  readonly idleSinceWall: number;
  readonly receivedAt: number;
  readonly lent: boolean;
  readonly busy: boolean;
  idleBefore: number;
  inDoubt: boolean;
}

/** How an idle connection is looked at, if at all. */
export type Look = "none" | "turn" | "ping" | "close";

/** Decides how idle connections are looked at. */
export class DeadPeers {
  readonly #pings: boolean;
  readonly #pingAfterIdle: number;

  /** @param pings Whether there is a ping. */
  constructor(pings: boolean, pingAfterIdle: number) {
    this.#pings = pings;
    this.#pingAfterIdle = pingAfterIdle;
  }

  /** How a connection is to be looked at before it is lent to a request. */
  look(connection: IdleConnection, request: PendingRequest): Look {
    const idle = connection.idleBefore = performance.now() -
      connection.idleSince;
    if (connection.inDoubt) {
      // Nobody waits for more than one ping in vain.
      return this.#pings && !request.awaitedPing ? "ping" : "close";
    }
    // The monotonic clock stops while the machine is suspended.
    const longest = Math.max(idle, Date.now() - connection.idleSinceWall);
    if (this.#pings && longest >= this.#pingAfterIdle) return "ping";
    return longest >= LOOK_AFTER ? "turn" : "none";
  }

  /**
   * Draws the conclusion from a request that timed out in silence. If no
   * connection has received anything since, the network or the server is gone,
   * and whatever is as silent is in doubt. If one has, the request may just have
   * been slow; but if its connection had been idle for long, so may others have
   * been dropped that were idle for as long.
   *
   * @param received What the client's connections have received by now.
   */
  castDoubt(
    { receivedBefore, idleBefore }: Silence,
    received: number,
    connections: Iterable<IdleConnection>,
  ): void {
    const othersHeard = received > receivedBefore;
    if (othersHeard && idleBefore < this.#pingAfterIdle) return;
    const now = performance.now();
    for (const connection of connections) {
      const { lent, busy, receivedAt, idleSince } = connection;
      if (lent || busy || receivedAt > receivedBefore) continue;
      if (othersHeard && now - idleSince < idleBefore) continue;
      connection.inDoubt = true;
    }
  }
}
