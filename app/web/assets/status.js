// Announces messages: on the page for a while, and to screen readers.

const status = document.getElementById("status");
let timer = 0;

/** @param {string} text @param {{error?: boolean, ms?: number}} [options] */
export function announce(text, { error = false, ms = error ? 8000 : 4000 } = {}) {
  clearTimeout(timer);
  status.textContent = text;
  status.classList.toggle("failed", error);
  timer = setTimeout(() => (status.textContent = ""), ms);
}
