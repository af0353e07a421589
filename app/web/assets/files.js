// What can be done with one file or folder. Each takes what the page says of it.

import { SIGNED_IN, BASE, at, fileAt, request } from "./api.js";
import { copy, show } from "./copying.js";
import { ask, selectStem } from "./dialogs.js";
import { day } from "./format.js";

/**
 * A file of the page, or a folder of it, which has no etag.
 * @typedef {{key: string, path: string, name: string, folder: string, etag?: string, url: string, type: string}} Thing
 */

/** What an element of the page is about. @param {HTMLElement} element @returns {Thing} */
export function thingOf(element) {
  const { key, path, folder, etag, url, type } = element.dataset;
  const whole = path ?? folder;
  const cut = whole.lastIndexOf("/");
  return {
    key,
    path: whole,
    name: whole.slice(cut + 1),
    folder: cut < 0 ? "" : whole.slice(0, cut),
    etag,
    url: url ?? BASE + at("/", { folder }).slice(at("").length),
    type: type ?? "",
  };
}

/** Whether it is a folder. @param {Thing} thing */
export const isFolder = (thing) => thing.etag === undefined;

/** Whether a player plays it. @param {Thing} thing */
export const isPlayable = (thing) => /^(audio|video)\//i.test(thing.type);

/** @param {Thing} file */
export async function rename(file) {
  const asked = ask("rename", { name: file.name, values: { filename: file.name } }, ({ filename }) =>
    patch(file, { filename }),
  );
  selectStem(document.getElementById("rename-name"));
  return asked;
}

/** @param {Thing} file */
export async function move(file) {
  suggestFolders(file.folder);
  return ask("move", { name: file.name, values: { folder: file.folder } }, ({ folder }) =>
    patch(file, { folder: folder.replace(/^\/+|\/+$/g, "") }),
  );
}

/** @param {Thing} file */
export async function remove(file) {
  return ask("delete", { name: file.name }, async () => {
    await change(file, "DELETE", {});
    return true;
  });
}

/** Make a signed link, and show it. @param {Thing} thing */
export async function share(thing) {
  const link = await ask("share", { name: thing.name }, ({ expires_in }) => sign(thing, Number(expires_in)));
  if (link) await show(link.url, thing.name, `Until ${day(link.expires_at)}.`);
}

/** @param {Thing} thing */
export function copyLink(thing) {
  return copy(thing.url, thing.name);
}

/** Hand it to a player of this device, as a playlist. @param {Thing} thing */
export async function openInPlayer(thing) {
  if (isFolder(thing)) {
    save(at("/playlist.m3u", { folder: thing.path, recursive: "true" }));
    return;
  }
  const url = SIGNED_IN ? (await sign(thing, 86400)).url : thing.url;
  const text = `#EXTM3U\n#EXTENC:UTF-8\n#EXTINF:-1,${thing.name}\n${url}\n`;
  const address = URL.createObjectURL(new Blob([text], { type: "audio/x-mpegurl" }));
  save(address, `${thing.name}.m3u`);
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

function save(address, name = "") {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
}

function sign(thing, expires_in) {
  const what = isFolder(thing)
    ? { folder: thing.path, playlist: "m3u", recursive: true }
    : { path: thing.path };
  return request("POST", at("/account/links"), { json: { ...what, expires_in } });
}

function patch(file, names) {
  return change(file, "PATCH", { json: names, type: "application/merge-patch+json" });
}

/** Only the version that the person saw: a newer one is not touched. */
async function change(file, method, options) {
  try {
    return await request(method, fileAt(file.path), { ...options, headers: { "if-match": `"${file.etag}"` } });
  } catch (error) {
    if (error.status === 412) throw new Error("The file changed meanwhile. Close this, look again, and retry.");
    throw error;
  }
}

async function suggestFolders(folder) {
  const known = new Set();
  const options = document.getElementById("folders");
  options.replaceChildren();
  for (const parent of new Set(["", folder])) {
    const found = await request("GET", at("/files", { folder: parent, limit: "1" })).catch(() => ({ folders: [] }));
    for (const name of found.folders) known.add(parent ? `${parent}/${name}` : name);
  }
  options.replaceChildren(...[...known].slice(0, 100).map((path) => new Option("", path)));
}
