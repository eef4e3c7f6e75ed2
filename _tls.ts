// TLS over a transport, on either side, by `node:tls`.
//
// Knows: `node:tls`, as Deno, Node and Bun have it, and how to put it between
// two transports. Must not know: where the transport below comes from, how long
// a handshake may take, and what is spoken over it.
//
// Why not Deno's own TLS, which is faster: closing one of its connections does
// not free the socket while the peer keeps silent in a handshake or does not
// read, so that limits in time and in number would not hold. A transport that
// is closed from below is gone at once, whatever state TLS is in.

import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { SecureContext, TLSSocket } from "node:tls";
import type { Transport, TransportAddress } from "./codec.ts";
import { builtin, isDeno } from "./_node.ts";
import {
  addressesOf,
  closedHere,
  NodeSocket,
  type Underlying,
} from "./_node_socket.ts";
import { isDisconnect, namedError } from "./_errors.ts";
import { countEmpty } from "./_progress.ts";
import { Authorities } from "./_tls_chain.ts";

/** Most bytes read from below at a time. */
const MAX_READ = 64 * 1024;

/** Turns of the microtask queue in which what is closed may tell its peer so.
 * Streams need a few of them; a write that does not leave at once never does. */
const FAREWELL = 20;

/** Most certificates of a peer that are looked at. */
const MAX_CHAIN = 10;

/** Where TLS is spoken: over a transport, or over a socket of `node:net`,
 * which Node and Bun can encrypt without a detour. */
export type Carrier = { transport: Transport } | { socket: Socket };

/** A peer's certificate, as the handshake has verified it. */
export interface VerifiedCertificate {
  readonly subject: string;
  readonly issuer: string;
  readonly subjectAltName: string | undefined;
  readonly serialNumber: string;
  readonly fingerprint256: string;
  readonly validFrom: Date;
  readonly validTo: Date;
  readonly raw: Uint8Array;
}

/** What a server speaks TLS with. */
export interface ServerTlsOptions {
  readonly cert: string;
  readonly key: string;
  /** Set if clients must show a certificate of one of these authorities. */
  readonly caCerts: readonly string[] | undefined;
  readonly alpnProtocols: readonly string[] | undefined;
}

/** What a client speaks TLS with. */
export interface ClientTlsOptions {
  readonly caCerts?: readonly string[];
  readonly cert?: string;
  readonly key?: string;
  readonly alpnProtocols?: readonly string[];
}

/** The server's side of TLS; one for all its connections. */
export class TlsServer {
  readonly #options: ServerTlsOptions;
  #context: SecureContext;

  /** Throws if the certificate or the key is not good. */
  constructor(options: ServerTlsOptions) {
    this.#options = options;
    this.#context = this.#newContext(options);
  }

  /** Changes the certificate for handshakes that begin from now on. */
  renew(certificate: { cert: string; key: string }): void {
    this.#context = this.#newContext(certificate);
  }

  /** Begins TLS on a connection. */
  secure(carrier: Carrier): TlsTransport {
    const { caCerts, alpnProtocols } = this.#options;
    const asked = caCerts !== undefined;
    return new TlsTransport(carrier, (socket) => {
      const { TLSSocket } = builtin("tls");
      const secure = new TLSSocket(socket as Socket, {
        isServer: true,
        secureContext: this.#context,
        requestCert: asked,
        rejectUnauthorized: asked,
        ...(alpnProtocols && { ALPNProtocols: [...alpnProtocols] }),
      });
      return {
        secure,
        event: "secure",
        asked,
        // `tls.Server` would do this; only the socket is ours.
        verify: () => asked ? verifyClient(secure) : undefined,
      };
    });
  }

  #newContext({ cert, key }: { cert: string; key: string }): SecureContext {
    const { caCerts } = this.#options;
    for (const pem of caCerts ?? []) checkAuthority(pem);
    return newContext({ cert, key, ...(caCerts && { ca: caCerts }) });
  }
}

/** The client's side of TLS; one for all its connections. */
export class TlsClient {
  readonly #hostname: string;
  readonly #options: ClientTlsOptions;
  readonly #context: SecureContext;
  /** What Deno does not check well enough. */
  readonly #authorities: Authorities | undefined;

  /** @param hostname The name or address that the server's certificate must
   * be for. */
  constructor(hostname: string, options: ClientTlsOptions) {
    const { caCerts, cert, key } = options;
    this.#hostname = hostname;
    this.#options = options;
    const identity = {
      ...(cert !== undefined && { cert }),
      ...(key !== undefined && { key }),
    };
    this.#context = caCerts === undefined
      ? newContext(identity)
      : newTrust(caCerts, identity);
    if (caCerts !== undefined && isDeno()) {
      this.#authorities = new Authorities(caCerts);
    }
  }

