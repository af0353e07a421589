// The actions of one file, as a menu in the list and as buttons beside the player.

import { READ_ONLY, SIGNED_IN } from "./api.js";
import * as files from "./files.js";
import { announce } from "./status.js";

/**
 * Returns the actions of an entry: label, function, and a message if it changes the list.
 * @param {files.Entry} entry
 */
export function actionsOf(entry) {
  const file = !files.isFolder(entry);
  const changeable = file && !READ_ONLY;
  return [
    { label: "Open in VLC", act: files.openInPlayer, if: !file || files.isPlayable(entry) },
    { label: "Copy link", act: files.copyLink, if: true },
    { label: "Share…", act: files.share, if: SIGNED_IN },
    { label: "Rename…", act: files.rename, done: "Renamed.", if: changeable },
    { label: "Move…", act: files.move, done: "Moved.", if: changeable },
    { label: "Delete…", act: files.remove, done: "Deleted.", danger: true, if: changeable },
  ].filter((action) => action.if);
}

/**
 * Runs an action and announces the outcome.
 * @param {ReturnType<typeof actionsOf>[number]} action @param {files.Entry} entry
 * @returns the response of an action that changed something; undefined if the user cancelled it
 */
export async function perform(action, entry) {
  try {
    const result = await action.act(entry);
    if (result && action.done) announce(action.done);
    return action.done ? result : undefined;
  } catch (error) {
    announce(error.message, { error: true });
    return undefined;
  }
}
