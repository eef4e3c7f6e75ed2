/**
 * What stands in `testdata`: a certificate for localhost, its key, and the
 * authority that signed it, as PEM.
 */

export const CA: string = testdata("ca.pem");
export const CERT: string = testdata("localhost.pem");
export const KEY: string = testdata("localhost_key.pem");

function testdata(name: string): string {
  return Deno.readTextFileSync(new URL(`testdata/${name}`, import.meta.url));
}
