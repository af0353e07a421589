// Tells what happened: on the page for a while, and to screen readers.

const said = document.getElementById("said");
let timer = 0;

/** @param {string} text @param {{error?: boolean, ms?: number}} [options] */
export function say(text, { error = false, ms = error ? 8000 : 4000 } = {}) {
  clearTimeout(timer);
  said.textContent = text;
  said.classList.toggle("failed", error);
  timer = setTimeout(() => (said.textContent = ""), ms);
}
