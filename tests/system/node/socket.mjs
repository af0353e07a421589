// A page that talks to the server with RxJS's webSocket, as RxJS's users do: JSON both ways.
// Prints every message on a line, and at the end how it ended.
//
//     node socket.mjs MODULES URL ORIGIN LAST [TEXT …]
//
// MODULES is the folder with node_modules; ORIGIN may be empty; LAST is a JavaScript expression over a message m and
// its number n, which ends the conversation when it is true. Each TEXT is sent after the first message.
import { createRequire } from "node:module";

const [modules, url, origin, last, ...texts] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { webSocket } = require("rxjs/webSocket");
const { map, takeWhile } = require("rxjs");
const WebSocket = require("ws");

class Page extends WebSocket {
  constructor(url) {
    super(url, origin ? { origin } : {}); // a browser sends the Origin of its page; node has none
  }
}

const say = (what) => console.log(JSON.stringify(what));
const isLast = new Function("m", "n", `return ${last}`);
const socket = webSocket({ url, WebSocketCtor: Page });
socket
  .pipe(
    map((message, n) => {
      say(message);
      if (n === 0) texts.forEach((text) => socket.next(text));
      return message;
    }),
    takeWhile((message, n) => !isLast(message, n)),
  )
  .subscribe({
    error: (error) => say({ error: error.message ?? error.code }),
    complete: () => say("complete"),
  });
