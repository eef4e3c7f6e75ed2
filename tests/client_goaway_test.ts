/**
 * A server that says goodbye: what is unanswered goes out again on a connection
 * dialled after that, idempotent or not, and nothing else does.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertThrows,
} from "@std/assert";
import { Client, type ClientOptions, RequestTimeoutError } from "../client.ts";
import type { CorrelationOptions } from "../codec.ts";
import { ascii, bytes, textOf } from "./bytes_support.ts";
import { type MemoryPeer, MemoryServer } from "./client_memory_support.ts";
import { PORT } from "./client_support.ts";
import { immediate, outcomeOf, rejection } from "./promise_support.ts";
import { eventually, sleep } from "./time_support.ts";

/** A wire on which a server can say goodbye. */
interface GoodbyeWire {
  readonly name: string;
  readonly correlation?: CorrelationOptions;
  readonly goaway?: Uint8Array;
  goodbye(peer: MemoryPeer): Promise<void>;
}

const GOAWAY = ascii("\0\0\0\0bye");

const WIRES: GoodbyeWire[] = [
  {
    name: "in order",
    goaway: GOAWAY,
    goodbye: (peer) => peer.send(GOAWAY),
  },
  {
    name: "with inserted ids",
    correlation: { length: 4 },
    goodbye: (peer) => peer.send("", 0xffff_ffff),
  },
  {
    name: "with ids in the payload",
    correlation: { length: 4, requestOffset: 0 },
    goaway: GOAWAY,
    goodbye: (peer) => peer.send(GOAWAY),
  },
];

/** Requests have room for an id, where the payload carries one. */
function request(text: string): Uint8Array<ArrayBuffer> {
  return ascii(`\0\0\0\0${text}`);
}

/** A request's or a response's text without the room for an id. */
function bare(text: string): string {
  return text.slice(4);
}

for (const wire of WIRES) {
  const pair = (options: Partial<ClientOptions> = {}) => {
    const { correlation, goaway } = wire;
    const layout = {
      ...(correlation && { correlation }),
      ...(goaway && { goaway }),
    };
    const server = new MemoryServer(layout);
    const client = new Client({
      connect: server.connect,
      pipelining: 8,
      maxCap: 1,
      ...layout,
      ...options,
    });
    return { server, client };
  };
  const answer = (peer: MemoryPeer) =>
    peer.onRequest = ({ id, text }) =>
      void peer.send(`\0\0\0\0${bare(text)}!`, id);
  const receive = async (peer: MemoryPeer, count: number) => {
    await eventually("they have come", () => peer.requests.length >= count);
    return peer.requests.map(({ text }) => bare(text));
  };

  Deno.test(`What a goaway ${wire.name} leaves unanswered is sent again, idempotent or not`, async () => {
    const { server, client } = pair();
    server.onPeer = (peer, index) => {
      if (index > 0) answer(peer);
    };
    const sent = ["a", "b", "c"].map((text) => client.send(request(text)));
    const peer = await server.peer(0);
    assertEquals(await receive(peer, 3), ["a", "b", "c"]);
    const [first] = peer.requests;
    await peer.send("\0\0\0\0A", first!.id);
    await wire.goodbye(peer);
    assertEquals(
      (await Promise.all(sent)).map((r) => bare(textOf(r))),
      ["A", "b!", "c!"],
    );
    assertEquals(await receive(server.peers[1]!, 2), ["b", "c"]);
    await peer.closed();
    const { goaways, retries, failures } = client.stats();
    assertEquals({ goaways, retries, failures }, {
      goaways: 1,
      retries: 2,
      failures: 0,
    });
    await client.close();
  });

  Deno.test(`A goaway ${wire.name} on a fresh connection, and on two in a row, loses nothing`, async () => {
    const { server, client } = pair();
    server.onPeer = (peer, index) => {
      if (index === 0) {
        peer.onRequest = () => void wire.goodbye(peer);
      } else if (index === 1) {
        wire.goodbye(peer);
      } else answer(peer);
    };
    assertEquals(bare(textOf(await client.send(request("a")))), "a!");
    assertEquals(server.peers.length, 3);
    assertEquals(client.stats().goaways, 2);
    await client.close();
  });

  Deno.test(`A goaway ${wire.name} on an idle connection costs nobody anything`, async () => {
    const { server, client } = pair();
    server.onPeer = answer;
    assertEquals(bare(textOf(await client.send(request("a")))), "a!");
    await wire.goodbye(server.peers[0]!);
    await server.peers[0]!.closed();
    await eventually("it is gone", () => client.stats().pool.open === 0);
    assertEquals(bare(textOf(await client.send(request("b")))), "b!");
    const { goaways, retries } = client.stats();
    assertEquals({ goaways, retries }, { goaways: 1, retries: 0 });
    await client.close();
  });

  Deno.test(`A request that a goaway ${wire.name} sends again and again meets its timeout, and servers are not dialled without a pause`, async () => {
    const { server, client } = pair();
    server.onPeer = (peer) => void wire.goodbye(peer).catch(() => {});
    const start = performance.now();
    const error = await rejection(
      client.send(request("a"), { timeout: 400 }),
    );
    assertInstanceOf(error, RequestTimeoutError);
    assertLess(performance.now() - start, 5000);
    assertLess(server.peers.length, 40);
    assert(server.peers.length > 2);
    await client.close();
  });

  Deno.test(`A goaway ${wire.name} sends a request again though it was sent again after a loss`, async () => {
    const { server, client } = pair();
    server.onPeer = (peer, index) => {
      if (index === 0) {
        peer.onRequest = ({ id, text }) => {
          if (bare(text) === "warm") peer.send("\0\0\0\0W", id);
          else peer.close();
        };
      } else if (index < 4) {
        peer.onRequest = () => void wire.goodbye(peer);
      } else answer(peer);
    };
    await client.send(request("warm"));
    const response = await client.send(request("a"), { idempotent: true });
    assertEquals(bare(textOf(response)), "a!");
    assertEquals(server.peers.length, 5);
    await client.close();
  });

  Deno.test(`A request aborted as its goaway ${wire.name} comes is not sent again`, async () => {
    const { server, client } = pair();
    const abort = new AbortController();
    const { signal } = abort;
    server.onPeer = (peer) => {
      peer.onRequest = () => {
        wire.goodbye(peer);
        abort.abort("enough");
      };
    };
    assertEquals(
      await outcomeOf(client.send(request("a"), { signal })),
      "enough",
    );
    await sleep(20);
    assertEquals(server.peers.length, 1);
    await client.close();
  });

  Deno.test(`A goaway ${wire.name} does not vouch for notifications`, async () => {
    const { server, client } = pair();
    server.onPeer = (peer, index) => {
      if (index > 0) answer(peer);
    };
    await client.notify(request("taken"));
    const sent = client.send(request("a"));
    const peer = await server.peer(0);
    assertEquals(await receive(peer, 2), ["taken", "a"]);
    await wire.goodbye(peer);
    assertEquals(bare(textOf(await sent)), "a!");
    // A notification that nothing was read of yet is under way.
    assertEquals(await receive(server.peers[1]!, 1), ["a"]);
    await client.close();
  });

  Deno.test(`A notification that a goaway ${wire.name} meets before it was handed over whole goes to the next connection`, async () => {
    const { server, client } = pair();
    server.onPeer = (peer, index) => {
      if (index > 0) answer(peer);
    };
    const first = client.send(request("first"));
    const peer = await server.peer(0);
    await receive(peer, 1);
    // More than the pipe holds, and the other side does not read on.
    peer.pause();
    const big = client.notify(new Uint8Array(1_000_000));
    for (let i = 0; i < 5; i++) await immediate();
    await wire.goodbye(peer);
    assertEquals(bare(textOf(await first)), "first!");
    await big;
    const [a, b] = (await receive(server.peers[1]!, 2)).toSorted();
    assertEquals([a!.length, b], [999_996, "first"]);
    peer.resume();
    await client.close();
  });
}

