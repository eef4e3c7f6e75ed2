/**
 * Declares a test. Where there is a reason against it, it is ignored, and its
 * name says why.
 */
export function testUnless(
  reason: string | false,
  name: string,
  fn: () => Promise<void>,
): void {
  if (reason === false) Deno.test(name, fn);
  else Deno.test.ignore(`${name} (${reason})`, fn);
}
