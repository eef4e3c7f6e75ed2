/**
 * What compiles and what does not: handlers, states, and the address that a
 * server is typed by. The assertions are the compiler's; at run time these tests
 * only see that nothing of it fails.
 */
import { assertEquals } from "@std/assert";
import type {
  HandshakeConnection,
  NetAddress,
  Transport,
  TransportAddress,
  UnixAddress,
} from "../codec.ts";
import {
  type ConnectionOptions,
  type Handler,
  type HandlerContext,
  NO_RESPONSE,
  serve,
  serveConnection,
  type ServeOptions,
  type Server,
  type ServerHooks,
  type TransportListener,
} from "../server.ts";
import { StubConnection } from "./server_support.ts";

/** Compiles if both types are the same. */
function same<A, B>(
  _: (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2)
    ? true
    : false,
): void {}

/** Is compiled, and never run. */
function compiled(_: () => unknown): void {}

Deno.test("A handler returns bytes or NO_RESPONSE, and nothing else compiles", () => {
  const handlers: Handler[] = [
    (payload) => payload,
    () => NO_RESPONSE,
    async () => {
      await undefined;
      return NO_RESPONSE;
    },
    async (payload) => {
      await undefined;
      return payload[0] === 1 ? payload : NO_RESPONSE;
    },
    (payload) => payload[0] === 1 ? Promise.resolve(payload) : NO_RESPONSE,
    () => {
      throw new Error("no");
    },
  ];
  assertEquals(handlers.length, 6);
  const store = new Map<number, Uint8Array>();
  compiled(() => [
    // @ts-expect-error: a missing key would be no response
    serve({}, (payload) => store.get(payload[0]!)),
    // @ts-expect-error: nothing is returned
    serve({}, () => {}),
    // @ts-expect-error: nothing is returned
    serve({}, async () => {}),
    // @ts-expect-error: null is none
    serve({}, () => null),
    // @ts-expect-error: a promise of null is none
    serve({}, () => Promise.resolve(null)),
    // @ts-expect-error: text is no bytes
    serve({}, () => "text"),
    // @ts-expect-error: another symbol is not NO_RESPONSE
    serve({}, () => Symbol("NO_RESPONSE")),
    // @ts-expect-error: likewise on one connection
    serveConnection(new StubConnection(), () => undefined),
  ]);
});

Deno.test("A server is typed by where it listens", () => {
  const echo: Handler = (payload) => payload;
  const unix = (): UnixAddress => ({ transport: "unix", path: "x" });
  compiled(() => {
    const tcp = serve({}, echo);
    same<typeof tcp, Server<NetAddress>>(true);
    const itsPort: number = tcp.addr.port;
    const itsAddress: Deno.NetAddr = tcp.addr;
    const asDeno: Server<Deno.NetAddr> = serve({ port: 0 }, echo);
    const tls = serve({ cert: "x", key: "y" }, echo);
    same<typeof tls.addr, NetAddress>(true);
    const socket = serve({ path: "x" }, echo);
    same<typeof socket.addr, UnixAddress>(true);
    const listener: TransportListener<UnixAddress> = {
      accept: () => new Promise<Transport>(() => {}),
      close() {},
      addr: unix(),
    };
    const handed = serve({ listener }, echo);
    same<typeof handed.addr, UnixAddress>(true);
    const denos = serve({ listener: Deno.listen({ port: 0 }) }, echo);
    const denosPort: number = denos.addr.port;
    const options: ServeOptions = {};
    const any = serve(options, echo);
    same<typeof any.addr, TransportAddress>(true);
    const all: Server[] = [tcp, socket, handed, any, asDeno];
    return [itsPort, itsAddress, denosPort, all];
  });
});

Deno.test("The state of a connection is what its handshake returns", async () => {
  compiled(() => {
    serve({ handshake: () => ({ user: "ann" }) }, (payload, context) => {
      same<typeof context.state, { user: string }>(true);
      return payload;
    });
    serve({
      handshake: async (conn) => (await conn.read()).length,
      onError: (_, context) => context?.state.toFixed(),
      hooks: {
        connectionClose: ({ state }) => void state.toFixed(),
        requestEnd: ({ context }) => void context.state.toFixed(),
      },
    }, (payload, { state }) => payload.subarray(state));
    serve({}, (payload, { state }) => {
      same<typeof state, undefined>(true);
      return payload;
    });
    serveConnection(
      new StubConnection(),
      (_payload, { state }) => state,
      // TypeScript infers from left to right: the handler comes first here.
      { handshake: (conn: HandshakeConnection) => conn.read() },
    );
    serve<number>({ handshake: () => 7 }, (payload, { state }) => {
      same<typeof state, number>(true);
      return payload;
    });
    // @ts-expect-error: the state is no text
    serve<string>({ handshake: () => 7 }, (payload) => payload);
    const options: ConnectionOptions<number> = { handshake: () => 7 };
    const handler: Handler<number> = (_, { state }) => new Uint8Array(state);
    serve(options, handler);
    // @ts-expect-error: the handler expects a state of another type
    serve({ handshake: () => "x" }, handler);
    const hooks: ServerHooks<number> = {};
    serve({ ...options, hooks }, handler);
  });
  // A handler that knows of no state serves with any.
  const states: unknown[] = [];
  const any: Handler = (payload, { state }: HandlerContext) => {
    states.push(state);
    return payload;
  };
  const conn = new StubConnection();
  conn.feed(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0), null);
  await serveConnection(conn, any, { handshake: () => 7 });
  assertEquals(states, [7]);
});
