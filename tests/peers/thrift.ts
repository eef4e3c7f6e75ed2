/**
 * Thrift's framed transport, with Apache's own library for Python: its server
 * answers our client, and its client asks our server.
 */
import { assertEquals } from "@std/assert";
import { Client, NO_RESPONSE, serve } from "@wirepool/net";
import { bytes, textOf } from "../bytes_support.ts";
import { freePort } from "../machine_support.ts";
import { Program, startServer, testPeers } from "../programs_support.ts";
import { PROTOCOLS } from "../protocols_support.ts";

const THRIFT = PROTOCOLS["Thrift, framed"];

/** Types of messages. */
const CALL = 1, REPLY = 2, ONEWAY = 4;

/** What every program here begins with. Each call has one text, and so has each
 * reply. */
const PRELUDE = `
import sys
from thrift.protocol.TBinaryProtocol import TBinaryProtocol, TBinaryProtocolFactory
from thrift.server.TServer import TThreadedServer
from thrift.Thrift import TMessageType, TProcessor, TType
from thrift.transport import TSocket, TTransport

def write(protocol, kind, name, seqid, field, text):
    protocol.writeMessageBegin(name, kind, seqid)
    protocol.writeStructBegin("struct")
    protocol.writeFieldBegin("text", TType.STRING, field)
    protocol.writeString(text)
    protocol.writeFieldEnd()
    protocol.writeFieldStop()
    protocol.writeStructEnd()
    protocol.writeMessageEnd()
    protocol.trans.flush()

def read(protocol):
    name, kind, seqid = protocol.readMessageBegin()
    protocol.readStructBegin()
    _, _, field = protocol.readFieldBegin()
    text = protocol.readString()
    protocol.readFieldEnd()
    protocol.readFieldBegin()
    protocol.readStructEnd()
    protocol.readMessageEnd()
    return name, kind, seqid, text
`;

/** A message in the strict binary protocol, whose one field is a text. */
function message(
  kind: number,
  name: string,
  id: number,
  field: number,
  text: string,
): Uint8Array {
  return bytes(
    ...[0x80, 0x01, 0, kind, 0, 0, 0, name.length, name],
    ...[0, 0, 0, id, 0x0b, 0, field, 0, 0, 0, text.length, text, 0],
  );
}

/** The parts of such a message, whose lengths all fit into one byte. */
function parse(payload: Uint8Array) {
  const end = 8 + payload[7]!;
  return {
    kind: payload[3]!,
    name: textOf(payload.subarray(8, end)),
    id: payload[end + 3]!,
    text: textOf(payload.subarray(end + 11, -1)),
  };
}

testPeers(
  "A Client calls a server of Thrift for Python, and needs no answer to oneway",
  ["thrift/__init__.py"],
  async () => {
    const port = freePort();
    // The system's Python, whose package this is.
    await using server = await startServer(port, "/usr/bin/python3", [
      ...["-u", "-c"],
      `${PRELUDE}
class Processor(TProcessor):
    def process(self, iprot, oprot):
        name, kind, seqid, text = read(iprot)
        if kind == TMessageType.ONEWAY:
            print("told", text)
        else:
            write(oprot, TMessageType.REPLY, name, seqid, 0, text[::-1])
        return True

TThreadedServer(Processor(), TSocket.TServerSocket("127.0.0.1", ${port}),
                TTransport.TFramedTransportFactory(),
                TBinaryProtocolFactory()).serve()
`,
    ]);
    await using client = new Client({
      port,
      ...THRIFT,
      maxCap: 2,
      pipelining: 16,
    });
    const calls = Array.from({ length: 200 }, async (_, i) => {
      const name = "reverse".slice(i % 7);
      const call = message(CALL, name, i, 1, `text ${i}`);
      const answer = parse(await client.send(call));
      const text = [...`text ${i}`].toReversed().join("");
      assertEquals(answer, { kind: REPLY, name, id: i, text });
    });
    await Promise.all(calls);
    await client.notify(message(ONEWAY, "tell", 0, 1, "no answer"));
    await server.says(/^told no answer$/m);
    assertEquals(client.stats().pool.openedCount, 2);
  },
);

testPeers(
  "A client of Thrift for Python calls serve, which does not answer oneway",
  ["thrift/__init__.py"],
  async () => {
    const told: string[] = [];
    await using server = serve(THRIFT, (payload) => {
      const { kind, name, id, text } = parse(payload);
      if (kind === CALL) return message(REPLY, name, id, 0, text.toUpperCase());
      told.push(text);
      return NO_RESPONSE;
    });
    await using program = new Program("/usr/bin/python3", [
      "-c",
      `${PRELUDE}
socket = TSocket.TSocket("127.0.0.1", ${server.addr.port})
transport = TTransport.TFramedTransport(socket)
protocol = TBinaryProtocol(transport)
transport.open()
for i in range(20):
    write(protocol, TMessageType.ONEWAY, "tell", i, 1, "told %d" % i)
    write(protocol, TMessageType.CALL, "upper", i, 1, "text %d" % i)
    answer = read(protocol)
    assert answer == ("upper", TMessageType.REPLY, i, "TEXT %d" % i), answer
print("done")
`,
    ]);
    assertEquals(await program.succeeds(), "done\n");
    assertEquals(told, Array.from({ length: 20 }, (_, i) => `told ${i}`));
    assertEquals(server.stats().totalConnections, 1);
  },
);
