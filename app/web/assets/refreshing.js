// Keeps the list as the server has it.

import { LOGGED_OUT } from "./api.js";
import { morph } from "./morph.js";
import { say } from "./say.js";

const SETTLE_MS = 300;
const AT_MOST_EVERY_MS = 1000;

const listing = document.getElementById("listing");
let timer = 0;
let last = 0;
/** @type {Promise<void> | null} */
let running = null;

/** Soon: many changes at once are one refresh. A page that nobody looks at waits until it is shown. */
export function refreshSoon() {
  if (timer || document.hidden) {
    wanted ||= document.hidden;
    return;
  }
  const pause = Math.max(SETTLE_MS, last + AT_MOST_EVERY_MS - Date.now());
  timer = setTimeout(() => {
    timer = 0;
    refresh();
  }, pause);
}

let wanted = false;
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !wanted) return;
  wanted = false;
  refreshSoon();
});

/** Now. It ends when the list is what the server had after this call. */
export async function refresh() {
  await running; // it may have been answered before what this call is about
  running ??= load().finally(() => (running = null));
  await running;
}

async function load() {
  last = Date.now();
  let text;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.redirected || answer.status === 401) say(LOGGED_OUT, { error: true });
    if (answer.redirected || !answer.ok) return; // what is shown stays
    text = await answer.text();
  } catch {
    return; // the next connection tells to list again
  }
  const wanted = new DOMParser().parseFromString(text, "text/html").getElementById("listing");
  if (wanted) withFocus(() => morph(listing, wanted));
}

/** The focus stays on what it was on, or on what has come in its place. */
function withFocus(change) {
  const focused = /** @type {HTMLElement} */ (document.activeElement);
  const row = focused?.closest("tr");
  const index = row ? [...row.parentElement.children].indexOf(row) : -1;
  change();
  if (index < 0 || document.activeElement === focused) return;
  if (focused.isConnected) focused.focus();
  else focusRow(listing.querySelectorAll("tbody tr")[index]);
}

/** @param {Element | null | undefined} row or where the list ends, if there is none */
export function focusRow(row) {
  const target = row ?? [...listing.querySelectorAll("tbody tr")].at(-1);
  (target?.querySelector("td.name a") ?? document.getElementById("main")).focus();
}
