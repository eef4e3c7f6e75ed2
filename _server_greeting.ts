// What comes before the first request of a connection: the TLS handshake, the
// PROXY header, and the handshake of the protocol, in this order.
//
// Knows: in which order they come, and what they leave to the requests. Must not
// know: how long they may take, and how a connection ends that is refused.

import {
  FrameError,
  type FrameOptions,
  type HandshakeConnection,
  type Transport,
} from "./codec.ts";
import { Handshake, type ReadAhead } from "./_handshake.ts";
import { readProxyHeader } from "./_proxy_header.ts";
import type { ConnectionContext } from "./_server_context.ts";

/** What connections are greeted with. */
export interface GreetingSettings {
  /** The layout of the handshake's frames. */
  readonly frame: Required<FrameOptions>;
  /** Whether a PROXY header comes first. */
  readonly proxyProtocol: boolean;
  /** Gives the state of the connection, or throws to refuse it. */
  readonly handshake: ((conn: HandshakeConnection) => unknown) | undefined;
}

/** What a greeting came to. */
export interface Greeting {
  /** What was read of the requests already. */
  readonly ahead: ReadAhead;
  /** Set if the handshake has refused the connection. What it wrote has left. */
  readonly refusal: { readonly error: unknown } | undefined;
}

/** Counts bytes. */
interface Counts {
  bytesIn: number;
  bytesOut: number;
}

const NOTHING_AHEAD: ReadAhead = {
  bytes: new Uint8Array(0),
  pending: undefined,
};

/** Whether connections are greeted at all. */
export function hasGreeting(
  { proxyProtocol, handshake }: GreetingSettings,
): boolean {
  return proxyProtocol || handshake !== undefined;
}

/**
 * Greets a connection.
 *
 * @param secured Settles with the TLS handshake, if there is one.
 * @throws What the transport failed with, or what was no PROXY header.
 */
export async function greet(
  conn: Transport,
  secured: Promise<unknown> | undefined,
  { frame, proxyProtocol, handshake }: GreetingSettings,
  context: ConnectionContext,
  counts: Counts,
): Promise<Greeting> {
  await secured;
  let bytes: Uint8Array<ArrayBuffer> = NOTHING_AHEAD.bytes;
  if (proxyProtocol) {
    const { addresses, rest } = await readProxyHeader(conn);
    bytes = rest;
    // The header is the balancer's; what stands behind it is the peer's.
    counts.bytesIn += rest.length;
    if (addresses !== undefined) {
      context.setAddresses(addresses.source, addresses.destination);
    }
  }
  if (handshake === undefined) {
    return { ahead: { ...NOTHING_AHEAD, bytes }, refusal: undefined };
  }
  const { signal, remoteAddr, localAddr } = context;
  const terms = { signal, remoteAddr, localAddr, bytes };
  const conversation = new Handshake(
    countBytes(conn, counts),
    frame,
    terms,
  );
  let refusal: Greeting["refusal"];
  try {
    context.state = await handshake(conversation);
  } catch (error) {
    refusal = { error };
  }
  try {
    return { ahead: await conversation.finish(), refusal };
  } catch (error) {
    if (!(error instanceof FrameError)) throw refusal?.error ?? error;
    // The peer has sent what is no frame, and can still read what it was told
    // about it. No read is under way then.
    return { ahead: NOTHING_AHEAD, refusal: refusal ?? { error } };
  }
}

/** The reads and writes of a transport, counted. */
function countBytes(conn: Transport, counts: Counts): Transport {
  return {
    async read(p) {
      const n = await conn.read(p);
      if (n !== null) counts.bytesIn += n;
      return n;
    },
    async write(p) {
      const n = await conn.write(p);
      counts.bytesOut += n;
      return n;
    },
    close: () => conn.close(),
  };
}
