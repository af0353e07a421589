// The page of one file.

import "./scripted.js";
import { actionsOf, perform } from "./actions.js";
import { at } from "./api.js";
import { listen } from "./events.js";
import { entryOf } from "./files.js";
import { control } from "./player.js";
import { announce } from "./status.js";

const place = document.getElementById("file");
const media = /** @type {HTMLMediaElement | null} */ (place.querySelector("video, audio"));
if (media) control(media, place.dataset.key);

let leaving = false;

for (const action of actionsOf(entryOf(place))) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = action.label;
  button.classList.toggle("danger", Boolean(action.danger));
  button.addEventListener("click", () => act(action));
  document.getElementById("tools").append(button);
}

async function act(action) {
  const entry = entryOf(place);
  leaving = Boolean(action.done); // its event arrives before its response
  const result = await perform(action, entry);
  if (result?.path) location.replace(at("/", { play: result.path }));
  else if (result) location.replace(at("/", { folder: entry.folder }));
  else leaving = false;
}

// Announce changes by other clients. The film plays on: an opened version stays readable.
listen(({ type, id, path, etag }) => {
  if (leaving || id !== place.dataset.key) return;
  if (type === "file.moved") {
    announce(`This file was moved to ${path}.`, { ms: 10_000 });
    Object.assign(place.dataset, { path, etag });
  } else if (type === "file.deleted") announce("This file was deleted.", { error: true });
  else if (type === "file.replaced" && etag !== place.dataset.etag) {
    announce("This file was replaced. Reload the page to see the new version.", { ms: 10_000 });
  }
});
