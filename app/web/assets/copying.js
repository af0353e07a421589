// Into the clipboard, or before the person's eyes where the browser does not allow that (plain http).

import { ask } from "./dialogs.js";
import { say } from "./say.js";

/** Copy at once, and show the text if that cannot be. @param {string} text @param {string} name */
export async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    say("The link is copied.");
  } catch {
    await show(text, name);
  }
}

/** Show a text to be copied. @param {string} text @param {string} name @param {string} [note] */
export async function show(text, name, note = "") {
  document.querySelector("#copy [data-note]").textContent = note;
  const opened = ask("copy", { name, values: { link: text } }, () => copyFrom(field));
  const field = /** @type {HTMLInputElement} */ (document.getElementById("copy-link"));
  field.select();
  if (await opened) say("The link is copied.");
}

/** Copy what a field holds. @param {HTMLInputElement} field */
export async function copyFrom(field) {
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    field.select();
    if (!document.execCommand("copy")) throw new Error("The browser does not copy. Copy the selected text.");
  }
}
