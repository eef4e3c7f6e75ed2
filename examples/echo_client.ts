// deno run --allow-net=127.0.0.1 examples/echo_client.ts 127.0.0.1:9000 hello world
//
// Sends each argument as a request, all at once over two connections, and
// prints the responses in the order of the arguments.

import { Client } from "@wirepool/net";

const [address = "127.0.0.1:9000", ...texts] = Deno.args;
const { hostname, port } = new URL(`tcp://${address}`);
await using client = new Client({
  hostname,
  port: Number(port),
  maxCap: 2,
  requestTimeout: 5_000,
});

const responses = await Promise.all(
  texts.map((text) => client.send(new TextEncoder().encode(text))),
);
for (const response of responses) {
  console.log(new TextDecoder().decode(response));
}
