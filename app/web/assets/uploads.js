// The queue of uploads, without its display: a few at once; each can be cancelled and retried.

import { failure, fileAt, request } from "./api.js";

const MAX_CONCURRENT = 3;
const SPEED_OVER_MS = 5000;
const MAX_NAMES = 50;

/**
 * One upload. `state`: waiting, sending, storing (sent, without a response), then stored, taken (the name exists),
 * failed or cancelled. An upload without a file failed before it began.
 * @typedef {{file?: File, path: string, state: string, sent: number, speed: number, message: string, mode: string,
 *   ending: AbortController, samples: [number, number][]}} Upload
 */

export class Uploads {
  /** @param {(upload: Upload) => void} changed called after every change of one */
  constructor(changed) {
    /** @type {Upload[]} */
    this.all = [];
    this.changed = changed;
  }

  /** Whether leaving the page would lose an upload. */
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
   * Starts again from the beginning.
   * @param {Upload} upload @param {"create" | "replace" | "keep both"} mode for a name that exists
   */
  retry(upload, mode = upload.mode) {
    upload.mode = mode;
    this.#set(upload, "waiting");
    this.#next();
  }

  /** Removes one that is not running. @param {Upload} upload */
  forget(upload) {
    this.all = this.all.filter((other) => other !== upload);
  }

  #next() {
    const running = this.all.filter(({ state }) => state === "sending" || state === "storing").length;
    for (const upload of this.all.filter(({ state }) => state === "waiting").slice(0, MAX_CONCURRENT - running)) {
      this.#run(upload);
    }
  }

  async #run(upload) {
    const ending = new AbortController(); // of this attempt: after a cancel, another may be running
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

/** Sends an upload in its mode; returns its new state. Throws Failure, or the reason of the signal. */
async function send(upload, signal, progress) {
  const { path, mode } = upload;
  if (mode === "replace") {
    const stored = await request("HEAD", fileAt(path), { signal }).catch((error) => {
      if (error.status !== 404) throw error;
    });
    const conditions = stored ? { "if-match": stored.headers.get("etag") } : { "if-none-match": "*" };
    return put(upload, conditions, signal, progress);
  }
  for (let number = 2; ; number++) {
    const state = await put(upload, { "if-none-match": "*" }, signal, progress);
    if (state !== "taken" || mode !== "keep both" || number > MAX_NAMES) return state;
    upload.path = numbered(path, number);
  }
}

/** Sends one PUT. @returns {Promise<string>} */
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
    xhr.addEventListener("error", () => errorOf(upload.file).then(reject));
    xhr.addEventListener("abort", () => reject(signal.reason));
    signal.addEventListener("abort", () => xhr.abort());
    xhr.send(upload.file);
  });
}

/** Returns the reason of an incomplete upload. @param {File} file @returns {Promise<Error>} */
async function errorOf(file) {
  try {
    await (file.size ? file.slice(0, 1) : file).arrayBuffer(); // a deleted file may have the size 0
    return new Error("The connection was lost, or the file cannot be read. Try again.");
  } catch (error) {
    return new Error(`The browser cannot read this file: ${error.message}`);
  }
}

/** Returns film (2).mp4 for film.mp4. @param {string} path @param {number} number */
export function numbered(path, number) {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const dot = name.lastIndexOf(".");
  const cut = path.length - name.length + (dot > 0 ? dot : name.length);
  return `${path.slice(0, cut)} (${number})${path.slice(cut)}`;
}
