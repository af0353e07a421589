// Opens the dialogs of the page, and shows errors in them.

/**
 * Opens a dialog, and runs `act` on each submit until it succeeds or the user closes the dialog.
 * @template T
 * @param {string} id of the <dialog>
 * @param {{name?: string, values?: Record<string, string>}} about the name and values to show
 * @param {(fields: Record<string, string>) => Promise<T>} act may throw an Error, which is shown
 * @returns {Promise<T | undefined>} undefined if the user closed it
 */
export function ask(id, { name = "", values = {} }, act) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById(id));
  const form = dialog.querySelector("form");
  form.reset();
  for (const place of dialog.querySelectorAll("[data-name]")) place.textContent = name;
  for (const [field, value] of Object.entries(values)) form.elements.namedItem(field).value = value;
  showError(form, "");
  return new Promise((resolve) => {
    let result;
    const submit = async (event) => {
      event.preventDefault();
      result = await attempt(form, act);
      if (result !== undefined) dialog.close();
    };
    const close = () => dialog.close();
    const closing = dialog.querySelector("[data-close]");
    form.addEventListener("submit", submit);
    closing.addEventListener("click", close);
    dialog.addEventListener(
      "close",
      () => {
        form.removeEventListener("submit", submit);
        closing.removeEventListener("click", close);
        form.reset(); // no password may stay in the page
        resolve(result);
      },
      { once: true },
    );
    dialog.showModal();
  });
}

/**
 * Runs `act` unless it is running, and shows its error in the form.
 * @param {HTMLFormElement} form @param {(fields: Record<string, string>) => Promise<any>} act
 */
export async function attempt(form, act) {
  if (form.ariaBusy === "true") return undefined;
  form.ariaBusy = "true";
  showError(form, "");
  try {
    return (await act(Object.fromEntries(new FormData(form)))) ?? true;
  } catch (error) {
    showError(form, error.message);
    return undefined;
  } finally {
    form.ariaBusy = "false";
  }
}

function showError(form, message) {
  const place = form.querySelector(".error");
  place.textContent = message;
  place.hidden = !message;
}

/**
 * Selects the name without its extension.
 * @param {HTMLInputElement} field
 */
export function selectStem(field) {
  const dot = field.value.lastIndexOf(".");
  field.setSelectionRange(0, dot > 0 ? dot : field.value.length);
}
