/**
 * What the machine has: a free port, Unix sockets or not; and tests that not
 * every machine can run.
 */

/** Whether this is Windows. */
export const windows: boolean = Deno.build.os === "windows";

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

/**
 * Declares a test of Unix sockets. It is given a path in a folder of its own,
 * which is removed afterwards.
 */
export function testUnix(
  name: string,
  fn: (path: string) => Promise<void>,
): void {
  testUnless(
    windows && "not every Windows has Unix sockets",
    name,
    async () => {
      const folder = await Deno.makeTempDir();
      try {
        await fn(`${folder}/socket`);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  );
}

/** Ports of systems' own choice begin beyond these. */
const FIRST = 10_000;
const LAST = 30_000;

/**
 * Returns a TCP port of the loopback that nobody listens on, and that the
 * system gives to nobody who asks for any port: so that it is still free a
 * moment later, and again after its listener has closed.
 */
export function freePort(): number {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * (LAST - FIRST));
    try {
      Deno.listen({ hostname: "127.0.0.1", port }).close();
      return port;
    } catch (error) {
      // Windows keeps some for itself.
      const { AddrInUse, PermissionDenied } = Deno.errors;
      if (!(error instanceof AddrInUse || error instanceof PermissionDenied)) {
        throw error;
      }
    }
  }
}
