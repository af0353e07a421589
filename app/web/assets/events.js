// What the server tells of changes, over a WebSocket that is opened again when it breaks.

import { at } from "./api.js";

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60_000;

/** @param {(event: {type: string, id?: string, path?: string}) => void} hear */
export function listen(hear) {
  let pause = FIRST_PAUSE_MS;
  let closing = false;
  const connect = () => {
    if (closing) return;
    const address = new URL(at("/events"), location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    const leave = () => socket.close();
    addEventListener("pagehide", leave, { once: true });
    socket.addEventListener("message", ({ data }) => {
      pause = FIRST_PAUSE_MS; // only now: a server that accepts and closes is not asked every second
      hear(JSON.parse(data));
    });
    socket.addEventListener("close", () => {
      removeEventListener("pagehide", leave);
      setTimeout(connect, pause * (0.5 + Math.random() / 2));
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    });
  };
  addEventListener("pagehide", () => (closing = true));
  addEventListener("pageshow", ({ persisted }) => {
    if (persisted) {
      closing = false;
      connect();
    }
  });
  connect();
}
