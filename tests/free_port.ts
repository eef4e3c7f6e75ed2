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
