// Which idle connections may be dead, and how they are looked at before they are
// lent.
//
// Knows: how long a connection was idle, and what a request that met silence says
// about the others. Must not know: how a connection is looked at.
//
// A peer that is gone is noticed in one of three ways.
//
//   - It closed the connection, and the end lies in the kernel because this
//     process was frozen or busy: one turn of the event loop shows it.
//   - The network dropped the connection in silence. What has been idle for long
//     is pinged, where there is a ping.
//   - A request timed out in silence. Idle connections that were as silent are
//     then in doubt: they are pinged, or closed where there is no ping.

/** What lay idle for so long is looked at before a request is written to it. A
 * look takes about two milliseconds, so what is warmer is not looked at. */
const LOOK_AFTER_IDLE = 1000;

/** How far the wall clock may run ahead of the monotonic one before the machine is
 * taken to have been suspended. Clocks that are adjusted move by less. */
const MAX_DRIFT = 100;

/** A request that timed out with nothing received since it was encoded. */
export interface Silence {
  /** What the client's connections had received when the request was encoded. */
  readonly receivedBefore: number;
  /** How long its connection had been idle before. */
  readonly idleBefore: number;
  /** The request was a ping. */
  readonly pinged: boolean;
}

/** Why a connection may be dead, though it was not idle for long. */
export interface Doubt {
  /** What is done about it. */
  readonly look: "ping" | "close" | "none";
  /** Only for what had been idle for so long at that time. */
  readonly leastIdle: number;
  readonly castAt: number;
  /** How long the machine was suspended meanwhile, by the wall clock. */
  readonly slept: number;
}

/** What is known of an idle connection. */
interface IdleConnection {
  doubt: Doubt | undefined;
  idleBefore: number;
}

/** Decides how idle connections are looked at. */
export class DeadPeers {
  /** What lay idle for so long is looked at. */
  readonly lookAfterIdle: number;
  readonly #pings: boolean;
  readonly #pingAfterIdle: number;
  /** What lay idle for so long is pinged when it is looked at. */
  readonly #pingIdle: number;
  /** When a connection was last lent that had been idle, by the wall clock. */
  #lastLent = Date.now();
  /** How far the wall clock was ahead of the monotonic one when that was last
   * looked at. */
  #ahead = Date.now() - performance.now();

  /** @param pings Whether there is a ping. */
  constructor(pings: boolean, pingAfterIdle: number, pingInterval: number) {
    this.#pings = pings;
    this.#pingAfterIdle = pingAfterIdle;
    this.#pingIdle = pingInterval > 0
      ? Math.min(pingAfterIdle, pingInterval)
      : pingAfterIdle;
    this.lookAfterIdle = pings
      ? Math.min(LOOK_AFTER_IDLE, this.#pingIdle)
      : LOOK_AFTER_IDLE;
  }

  /** How a connection is to be looked at that has been idle for so long. */
  look(connection: IdleConnection, idle: number): "turn" | "ping" | "close" {
    connection.idleBefore = idle;
    const { doubt } = connection;
    if (doubt !== undefined) {
      connection.doubt = undefined;
      const { look, leastIdle, castAt, slept } = doubt;
      const then = idle - (performance.now() - castAt);
      if (look !== "none" && (leastIdle === 0 || then >= leastIdle)) {
        return look;
      }
      idle += slept;
    }
    return this.#pings && idle >= this.#pingIdle ? "ping" : "turn";
  }

  /**
   * Draws the conclusion from a request that timed out in silence. If no
   * connection has received anything since, the network or the server is gone,
   * and whatever is as silent is in doubt. If one has, the request may just have
   * been slow; but if its connection had been idle for long, others that were
   * idle for as long may have been dropped as well.
   *
   * @param received What the client's connections have received by now.
   * @returns What is to be thought of idle connections that have received nothing
   * since, if anything.
   */
  doubtAfterSilence(
    { receivedBefore, idleBefore, pinged }: Silence,
    received: number,
  ): Doubt | undefined {
    const othersHeard = received > receivedBefore;
    if (othersHeard && idleBefore < this.#pingAfterIdle) return undefined;
    return {
      // After a ping in vain nobody is to wait for another one.
      look: this.#pings && !pinged ? "ping" : "close",
      leastIdle: othersHeard ? idleBefore : 0,
      castAt: performance.now(),
      slept: 0,
    };
  }

  /**
   * How long the machine was suspended since a connection was last lent; 0 if it
   * was not. The monotonic clock, by which the pool tells what is idle for long,
   * stops then.
   */
  sleptFor(): number {
    const wall = Date.now();
    const passed = wall - this.#lastLent;
    this.#lastLent = wall;
    // As a rule that is all: this is called for every request.
    if (passed >= 0 && passed < LOOK_AFTER_IDLE) return 0;
    const ahead = wall - performance.now();
    const slept = ahead - this.#ahead;
    this.#ahead = ahead;
    return slept > MAX_DRIFT ? slept : 0;
  }

  /** What is to be thought of idle connections after the machine slept. */
  doubtAfterSleep(slept: number): Doubt {
    return { look: "none", leastIdle: 0, castAt: 0, slept };
  }
}
