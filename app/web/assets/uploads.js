// The queue of uploads: a few at once, each of which can be cancelled and tried again. It shows nothing.

import { failure, fileAt, request } from "./api.js";

const AT_ONCE = 3;
const SPEED_OVER_MS = 5000;
const MOST_NAMES = 50;

/**
 * One upload. `state`: waiting, sending, storing (all is sent, and not yet answered), then stored, taken (there is a
 * file of this name), failed or cancelled.
 * @typedef {{file: File, path: string, state: string, sent: number, speed: number, message: string, mode: string,
 *   xhr?: XMLHttpRequest, samples: [number, number][]}} Upload
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

  /** @param {{file: File, path: string}[]} picked */
  add(picked) {
    for (const { file, path } of picked) {
      const upload = { file, path, sent: 0, speed: 0, message: "", mode: "create", samples: [], state: "waiting" };
      this.all.push(upload);
      this.changed(upload);
    }
    this.#next();
  }

  /** @param {Upload} upload */
  cancel(upload) {
    this.#set(upload, "cancelled");
    upload.xhr?.abort();
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
    Object.assign(upload, { sent: 0, speed: 0, samples: [[performance.now(), 0]] });
    this.#set(upload, "sending");
    try {
      const result = await send(upload, () => this.#sent(upload));
      if (result !== upload.state) this.#set(upload, result);
    } catch (error) {
      if (upload.state !== "cancelled") this.#set(upload, "failed", error.message);
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

/** Send it as its mode says. What became of it, as a state; throws Failure. */
async function send(upload, progress) {
  const { path, mode } = upload;
  if (mode === "replace") {
    const there = await request("HEAD", fileAt(path)).catch((error) => {
      if (error.status !== 404) throw error;
    });
    return put(upload, there ? { "if-match": there.headers.get("etag") } : { "if-none-match": "*" }, progress);
  }
  for (let number = 2; ; number++) {
    const state = await put(upload, { "if-none-match": "*" }, progress);
    if (state !== "taken" || mode !== "keep both" || number > MOST_NAMES) return state;
    upload.path = numbered(path, number);
  }
}

/** One PUT of the bytes as they are. @returns {Promise<string>} */
function put(upload, conditions, progress) {
  return new Promise((resolve, reject) => {
    const xhr = (upload.xhr = new XMLHttpRequest());
    xhr.open("PUT", fileAt(upload.path));
    for (const [name, value] of Object.entries(conditions)) xhr.setRequestHeader(name, value);
    xhr.upload.addEventListener("progress", ({ loaded }) => {
      upload.sent = Math.min(loaded, upload.file.size);
      progress();
    });
    xhr.addEventListener("load", () => {
      if (xhr.status < 300) resolve("stored");
      else if (xhr.status === 412) resolve("taken");
      else reject(failure(xhr.status, xhr.responseText));
    });
    xhr.addEventListener("error", () => reject(new Error("The connection broke off, or the file cannot be read.")));
    xhr.addEventListener("abort", () => resolve("cancelled"));
    xhr.send(upload.file);
  });
}

/** film.mp4 as film (2).mp4. @param {string} path @param {number} number */
export function numbered(path, number) {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const dot = name.lastIndexOf(".");
  const cut = path.length - name.length + (dot > 0 ? dot : name.length);
  return `${path.slice(0, cut)} (${number})${path.slice(cut)}`;
}
