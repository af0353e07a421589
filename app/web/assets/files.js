// The actions on a file or folder.

import { SIGNED_IN, BASE, at, fileAt, request } from "./api.js";
import { copy, show } from "./copying.js";
import { ask, selectStem } from "./dialogs.js";
import { day } from "./format.js";

/**
 * A file of the page, or a folder, which has no etag.
 * @typedef {{key: string, path: string, name: string, folder: string, etag?: string, url: string, type: string}} Entry
 */

/** Returns the entry of an element. @param {HTMLElement} element @returns {Entry} */
export function entryOf(element) {
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

/** Returns whether it is a folder. @param {Entry} entry */
export const isFolder = (entry) => entry.etag === undefined;

/** Returns whether it is audio or video. @param {Entry} entry */
export const isPlayable = (entry) => /^(audio|video)\//i.test(entry.type);

/** @param {Entry} file */
export async function rename(file) {
  const asked = ask("rename", { name: file.name, values: { filename: file.name } }, ({ filename }) =>
    patch(file, { filename }),
  );
  selectStem(document.getElementById("rename-name"));
  return asked;
}

/** @param {Entry} file */
export async function move(file) {
  suggestFolders(file.folder);
  return ask("move", { name: file.name, values: { folder: file.folder } }, ({ folder }) =>
    patch(file, { folder: folder.replace(/^\/+|\/+$/g, "") }),
  );
}

/** @param {Entry} file */
export async function remove(file) {
  return ask("delete", { name: file.name }, async () => {
    await change(file, "DELETE", {});
    return true;
  });
}

/** Creates a signed link and shows it. @param {Entry} entry */
export async function share(entry) {
  const link = await ask("share", { name: entry.name }, ({ expires_in }) => sign(entry, Number(expires_in)));
  if (link) await show(link.url, entry.name, `Expires ${day(link.expires_at)}.`);
}

/** @param {Entry} entry */
export function copyLink(entry) {
  return copy(entry.url, entry.name);
}

/** Opens it in a player of this device, as a playlist. @param {Entry} entry */
export async function openInPlayer(entry) {
  if (isFolder(entry)) {
    save(at("/playlist.m3u", { folder: entry.path, recursive: "true" }));
    return;
  }
  const url = SIGNED_IN ? (await sign(entry, 86400)).url : entry.url;
  const text = `#EXTM3U\n#EXTENC:UTF-8\n#EXTINF:-1,${entry.name}\n${url}\n`;
  const address = URL.createObjectURL(new Blob([text], { type: "audio/x-mpegurl" }));
  save(address, `${entry.name}.m3u`);
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

function save(address, name = "") {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
}

function sign(entry, expires_in) {
  const target = isFolder(entry)
    ? { folder: entry.path, playlist: "m3u", recursive: true }
    : { path: entry.path };
  return request("POST", at("/account/links"), { json: { ...target, expires_in } });
}

function patch(file, names) {
  return change(file, "PATCH", { json: names, type: "application/merge-patch+json" });
}

/** Changes the version that the user saw, and no newer one. */
async function change(file, method, options) {
  try {
    return await request(method, fileAt(file.path), { ...options, headers: { "if-match": `"${file.etag}"` } });
  } catch (error) {
    if (error.status === 412) throw new Error("The file was changed meanwhile. Close this dialog, and try again.");
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
