// Files that are dropped onto the page, or picked; of folders, all that is in them.

/**
 * @typedef {{file: File, path: string}} Picked path: below the folder that is shown
 */

/** @param {(picked: Picked[]) => void} take */
export function takeDropped(take) {
  const drop = document.getElementById("drop");
  const holdsFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
  let inside = 0; // every element on the way tells that it is entered and left
  addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    inside++;
    drop.hidden = false;
  });
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("dragleave", (event) => {
    if (holdsFiles(event) && --inside <= 0) hide();
  });
  addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    hide();
    take(await dropped(event.dataTransfer));
  });
  const hide = () => {
    inside = 0;
    drop.hidden = true;
  };
}

/** @param {HTMLElement} button @param {HTMLInputElement} input @param {(picked: Picked[]) => void} take */
export function takePicked(button, input, take) {
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    take([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
    input.value = ""; // so that the same file can be picked again
  });
}

/** @param {DataTransfer} transfer @returns {Promise<Picked[]>} */
async function dropped(transfer) {
  // All entries at once: they are gone after the first await.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  return (await Promise.all(entries.map(filesIn))).flat();
}

/** @param {FileSystemEntry} entry @returns {Promise<Picked[]>} */
async function filesIn(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
    return file ? [{ file, path: entry.fullPath.replace(/^\//, "") }] : []; // null: it cannot be read
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => []);
    if (!some.length) return found;
    for (const inside of some) found.push(...(await filesIn(inside)));
  }
}
