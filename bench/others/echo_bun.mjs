// The framed echo on Bun.listen: prints its port and its process id, and ends
// with its standard input.

import process from "node:process";
import { Echo } from "./frames.mjs";

/** Writes what the socket has room for, and keeps the rest for its drain. */
function write(socket, bytes) {
  const { waiting } = socket.data;
  if (waiting.length === 0) {
    const n = socket.write(bytes);
    if (n < bytes.length) waiting.push(bytes.subarray(Math.max(n, 0)));
  } else {
    waiting.push(bytes);
  }
}

const server = globalThis.Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    open(socket) {
      socket.setNoDelay(true);
      const echo = new Echo((bytes) => write(socket, bytes));
      socket.data = { echo, waiting: [] };
    },
    data(socket, chunk) {
      socket.data.echo.feed(chunk);
    },
    drain(socket) {
      const rest = socket.data.waiting;
      socket.data.waiting = [];
      for (const bytes of rest) write(socket, bytes);
    },
    error() {},
  },
});
console.log(`${server.port} ${process.pid}`);
process.stdin.on("end", () => process.exit()).resume();
