// Dialogs of the page: they open, ask, show what went wrong, and give the focus back.

/**
 * Open a dialog and do what is asked, until that works or the person gives up.
 * @template T
 * @param {string} id of the <dialog>
 * @param {{name?: string, values?: Record<string, string>}} about what is shown in it
 * @param {(fields: Record<string, string>) => Promise<T>} act throws an Error that is shown
 * @returns {Promise<T | undefined>} undefined when it was closed
 */
export function ask(id, { name = "", values = {} }, act) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById(id));
  const form = dialog.querySelector("form");
  form.reset();
  for (const place of dialog.querySelectorAll("[data-name]")) place.textContent = name;
  for (const [field, value] of Object.entries(values)) form.elements.namedItem(field).value = value;
  complain(form, "");
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
        form.reset(); // no password stays in the page
        resolve(result);
      },
      { once: true },
    );
    dialog.showModal();
  });
}

/**
 * Do what a form is for, once at a time; what goes wrong is shown in it.
 * @param {HTMLFormElement} form @param {(fields: Record<string, string>) => Promise<any>} act
 */
export async function attempt(form, act) {
  if (form.ariaBusy === "true") return undefined;
  form.ariaBusy = "true";
  complain(form, "");
  try {
    return (await act(Object.fromEntries(new FormData(form)))) ?? true;
  } catch (error) {
    complain(form, error.message);
    return undefined;
  } finally {
    form.ariaBusy = "false";
  }
}

function complain(form, message) {
  const place = form.querySelector(".error");
  place.textContent = message;
  place.hidden = !message;
}

/**
 * Select the name without its extension, as people rename.
 * @param {HTMLInputElement} field
 */
export function selectStem(field) {
  const dot = field.value.lastIndexOf(".");
  field.setSelectionRange(0, dot > 0 ? dot : field.value.length);
}
