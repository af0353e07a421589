// The queue of uploads: a few at once, each of which can be cancelled and tried again. It shows nothing.

import { failure, fileAt, request } from "./api.js";

const AT_ONCE = 3;
const SPEED_OVER_MS = 5000;
const MOST_NAMES = 50;

/**
 * One upload. `state`: waiting, sending, storing (all is sent, and not yet answered), then stored, taken (there is a
 * file of this name), failed or cancelled. Without a file it failed before it began.
 * @typedef {{file?: File, path: string, state: string, sent: number, speed: number, message: string, mode: string,
 *   ending: AbortController, samples: [number, number][]}} Upload
 */

export class Uploads {
  /** @param {(upload: Upload) => void} changed told after every step of one */
  constructor(changed) {
    /** @type {Upload[]} */
    this.all = [];
    this.changed = changed;
  }

  /** Whether leaving the page would lose something. */
  get busy() {
    return this.all.some(({ state }) => ["waiting", "sending", "storing"].includes(state));
  }

  /** @param {import("./dropping.js").Picked[]} picked */
  add(picked) {
    for (const { file, path, reason = "" } of picked) {
      const ending = new AbortController();
      const upload = { file, path, sent: 0, speed: 0, message: reason, mode: "create", samples: [], ending };
      upload.state = file ? "waiting" : "failed";
      this.all.push(upload);
      this.changed(upload);
    }
    this.#next();
  }

  /** @param {Upload} upload */
  cancel(upload) {
    this.#set(upload, "cancelled");
    upload.ending.abort();
    this.#next();
  }

  /**
   * Once more, from the beginning.
   * @param {Upload} upload @param {"create" | "replace" | "keep both"} mode what to do if the name is taken
   */
  retry(upload, mode = upload.mode) {
    upload.mode = mode;
    this.#set(upload, "waiting");
    this.#next();
  }

  /** Forget one that is not under way. @param {Upload} upload */
  forget(upload) {
    this.all = this.all.filter((other) => other !== upload);
  }

  #next() {
    const under = this.all.filter(({ state }) => state === "sending" || state === "storing").length;
    for (const upload of this.all.filter(({ state }) => state === "waiting").slice(0, AT_ONCE - under)) {
      this.#run(upload);
    }
  }

  async #run(upload) {
    const ending = new AbortController(); // of this attempt: after a cancel, another may be under way
    Object.assign(upload, { sent: 0, speed: 0, samples: [[performance.now(), 0]], ending });
    this.#set(upload, "sending");
    try {
      const result = await send(upload, ending.signal, () => this.#sent(upload));
      if (!ending.signal.aborted) this.#set(upload, result);
    } catch (error) {
      if (!ending.signal.aborted) this.#set(upload, "failed", error.message);
    }
    this.#next();
  }

  #sent(upload) {
    const { samples, sent, file, state } = upload;
    const now = performance.now();
    samples.push([now, sent]);
    while (samples.length > 2 && samples[0][0] < now - SPEED_OVER_MS) samples.shift();
    const [then, before] = samples[0];
    upload.speed = now > then ? ((sent - before) * 1000) / (now - then) : 0;
    this.#set(upload, sent >= file.size && state === "sending" ? "storing" : state);
  }

  #set(upload, state, message = "") {
    upload.state = state;
    upload.message = message;
    this.changed(upload);
  }
}

/** Send it as its mode says. What became of it, as a state; throws Failure, or an error when the signal ended it. */
async function send(upload, signal, progress) {
  const { path, mode } = upload;
  if (mode === "replace") {
    const there = await request("HEAD", fileAt(path), { signal }).catch((error) => {
      if (error.status !== 404) throw error;
    });
    const conditions = there ? { "if-match": there.headers.get("etag") } : { "if-none-match": "*" };
    return put(upload, conditions, signal, progress);
  }
  for (let number = 2; ; number++) {
    const state = await put(upload, { "if-none-match": "*" }, signal, progress);
    if (state !== "taken" || mode !== "keep both" || number > MOST_NAMES) return state;
    upload.path = numbered(path, number);
  }
}

/** One PUT of the bytes as they are. @returns {Promise<string>} */
function put(upload, conditions, signal, progress) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const xhr = new XMLHttpRequest();
    xhr.open("PUT", fileAt(upload.path));
    for (const [name, value] of Object.entries(conditions)) xhr.setRequestHeader(name, value);
    xhr.upload.addEventListener("progress", ({ loaded }) => {
      if (signal.aborted) return;
      upload.sent = Math.min(loaded, upload.file.size);
      progress();
    });
    xhr.addEventListener("load", () => {
      if (xhr.status < 300) resolve("stored");
      else if (xhr.status === 412) resolve("taken");
      else reject(failure(xhr.status, xhr.responseText));
    });
    xhr.addEventListener("error", () => broken(upload.file).then(reject));
    xhr.addEventListener("abort", () => reject(signal.reason));
    signal.addEventListener("abort", () => xhr.abort());
    xhr.send(upload.file);
  });
}

/** Why it could not be sent to its end. @param {File} file @returns {Promise<Error>} */
async function broken(file) {
  try {
    await (file.size ? file.slice(0, 1) : file).arrayBuffer(); // one that is gone may have the size 0
    return new Error("The connection broke off, or the file cannot be read.");
  } catch (error) {
    return new Error(`The browser cannot read this file: ${error.message}`);
  }
}

/** film.mp4 as film (2).mp4. @param {string} path @param {number} number */
export function numbered(path, number) {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const dot = name.lastIndexOf(".");
  const cut = path.length - name.length + (dot > 0 ? dot : name.length);
  return `${path.slice(0, cut)} (${number})${path.slice(cut)}`;
}
