// The list of a folder: menus, uploads, and live changes.

import "./scripted.js";
import { actionsOf, perform } from "./actions.js";
import { READ_ONLY, at } from "./api.js";
import { ask } from "./dialogs.js";
import { takeDropped, takePicked } from "./dropping.js";
import { listen } from "./events.js";
import { entryOf } from "./files.js";
import { openMenu } from "./menu.js";
import { focusRow, refresh, refreshSoon } from "./refreshing.js";
import { showUploads } from "./upload-list.js";

const listing = document.getElementById("listing");
const { folder } = listing.dataset;
const below = (path) => (folder ? `${folder}/${path}` : path);

if (!READ_ONLY) {
  const uploads = showUploads(folder, refreshSoon);
  const take = (picked) => uploads.add(picked.map((one) => ({ ...one, path: below(one.path) })));
  takePicked(document.getElementById("pick"), document.getElementById("picked"), take);
  takePicked(document.getElementById("pick-folder"), document.getElementById("picked-folder"), take);
  takeDropped(take);

  document.getElementById("new-folder").addEventListener("click", async () => {
    const name = await ask("folder", {}, async ({ name }) => name.replace(/^\/+|\/+$/g, ""));
    if (name) location.assign(at("/", { folder: below(name) }));
  });
}

listing.addEventListener("click", (event) => {
  const button = event.target.closest("td.more button");
  if (!button) return;
  const row = button.closest("tr");
  const entry = entryOf(row);
  const actions = actionsOf(entry);
  openMenu(button, actions, async (index) => {
    const place = [...row.parentElement.children].indexOf(row);
    button.focus();
    if (!(await perform(actions[index], entry))) return;
    await refresh();
    const same = [...listing.querySelectorAll("tbody tr")].find(({ dataset }) => dataset.key === entry.key);
    focusRow(same ?? listing.querySelectorAll("tbody tr")[place]);
  });
});

listen(refreshSoon);
