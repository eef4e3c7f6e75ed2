/**
 * A small collector of OpenTelemetry's: it takes what a program exports over
 * OTLP, as JSON, and keeps the spans.
 */

/** A span, as far as tests look at it. */
export interface CollectedSpan {
  name: string;
  kind: "internal" | "server" | "client" | "other";
  traceId: string;
  spanId: string;
  /** Empty where there is none. */
  parentSpanId: string;
  /** Nanoseconds. */
  start: bigint;
  end: bigint;
  attributes: Record<string, unknown>;
  /** The message of a failure, or null. */
  failure: string | null;
}

/** A collector that listens. */
export interface Collector extends AsyncDisposable {
  /** The environment of a program that is to export to it. */
  env: Record<string, string>;
  /** What has come under a name, in the order of beginning. */
  spans(name: string): CollectedSpan[];
}

/** The parts of OTLP's JSON that are read here. */
interface OtlpSpan {
  name: string;
  kind: number;
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: { key: string; value: Record<string, unknown> }[];
  status?: { code?: number; message?: string };
}

const KINDS = ["other", "internal", "server", "client"] as const;
const ERROR = 2; // Of a status.

/** Starts a collector on the loopback. */
export function startCollector(): Collector {
  const collected: CollectedSpan[] = [];
  const server = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen() {},
  }, async (request) => {
    const { resourceSpans = [] } = await request.json();
    for (const { scopeSpans } of resourceSpans) {
      for (const { spans } of scopeSpans) collected.push(...spans.map(read));
    }
    return Response.json({});
  });
  return {
    env: {
      OTEL_DENO: "true",
      OTEL_DENO_CONSOLE: "ignore",
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${server.addr.port}`,
    },
    spans: (name) =>
      collected.filter((span) => span.name === name)
        .sort((a, b) => Number(a.start - b.start)),
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

function read(span: OtlpSpan): CollectedSpan {
  const { name, traceId, spanId, parentSpanId = "", status } = span;
  return {
    name,
    traceId,
    spanId,
    parentSpanId,
    kind: KINDS[span.kind] ?? "other",
    start: BigInt(span.startTimeUnixNano),
    end: BigInt(span.endTimeUnixNano),
    attributes: Object.fromEntries(
      span.attributes.map(({ key, value }) => [key, readValue(value)]),
    ),
    failure: status?.code === ERROR ? status.message ?? "" : null,
  };
}

/** Numbers are text where they are whole: they may have 64 bits. */
function readValue(value: Record<string, unknown>): unknown {
  const [[type, plain] = []] = Object.entries(value);
  return type === "intValue" ? Number(plain) : plain;
}
