// The player: speed, keyboard shortcuts, and resuming at the last position.

import { clock } from "./format.js";
import { listenToKeys } from "./keys.js";
import { forget, positionOf, remember } from "./positions.js";

const SAVE_EVERY_MS = 5000;

/** @param {HTMLMediaElement} media @param {string} id of the file */
export function control(media, id) {
  const speed = /** @type {HTMLSelectElement} */ (document.getElementById("speed"));
  const keys = /** @type {HTMLDialogElement} */ (document.getElementById("keys"));
  speed.addEventListener("change", () => (media.playbackRate = Number(speed.value)));
  media.addEventListener("ratechange", () => (speed.value = String(media.playbackRate)));
  document.getElementById("show-keys").addEventListener("click", () => keys.showModal());
  const follow = (rel) => () => document.querySelector(`a[rel="${rel}"]`)?.click();
  listenToKeys(media, (rate) => (media.playbackRate = rate), {
    "?": () => keys.showModal(),
    n: follow("next"),
    p: follow("prev"),
  });
  media.addEventListener("error", () => (document.getElementById("unplayable").hidden = false));
  if (media.error) media.dispatchEvent(new Event("error"));
  resume(media, id);
}

function resume(media, id) {
  const notice = document.getElementById("continued");
  const [text, button] = notice.children;
  const start = () => {
    const position = positionOf(id);
    if (position <= 0 || position >= media.duration) return;
    media.currentTime = position;
    text.textContent = `Resumed at ${clock(position)}.`;
    notice.hidden = false;
  };
  if (media.readyState >= HTMLMediaElement.HAVE_METADATA) start();
  else media.addEventListener("loadedmetadata", start, { once: true });
  button.addEventListener("click", () => {
    forget(id);
    media.currentTime = 0;
    notice.hidden = true;
    // The focused button is hidden now. Not the media: its controls would take the arrow keys.
    document.getElementById("main").focus();
  });
  let saved = 0;
  const save = () => {
    if (!media.duration || media.played.length === 0) return; // not played yet
    saved = Date.now();
    remember(id, media.currentTime, media.duration);
  };
  media.addEventListener("timeupdate", () => Date.now() - saved > SAVE_EVERY_MS && save());
  for (const event of ["pause", "seeked", "ended"]) media.addEventListener(event, save);
  addEventListener("pagehide", save);
}
