/**
 * Modbus TCP, whose transaction stands before the length: our client asks
 * pymodbus, and mbpoll our server.
 */
import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Client, serve, type Server } from "@wirepool/net";
import { bytes } from "../bytes_support.ts";
import { freePort } from "../machine_support.ts";
import { Program, startServer, testPeers } from "../programs_support.ts";
import { PROTOCOLS } from "../protocols_support.ts";

/** What is read is a unit and a PDU. */
const MODBUS = PROTOCOLS["Modbus TCP"];

/** Functions of the protocol. */
const READ = 3, WRITE = 6;

/** What stands before the length: a transaction, which is written over, and the
 * protocol, which is 0. */
const HEAD = [0, 0, 0, 0];

const words = (...values: number[]) =>
  bytes(...values.flatMap((value) => [value >> 8, value & 0xff]));

function wordsOf(payload: Uint8Array): number[] {
  return Array.from(
    { length: payload.length / 2 },
    (_, i) => payload[2 * i]! << 8 | payload[2 * i + 1]!,
  );
}

/** Reads registers. */
async function read(client: Client, from: number, count: number) {
  const answer = await client.send(
    bytes(...HEAD, 1, READ, words(from, count)),
  );
  assertEquals([...answer.subarray(0, 3)], [1, READ, 2 * count]);
  return wordsOf(answer.subarray(3));
}

/** Writes one register. */
async function write(client: Client, at: number, value: number) {
  const pdu = bytes(1, WRITE, words(at, value));
  // The answer is the request.
  assertEquals(await client.send(bytes(...HEAD, pdu)), pdu);
}

/** A server of 1000 registers. */
function startRegisters(registers: Uint16Array): Server {
  return serve(MODBUS, (frame) => {
    const [unit, code] = frame as unknown as [number, number];
    const [first, second] = wordsOf(frame.subarray(2)) as [number, number];
    const fail = (reason: number) => bytes(...HEAD, unit, code | 0x80, reason);
    if (code === READ) {
      if (first + second > registers.length) return fail(2);
      const values = registers.subarray(first, first + second);
      return bytes(...HEAD, unit, code, 2 * second, words(...values));
    }
    if (code !== WRITE) return fail(1);
    registers[first] = second;
    return bytes(...HEAD, frame);
  });
}

testPeers(
  "A Client of Modbus TCP reads and writes registers of pymodbus",
  ["pymodbus/__init__.py"],
  async () => {
    const port = freePort();
    // The system's Python, whose packages these are.
    await using _server = await startServer(port, "/usr/bin/python3", [
      "-c",
      `
from pymodbus.datastore import *
from pymodbus.server import StartTcpServer
block = ModbusSequentialDataBlock(0, list(range(2000)))
slave = ModbusSlaveContext(hr=block, zero_mode=True)
StartTcpServer(context=ModbusServerContext(slaves=slave, single=True),
               address=("127.0.0.1", ${port}))
`,
    ]);
    await using client = new Client({ port, ...MODBUS });
    const asked = Array.from({ length: 200 }, (_, i) => read(client, 5 * i, 5));
    for (const [i, values] of (await Promise.all(asked)).entries()) {
      assertEquals(values, [0, 1, 2, 3, 4].map((n) => 5 * i + n));
    }
    await Promise.all([write(client, 7, 700), write(client, 8, 65_535)]);
    assertEquals(await read(client, 6, 4), [6, 700, 65_535, 9]);
    // An exception is an answer like others: function 3, no such address.
    const answer = await client.send(bytes(...HEAD, 1, READ, words(1999, 9)));
    assertEquals([...answer], [1, READ | 0x80, 2]);
    assertEquals(client.stats().pool.openedCount, 1);
  },
);

testPeers("mbpoll reads and writes registers of serve", ["mbpoll"], async (
  { mbpoll },
) => {
  const registers = Uint16Array.from({ length: 1000 }, (_, i) => 3 * i);
  await using server = startRegisters(registers);
  const { port } = server.addr as Deno.NetAddr;
  const poll = async (...args: string[]) => {
    await using program = new Program(mbpoll, [
      ...["-m", "tcp", "-p", String(port), "-a", "1", "-t", "4", "-0"],
      ...args,
    ]);
    return await program.succeeds();
  };
  const output = await poll("-r", "100", "-c", "5", "-1", "127.0.0.1");
  const values = [...output.matchAll(/^\[(\d+)\]:\s+(\d+)$/gm)];
  assertEquals(
    values.map(([, at, value]) => [Number(at), Number(value)]),
    [100, 101, 102, 103, 104].map((at) => [at, 3 * at]),
  );
  assertMatch(await poll("-r", "7", "127.0.0.1", "42"), /Written 1 reference/);
  assertEquals(registers[7], 42);
  assertMatch(
    (await assertRejects(() =>
      poll("-r", "999", "-c", "5", "-1", "127.0.0.1")
    ) as Error).message,
    /Illegal data address/,
  );
  const { requests, errors } = server.stats();
  assertEquals({ requests, errors }, { requests: 3, errors: 0 });
});
