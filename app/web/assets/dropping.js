// Files that the user drops onto the page or picks, with the contents of folders.

/**
 * @typedef {{file?: File, path: string, reason?: string}} Picked path: below the current folder; reason: why there is
 *   no file
 */

/** @param {(picked: Picked[]) => void} take */
export function takeDropped(take) {
  const drop = document.getElementById("drop");
  const holdsFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
  let inside = 0; // every nested element fires dragenter and dragleave
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
    input.value = ""; // allow the same file to be picked again
  });
}

/** @param {DataTransfer} transfer @returns {Promise<Picked[]>} */
async function dropped(transfer) {
  // Read all entries now: they are gone after the first await.
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const dropped = items.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile()).filter(Boolean);
  const found = dropped.map((one) => (one instanceof File ? [{ file: one, path: one.name }] : filesIn(one)));
  return (await Promise.all(found)).flat();
}

/** @param {FileSystemEntry} entry @returns {Promise<Picked[]>} */
async function filesIn(entry) {
  if (entry.isFile) {
    return new Promise((resolve) => {
      entry.file((file) => resolve([{ file, path: pathOf(entry) }]), (error) => resolve([unreadable(entry, error)]));
    });
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    let some;
    try {
      some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    } catch (error) {
      return [...found, unreadable(entry, error)];
    }
    if (!some.length) return found;
    for (const inside of some) found.push(...(await filesIn(inside)));
  }
}

const pathOf = (entry) => entry.fullPath.replace(/^\//, "");

/** @param {FileSystemEntry} entry @param {DOMException} error @returns {Picked} */
function unreadable(entry, error) {
  const kind = entry.isFile ? "file" : "folder";
  return { path: pathOf(entry), reason: `The browser cannot read this ${kind}: ${error.message || error.name}` };
}
