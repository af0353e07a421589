// Copies links to the clipboard, or shows them where the browser forbids that (plain http).

import { ask } from "./dialogs.js";
import { announce } from "./status.js";

/** Copies a text, or shows it if the browser refuses. @param {string} text @param {string} name */
export async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Link copied.");
  } catch {
    await show(text, name);
  }
}

/** Shows a text to copy. @param {string} text @param {string} name @param {string} [note] */
export async function show(text, name, note = "") {
  document.querySelector("#copy [data-note]").textContent = note;
  const opened = ask("copy", { name, values: { link: text } }, () => copyFrom(field));
  const field = /** @type {HTMLInputElement} */ (document.getElementById("copy-link"));
  field.select();
  if (await opened) announce("Link copied.");
}

/** Copies the value of a field. @param {HTMLInputElement} field */
export async function copyFrom(field) {
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    field.select();
    if (!document.execCommand("copy")) throw new Error("The browser cannot copy. Copy the selected text yourself.");
  }
}
