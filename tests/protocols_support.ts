/**
 * The options that read each protocol people meet. PROTOCOLS.md gives the same
 * ones, and a test compares the two.
 */
import type {
  CorrelationOptions,
  FrameIdField,
  FrameOptions,
} from "../codec.ts";

/** What a client or a server is told of a protocol's frames. */
export interface ProtocolOptions extends FrameOptions {
  correlation?: CorrelationOptions;
}

/** Each by its heading in PROTOCOLS.md. */
export const PROTOCOLS = {
  "A protocol of your own": {
    lengthFieldLength: 4,
    correlation: { length: 4 },
  },
  DNS: {
    lengthFieldLength: 2,
    maxFrameLength: 65_535,
    correlation: { length: 2, requestOffset: 0 },
  },
  Kafka: {
    lengthFieldLength: 4,
    maxFrameLength: 104_857_600,
    correlation: { length: 4, requestOffset: 4, responseOffset: 0 },
  },
  ZooKeeper: {
    lengthFieldLength: 4,
    maxFrameLength: 0xfffff,
    correlation: { length: 4, requestOffset: 0 },
  },
  memcached: {
    lengthFieldOffset: 8,
    lengthFieldLength: 4,
    lengthAdjustment: 12,
    initialBytesToStrip: 0,
    correlation: { length: 4, requestOffset: 0 },
  },
  "Modbus TCP": {
    lengthFieldOffset: 4,
    lengthFieldLength: 2,
    maxFrameLength: 254,
    correlation: { length: 2, requestOffset: -6 },
  },
  MongoDB: {
    lengthFieldLength: 4,
    byteOrder: "little",
    lengthAdjustment: -4,
    maxFrameLength: 48_000_000,
    correlation: { length: 4, requestOffset: 0, responseOffset: 4 },
  },
  Cassandra: {
    lengthFieldOffset: 5,
    lengthFieldLength: 4,
    initialBytesToStrip: 0,
    maxFrameLength: 268_435_456,
    correlation: { length: 2, requestOffset: -7 },
  },
  "MySQL and MariaDB": {
    lengthFieldLength: 3,
    byteOrder: "little",
    lengthAdjustment: 1,
    maxFrameLength: 16_777_216,
  },
  PostgreSQL: {
    lengthFieldOffset: 1,
    lengthFieldLength: 4,
    lengthAdjustment: -4,
    initialBytesToStrip: 0,
  },
  "AMQP 0-9-1": {
    lengthFieldOffset: 3,
    lengthFieldLength: 4,
    lengthAdjustment: 1,
    initialBytesToStrip: 0,
  },
  Diameter: {
    lengthFieldOffset: 1,
    lengthFieldLength: 3,
    lengthAdjustment: -4,
    initialBytesToStrip: 0,
    correlation: { length: 4, requestOffset: 8 },
  },
  "Thrift, framed": {
    lengthFieldLength: 4,
    maxFrameLength: 16_384_000,
  },
} as const satisfies Record<string, ProtocolOptions>;

/** The name of a protocol. */
export type ProtocolName = keyof typeof PROTOCOLS;

/** A protocol's frames, and where their ids stand, as the codec wants it. */
export interface Protocol {
  frame: FrameOptions;
  /** Where ids stand; without `offset` they are put in and taken out. */
  request: FrameIdField | undefined;
  response: FrameIdField | undefined;
}

/** Takes a protocol's options apart. */
export function protocol(name: ProtocolName): Protocol {
  const { correlation, ...frame }: ProtocolOptions = PROTOCOLS[name];
  const field = (offset: number | undefined): FrameIdField | undefined =>
    correlation &&
    { length: correlation.length, ...(offset !== undefined && { offset }) };
  const { requestOffset, responseOffset } = correlation ?? {};
  return {
    frame,
    request: field(requestOffset ?? responseOffset),
    response: field(responseOffset ?? requestOffset),
  };
}
