/**
 * The PROXY protocol, versions 1 and 2. The headers follow the specification:
 * "The PROXY protocol, versions 1 & 2", sections 2.1 and 2.2.
 */
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { concat } from "@std/bytes";
import { serve, type ServeOptions } from "../server.ts";
import { bytes, hex, splits } from "./bytes_support.ts";
import {
  FakeListener,
  FakeTime,
  heads,
  microtasks,
  Peer,
  StubConnection,
  unwire,
  wire,
} from "./server_support.ts";

const SIGNATURE = hex("0d0a0d0a000d0a515549540a");
const ZEROS = "00".repeat(108);

/** A version 2 header: its command, its family, and what the length counts. */
function v2(command: number, family: number, body: string | Uint8Array) {
  const block = typeof body === "string" ? hex(body) : body;
  const { length } = block;
  return bytes(SIGNATURE, command, family, length >> 8, length & 255, block);
}

function tcp(hostname: string, port: number): Deno.NetAddr {
  return { transport: "tcp", hostname, port };
}

function unixPath(path: string): Uint8Array {
  return concat([bytes(path), new Uint8Array(108 - path.length)]);
}

/** Headers that are good, with the addresses they give: the source and the
 * destination, or none where the connection's own count. */
const GOOD: {
  name: string;
  header: Uint8Array;
  addresses?: [Deno.Addr, Deno.Addr];
}[] = [
  {
    name: "version 1, TCP4",
    header: bytes("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
    addresses: [tcp("192.168.0.1", 56324), tcp("192.168.0.11", 443)],
  },
  {
    name: "version 1, the longest TCP4",
    header: bytes(
      "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
    ),
    addresses: [tcp("255.255.255.255", 65535), tcp("255.255.255.255", 65535)],
  },
  {
    name: "version 1, the shortest TCP4",
    header: bytes("PROXY TCP4 0.0.0.0 9.10.99.100 0 1\r\n"),
    addresses: [tcp("0.0.0.0", 0), tcp("9.10.99.100", 1)],
  },
  {
    name: "version 1, TCP6",
    header: bytes("PROXY TCP6 2001:db8::1 ::1 4124 8080\r\n"),
    addresses: [tcp("2001:db8::1", 4124), tcp("::1", 8080)],
  },
  {
    name: "version 1, TCP6 in capitals and with all its zeros",
    header: bytes(
      "PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:0001 :: 1 2\r\n",
    ),
    addresses: [tcp("2001:db8::1", 1), tcp("::", 2)],
  },
  {
    name: "version 1, the longest TCP6",
    header: bytes(
      `PROXY TCP6 ${"ffff:".repeat(7)}ffff ${
        "ffff:".repeat(7)
      }ffff 65535 65535\r\n`,
    ),
    addresses: [
      tcp("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
      tcp("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
    ],
  },
  {
    name: "version 1, UNKNOWN alone",
    header: bytes("PROXY UNKNOWN\r\n"),
  },
  {
    name: "version 1, the longest UNKNOWN, whose rest is ignored",
    header: bytes(
      `PROXY UNKNOWN ${"ffff:".repeat(7)}ffff ${
        "ffff:".repeat(7)
      }ffff 65535 65535\r\n`,
    ),
  },
  {
    name: "version 2, TCP over IPv4",
    header: v2(0x21, 0x11, "c0a80001 c0a8000b dc04 01bb"),
    addresses: [tcp("192.168.0.1", 56324), tcp("192.168.0.11", 443)],
  },
  {
    name: "version 2, TCP over IPv4 with further fields",
    // A checksum, and an authority of three bytes.
    header: v2(
      0x21,
      0x11,
      "01020304 05060708 0001 ffff 030004 deadbeef 020003 616263",
    ),
    addresses: [tcp("1.2.3.4", 1), tcp("5.6.7.8", 65535)],
  },
  {
    name: "version 2, TCP over IPv6",
    header: v2(
      0x21,
      0x21,
      `20010db8${"00".repeat(11)}01 ${"00".repeat(15)}01 101c 1f90`,
    ),
    addresses: [tcp("2001:db8::1", 4124), tcp("::1", 8080)],
  },
  {
    name: "version 2, a Unix socket",
    header: v2(
      0x21,
      0x31,
      concat([unixPath("/run/source"), unixPath("/run/" + "x".repeat(103))]),
    ),
    addresses: [
      { transport: "unix", path: "/run/source" },
      { transport: "unix", path: "/run/" + "x".repeat(103) },
    ],
  },
  { name: "version 2, LOCAL", header: v2(0x20, 0x00, "") },
  {
    name: "version 2, LOCAL with addresses, which are ignored",
    header: v2(0x20, 0x11, "01020304 05060708 0001 ffff"),
  },
  {
    name: "version 2, LOCAL with a family nobody knows, which is ignored",
    header: v2(0x20, 0xff, "0102"),
  },
  { name: "version 2, no family", header: v2(0x21, 0x00, "") },
  {
    name: "version 2, no family with further fields",
    header: v2(0x21, 0x00, "040001 00"),
  },
  {
    name: "version 2, the longest that is read",
    header: v2(
      0x21,
      0x11,
      concat([hex("01020304 05060708 0001 0002"), new Uint8Array(4068)]),
    ),
    addresses: [tcp("1.2.3.4", 1), tcp("5.6.7.8", 2)],
  },
];

const BAD: [name: string, header: Uint8Array][] = [
  ["no header, frames at once", wire([1, 2, 3])],
  ["HTTP", bytes("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")],
  ["TLS", hex("160301020001")],
  ["small letters", bytes("proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n")],
  ["nothing after the name", bytes("PROXY\r\n")],
  ["no family", bytes("PROXY \r\n")],
  ["a family nobody knows", bytes("PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n")],
  ["a family longer than one", bytes("PROXY UNKNOWNS\r\n")],
  ["a port too few", bytes("PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n")],
  ["a field too many", bytes("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n")],
  ["two spaces", bytes("PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n")],
  ["a space at the end", bytes("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n")],
  ["a tab", bytes("PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n")],
  ["no address", bytes("PROXY TCP4   1 2\r\n")],
  ["an octet too large", bytes("PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n")],
  ["an octet far too large", bytes("PROXY TCP4 1.2.3.4 999.6.7.8 1 2\r\n")],
  ["a leading zero", bytes("PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n")],
  ["three octets", bytes("PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n")],
  ["five octets", bytes("PROXY TCP4 1.2.3.4.5 5.6.7.8 1 2\r\n")],
  ["a name", bytes("PROXY TCP4 localhost 5.6.7.8 1 2\r\n")],
  ["IPv6 said to be IPv4", bytes("PROXY TCP4 ::1 ::1 1 2\r\n")],
  ["IPv4 said to be IPv6", bytes("PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n")],
  ["colons only", bytes("PROXY TCP6 :::: ::1 1 2\r\n")],
  ["nine groups", bytes("PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n")],
  ["seven groups", bytes("PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n")],
  ["five digits", bytes("PROXY TCP6 ::12345 ::1 1 2\r\n")],
  ["two gaps", bytes("PROXY TCP6 ::1::2 ::1 1 2\r\n")],
  ["brackets", bytes("PROXY TCP6 [::1] ::1 1 2\r\n")],
  ["a zone", bytes("PROXY TCP6 fe80::1%lo ::1 1 2\r\n")],
  ["a port too large", bytes("PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n")],
  ["a negative port", bytes("PROXY TCP4 1.2.3.4 5.6.7.8 1 -2\r\n")],
  ["a port with a leading zero", bytes("PROXY TCP4 1.2.3.4 5.6.7.8 1 02\r\n")],
  ["a hexadecimal port", bytes("PROXY TCP4 1.2.3.4 5.6.7.8 0x1 2\r\n")],
  ["an empty port", bytes("PROXY TCP4 1.2.3.4 5.6.7.8  2\r\n")],
  ["a line feed alone", bytes("PROXY UNKNOWN\n", wire([1]), "\r\n")],
  ["no end within 107 bytes", bytes("PROXY UNKNOWN ", "f".repeat(92), "\r\n")],
  ["no end at all", bytes("PROXY UNKNOWN ", "f".repeat(200))],
  ["a signature that is not quite", bytes(SIGNATURE.subarray(0, 11), 11)],
  ["version 1 in binary", v2(0x11, 0x11, "01020304 05060708 0001 0002")],
  ["version 3", v2(0x31, 0x11, "01020304 05060708 0001 0002")],
  ["a command nobody knows", v2(0x22, 0x11, "01020304 05060708 0001 0002")],
  ["a family nobody knows", v2(0x21, 0x41, "01020304 05060708 0001 0002")],
  ["UDP", v2(0x21, 0x12, "01020304 05060708 0001 0002")],
  ["IPv4 cut short", v2(0x21, 0x11, "01020304 05060708 0001 00")],
  ["IPv6 cut short", v2(0x21, 0x21, ZEROS.slice(0, 70))],
  ["Unix cut short", v2(0x21, 0x31, ZEROS + ZEROS.slice(2))],
  ["longer than is read", v2(0x21, 0x11, new Uint8Array(4081))],
  [
    "longer than is read, as its first bytes say",
    v2(0x21, 0x11, new Uint8Array(4081)).subarray(0, 16),
  ],
];

/** Serves one stub that delivers `reads`; returns what came of it. */
async function serveReads(
  reads: Uint8Array[],
  options: ServeOptions = {},
) {
  using listener = new FakeListener();
  const errors: unknown[] = [];
  const seen: [Deno.Addr, Deno.Addr][] = [];
  const server = serve({
    ...options,
    proxyProtocol: true,
    onError: (error) => void errors.push(error),
  }, (payload, { remoteAddr, localAddr }) => {
    seen.push([remoteAddr, localAddr]);
    return payload;
  });
  const conn = new StubConnection();
  conn.feed(...reads, null);
  listener.push(conn);
  await microtasks();
  while (server.stats().connections > 0) await microtasks();
  const stats = server.stats();
  await server.shutdown();
  return { conn, errors, seen, stats };
}

for (const { name, header, addresses } of GOOD) {
  Deno.test(`A PROXY header is read: ${name}`, async () => {
    const frames = wire([1, 2]);
    const all = concat([header, frames]);
    // Cut at every byte; the longest, around what matters.
    const cuts = header.length < 300 ? splits(all) : [
      [all],
      [header, frames],
      [header.subarray(0, 16), all.subarray(16)],
      [all.subarray(0, header.length + 1), frames.subarray(1)],
    ];
    for (const reads of cuts) {
      const { conn, errors, seen, stats } = await serveReads(reads);
      assertEquals(errors, []);
      assertEquals(heads(conn.answers()), [1, 2]);
      const expected = addresses ?? [conn.remoteAddr, conn.localAddr];
      assertEquals(seen, [expected, expected]);
      assertEquals(stats.errors, 0);
    }
  });
}

for (const [name, header] of BAD) {
  Deno.test(`A bad PROXY header closes its connection: ${name}`, async () => {
    for (const reads of [[header], [bytes(header, wire([1]))]]) {
      const { conn, errors, seen, stats } = await serveReads(reads);
      assertEquals(seen, []);
      assertEquals(conn.written.length, 0);
      assertEquals(conn.closes, 1);
      assertEquals(errors.length, 1);
      assertInstanceOf(errors[0], Deno.errors.InvalidData);
      assertEquals(stats.errors, 1);
    }
  });
}

Deno.test("A connection that ends in its PROXY header is no error", async () => {
  for (const { header } of GOOD) {
    for (const end of [0, 1, 11, 12, 15, header.length - 1]) {
      if (end >= header.length) continue;
      const { conn, errors, stats } = await serveReads([
        header.subarray(0, end),
      ]);
      assertEquals(errors, []);
      assertEquals(stats.errors, 0);
      assertEquals(conn.closes, 1);
    }
  }
});

Deno.test("A PROXY header is expected of TCP connections, and told by the context", async () => {
  const seen: string[] = [];
  await using server = serve(
    { proxyProtocol: true },
    (payload, { remoteAddr, localAddr }) => {
      for (const addr of [remoteAddr, localAddr]) {
        const { hostname, port } = addr as Deno.NetAddr;
        seen.push(`${hostname} ${port}`);
      }
      return payload;
    },
  );
  using proxied = await Peer.connect(server);
  await proxied.write(bytes(
    "PROXY TCP4 203.0.113.7 203.0.113.8 4711 443\r\n",
    wire([1]),
  ));
  assertEquals(await proxied.receive(), Uint8Array.of(1));
  assertEquals(await proxied.ask(2), Uint8Array.of(2));
  using local = await Peer.connect(server);
  await local.write(v2(0x20, 0, ""));
  assertEquals(await local.ask(3), Uint8Array.of(3));
  const own = local.conn.localAddr as Deno.NetAddr;
  const { port } = server.addr as Deno.NetAddr;
  assertEquals(seen, [
    "203.0.113.7 4711",
    "203.0.113.8 443",
    "203.0.113.7 4711",
    "203.0.113.8 443",
    `127.0.0.1 ${own.port}`,
    `127.0.0.1 ${port}`,
  ]);
});

Deno.test("Without proxyProtocol, a PROXY header is a bad frame", async () => {
  const errors: unknown[] = [];
  await using server = serve(
    { onError: (error) => void errors.push(error) },
    (payload) => payload,
  );
  using peer = await Peer.connect(server);
  await peer.write(bytes("PROXY UNKNOWN\r\n"));
  assertEquals(await peer.receive(), null);
  assertEquals(errors.length, 1);
});

Deno.test("A PROXY header that does not come is cut by handshakeTimeout, never by idleTimeout", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const errors: unknown[] = [];
  const server = serve({
    proxyProtocol: true,
    handshakeTimeout: 1000,
    idleTimeout: 400,
    onError: (error) => void errors.push(error),
  }, (payload) => payload);
  const slow = new StubConnection();
  const late = new StubConnection();
  listener.push(slow, late);
  slow.feed(bytes("PROXY UNK"));
  await time.advance(999);
  assertEquals([slow.closes, late.closes], [0, 0]);
  late.feed(bytes("PROXY UNKNOWN\r\n"));
  await time.advance(1);
  assertEquals([slow.closes, late.closes], [1, 0]);
  assertEquals(errors.length, 1);
  assertInstanceOf(errors[0], Deno.errors.TimedOut);
  assertEquals(
    errors[0].message,
    "Handshake was not complete within 1000 ms",
  );
  assertEquals(server.stats().errors, 1);
  // From here on it is idle, and no handshake's timeout concerns it.
  await time.advance(390);
  assertEquals(late.closes, 0);
  await time.advance(70);
  assertEquals(late.closes, 1);
  assertEquals(errors.length, 1);
  await time.until(server.shutdown());
  assertEquals(time.timers, 0);
});

Deno.test("handshakeTimeout 0 waits for a PROXY header for ever", async () => {
  using time = new FakeTime();
  using listener = new FakeListener();
  const server = serve(
    { proxyProtocol: true, handshakeTimeout: 0 },
    (payload) => payload,
  );
  const conn = new StubConnection();
  listener.push(conn);
  await time.advance(1_000_000);
  assertEquals(conn.closes, 0);
  conn.feed(bytes("PROXY UNKNOWN\r\n", wire([1])));
  await time.advance(0);
  assertEquals(heads(conn.answers()), [1]);
  server.close();
  await server.finished;
  assertEquals(time.timers, 0);
});

Deno.test("Server.shutdown() lets a PROXY header come, and forces at its limit", async () => {
  for (const header of ["NOWN\r\n", null]) {
    using time = new FakeTime();
    using listener = new FakeListener();
    const server = serve(
      { proxyProtocol: true, shutdownTimeout: 1000 },
      (payload) => payload,
    );
    const conn = new StubConnection();
    listener.push(conn);
    await time.advance(0);
    conn.feed(bytes("PROXY UNK"));
    const shutdown = server.shutdown();
    await time.advance(999);
    assertEquals(conn.closes, 0);
    if (header === null) {
      await time.advance(1);
    } else {
      conn.feed(bytes(header, wire([1])));
      await time.advance(0);
      assertEquals(heads(conn.answers()), [1]);
    }
    await time.until(shutdown);
    assertEquals(conn.closes, 1);
    assertEquals(time.timers, 0);
  }
});

Deno.test("Frames that come along with a PROXY header are counted", async () => {
  const frames = wire([1, 2, 3]);
  const { conn, stats } = await serveReads([
    bytes("PROXY UNKNOWN\r\n", frames),
    frames,
  ]);
  assertEquals(heads(unwire(conn.written)), [1, 2, 3, 1, 2, 3]);
  assert(stats.bytesIn === 2 * frames.length, `${stats.bytesIn} bytes`);
  assertEquals(stats.requests, 6);
});

Deno.test("A bad frame along with a PROXY header is answered as any other", async () => {
  const { conn, errors } = await serveReads([
    bytes("PROXY UNKNOWN\r\n", wire([1]), new Uint8Array(8).fill(255)),
  ]);
  assertEquals(heads(conn.answers()), [1]);
  assertEquals(errors.length, 1);
  assertEquals(conn.closeWrites, 1);
});
