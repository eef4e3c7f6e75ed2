// What a handler knows of its connection, and asks of it.
//
// Knows: the addresses of a connection, what its handshake returned, and that it
// ends. Must not know: how it is read and written.

import type { TransportAddress } from "./codec.ts";
import type { VerifiedCertificate } from "./_tls.ts";

/** What a transport says of its two ends. */
interface Ends {
  readonly peerCertificate?: VerifiedCertificate | undefined;
  readonly remoteAddr?: TransportAddress;
  readonly localAddr?: TransportAddress;
}

/** What a handler may ask of its connection. */
interface Owner {
  /** Writes a frame that answers nothing. */
  push(payload: Uint8Array): Promise<void>;
  /** Ends once what was taken is answered. */
  closeGracefully(): void;
}

/** The address of what has none. */
const UNNAMED: TransportAddress = { transport: "unix", path: "" };

/** The context of a connection; its signal is made when it is asked for. */
export class ConnectionContext {
  /** What the handshake returned. */
  state: unknown = undefined;
  readonly #conn: Ends;
  readonly #owner: Owner;
  /** From the PROXY header. */
  #remoteAddr: TransportAddress | undefined;
  #localAddr: TransportAddress | undefined;
  #controller: AbortController | undefined;
  #aborted = false;
  #reason: unknown;

  constructor(conn: Ends, owner: Owner) {
    this.#conn = conn;
    this.#owner = owner;
  }

  get remoteAddr(): TransportAddress {
    return this.#remoteAddr ?? this.#conn.remoteAddr ?? UNNAMED;
  }

  get localAddr(): TransportAddress {
    return this.#localAddr ?? this.#conn.localAddr ?? UNNAMED;
  }

  get peerCertificate(): VerifiedCertificate | undefined {
    return this.#conn.peerCertificate;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#aborted) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  push(payload: Uint8Array): Promise<void> {
    return this.#owner.push(payload);
  }

  close(): void {
    this.#owner.closeGracefully();
  }

  /** Puts the addresses of a PROXY header in the place of the transport's. */
  setAddresses(remote: TransportAddress, local: TransportAddress): void {
    this.#remoteAddr = remote;
    this.#localAddr = local;
  }

  /** Aborts the signal; only the first time counts. */
  abort(
    reason: unknown = new DOMException("The connection ended", "AbortError"),
  ): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#reason = reason;
    this.#controller?.abort(reason);
  }

  /** Whether an error is the reason that the signal was aborted with. */
  abortedWith(error: unknown): boolean {
    return this.#aborted && error === this.#reason;
  }
}
