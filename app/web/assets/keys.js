// The keyboard shortcuts of the player.

import { clock } from "./format.js";
import { announce } from "./status.js";

const SPEEDS = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2];

/**
 * Returns the shortcuts.
 * @param {HTMLMediaElement} media @param {(speed: number) => void} setSpeed
 * @returns {Record<string, () => void>} by KeyboardEvent.key, letters in lower case
 */
function keysOf(media, setSpeed) {
  const toggle = () => (media.paused ? media.play().catch(() => {}) : media.pause());
  const seek = (by) => () => {
    media.currentTime = Math.max(0, Math.min(media.currentTime + by, media.duration || 0));
    announce(clock(media.currentTime), { ms: 1000 });
  };
  const louder = (by) => () => {
    media.volume = Math.max(0, Math.min(1, Math.round((media.volume + by) * 20) / 20));
    media.muted = false;
    announce(`Volume ${Math.round(media.volume * 100)} %`, { ms: 1000 });
  };
  const faster = (by) => () => {
    setSpeed(SPEEDS[Math.max(0, Math.min(SPEEDS.indexOf(media.playbackRate) + by, SPEEDS.length - 1))]);
    announce(`Speed ${media.playbackRate}×`, { ms: 1000 });
  };
  const mute = () => {
    media.muted = !media.muted;
    announce(media.muted ? "Muted" : "Unmuted", { ms: 1000 });
  };
  const fullScreen = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else media.requestFullscreen?.().catch(() => {});
  };
  const tenths = Object.fromEntries(
    Array.from({ length: 10 }, (_, n) => [String(n), () => seek((media.duration * n) / 10 - media.currentTime)()]),
  );
  // prettier-ignore
  return {
    " ": toggle, k: toggle, m: mute, f: fullScreen,
    arrowleft: seek(-5), arrowright: seek(5), j: seek(-10), l: seek(10),
    arrowup: louder(0.05), arrowdown: louder(-0.05), "<": faster(-1), ">": faster(1),
    ...tenths,
  };
}

/** Returns whether the focused element uses the key itself. */
function isTaken(target, key) {
  if (target.closest("input, textarea, select, dialog, [role=menu]")) return true;
  if (target.closest("a, button, summary")) return key === " ";
  // The browser's controls are inside the element: a space presses the focused one.
  return target instanceof HTMLMediaElement && (key === " " || key.startsWith("arrow"));
}

/**
 * @param {HTMLMediaElement} media @param {(speed: number) => void} setSpeed
 * @param {Record<string, () => void>} others more shortcuts
 */
export function listenToKeys(media, setSpeed, others) {
  const keys = { ...keysOf(media, setSpeed), ...others };
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, key)) return;
    if (document.querySelector("dialog[open]") || isTaken(/** @type {Element} */ (event.target), key)) return;
    event.preventDefault(); // a space would scroll the page
    keys[key]();
  });
  // A click would focus the element, whose controls then take the keys. Keyboard users keep that.
  media.addEventListener("pointerup", () => setTimeout(() => media.blur()));
}
