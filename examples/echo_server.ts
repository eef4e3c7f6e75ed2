// deno run --allow-net=127.0.0.1 examples/echo_server.ts 127.0.0.1:9000
//
// Answers every frame with its own bytes. Ctrl-C and SIGTERM drain it: what it
// has received is answered first. With `--proxy-protocol` it runs behind the
// balancer of `haproxy.cfg`; `echo_client.ts` and `load.ts` talk to it.

import { serve } from "@wirepool/net";

const [address = "127.0.0.1:9000", flag] = Deno.args;
const { hostname, port } = new URL(`tcp://${address}`);
const server = serve({
  hostname,
  port: Number(port),
  proxyProtocol: flag === "--proxy-protocol",
  onListen: ({ port }) => console.log(`Listening on port ${port}`),
  onError: (error, context) => console.error(context?.remoteAddr, error),
}, (payload) => payload);

Deno.addSignalListener("SIGINT", () => server.shutdown());
if (Deno.build.os !== "windows") {
  Deno.addSignalListener("SIGTERM", () => server.shutdown());
}
await server.finished;
