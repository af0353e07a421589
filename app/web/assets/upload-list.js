// Shows the uploads of this page, with their buttons.

import { duration, size } from "./format.js";
import { announce } from "./status.js";
import { Uploads } from "./uploads.js";

// The page of a read-only library has neither.
const section = document.getElementById("uploads");
const list = section?.querySelector("ul");

/**
 * @param {string} folder the current one
 * @param {() => void} stored called after each stored upload
 */
export function showUploads(folder, stored) {
  /** @type {Map<import("./uploads.js").Upload, Item>} */
  const items = new Map();
  const uploads = new Uploads((upload) => {
    if (!items.has(upload)) items.set(upload, new Item(uploads, upload, folder, () => forget(upload)));
    const item = items.get(upload);
    const before = item.state;
    item.show();
    section.hidden = false;
    if (item.state !== before) announceState(uploads, upload, stored);
  });
  const forget = (upload) => {
    uploads.forget(upload);
    items.get(upload).element.remove();
    items.delete(upload);
    section.hidden = items.size === 0;
  };
  document.getElementById("clear-uploads").addEventListener("click", () => {
    for (const upload of uploads.all.filter(({ state }) => ["stored", "cancelled"].includes(state))) forget(upload);
    if (section.hidden) document.getElementById("pick").focus();
  });
  addEventListener("beforeunload", (event) => {
    if (uploads.busy) event.preventDefault();
  });
  return uploads;
}

function announceState(uploads, { path, state, message }, stored) {
  const name = path.slice(path.lastIndexOf("/") + 1);
  if (state === "failed") announce(`${name}: ${message}`, { error: true });
  if (state === "taken") announce(`“${name}” already exists. Choose in the list of uploads.`, { error: true });
  if (state === "stored") {
    stored();
    const count = uploads.all.filter((upload) => upload.state === "stored").length;
    if (!uploads.busy) announce(count === 1 ? `“${name}” was uploaded.` : `${count} files were uploaded.`);
  }
}

class Item {
  constructor(uploads, upload, folder, forget) {
    Object.assign(this, { uploads, upload, folder, forget, state: "" });
    this.element = document.createElement("li");
    this.element.tabIndex = -1;
    this.name = document.createElement("bdi");
    this.bar = document.createElement("progress");
    this.text = document.createElement("span");
    this.text.className = "quiet";
    this.buttons = document.createElement("span");
    this.buttons.className = "buttons";
    this.element.append(this.name, this.bar, this.text, this.buttons);
    list.append(this.element);
  }

  show() {
    const { file, sent, path, state } = this.upload;
    const shown = this.folder ? path.slice(this.folder.length + 1) : path;
    if (this.name.textContent !== shown) this.name.textContent = shown;
    this.bar.ariaLabel = shown;
    this.bar.max = file?.size || 1;
    this.bar.value = sent;
    this.bar.hidden = !["waiting", "sending", "storing"].includes(state);
    this.text.textContent = described(this.upload);
    if (state === this.state) return;
    this.state = this.element.dataset.state = state;
    this.#offer();
  }

  /** Shows the buttons of its state, and keeps the focus in this item. */
  #offer() {
    const focused = this.element.contains(document.activeElement);
    const { uploads, upload } = this;
    const again = (mode) => () => uploads.retry(upload, mode);
    const dismiss = ["Dismiss", this.forget];
    const cancel = ["Cancel", () => uploads.cancel(upload)];
    const offers = {
      waiting: [cancel],
      sending: [cancel],
      storing: [],
      stored: [],
      failed: upload.file ? [["Retry", again()], dismiss] : [dismiss],
      cancelled: [["Retry", again()], dismiss],
      taken: [["Replace", again("replace")], ["Keep both", again("keep both")], ["Skip", this.forget]],
    };
    this.buttons.replaceChildren(...offers[this.state].map(([label, act]) => this.#button(label, act)));
    if (focused) (this.buttons.querySelector("button") ?? this.element).focus();
  }

  #button(label, act) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.ariaLabel = `${label}: ${this.name.textContent}`;
    button.addEventListener("click", act);
    return button;
  }
}

/** @param {import("./uploads.js").Upload} upload */
function described({ state, file, sent, speed, message }) {
  if (!file) return message;
  const total = size(file.size);
  const speeds = speed > 0 ? ` · ${size(Math.round(speed))}/s · ${duration((file.size - sent) / speed)} left` : "";
  return {
    waiting: `${total} · waiting`,
    sending: `${size(sent)} of ${total}${speeds}`,
    storing: `${total} · processing`,
    stored: `${total} · uploaded`,
    taken: "A file with this name already exists.",
    failed: message,
    cancelled: "Cancelled",
  }[state];
}
