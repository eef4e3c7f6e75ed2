// The peers, pinned, and as much of their types as the benchmarks use. They

// are imported when they are needed: what cannot be had is reported as missing,
// and checking or testing the library downloads none of them.

/** Packages of the peers. */
export const PEERS = {
  grpc: "npm:@grpc/grpc-js@1.14.7",
  "generic-pool": "npm:generic-pool@3.9.0",
  tarn: "npm:tarn@3.1.2",
  "lightning-pool": "npm:lightning-pool@4.14.0",
} as const;

/** Imports a peer; undefined if it cannot be had. */
export async function importPeer<T>(
  name: keyof typeof PEERS,
): Promise<T | undefined> {
  const specifier: string = PEERS[name];
  try {
    const module = await import(specifier);
    return (module.default ?? module) as T;
  } catch {
    return undefined;
  }
}

/** `@grpc/grpc-js`, as far as it is used. */
export interface Grpc {
  Server: new () => {
    addService(service: unknown, methods: Record<string, unknown>): void;
    bindAsync(
      address: string,
      credentials: unknown,
      done: (error: Error | null, port: number) => void,
    ): void;
  };
  ServerCredentials: { createInsecure(): unknown };
  credentials: { createInsecure(): unknown };
  makeClientConstructor(service: unknown, name: string): new (
    address: string,
    credentials: unknown,
  ) => GrpcClient;
}

/** A client of {@linkcode ECHO_SERVICE}. */
export interface GrpcClient {
  echo(
    payload: Uint8Array,
    done: (error: Error | null, answer: Uint8Array) => void,
  ): void;
}

/** `generic-pool`, as far as it is used. */
export interface GenericPool {
  createPool<T>(
    factory: { create(): Promise<T>; destroy(resource: T): Promise<void> },
    options: Record<string, unknown>,
  ): { acquire(): Promise<T>; release(resource: T): unknown };
}

/** `tarn`, as far as it is used. */
export interface Tarn {
  Pool: new <T>(
    options:
      & { create(): Promise<T>; destroy(resource: T): void }
      & Record<
        string,
        unknown
      >,
  ) => { acquire(): { promise: Promise<T> }; release(resource: T): void };
}

/** `lightning-pool`, as far as it is used. */
export interface LightningPool {
  Pool: new <T>(
    factory: { create(): Promise<T>; destroy(resource: T): Promise<void> },
    options: Record<string, unknown>,
  ) => { start(): void; acquire(): Promise<T>; release(resource: T): void };
}

/** One unary method whose messages are bytes as they are. */
export const ECHO_SERVICE = {
  echo: {
    path: "/bench.Echo/echo",
    requestStream: false,
    responseStream: false,
    requestSerialize: asBuffer,
    requestDeserialize: asIs,
    responseSerialize: asBuffer,
    responseDeserialize: asIs,
  },
};

function asIs(bytes: Uint8Array): Uint8Array {
  return bytes;
}

function asBuffer(bytes: Uint8Array): Uint8Array {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
