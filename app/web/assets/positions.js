// The last positions in films, in localStorage, by the id of a file, which survives renaming.

const NAME = "seekable.positions";
const MAX_POSITIONS = 200;

/** @returns {Record<string, [number, number]>} position in seconds, and time of storing */
function all() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? {};
  } catch {
    return {}; // storage is forbidden, or its value is not ours
  }
}

function keep(positions) {
  const newest = Object.entries(positions).sort(([, a], [, b]) => b[1] - a[1]);
  try {
    localStorage.setItem(NAME, JSON.stringify(Object.fromEntries(newest.slice(0, MAX_POSITIONS))));
  } catch {
    // Full or forbidden: films then start at the beginning.
  }
}

/** Returns seconds, or 0. @param {string} id */
export function positionOf(id) {
  const seconds = all()[id]?.[0];
  return Number.isFinite(seconds) ? seconds : 0;
}

/**
 * Stores a position, unless it is near either end.
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
