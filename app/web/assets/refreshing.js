// Refreshes the list.

import { LOGGED_OUT } from "./api.js";
import { morph } from "./morph.js";
import { announce } from "./status.js";

const SETTLE_MS = 300;
const AT_MOST_EVERY_MS = 1000;

const listing = document.getElementById("listing");
let timer = 0;
let last = 0;
/** @type {Promise<void> | null} */
let running = null;

/** Refreshes soon: many changes at once are one refresh, and a hidden page waits until it is shown. */
export function refreshSoon() {
  if (timer || document.hidden) {
    isDue ||= document.hidden;
    return;
  }
  const pause = Math.max(SETTLE_MS, last + AT_MOST_EVERY_MS - Date.now());
  timer = setTimeout(() => {
    timer = 0;
    refresh();
  }, pause);
}

let isDue = false;
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !isDue) return;
  isDue = false;
  refreshSoon();
});

/** Refreshes now. Resolves when the list contains every change before this call. */
export async function refresh() {
  await running; // its response may be older than the change
  running ??= load().finally(() => (running = null));
  await running;
}

async function load() {
  last = Date.now();
  let text;
  try {
    const response = await fetch(location.href, { headers: { accept: "text/html" } });
    if (response.redirected || response.status === 401) announce(LOGGED_OUT, { error: true });
    if (response.redirected || !response.ok) return; // keep the present list
    text = await response.text();
  } catch {
    return; // the next WebSocket connection triggers a refresh
  }
  const wanted = new DOMParser().parseFromString(text, "text/html").getElementById("listing");
  if (wanted) withFocus(() => morph(listing, wanted));
}

/** Keeps the focus on its row, or moves it to the row that took its place. */
function withFocus(change) {
  const focused = /** @type {HTMLElement} */ (document.activeElement);
  const row = focused?.closest("tr");
  const index = row ? [...row.parentElement.children].indexOf(row) : -1;
  change();
  if (index < 0 || document.activeElement === focused) return;
  if (focused.isConnected) focused.focus();
  else focusRow(listing.querySelectorAll("tbody tr")[index]);
}

/** @param {Element | null | undefined} row the last row if there is none */
export function focusRow(row) {
  const target = row ?? [...listing.querySelectorAll("tbody tr")].at(-1);
  (target?.querySelector("td.name a") ?? document.getElementById("main")).focus();
}
