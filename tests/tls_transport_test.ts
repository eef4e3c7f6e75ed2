/** TLS over a transport in memory: what is read and written below, and when. */
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { type Transport, transportPair } from "../codec.ts";
import { TlsClient, TlsServer, type TlsTransport } from "../_tls.ts";
import { pattern, writeAll } from "./bytes_support.ts";
import { outcomeOf, rejection } from "./promise_support.ts";
import { sleep } from "./time_support.ts";
import { CA, CERT, KEY } from "./tls_support.ts";

/** A transport that counts what passes it, and can be kept from writing. */
class Gauge implements Transport {
  readonly #transport: Transport;
  reads = 0;
  bytesRead = 0;
  written = 0;
  closed = 0;
  /** Set while writes are held up. */
  gate: Promise<void> | undefined;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  async read(p: Uint8Array<ArrayBuffer>): Promise<number | null> {
    this.reads++;
    const n = await this.#transport.read(p);
    this.bytesRead += n ?? 0;
    return n;
  }

  async write(p: Uint8Array): Promise<number> {
    await this.gate;
    const n = await this.#transport.write(p);
    this.written += n;
    return n;
  }

  closeWrite(): Promise<void> {
    return this.#transport.closeWrite!();
  }

  close(): void {
    this.closed++;
    this.#transport.close();
  }
}

/** Both sides of TLS in memory, and what lies below each. */
async function pair(): Promise<
  { client: TlsTransport; server: TlsTransport; below: [Gauge, Gauge] }
> {
  const [one, two] = transportPair();
  const below: [Gauge, Gauge] = [new Gauge(one), new Gauge(two)];
  const server = new TlsServer({
    cert: CERT,
    key: KEY,
    caCerts: undefined,
    alpnProtocols: ["wire/1"],
  }).secure({ transport: below[1] });
  const client = new TlsClient("localhost", {
    caCerts: [CA],
    alpnProtocols: ["wire/1"],
  }).secure({ transport: below[0] });
  await Promise.all([client.handshake(), server.handshake()]);
  return { client, server, below };
}

async function readAll(from: Transport): Promise<Uint8Array> {
  const bytes: number[] = [];
  const room = new Uint8Array(1000);
  for (let n; (n = await from.read(room)) !== null;) {
    bytes.push(...room.subarray(0, n));
  }
  return Uint8Array.from(bytes);
}

Deno.test("TLS goes over any transport, and says what was negotiated", async () => {
  const { client, server } = await pair();
  assertEquals(client.alpnProtocol, "wire/1");
  assertEquals(server.alpnProtocol, "wire/1");
  const sent = pattern(300_000);
  const [received] = await Promise.all([
    readAll(server),
    writeAll(client, sent).then(() => client.closeWrite()),
  ]);
  assertEquals(received, sent);
  // The other way is open still.
  const [answer] = await Promise.all([
    readAll(client),
    writeAll(server, Uint8Array.of(1, 2)).then(() => server.closeWrite()),
  ]);
  assertEquals(answer, Uint8Array.of(1, 2));
  client.close();
  server.close();
});

Deno.test("What nobody asks for is not read from below", async () => {
  const { client, server, below: [, gauge] } = await pair();
  const before = gauge.bytesRead;
  const writing = outcomeOf(writeAll(client, new Uint8Array(2_000_000)));
  await sleep(50);
  assertEquals(gauge.bytesRead, before);
  const room = new Uint8Array(100);
  assertEquals(await server.read(room), 100);
  await sleep(50);
  // A read of TLS, and one more that was under way.
  assert(gauge.bytesRead - before <= 2 * 64 * 1024, `${gauge.bytesRead}`);
  client.close();
  server.close();
  await writing;
});

Deno.test("A write that was cut short before anything left is rejected, and one of which part has left tells how much", async () => {
  for (const part of [false, true]) {
    const { client, server, below: [gauge] } = await pair();
    if (part) {
      // The pipe holds some of it, and nobody reads.
      const outcomes: unknown[] = [];
      const writing = (async () => {
        for (;;) outcomes.push(await client.write(new Uint8Array(60_000)));
      })();
      await sleep(50);
      client.close();
      await rejection(writing);
      const told = (outcomes as number[]).reduce((sum, n) => sum + n, 0);
      assert(told > 0 && told <= gauge.written, `${told} ${gauge.written}`);
    } else {
      gauge.gate = new Promise(() => {});
      const writing = outcomeOf(client.write(new Uint8Array(1000)));
      await sleep(10);
      client.close();
      assertInstanceOf(await writing, Deno.errors.BadResource);
    }
    server.close();
  }
});

Deno.test("close() closes below at once, rejects what is under way, and may be called twice", async () => {
  const { client, server, below: [gauge] } = await pair();
  const reading = outcomeOf(client.read(new Uint8Array(10)));
  client.close();
  client.close();
  assertInstanceOf(await reading, Deno.errors.BadResource);
  assertEquals(gauge.closed, 1);
  assertInstanceOf(
    await rejection(client.read(new Uint8Array(1))),
    Deno.errors.BadResource,
  );
  assertInstanceOf(
    await rejection(client.write(new Uint8Array(1))),
    Deno.errors.BadResource,
  );
  // The peer was told: it is an end, and no loss.
  assertEquals(await server.read(new Uint8Array(10)), null);
  server.close();
});

Deno.test("close() during the handshake ends it, and whoever waits for it", async () => {
  const [one, two] = transportPair();
  const gauge = new Gauge(one);
  const client = new TlsClient("localhost", {}).secure({ transport: gauge });
  const handshake = rejection(client.handshake());
  await sleep(10);
  client.close();
  assertInstanceOf(await handshake, Error);
  assertEquals(gauge.closed, 1);
  two.close();
});

Deno.test("A failure below is the failure that TLS tells", async () => {
  for (const during of ["handshake", "read"] as const) {
    const failure = new Error("the tunnel is gone");
    if (during === "handshake") {
      const { promise, reject } = Promise.withResolvers<never>();
      const client = new TlsClient("localhost", {}).secure({
        transport: {
          read: () => promise,
          write: (p) => Promise.resolve(p.length),
          close() {},
        },
      });
      const handshake = rejection(client.handshake());
      reject(failure);
      const error = await handshake as Error;
      assert(error === failure || error.cause === failure, `${error}`);
    } else {
      const { client, server, below: [gauge] } = await pair();
      gauge.read = () => Promise.reject(failure);
      const error = await rejection(client.read(new Uint8Array(1))) as Error;
      assert(error === failure || error.cause === failure, `${error}`);
      client.close();
      server.close();
    }
  }
});

Deno.test("A second read or write at once is refused", async () => {
  const { client, server } = await pair();
  const reading = outcomeOf(client.read(new Uint8Array(1)));
  assertInstanceOf(
    await rejection(client.read(new Uint8Array(1))),
    Deno.errors.Busy,
  );
  client.close();
  server.close();
  await reading;
});