  /** Begins TLS on a connection. */
  secure(carrier: Carrier): TlsTransport {
    const { alpnProtocols } = this.#options;
    const host = this.#hostname;
    return new TlsTransport(carrier, (socket) => {
      const secure = builtin("tls").connect({
        socket: socket as Socket,
        host,
        // An address is verified, but not sent as the server's name.
        ...(builtin("net").isIP(host) === 0 && { servername: host }),
        secureContext: this.#context,
        rejectUnauthorized: true,
        ...(alpnProtocols && { ALPNProtocols: [...alpnProtocols] }),
      });
      return {
        secure,
        event: "secureConnect",
        asked: false,
        verify: () =>
          this.#authorities?.vouchFor(chainOf(secure)) ?? true
            ? undefined
            : new Error("The server's certificate is not signed as it says"),
      };
    });
  }
}

/** The certificates that a peer has sent, its own first. */
function chainOf(socket: TLSSocket): Uint8Array[] {
  const chain: Uint8Array[] = [];
  let certificate = socket.getPeerCertificate(true);
  while (certificate?.raw !== undefined && chain.length < MAX_CHAIN) {
    chain.push(certificate.raw);
    // A root is its own issuer.
    if (certificate.issuerCertificate === certificate) break;
    certificate = certificate.issuerCertificate;
  }
  return chain;
}

/** Makes the socket that encrypts, and says by which event it is ready, and
 * what then speaks against the peer. */
type Encrypt = (socket: Duplex) => {
  secure: TLSSocket;
  event: "secure" | "secureConnect";
  /** Whether the peer's certificate is of interest. */
  asked: boolean;
  verify: () => Error | undefined;
};

/**
 * A transport that encrypts. `handshake()` tells when it may be used; the
 * handshake itself begins at once.
 */
export class TlsTransport implements Transport {
  readonly #secure: TLSSocket;
  readonly #socket: NodeSocket;
  readonly #carrier: Carrier;
  readonly #below: Below | undefined;
  readonly #handshake: Promise<void>;
  readonly #rejectHandshake: (error: unknown) => void;
  #peerCertificate: VerifiedCertificate | undefined;
  /** The handshake is over, and well. */
  #ready = false;

