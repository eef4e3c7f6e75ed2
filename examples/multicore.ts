// deno run --unstable-net --allow-net=127.0.0.1 --allow-run=deno examples/multicore.ts 9002
//
// One port, one process for each core: Linux spreads new connections over all
// listeners with `reusePort`. The parent serves nothing; it replaces a worker
// that dies, and on SIGTERM has all of them drain. For a start it kills one
// under load, to show that the service goes on.

import { Client, serve } from "@wirepool/net";

const [port = "9002", role] = Deno.args;
const workers = new Set<Deno.ChildProcess>();
let stopping = false;

if (role === "worker") await work();
else await supervise();

async function work(): Promise<void> {
  const server = serve(
    { port: Number(port), reusePort: true },
    () => new TextEncoder().encode(String(Deno.pid)),
  );
  Deno.addSignalListener("SIGTERM", () => server.shutdown());
  await server.finished;
}

async function supervise(): Promise<void> {
  for (let i = Math.max(2, navigator.hardwareConcurrency); i > 0; i--) start();
  Deno.addSignalListener("SIGTERM", () => {
    stopping = true;
    for (const worker of workers) worker.kill("SIGTERM");
  });
  await show(workers.size);
}

async function start(): Promise<void> {
  const args = ["run", "--unstable-net", "--allow-net=127.0.0.1"];
  args.push(import.meta.filename!, port, "worker");
  const worker = new Deno.Command("deno", { args, stdin: "null" }).spawn();
  workers.add(worker);
  const { code, signal } = await worker.status;
  workers.delete(worker);
  console.log(`worker ${worker.pid} ended: ${signal ?? code}`);
  await sleep(500); // One that cannot start must not be started in a loop.
  if (!stopping) await start();
}

async function show(count: number): Promise<void> {
  await using client = new Client({
    port: Number(port),
    maxCap: 16,
    maxLifetime: 1_000, // Connections move over to a new worker.
    idempotent: true, // What a killed worker had taken is sent again.
  });
  const answers: Record<string, number> = {};
  const ask = async () => {
    const pid = new TextDecoder().decode(await client.send(new Uint8Array()));
    answers[pid] = (answers[pid] ?? 0) + 1;
  };
  while (Object.keys(answers).length < count && !stopping) {
    await Promise.all([1, 2, 3, 4].map(ask)).catch(() => sleep(50));
  }
  console.log(`${count} workers answer, one is killed`);
  const renewed = () => Object.keys(answers).length > count;
  const end = performance.now() + 20_000;
  // A new connection that meets a worker as it dies fails: ask once more.
  const again = () => sleep(100).then(ask);
  const caller = async () => {
    while (!renewed() && performance.now() < end) await ask().catch(again);
  };
  const callers = Array.from({ length: 16 }, caller);
  setTimeout(() => [...workers][0]!.kill("SIGKILL"), 500);
  const ended = await Promise.allSettled(callers);
  const failed = ended.filter(({ status }) => status === "rejected");
  console.log("answers by process:", answers, "failed:", failed.length);
}

function sleep(ms: number): Promise<void> {
  return new Promise((wake) => setTimeout(wake, ms));
}
