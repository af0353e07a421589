// Requests to this server. Everything else asks through here, so that errors are told in one way.

const { root, base, account, readOnly } = document.body.dataset;

/** What absolute addresses begin with, for other programs. */
export const BASE = base;

/** Whether somebody is signed in, so that files are private. */
export const SIGNED_IN = account !== undefined;

/** Whether no file of this library can be changed. */
export const READ_ONLY = readOnly !== undefined;

// Not to load this page again: the uploads in it would be lost.
export const LOGGED_OUT = "You are logged out. Log in in another tab, then try again here.";

/** An answer that is no success. `message` is a sentence for the person; `status` is 0 without an answer. */
export class Failure extends Error {
  /** @param {string} message @param {number} status @param {string} [detail] what the server said itself */
  constructor(message, status, detail = message) {
    super(message);
    this.status = status;
    this.detail = detail;
  }
}

/**
 * A path of this server, below whatever path a proxy put it.
 * @param {string} path @param {Record<string, string>} [query] what of it is empty is left out
 */
export function at(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value);
  return root + path + (given.length ? `?${new URLSearchParams(given)}` : "");
}

/** Where the bytes of a file are. @param {string} path */
export function fileAt(path) {
  return at(`/files/${path.split("/").map(encodeURIComponent).join("/")}`);
}

/** What an error answer says. @param {number} status @param {string} body */
export function failure(status, body) {
  if (status === 0) return new Failure("The server cannot be reached.", 0);
  const told = detail(body) || `The server answered ${status}.`;
  return new Failure(status === 401 ? LOGGED_OUT : told, status, told);
}

function detail(body) {
  try {
    return JSON.parse(body).detail;
  } catch {
    return ""; // of a proxy, say
  }
}

/**
 * One request; its JSON, if there is any. Throws Failure.
 * @param {string} method @param {string} url as `at` gives it
 * @param {{json?: object, type?: string, headers?: Record<string, string>, signal?: AbortSignal}} [options]
 */
export async function request(method, url, { json, type = "application/json", headers = {}, signal } = {}) {
  const body = json === undefined ? undefined : JSON.stringify(json);
  const sent = { accept: "application/json", ...headers, ...(body ? { "content-type": type } : {}) };
  let answer;
  try {
    answer = await fetch(url, { method, headers: sent, body, signal });
  } catch {
    throw failure(0, "");
  }
  const text = await answer.text();
  if (!answer.ok) throw failure(answer.status, text);
  return text && method !== "HEAD" ? JSON.parse(text) : answer;
}
