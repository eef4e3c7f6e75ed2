// The PROXY protocol header that a balancer puts before the stream.
//
// Knows: versions 1 and 2 of the protocol, from the HAProxy project's "The
// PROXY protocol, versions 1 & 2". Must not know: what is done with the
// addresses, and what the bytes behind the header are.

import { namedError } from "./_errors.ts";
import { countEmpty } from "./_progress.ts";
import type { FrameSource, TransportAddress } from "./codec.ts";

export interface ProxiedAddresses {
  source: TransportAddress;
  destination: TransportAddress;
}

/** Longest PROXY header that is accepted; version 1 ends by 107 bytes, and
 * version 2 with every field known today stays far below. */
const MAX_PROXY_HEADER = 4096;

/** Begins a version 2 header. */
const PROXY_SIGNATURE = Uint8Array.from(
  [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10],
);

/** What {@linkcode readProxyHeader} has read. */
export interface ProxyPrelude {
  /** Undefined where the balancer speaks for itself, as in its health checks. */
  readonly addresses: ProxiedAddresses | undefined;
  /** Bytes of the stream that were read along with the header. */
  readonly rest: Uint8Array<ArrayBuffer>;
}

/** Reads the header that a connection begins with. */
export async function readProxyHeader(
  conn: FrameSource,
): Promise<ProxyPrelude> {
  const bytes = new Uint8Array(MAX_PROXY_HEADER);
  let used = 0;
  let empty = 0;
  for (;;) {
    const n = await conn.read(bytes.subarray(used));
    if (n === null) {
      throw namedError("UnexpectedEof", "Connection ended in PROXY header");
    }
    empty = countEmpty("read", n, empty);
    used += n;
    const header = parseProxyHeader(bytes.subarray(0, used));
    if (header !== null) {
      return {
        addresses: header.addresses,
        rest: bytes.subarray(header.length, used),
      };
    }
    if (used === bytes.length) throw badProxyHeader();
  }
}

interface ProxyHeader {
  length: number;
  /** Undefined where the balancer speaks for itself, as in its health checks. */
  addresses: ProxiedAddresses | undefined;
}

/** Parses a header; null as long as it is good but incomplete. */
function parseProxyHeader(bytes: Uint8Array): ProxyHeader | null {
  const signature = PROXY_SIGNATURE.subarray(0, bytes.length);
  if (signature.every((byte, i) => byte === bytes[i])) {
    return bytes.length < 16 ? null : parseProxyV2(bytes);
  }
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, 107));
  if (!"PROXY ".startsWith(text.slice(0, 6))) throw badProxyHeader();
  const end = text.indexOf("\r\n");
  if (end >= 0) return parseProxyV1(text.slice(0, end));
  if (text.length === 107) throw badProxyHeader();
  return null;
}

function parseProxyV1(line: string): ProxyHeader {
  const length = line.length + 2;
  const [, family, ...fields] = line.split(" ");
  if (family === "UNKNOWN") return { length, addresses: undefined };
  const parseHost = family === "TCP4"
    ? parseIPv4
    : family === "TCP6"
    ? parseIPv6
    : null;
  if (parseHost === null || fields.length !== 4) throw badProxyHeader();
  const [source, destination, sourcePort, destinationPort] = fields;
  return {
    length,
    addresses: {
      source: tcpAddr(parseHost(source!), parsePort(sourcePort!)),
      destination: tcpAddr(
        parseHost(destination!),
        parsePort(destinationPort!),
      ),
    },
  };
}

function parseProxyV2(bytes: Uint8Array): ProxyHeader | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = 16 + view.getUint16(14);
  const command = view.getUint8(12);
  const family = view.getUint8(13);
  if (
    (command !== 0x20 && command !== 0x21) || length > MAX_PROXY_HEADER
  ) throw badProxyHeader();
  if (bytes.length < length) return null;
  // LOCAL, or a family that has no address.
  if (command === 0x20 || family === 0x00) {
    return { length, addresses: undefined };
  }
  const body = bytes.subarray(16, length);
  if (family === 0x11 && body.length >= 12) {
    return {
      length,
      addresses: {
        source: tcpAddr(body.subarray(0, 4).join("."), view.getUint16(24)),
        destination: tcpAddr(
          body.subarray(4, 8).join("."),
          view.getUint16(26),
        ),
      },
    };
  }
  if (family === 0x21 && body.length >= 36) {
    return {
      length,
      addresses: {
        source: tcpAddr(formatIPv6(body.subarray(0, 16)), view.getUint16(48)),
        destination: tcpAddr(
          formatIPv6(body.subarray(16, 32)),
          view.getUint16(50),
        ),
      },
    };
  }
  if (family === 0x31 && body.length >= 216) {
    return {
      length,
      addresses: {
        source: unixAddr(body.subarray(0, 108)),
        destination: unixAddr(body.subarray(108, 216)),
      },
    };
  }
  throw badProxyHeader();
}

function tcpAddr(hostname: string, port: number): TransportAddress {
  return { transport: "tcp", hostname, port };
}

function unixAddr(bytes: Uint8Array): TransportAddress {
  const path = new TextDecoder().decode(bytes).replace(/\0.*$/s, "");
  return { transport: "unix", path };
}

function formatIPv6(bytes: Uint8Array): string {
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) {
    groups.push((bytes[i]! * 256 + bytes[i + 1]!).toString(16));
  }
  return parseIPv6(groups.join(":"));
}

/** Four numbers up to 255 without leading zeros. */
function parseIPv4(text: string): string {
  const octet = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
  if (!new RegExp(`^${octet}(\\.${octet}){3}$`).test(text)) {
    throw badProxyHeader();
  }
  return text;
}

/** Judges an address and gives its canonical form, both of which URLs do. */
function parseIPv6(text: string): string {
  const url = /^[\da-f:.]+$/i.test(text) ? `http://[${text}]` : "";
  if (!URL.canParse(url)) throw badProxyHeader();
  return new URL(url).hostname.slice(1, -1);
}

function parsePort(text: string): number {
  const port = Number(text);
  if (!/^(0|[1-9]\d{0,4})$/.test(text) || port > 0xffff) throw badProxyHeader();
  return port;
}

function badProxyHeader(): Error {
  return namedError(
    "InvalidData",
    "Connection did not begin with a valid PROXY header",
  );
}