Deno.test("A frame that only begins as the goaway is none", async () => {
  const server = new MemoryServer();
  const client = new Client({ connect: server.connect, goaway: ascii("bye") });
  server.onPeer = (peer) => peer.onRequest = ({ text }) => void peer.send(text);
  for (const text of ["by", "byf", "byes", ""]) {
    assertEquals(textOf(await client.send(ascii(text))), text);
  }
  assertEquals(server.peers.length, 1);
  await client.close();
});

Deno.test("A goaway that comes in pieces is one", async () => {
  const server = new MemoryServer();
  const client = new Client({ connect: server.connect, goaway: ascii("bye") });
  server.onPeer = (peer, index) =>
    peer.onRequest = async ({ text }) => {
      if (index > 0) return await peer.send(text);
      for (const byte of bytes(0, 0, 0, 0, 0, 0, 0, 3, "bye")) {
        await peer.write(Uint8Array.of(byte));
        await immediate();
      }
    };
  assertEquals(textOf(await client.send(ascii("a"))), "a");
  assertEquals(server.peers.length, 2);
  await client.close();
});

Deno.test("A goaway is compared as it is decoded", async () => {
  const frame = { lengthFieldOffset: 2, lengthFieldLength: 2 } as const;
  const server = new MemoryServer({ frame });
  // The two bytes before the length are stripped when it is read.
  const goaway = ascii("xxbye");
  const client = new Client({ connect: server.connect, goaway, ...frame });
  server.onPeer = (peer, index) =>
    peer.onRequest = () => void peer.send(index === 0 ? "yybye" : "yyhere");
  assertEquals(textOf(await client.send(ascii("zza"))), "here");
  assertEquals([server.peers.length, client.stats().goaways], [2, 1]);
  await client.close();
});

Deno.test("The goaway's bytes are taken when the client is made", async () => {
  const goaway = ascii("bye");
  const server = new MemoryServer();
  const client = new Client({ connect: server.connect, goaway });
  goaway.fill(0);
  server.onPeer = (peer, index) =>
    peer.onRequest = () => void peer.send(index === 0 ? "bye" : "here");
  assertEquals(textOf(await client.send(ascii("a"))), "here");
  await client.close();
});

Deno.test("The option goaway is refused with inserted ids, and where it is no payload", () => {
  const goaway = ascii("bye");
  assertThrows(
    () => new Client({ port: PORT, goaway, correlation: { length: 2 } }),
    TypeError,
    "goaway",
  );
  for (const wrong of ["bye", 5, null, [1]]) {
    assertThrows(
      () => new Client({ port: PORT, goaway: wrong } as never),
      TypeError,
      "goaway",
    );
  }
  assertThrows(
    () => new Client({ port: PORT, goaway, maxFrameLength: 2 }),
    RangeError,
    "goaway",
  );
});
