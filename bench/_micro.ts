const which = Deno.args[0], mode = Deno.args[1] ?? "pipe";
const { Client } = await import(which === "base" ? "file:///tmp/base/client.ts" : "../client.ts");
class Echo {
  q: Uint8Array[] = []; w: any; room: any;
  read(room: Uint8Array) { if (this.q.length) return new Promise<number>(r => setImm(() => r(this.fill(room)))); this.room = room; return new Promise<number>(r => this.w = r); }
  fill(room: Uint8Array) { const c = this.q[0]!; const n = Math.min(c.length, room.length); room.set(c.subarray(0, n)); if (n === c.length) this.q.shift(); else this.q[0] = c.subarray(n); return n; }
  write(p: Uint8Array) { this.q.push(p.slice()); if (this.w) { const w = this.w; this.w = undefined; const room=this.room; setImm(() => w(this.fill(room))); } return Promise.resolve(p.length); }
  close() {} unref() {} setNoDelay() {} setKeepAlive() {} [Symbol.dispose]() {}
}
const setImm = (f: () => void) => setImmediate(f);
(Deno as any).connect = () => Promise.resolve(new Echo());
const callers = mode === "lock" ? 32 : 256;
const client = new Client({ port: 9, maxCap: mode === "lock" ? 32 : 1, pipelining: mode === "lock" ? 1 : 256, ...(mode === "corr" ? { correlation: { length: 4 } } : {}) });
let n = 0, stop = false;
const ps = Array.from({ length: callers }, async () => { const p = new Uint8Array(64); while (!stop) { await client.send(p); n++; } });
await new Promise(r => setTimeout(r, 700));
const cpu = () => { const u = (globalThis as any).process.cpuUsage(); return u.user + u.system; };
const { default: process } = await import("node:process"); (globalThis as any).process = process;
const rates = [];
for (let i = 0; i < 14; i++) { const n0 = n, c0 = cpu(); await new Promise(r => setTimeout(r, 150)); rates.push((cpu() - c0) / (n - n0)); }
stop = true; await Promise.all(ps);
rates.sort((a, b) => a - b);
console.log(n, which, mode, rates[0]!.toFixed(3), "us cpu per request");
if (Deno.args[2]) { /* let prof flush */ } else Deno.exit();
