/**
 * freeDiameter, which connects to a server of ours, exchanges capabilities in
 * its handshake, and watches over the connection.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { concat } from "@std/bytes";
import { type HandshakeConnection, serve } from "@wirepool/net";
import { ascii, bytes } from "../bytes_support.ts";
import { Program, testPeers } from "../programs_support.ts";
import { PROTOCOLS } from "../protocols_support.ts";
import { eventually } from "../time_support.ts";

/** Commands of the base protocol. */
const CAPABILITIES = 257, WATCHDOG = 280, DISCONNECT = 282;

/** The bits of the flags that say what a message is. */
const REQUEST = 0x80;

function uint32(value: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value);
  return new Uint8Array(view.buffer);
}

/** An attribute, which must be understood: RFC 6733, section 4.1. */
function avp(code: number, data: Uint8Array): Uint8Array {
  const header = bytes(uint32(code), uint32(0x40000000 + 8 + data.length));
  return concat([header, data, new Uint8Array(-data.length & 3)]);
}

/** What stands in a whole message. */
function parse(message: Uint8Array) {
  const view = new DataView(message.buffer, message.byteOffset);
  const attributes = new Map<number, Uint8Array>();
  for (let at = 20; at < message.length;) {
    const length = view.getUint32(at + 4) & 0xff_ffff;
    const data = at + (message[at + 4]! & 0x80 ? 12 : 8);
    attributes.set(view.getUint32(at), message.subarray(data, at + length));
    at += length + (-length & 3);
  }
  return {
    request: (message[4]! & REQUEST) !== 0,
    code: view.getUint32(4) & 0xff_ffff,
    attributes,
  };
}

/** A successful answer to a request: without its length, as it is framed. */
function answer(request: Uint8Array, ...attributes: Uint8Array[]): Uint8Array {
  return concat([
    Uint8Array.of(1, request[4]! & ~REQUEST),
    request.subarray(5, 20), // code, application, hop by hop, end to end
    avp(268, uint32(2001)), // Result-Code: DIAMETER_SUCCESS
    avp(264, ascii("server.localhost")), // Origin-Host
    avp(296, ascii("localhost")), // Origin-Realm
    ...attributes,
  ]);
}

/** Answers a peer that says who it is and what it can do. */
async function exchangeCapabilities(conn: HandshakeConnection) {
  const request = await conn.read();
  const { request: asked, code, attributes } = parse(request);
  assertEquals([asked, code], [true, CAPABILITIES]);
  await conn.write(answer(
    request,
    avp(257, bytes(0, 1, 127, 0, 0, 1)), // Host-IP-Address
    avp(266, uint32(0)), // Vendor-Id
    avp(269, ascii("wirepool")), // Product-Name
    avp(258, uint32(0xffff_ffff)), // Auth-Application-Id: a relay
  ));
  return new TextDecoder().decode(attributes.get(264));
}

async function startFreeDiameter(
  path: string,
  folder: string,
  port: number,
): Promise<Program> {
  const testdata = new URL("../testdata", import.meta.url).pathname;
  const file = `${folder}/freeDiameter.conf`;
  // It listens nowhere. Its watchdog looks after six seconds, the least there is.
  await Deno.writeTextFile(
    file,
    `
Identity = "localhost";
Realm = "localhost";
Port = 0;
SecPort = 0;
No_SCTP;
No_IPv6;
TwTimer = 6;
TLS_Cred = "${testdata}/localhost.pem", "${testdata}/localhost_key.pem";
TLS_CA = "${testdata}/ca.pem";
ConnectPeer = "server.localhost" { No_TLS; ConnectTo = "127.0.0.1"; Port = ${port}; };
`,
  );
  return new Program(path, ["-dd", "-c", file]);
}

testPeers(
  "freeDiameter opens a connection to serve, watches over it, and says goodbye",
  ["freeDiameterd"],
  async ({ freeDiameterd }, folder) => {
    const requests: { code: number; from: string }[] = [];
    const errors: unknown[] = [];
    await using server = serve({
      ...PROTOCOLS.Diameter,
      handshake: exchangeCapabilities,
      onError: (error) => void errors.push(error),
    }, (message, { state }) => {
      const { request, code } = parse(message);
      assert(request);
      requests.push({ code, from: state });
      return answer(message);
    });
    await using peer = await startFreeDiameter(
      freeDiameterd,
      folder,
      server.addr.port,
    );
    await peer.says(
      /'STATE_WAITCEA'\s*->\s*'STATE_OPEN'\s*'server\.localhost'/,
    );
    await eventually("a watchdog", () => requests.length > 0);
    assertEquals(requests[0], { code: WATCHDOG, from: "localhost" });
    peer.kill("SIGTERM");
    await peer.succeeds();
    assertEquals(requests.at(-1), { code: DISCONNECT, from: "localhost" });
    assertMatch(peer.output, /'STATE_OPEN'\s*->\s*'STATE_CLOSING/);
    assertEquals(server.stats().totalConnections, 1);
    assertEquals(errors, []);
  },
);
