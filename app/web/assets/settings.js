// The settings page: usage, password, tokens, links, invites, and deletion of the account.

import "./scripted.js";
import { at, request } from "./api.js";
import { copyFrom } from "./copying.js";
import { ask, attempt } from "./dialogs.js";
import { day, size } from "./format.js";
import { announce } from "./status.js";

const byId = (id) => document.getElementById(id);

/**
 * Returns a function that shows a list of revocable items.
 * @param {string} name the id of the element
 * @param {string} path of the JSON routes
 * @param {(item: any) => [string, string]} describe title and note of an item
 */
function itemList(name, path, describe) {
  const list = byId(name);
  const show = async () => {
    const { items } = await request("GET", at(path));
    list.replaceChildren(...items.map(row));
    if (!items.length) list.append(Object.assign(document.createElement("li"), { textContent: "None." }));
  };
  const row = (item) => {
    const [name, details] = describe(item);
    const [element, title, note, button] = ["li", "bdi", "span", "button"].map((tag) => document.createElement(tag));
    Object.assign(title, { textContent: name });
    Object.assign(note, { textContent: details, className: "quiet" });
    Object.assign(button, { type: "button", textContent: "Revoke", ariaLabel: `Revoke ${name}` });
    button.addEventListener("click", () => reportingErrors(() => revoke(item)));
    element.append(title, note, button);
    return element;
  };
  const revoke = async (item) => {
    await request("DELETE", at(`${path}/${item.id}`));
    await show();
    announce("Revoked.");
    (list.querySelector("button") ?? list.parentElement.querySelector("h2")).focus();
  };
  return show;
}

/** Announces errors outside of forms. */
async function reportingErrors(act) {
  try {
    await act();
  } catch (error) {
    announce(error.message, { error: true });
  }
}

/** Sends a request with the password: a 401 is then a wrong password, not the end of the session. */
async function withPassword(path, json) {
  try {
    await request("POST", at(path), { json });
  } catch (error) {
    throw new Error(error.detail);
  }
  return true;
}

/** @param {string} id of a form @param {(fields: any, form: HTMLFormElement) => Promise<void>} act */
function onSubmit(id, act) {
  const form = /** @type {HTMLFormElement} */ (byId(id));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await attempt(form, (fields) => act(fields, form))) form.reset();
  });
}

/** Shows a secret once. @param {string} name @param {string} value */
function showOnce(name, value) {
  const place = byId(`new-${name}`);
  const field = /** @type {HTMLInputElement} */ (byId(`${name}-value`));
  place.hidden = false;
  field.value = value;
  field.focus();
  field.select();
  place.querySelector("button").onclick = () => reportingErrors(() => copyFrom(field).then(() => announce("Copied.")));
}

const showTokens = itemList("tokens", "/account/tokens", ({ name, scopes, created_at }) => [
  name,
  `${scopes.join(", ")} · created ${day(created_at)}`,
]);
const showLinks = itemList("links", "/account/links", (link) => [
  link.path || "All files",
  [
    link.is_playlist ? (link.recursive ? "playlist, with the folders inside" : "playlist") : "file",
    ...(link.automatic ? ["created for a player"] : []),
    `expires ${day(link.expires_at)}`,
  ].join(" · "),
]);
const showInvites = itemList("invites", "/invites", ({ created_at, expires_at }) => [
  `Created ${day(created_at)}`,
  `expires ${day(expires_at)}`,
]);

async function showAccount() {
  const { is_admin, quota, used } = await request("GET", at("/account"));
  byId("used").textContent = quota === null ? `${size(used)} used` : `${size(used)} of ${size(quota)} used`;
  byId("meter").hidden = quota === null;
  byId("meter").value = quota ? used / quota : 1;
  byId("is-admin").hidden = byId("for-admin").hidden = !is_admin;
  if (is_admin) await showInvites();
}

onSubmit("change-password", async ({ password, new_password }) => {
  await withPassword("/account/password", { password, new_password });
  announce("Password changed.");
});

onSubmit("make-token", async ({ name }, form) => {
  const scopes = new FormData(form).getAll("scopes");
  if (!scopes.length) throw new Error("Choose at least one permission.");
  const { token } = await request("POST", at("/account/tokens"), { json: { name, scopes } });
  await showTokens();
  showOnce("token", token);
});

onSubmit("make-invite", async ({ expires_in }) => {
  const { url } = await request("POST", at("/invites"), { json: { expires_in: Number(expires_in) } });
  await showInvites();
  showOnce("invite", url);
});

byId("leave")?.addEventListener("click", async () => {
  let deleted;
  await reportingErrors(async () => {
    const { files, size: bytes, can_keep_files } = await request("GET", at("/account/delete"));
    const count = files === 1 ? "1 file" : `${files.toLocaleString()} files`;
    const keeping = can_keep_files ? "unless you keep them." : "unless an administrator keeps them for you.";
    byId("delete-what").textContent =
      `You have ${count} (${size(bytes)}). All will be deleted for good, ` +
      `including files that you copied into the folder, ${keeping}`;
    byId("keep-files").hidden = !can_keep_files;
    deleted = await ask("delete-account", {}, ({ email, password, keep_files }) =>
      withPassword("/account/delete", { email, password, keep_files: keep_files !== undefined }),
    );
  });
  if (deleted) location.replace(at("/login"));
});

for (const show of [showAccount, showTokens, showLinks]) reportingErrors(show);
