/** The server over real sockets: requests, responses and their failures. */
import { assertEquals } from "@std/assert";
import { serve, type ServeOptions } from "../server.ts";
import { Peer } from "./server_support.ts";

Deno.test("serve() reads its options once", async () => {
  const options: ServeOptions = { lengthFieldLength: 2 };
  await using server = serve(options, (payload) => payload);
  options.lengthFieldLength = 4;
  options.maxFrameLength = NaN;
  using peer = await Peer.connect(server, { lengthFieldLength: 2 });
  assertEquals(await peer.ask(7), Uint8Array.of(7));
});
