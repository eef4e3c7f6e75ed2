// The framed echo on Node's net: prints its port and its process id, and ends
// with its standard input.

import { createServer } from "node:net";
import process from "node:process";
import { Echo } from "./frames.mjs";

const server = createServer({ noDelay: true }, (socket) => {
  const echo = new Echo((bytes) => {
    if (!socket.write(bytes)) socket.pause();
  });
  socket.on("drain", () => socket.resume());
  socket.on("error", () => socket.destroy());
  socket.on("data", (chunk) => {
    socket.cork();
    echo.feed(chunk);
    socket.uncork();
  });
});
server.listen({ host: "127.0.0.1", port: 0, backlog: 511 }, () => {
  console.log(`${server.address().port} ${process.pid}`);
});
process.stdin.on("end", () => process.exit()).resume();
