// deno run --allow-net=127.0.0.1 examples/opentelemetry.ts
//
// Traces requests with Deno's own OpenTelemetry, if OTEL_DENO=true is set: a
// span on each side. The client's is the parent of the server's: its context
// goes before each payload. OTEL_EXPORTER_OTLP_ENDPOINT says where to.

import {
  context,
  propagation,
  SpanKind,
  SpanStatusCode,
  trace,
} from "npm:@opentelemetry/api@1.10.0";
import { concat } from "@std/bytes";
import { Client, type Handler, serve } from "@wirepool/net";

const tracer = trace.getTracer("greeter");
const HEADER = 55; // The length of every `traceparent`, or as many spaces.
const see = (name: string, n: number) =>
  trace.getActiveSpan()?.setAttribute(name, n);

/** Runs `work` in a span, which ends and fails with it. */
function inSpan<T>(
  name: string,
  kind: SpanKind,
  work: () => T | Promise<T>,
  parent = context.active(),
): Promise<T> {
  return tracer.startActiveSpan(name, { kind }, parent, async (span) => {
    try {
      return await work();
    } catch (error) {
      span.recordException(error as Error);
      span.setStatus({ code: SpanStatusCode.ERROR, message: String(error) });
      throw error;
    } finally {
      span.end();
    }
  });
}

/** A handler, each call of it in a span below the caller's. */
function traced(name: string, handler: Handler): Handler {
  return (payload, connection) => {
    const header = new TextDecoder().decode(payload.subarray(0, HEADER));
    const carrier = { traceparent: header.trim() };
    const parent = propagation.extract(context.active(), carrier);
    return inSpan(name, SpanKind.SERVER, () => {
      see("request.size", payload.length - HEADER);
      return handler(payload.subarray(HEADER), connection);
    }, parent);
  };
}

/** Sends a request in a span, whose context goes along. */
function send(client: Client, name: string, payload: Uint8Array) {
  return inSpan(name, SpanKind.CLIENT, () => {
    const carrier = { traceparent: "" };
    propagation.inject(context.active(), carrier);
    const header = carrier.traceparent.padEnd(HEADER);
    return client.send(concat([new TextEncoder().encode(header), payload]));
  });
}

function greet(name: Uint8Array): Uint8Array {
  if (name.length === 0) throw new Error("Nobody to greet");
  return concat([new TextEncoder().encode("Hello, "), name]);
}

const wire = { correlation: { length: 4 } } as const;
await using server = serve({ ...wire, onError() {} }, traced("greet", greet));
await using client = new Client({
  ...wire,
  port: server.addr.port,
  hooks: { settle: ({ responseBytes: n }) => see("response.size", n) },
});
const ada = new TextEncoder().encode("Ada");
console.log(new TextDecoder().decode(await send(client, "ask", ada)));
await send(client, "ask", new Uint8Array()).catch((e) => console.log(`${e}`));
