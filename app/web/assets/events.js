// Receives the events of the server over a WebSocket, and reconnects when it breaks.

import { at } from "./api.js";

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60_000;

/** @param {(event: {type: string, id?: string, path?: string}) => void} onEvent */
export function listen(onEvent) {
  let pause = FIRST_PAUSE_MS;
  let closing = false;
  const connect = () => {
    if (closing) return;
    const address = new URL(at("/events"), location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    const close = () => socket.close();
    addEventListener("pagehide", close, { once: true });
    socket.addEventListener("message", ({ data }) => {
      pause = FIRST_PAUSE_MS; // not on open: a server may accept and close at once
      onEvent(JSON.parse(data));
    });
    socket.addEventListener("close", () => {
      removeEventListener("pagehide", close);
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
