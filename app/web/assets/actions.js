// The actions of one file, as a menu in the list and as buttons beside the player.

import { READ_ONLY, SIGNED_IN } from "./api.js";
import * as files from "./files.js";
import { say } from "./say.js";

/**
 * What can be done with it: a label, what it does, and whether the list changes by it.
 * @param {files.Thing} thing
 */
export function actionsOf(thing) {
  const file = !files.isFolder(thing);
  const changeable = file && !READ_ONLY;
  return [
    { label: "Open in VLC", act: files.openInPlayer, if: !file || files.isPlayable(thing) },
    { label: "Copy link", act: files.copyLink, if: true },
    { label: "Share…", act: files.share, if: SIGNED_IN },
    { label: "Rename…", act: files.rename, done: "Renamed.", if: changeable },
    { label: "Move…", act: files.move, done: "Moved.", if: changeable },
    { label: "Delete…", act: files.remove, done: "Deleted.", danger: true, if: changeable },
  ].filter((action) => action.if);
}

/**
 * Do it, and tell how that went.
 * @param {ReturnType<typeof actionsOf>[number]} action @param {files.Thing} thing
 * @returns the answer of the server, if the person went through with it
 */
export async function perform(action, thing) {
  try {
    const result = await action.act(thing);
    if (result && action.done) say(action.done);
    return action.done ? result : undefined;
  } catch (error) {
    say(error.message, { error: true });
    return undefined;
  }
}
