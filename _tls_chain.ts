// Whether a server's certificate was really signed by an authority that the
// user has named, checked once more.
//
// Knows: certificates, as `node:crypto` reads them. Must not know: sockets, and
// which side of TLS it is.
//
// Why once more: where authorities are given to `node:tls`, Deno (2.9.6 still)
// accepts a chain that it cannot parse, of X.509 version 1 for example, if only
// the names in it lead to one of them. Anybody can make such a chain.

import type { X509Certificate } from "node:crypto";
import { builtin } from "./_node.ts";

/** Longest chain that is followed. */
const MAX_CHAIN = 10;

/** Authorities that were named. */
export class Authorities {
  readonly #certificates: readonly X509Certificate[];

  /** @param pems Certificates in PEM format, any number in each. */
  constructor(pems: readonly string[]) {
    const { X509Certificate } = builtin("crypto");
    this.#certificates = pems.flatMap((pem) =>
      pem.match(/-----BEGIN [^-]+-----[^-]+-----END [^-]+-----/g) ?? []
    ).map((pem) => new X509Certificate(pem));
  }

  /**
   * Whether a chain that TLS has accepted may be accepted.
   *
   * @param chain The certificates that the peer has sent, its own first, in
   * DER format.
   */
  vouchFor(chain: readonly Uint8Array[]): boolean {
    const { X509Certificate } = builtin("crypto");
    const [own] = chain;
    // Below version 3, Deno does not even check that the peer has the key.
    if (own === undefined || !isVersion3(own)) return false;
    const sent = chain.map((der) => new X509Certificate(der));
    // Where no name leads to an authority of the user's, one of the runtime's
    // has vouched, and those are checked well.
    const named = sent.some(({ issuer }) =>
      this.#certificates.some(({ subject }) => subject === issuer)
    );
    if (!named) return true;
    let current: X509Certificate | undefined = sent[0];
    for (let i = 0; i < MAX_CHAIN && current !== undefined; i++) {
      const link: X509Certificate = current;
      if (!isCurrent(link)) return false;
      const trusted = this.#certificates.some((authority) =>
        isSame(link, authority) || isSignedBy(link, authority)
      );
      if (trusted) return true;
      current = sent.find((other) =>
        other !== link && other.ca && isSignedBy(link, other)
      );
    }
    return false;
  }
}

function isSame(one: X509Certificate, other: X509Certificate): boolean {
  return one.fingerprint256 === other.fingerprint256;
}

function isSignedBy(one: X509Certificate, other: X509Certificate): boolean {
  try {
    return one.checkIssued(other) && one.verify(other.publicKey);
  } catch {
    // A key of a kind that the signature is not.
    return false;
  }
}

function isCurrent({ validFrom, validTo }: X509Certificate): boolean {
  const now = Date.now();
  return Date.parse(validFrom) <= now && now <= Date.parse(validTo);
}

/** Whether the version that a certificate begins with is 3.
 *
 * Source: RFC 5280, 4.1. */
function isVersion3(der: Uint8Array): boolean {
  // Certificate ::= SEQUENCE { TBSCertificate ::= SEQUENCE { [0] version, …
  const at = skipHeader(der, skipHeader(der, 0));
  const version = [0xa0, 3, 2, 1, 2];
  return version.every((byte, i) => der[at + i] === byte);
}

function skipHeader(der: Uint8Array, at: number): number {
  const length = der[at + 1] ?? 0;
  return at + 2 + (length < 0x80 ? 0 : length & 0x7f);
}
