/** The example of SOCKS5, through a real proxy. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
} from "@std/assert";
import { Client, ConnectError, serve } from "@wirepool/net";
import { socks5 } from "../../examples/socks5.ts";
import { bytes } from "../bytes_support.ts";
import { freePort } from "../machine_support.ts";
import { startExample, startServer, testPeers } from "../programs_support.ts";
import { rejection } from "../promise_support.ts";

const ARGS = (port: number) => ["-i", "127.0.0.1", "-p", String(port)];
const LOGIN = ["-u", "wire", "-P", "pool:1"];

testPeers(
  "socks5.ts reaches a server through microsocks, with a password and without",
  ["microsocks"],
  async ({ microsocks }) => {
    await using server = serve({}, (payload) => payload);
    const { port } = server.addr as Deno.NetAddr;
    for (const login of ["", "wire:pool%3A1@"]) {
      const proxyPort = freePort();
      await using proxy = await startServer(proxyPort, microsocks, [
        ...ARGS(proxyPort),
        ...(login === "" ? [] : LOGIN),
      ]);
      const address = `127.0.0.1:${proxyPort}`;
      await using example = startExample("socks5.ts", [
        login + address,
        `127.0.0.1:${port}`,
        "hello",
        "wörld",
      ], { address: ["127.0.0.1:1080", address] });
      assertEquals(await example.succeeds(), "hello\nwörld\n");
      assertMatch(proxy.output, new RegExp(`connected to 127.0.0.1:${port}`));
    }
    assertEquals(server.stats().totalConnections, 2);
  },
);

testPeers(
  "A Client works through microsocks as it does without",
  ["microsocks"],
  async ({ microsocks }) => {
    const proxyPort = freePort();
    await using _proxy = await startServer(proxyPort, microsocks, [
      ...ARGS(proxyPort),
      ...LOGIN,
    ]);
    const proxy = `wire:pool%3A1@127.0.0.1:${proxyPort}`;
    for (const host of ["127.0.0.1", "localhost"]) {
      await using server = serve({}, (payload) => payload.toReversed());
      const { port } = server.addr as Deno.NetAddr;
      await using client = new Client({
        connect: (signal) => socks5(proxy, `${host}:${port}`, signal),
        maxCap: 3,
        pipelining: 16,
      });
      const requests = Array.from(
        { length: 500 },
        (_, i) => new Uint8Array(2 ** (i % 18)).map((_, at) => 31 * i + at),
      );
      const answers = await Promise.all(requests.map((r) => client.send(r)));
      for (const [i, answer] of answers.entries()) {
        assertEquals(answer, requests[i]!.toReversed());
      }
      assertEquals(client.stats().pool.openedCount, 3);
    }
  },
);

testPeers(
  "What microsocks refuses is the cause of a ConnectError",
  ["microsocks"],
  async ({ microsocks }) => {
    const proxyPort = freePort();
    await using _proxy = await startServer(proxyPort, microsocks, [
      ...ARGS(proxyPort),
      ...LOGIN,
    ]);
    const refused = freePort();
    const cases: [login: string, message: RegExp][] = [
      ["wire:wrong@", /Proxy refuses the password/],
      ["", /No login in common/],
      // Connection refused, by RFC 1928.
      ["wire:pool%3A1@", /Proxy cannot connect: code 5/],
    ];
    for (const [login, message] of cases) {
      const proxy = `${login}127.0.0.1:${proxyPort}`;
      await using client = new Client({
        connect: (signal) => socks5(proxy, `127.0.0.1:${refused}`, signal),
      });
      const error = await rejection(client.send(bytes("lost")));
      assertInstanceOf(error, ConnectError);
      assert(error.cause instanceof Error);
      assertMatch(error.cause.message, message);
    }
  },
);
