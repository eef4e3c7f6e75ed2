// deno run --allow-net=127.0.0.1 examples/log_collector.ts 9005
//
// Takes the lines that `log_shipper.ts` sends, and answers none of them: only an
// empty request is answered, with the number of lines that have come on its
// connection, so that the shipper knows what has arrived.

import { NO_RESPONSE, serve } from "@wirepool/net";

let lines = 0;
const server = serve({
  port: Number(Deno.args[0] ?? 9005),
  maxFrameLength: 64 * 1024,
  handshake: () => ({ lines: 0 }), // What belongs to this connection.
  onListen: ({ port }) => console.log(`Listening on port ${port}`),
  onError: (error, context) => console.error(context?.remoteAddr, error),
}, (line, { state }) => {
  if (line.length === 0) {
    const answer = new Uint8Array(8);
    new DataView(answer.buffer).setBigUint64(0, BigInt(state.lines));
    return answer;
  }
  state.lines++;
  lines++; // A real one would append the line to a file, and await that.
  return NO_RESPONSE;
});

Deno.addSignalListener("SIGINT", () => server.shutdown());
if (Deno.build.os !== "windows") {
  Deno.addSignalListener("SIGTERM", () => server.shutdown());
}
await server.finished;
console.log(`${lines} lines`);
