/**
 * What stands in `testdata`, as PEM: certificates for localhost, their keys, and
 * the authorities that signed them; and some that nobody may accept.
 */

export const CA: string = testdata("ca.pem");
export const CERT: string = testdata("localhost.pem");
export const KEY: string = testdata("localhost_key.pem");

/** The same of another authority. */
export const OTHER_CA: string = testdata("other_ca.pem");
export const OTHER_CERT: string = testdata("other.pem");
export const OTHER_KEY: string = testdata("other_key.pem");

/** Signed by somebody who bears the first authority's name: of X.509 version 1,
 * and through an intermediate of version 1. */
export const FORGED: string = testdata("forged.pem");
export const FORGED_CHAIN: string = testdata("forged_chain.pem");
export const FORGED_KEY: string = testdata("forged_key.pem");

function testdata(name: string): string {
  return Deno.readTextFileSync(new URL(`testdata/${name}`, import.meta.url));
}