  constructor(carrier: Carrier, encrypt: Encrypt) {
    this.#carrier = carrier;
    let below: Below | undefined;
    let addresses: ReturnType<typeof addressesOf>;
    let socket: Duplex;
    if ("socket" in carrier) {
      socket = carrier.socket;
      addresses = addressesOf(carrier.socket);
      // What TLS is over may fail by itself, and TLS says so, too.
      socket.on("error", () => {});
    } else {
      const { transport } = carrier;
      below = new Below(transport);
      socket = below.duplex;
      addresses = {
        remoteAddr: transport.remoteAddr ?? UNNAMED,
        localAddr: transport.localAddr ?? UNNAMED,
      };
    }
    const { secure, event, asked, verify } = encrypt(socket);
    this.#secure = secure;
    this.#below = below;
    this.#socket = new NodeSocket(secure, addresses, below);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#handshake = promise;
    this.#rejectHandshake = reject;
    // Whoever does not wait for the handshake meets the failure at a read.
    promise.catch(() => {});
    const failed = (error: unknown) => {
      const failure = describe(below?.failure ?? error);
      reject(failure);
      this.#socket.fail(failure);
      // An alert that says why may be on its way to the peer.
      this.#ready = false;
      this.#freeSoon();
    };
    secure.on("error", failed);
    // What a socket of a server reports until `tls.Server` has taken it over,
    // which ours is not.
    secure.on("_tlsError", failed);
    const ended = () => {
      if (this.#ready) return;
      failed(
        namedError("UnexpectedEof", "Connection ended in the TLS handshake"),
      );
    };
    secure.once("end", ended);
    secure.once("close", ended);
    secure.once(event, () => {
      const objection = verify();
      if (objection !== undefined) return failed(objection);
      if (asked) this.#peerCertificate = certificateOf(secure);
      this.#ready = true;
      below?.opened();
      resolve();
    });
  }

  /** Resolves once the peer is who it should be, and may be spoken to. */
  handshake(): Promise<void> {
    return this.#handshake;
  }

  /** The protocol that was negotiated, if any. */
  get alpnProtocol(): string | null {
    return this.#secure.alpnProtocol || null;
  }

  /** The certificate that a client has shown, where a server asks for one. */
  get peerCertificate(): VerifiedCertificate | undefined {
    return this.#peerCertificate;
  }

  get remoteAddr(): TransportAddress {
    return this.#socket.remoteAddr;
  }

  get localAddr(): TransportAddress {
    return this.#socket.localAddr;
  }

  read(p: Uint8Array<ArrayBuffer>): Promise<number | null> {
    return this.#socket.read(p);
  }

  write(p: Uint8Array): Promise<number> {
    return this.#socket.write(p);
  }

  closeWrite(): Promise<void> {
    return this.#socket.closeWrite();
  }

  close(): void {
    const silent = !this.#ready || this.#socket.writing ||
      !this.#secure.writable;
    // TLS tells an end that is meant from one that somebody forged, so the peer
    // is told. Nothing else waits to be written: it leaves at once or never.
    if (!this.#socket.detach() || silent) return this.#free();
    this.#secure.end();
    this.#freeSoon();
  }

  /** Frees the descriptor once what TLS has just said was written. No timer: a
   * connection that is closed leaves nothing behind for later. */
  #freeSoon(): void {
    const below = this.#below;
    // A socket was written to at once.
    if (below === undefined) return this.#free();
    const writes = below.writes;
    let turns = FAREWELL;
    const turn = () => {
      if (turns-- === 0 || below.writes > writes) this.#free();
      else queueMicrotask(turn);
    };
    turn();
  }

  /** Frees the descriptor. */
  #free(): void {
    // A socket that is destroyed does not always say so.
    this.#rejectHandshake(closedHere());
    this.#secure.destroy();
    this.#below?.close();
    if ("socket" in this.#carrier) this.#carrier.socket.destroy();
  }

  /** Switches Nagle's algorithm off, or on, where there is one below. */
  setNoDelay(noDelay = true): void {
    if ("socket" in this.#carrier) this.#carrier.socket.setNoDelay(noDelay);
    else (this.#carrier.transport as Tcp).setNoDelay?.(noDelay);
  }

  /** Has TCP probe the peer while it is silent, or not. */
  setKeepAlive(keepAlive = true): void {
    if ("socket" in this.#carrier) this.#carrier.socket.setKeepAlive(keepAlive);
    else (this.#carrier.transport as Tcp).setKeepAlive?.(keepAlive);
  }

  ref(): void {
    if ("socket" in this.#carrier) this.#carrier.socket.ref();
    else this.#carrier.transport.ref?.();
  }

  unref(): void {
    if ("socket" in this.#carrier) this.#carrier.socket.unref();
    else this.#carrier.transport.unref?.();
  }
}

/** What TCP's connections have besides. */
interface Tcp extends Transport {
  setNoDelay?(noDelay: boolean): void;
  setKeepAlive?(keepAlive: boolean): void;
}

const UNNAMED: TransportAddress = { transport: "unix", path: "" };

/**
 * A transport as the stream that `node:tls` wants below it. It reads only while
 * a read above waits, or the handshake does: what a peer sends and nobody asks
 * for stays in the kernel.
 */
class Below implements Underlying {
  readonly duplex: Duplex;
  readonly #transport: Transport;
  /** Writes that were begun. */
  writes = 0;
  #taken = 0;
  #failure: unknown;
  #closed = false;
  /** The stream asks for bytes. */
  #asked = false;
  #wanted = false;
  #opened = false;
  #reading = false;
  #room = new Uint8Array(4096);

  constructor(transport: Transport) {
    this.#transport = transport;
    const { Duplex } = builtin("stream");
    this.duplex = new Duplex({
      read: () => {
        this.#asked = true;
        this.#pump();
      },
      write: (chunk: Uint8Array, _encoding, done) => {
        this.#write(chunk).then(() => done(), (error) => {
          this.#failure ??= error;
          done(error);
        });
      },
      final: (done) => {
        const ended = this.#transport.closeWrite?.() ?? Promise.resolve();
        ended.then(() => done(), done);
      },
      destroy: (error, done) => {
        this.close();
        done(error);
      },
    });
    // Said above, by the socket that encrypts.
    this.duplex.on("error", () => {});
  }

  get taken(): number {
    return this.#taken;
  }

  get failure(): unknown {
    return this.#failure;
  }

  demand(wanted: boolean): void {
    this.#wanted = wanted;
    this.#pump();
  }

  /** The handshake is over: from now on nothing is read that is not asked for. */
  opened(): void {
    this.#opened = true;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.#transport.close();
    } catch {
      // Closed already, which is what is wanted.
    }
    this.duplex.destroy();
  }

  async #pump(): Promise<void> {
    if (this.#reading) return;
    this.#reading = true;
    try {
      for (let empty = 0; this.#asked && !this.#closed;) {
        if (this.#opened && !this.#wanted) break;
        const room = this.#room;
        const n = await this.#transport.read(room);
        if (n === null) {
          this.#asked = false;
          this.duplex.push(null);
          break;
        }
        empty = countEmpty("read", n, empty);
        if (n === 0) continue;
        this.#asked = false;
        // A copy: the stream may keep it for later.
        this.duplex.push(room.slice(0, n));
        // A stream that fills its room is read in larger pieces.
        if (n === room.length && n < MAX_READ) {
          this.#room = new Uint8Array(Math.min(4 * n, MAX_READ));
        }
      }
    } catch (error) {
      this.#failure ??= error;
      this.duplex.destroy(error as Error);
    } finally {
      this.#reading = false;
    }
  }

  async #write(chunk: Uint8Array): Promise<void> {
    this.writes++;
    for (let at = 0, empty = 0; at < chunk.length;) {
      const n = await this.#transport.write(chunk.subarray(at));
      empty = countEmpty("write", n, empty);
      at += n;
      this.#taken += n;
    }
  }
}

function certificateOf(socket: TLSSocket): VerifiedCertificate | undefined {
  const cert = socket.getPeerX509Certificate();
  return cert === undefined ? undefined : {
    subject: cert.subject,
    issuer: cert.issuer,
    subjectAltName: cert.subjectAltName,
    serialNumber: cert.serialNumber,
    fingerprint256: cert.fingerprint256,
    validFrom: new Date(cert.validFrom),
    validTo: new Date(cert.validTo),
    raw: new Uint8Array(cert.raw),
  };
}

function newContext({ ca, cert, key }: {
  ca?: readonly string[];
  cert?: string;
  key?: string;
}): SecureContext {
  if (cert !== undefined && key !== undefined) checkIdentity(cert, key);
  return builtin("tls").createSecureContext({
    ...(ca && { ca: [...ca] }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
  });
}

/** Throws what is wrong now: Deno would say so at each handshake. */
function checkIdentity(cert: string, key: string): void {
  const { X509Certificate, createPrivateKey } = builtin("crypto");
  let fits: boolean;
  try {
    fits = new X509Certificate(cert).checkPrivateKey(createPrivateKey(key));
  } catch (cause) {
    throw namedError("InvalidData", "Certificate or private key is not valid", {
      cause,
    });
  }
  if (fits) return;
  throw namedError("InvalidData", "Private key is not the certificate's");
}

function checkAuthority(pem: string): void {
  const { X509Certificate } = builtin("crypto");
  try {
    new X509Certificate(pem);
  } catch (cause) {
    throw namedError("InvalidData", "Certificate in caCerts is not valid", {
      cause,
    });
  }
}

/** A context that trusts more authorities than a runtime trusts anyway. */
function newTrust(
  caCerts: readonly string[],
  identity: { cert?: string; key?: string },
): SecureContext {
  for (const pem of caCerts) checkAuthority(pem);
  const context = newContext(identity);
  const { addCACert } = context.context as { addCACert?: unknown };
  if (typeof addCACert === "function") {
    for (const pem of caCerts) addCACert.call(context.context, pem);
    return context;
  }
  // Documented, but Deno asks for a permission to list what it trusts.
  const tls = builtin("tls");
  const roots = tls.getCACertificates?.("default") ?? tls.rootCertificates;
  return newContext({ ...identity, ca: [...roots, ...caCerts] });
}

/** What speaks against a client's certificate. Where a runtime does not tell,
 * everything does. */
function verifyClient(socket: TLSSocket): Error | undefined {
  const refused = (cause?: unknown) =>
    new Error("The client's certificate was refused", { cause });
  if (socket.getPeerX509Certificate() === undefined) return refused();
  // Bun says so by itself; Node and Deno leave it to `tls.Server`.
  if (socket.authorized) return undefined;
  const { _handle } = socket as unknown as {
    _handle?: { verifyError?: () => unknown };
  };
  if (typeof _handle?.verifyError !== "function") return refused();
  const error = _handle.verifyError();
  return error ? refused(error) : undefined;
}

/** A failure of TLS has a name of its own; one of what lies below keeps its. */
function describe(error: unknown): unknown {
  if (!(error instanceof Error) || isDisconnect(error)) return error;
  if (error.name === "InvalidData") return error;
  return namedError("InvalidData", `TLS failed: ${error.message}`, {
    cause: error,
  });
}
