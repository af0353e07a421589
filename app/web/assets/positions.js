// Where the person stopped in films, on this device: by the id of a file, which survives renaming.

const NAME = "seekable.positions";
const MOST = 200;

/** @returns {Record<string, [number, number]>} seconds, and when that was */
function all() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? {};
  } catch {
    return {}; // none are kept in this browser, or somebody else wrote there
  }
}

function keep(positions) {
  const newest = Object.entries(positions).sort(([, a], [, b]) => b[1] - a[1]);
  try {
    localStorage.setItem(NAME, JSON.stringify(Object.fromEntries(newest.slice(0, MOST))));
  } catch {
    // Full, or forbidden: then films begin at the beginning.
  }
}

/** Seconds, or 0. @param {string} id */
export function positionOf(id) {
  const seconds = all()[id]?.[0];
  return Number.isFinite(seconds) ? seconds : 0;
}

/**
 * Remember a place; one near either end is none.
 * @param {string} id @param {number} seconds @param {number} duration
 */
export function remember(id, seconds, duration) {
  const margin = Math.min(10, duration / 20);
  const { [id]: _, ...others } = all();
  keep(seconds < margin || seconds > duration - margin ? others : { ...others, [id]: [seconds, Date.now()] });
}

/** @param {string} id */
export function forget(id) {
  const { [id]: _, ...others } = all();
  keep(others);
}
