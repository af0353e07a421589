// The page of one file.

import "./scripted.js";
import { actionsOf, perform } from "./actions.js";
import { at } from "./api.js";
import { listen } from "./events.js";
import { thingOf } from "./files.js";
import { control } from "./player.js";
import { say } from "./say.js";

const place = document.getElementById("file");
const media = /** @type {HTMLMediaElement | null} */ (place.querySelector("video, audio"));
if (media) control(media, place.dataset.key);

let leaving = false;

for (const action of actionsOf(thingOf(place))) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = action.label;
  button.classList.toggle("danger", Boolean(action.danger));
  button.addEventListener("click", () => act(action));
  document.getElementById("tools").append(button);
}

async function act(action) {
  const thing = thingOf(place);
  leaving = Boolean(action.done); // its event comes before its answer
  const result = await perform(action, thing);
  if (result?.path) location.replace(at("/", { play: result.path }));
  else if (result) location.replace(at("/", { folder: thing.folder }));
  else leaving = false;
}

// What others do to the file is told; the film plays on, since what has been opened stays readable.
listen(({ type, id, path, etag }) => {
  if (leaving || id !== place.dataset.key) return;
  if (type === "file.moved") {
    say(`It is at ${path} now.`, { ms: 10_000 });
    Object.assign(place.dataset, { path, etag });
  } else if (type === "file.deleted") say("Somebody deleted this file.", { error: true });
  else if (type === "file.replaced" && etag !== place.dataset.etag) {
    say("Somebody replaced this file. Load the page again to see what it is now.", { ms: 10_000 });
  }
});
