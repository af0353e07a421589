// A page that uses RxJS's webSocket, with JSON in both directions.
// Prints every message on a line, and "complete" or the error at the end.
//
//     node socket.mjs MODULES URL ORIGIN LAST [TEXT …]
//
// MODULES is the folder with node_modules; ORIGIN may be empty; LAST is a JavaScript expression over a message m and
// its number n; the script ends with the first message for which it is true. Each TEXT is sent after the first message.
import { createRequire } from "node:module";

const [modules, url, origin, last, ...texts] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { webSocket } = require("rxjs/webSocket");
const { map, takeWhile } = require("rxjs");
const WebSocket = require("ws");

class Page extends WebSocket {
  constructor(url) {
    super(url, origin ? { origin } : {}); // a browser sends its page's Origin; Node.js sends none
  }
}

const print = (value) => console.log(JSON.stringify(value));
const isLast = new Function("m", "n", `return ${last}`);
const socket = webSocket({ url, WebSocketCtor: Page });
socket
  .pipe(
    map((message, n) => {
      print(message);
      if (n === 0) texts.forEach((text) => socket.next(text));
      return message;
    }),
    takeWhile((message, n) => !isLast(message, n)),
  )
  .subscribe({
    error: (error) => print({ error: error.message ?? error.code }),
    complete: () => print("complete"),
  });
