// deno run --allow-net=127.0.0.1:1080 examples/socks5.ts user:password@127.0.0.1:1080 127.0.0.1:9000 hello
//
// Reaches a server through a SOCKS5 proxy (RFC 1928; name and password: RFC
// 1929). Option `connect` makes the connections; all else of the client stays as
// it is. This program need not be allowed to dial the server itself.

import { Client } from "@wirepool/net";

if (import.meta.main) {
  const [proxy = "", server = "", ...lines] = Deno.args;
  await using client = new Client({
    connect: (signal) => socks5(proxy, server, signal),
  });
  for (const line of lines) {
    const answer = await client.send(new TextEncoder().encode(line));
    console.log(new TextDecoder().decode(answer));
  }
}

/** Has a proxy connect to a server, and returns the connection to it. */
export async function socks5(proxy: string, to: string, signal: AbortSignal) {
  const { hostname, port, username, password } = new URL(`tcp://${proxy}`);
  const { hostname: host, port: hostPort } = new URL(`tcp://${to}`);
  const conn = await Deno.connect({ hostname, port: Number(port), signal });
  const giveUp = () => conn[Symbol.dispose]();
  signal.addEventListener("abort", giveUp);
  try {
    signal.throwIfAborted();
    const methods = username === "" ? [0] : [0, 2]; // Nothing, or a password.
    const [, method] = await ask(conn, [5, methods.length, ...methods], 2);
    if (!methods.includes(method!)) throw new Error("No login in common");
    if (method === 2) {
      const login = [...sized(username), ...sized(password)];
      const [, status] = await ask(conn, [1, ...login], 2);
      if (status !== 0) throw new Error("Proxy refuses the password");
    }
    const end = [...address(host), Number(hostPort) >> 8, Number(hostPort)];
    const [, status, , type] = await ask(conn, [5, 1, 0, ...end], 4);
    if (status !== 0) throw new Error(`Proxy cannot connect: code ${status}`);
    // The proxy's own end, of no use here: IPv4, IPv6 or a name, and a port.
    const length = [, 4, , , 16][type!] ?? (await ask(conn, [], 1))[0]!;
    await ask(conn, [], length + 2);
    return conn;
  } catch (error) {
    giveUp();
    throw error;
  } finally {
    signal.removeEventListener("abort", giveUp);
  }
}

/** Writes a message, and reads an answer of exactly `length` bytes. */
async function ask(conn: Deno.Conn, message: number[], length: number) {
  let unsent = Uint8Array.from(message);
  while (unsent.length > 0) unsent = unsent.subarray(await conn.write(unsent));
  const answer = new Uint8Array(length);
  for (let n: number | null, filled = 0; filled < length; filled += n) {
    n = await conn.read(answer.subarray(filled));
    if (n === null) throw new Deno.errors.UnexpectedEof("Proxy hung up");
  }
  return answer;
}

/** A host as SOCKS5 writes it: IPv4, IPv6, or a name for the proxy to resolve. */
function address(host: string): number[] {
  if (/^[\d.]+$/.test(host)) return [1, ...host.split(".").map(Number)];
  if (!host.startsWith("[")) return [3, ...sized(host)];
  const [head, tail = []] = host.slice(1, -1).split("::").map((half) =>
    half.split(":").filter(Boolean).map((group) => parseInt(group, 16))
  );
  const zeros = Array<number>(8 - head!.length - tail.length).fill(0);
  const groups = [...head!, ...zeros, ...tail];
  return [4, ...groups.flatMap((group) => [group >> 8, group])];
}

function sized(percentEncoded: string): number[] {
  const bytes = new TextEncoder().encode(decodeURIComponent(percentEncoded));
  return [bytes.length, ...bytes];
}
