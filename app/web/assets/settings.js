// What an account has: usage, password, tokens, links, invites, and leaving.

import "./scripted.js";
import { at, request } from "./api.js";
import { copyFrom } from "./copying.js";
import { ask, attempt } from "./dialogs.js";
import { day, size } from "./format.js";
import { say } from "./say.js";

const byId = (id) => document.getElementById(id);

/**
 * A list of things of the account, each of which can be revoked.
 * @param {string} name of the element, and the last part of `path`
 * @param {string} path where they are
 * @param {(thing: any) => [string, string]} describe what it is, and what else is known of it
 */
function things(name, path, describe) {
  const list = byId(name);
  const show = async () => {
    const { items } = await request("GET", at(path));
    list.replaceChildren(...items.map(row));
    if (!items.length) list.append(Object.assign(document.createElement("li"), { textContent: "None." }));
  };
  const row = (thing) => {
    const [what, more] = describe(thing);
    const [item, title, note, button] = ["li", "bdi", "span", "button"].map((tag) => document.createElement(tag));
    Object.assign(title, { textContent: what });
    Object.assign(note, { textContent: more, className: "quiet" });
    Object.assign(button, { type: "button", textContent: "Revoke", ariaLabel: `Revoke ${what}` });
    button.addEventListener("click", () => told(() => revoke(thing)));
    item.append(title, note, button);
    return item;
  };
  const revoke = async (thing) => {
    await request("DELETE", at(`${path}/${thing.id}`));
    await show();
    say("Revoked.");
    (list.querySelector("button") ?? list.parentElement.querySelector("h2")).focus();
  };
  return show;
}

/** What goes wrong outside of forms is told at the foot of the page. */
async function told(act) {
  try {
    await act();
  } catch (error) {
    say(error.message, { error: true });
  }
}

/** A request that holds the password: that it is refused does not say that the session is over. */
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

/** Something that is shown once. @param {string} name @param {string} value */
function showOnce(name, value) {
  const place = byId(`new-${name}`);
  const field = /** @type {HTMLInputElement} */ (byId(`${name}-value`));
  place.hidden = false;
  field.value = value;
  field.focus();
  field.select();
  place.querySelector("button").onclick = () => told(() => copyFrom(field).then(() => say("Copied.")));
}

const showTokens = things("tokens", "/account/tokens", ({ name, scopes, created_at }) => [
  name,
  `${scopes.join(", ")} · made ${day(created_at)}`,
]);
const showLinks = things("links", "/account/links", (link) => [
  link.path || "All files",
  [
    link.is_playlist ? (link.recursive ? "playlist, with the folders inside" : "playlist") : "file",
    ...(link.automatic ? ["made for a player"] : []),
    `until ${day(link.expires_at)}`,
  ].join(" · "),
]);
const showInvites = things("invites", "/invites", ({ created_at, expires_at }) => [
  `Made ${day(created_at)}`,
  `until ${day(expires_at)}`,
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
  say("The password is changed.");
});

onSubmit("make-token", async ({ name }, form) => {
  const scopes = new FormData(form).getAll("scopes");
  if (!scopes.length) throw new Error("Choose what it may do.");
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
  let gone;
  await told(async () => {
    const { files, size: bytes, can_keep_files } = await request("GET", at("/account/delete"));
    const count = files === 1 ? "1 file" : `${files.toLocaleString()} files`;
    const unless = can_keep_files ? ", unless you keep them." : ". An administrator can keep them for you.";
    byId("delete-what").textContent =
      `You have ${count} (${size(bytes)}). All are deleted for good, those too that were put there by hand${unless}`;
    byId("keep-files").hidden = !can_keep_files;
    gone = await ask("delete-account", {}, ({ email, password, keep_files }) =>
      withPassword("/account/delete", { email, password, keep_files: keep_files !== undefined }),
    );
  });
  if (gone) location.replace(at("/login"));
});

for (const show of [showAccount, showTokens, showLinks]) told(show);
