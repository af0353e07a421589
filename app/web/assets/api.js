// Requests to this server, and their errors.

const { root, base, account, readOnly } = document.body.dataset;

/** The beginning of absolute addresses, for other programs. */
export const BASE = base;

/** Whether the user is signed in, and files are private. */
export const SIGNED_IN = account !== undefined;

/** Whether the library is read-only. */
export const READ_ONLY = readOnly !== undefined;

// Reloading this page would lose its uploads.
export const LOGGED_OUT = "You are logged out. Log in in another tab, then try again here.";

/** A failed request. `message` is a sentence for the user; `status` is 0 without a response. */
export class Failure extends Error {
  /** @param {string} message @param {number} status @param {string} [detail] the detail of the problem document */
  constructor(message, status, detail = message) {
    super(message);
    this.status = status;
    this.detail = detail;
  }
}

/**
 * Returns a path of this server, below the path of a proxy.
 * @param {string} path @param {Record<string, string>} [query] empty values are omitted
 */
export function at(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value);
  return root + path + (given.length ? `?${new URLSearchParams(given)}` : "");
}

/** Returns the path of the bytes of a file. @param {string} path */
export function fileAt(path) {
  return at(`/files/${path.split("/").map(encodeURIComponent).join("/")}`);
}

/** Returns the Failure for an error response. @param {number} status @param {string} body */
export function failure(status, body) {
  if (status === 0) return new Failure("The server does not respond. Check your connection.", 0);
  const text = detail(body) || `The server responded with status ${status}.`;
  return new Failure(status === 401 ? LOGGED_OUT : text, status, text);
}

function detail(body) {
  try {
    return JSON.parse(body).detail;
  } catch {
    return ""; // from a proxy, for example
  }
}

/**
 * Sends a request; returns its JSON, or the response without a body. Throws Failure.
 * @param {string} method @param {string} url a result of `at`
 * @param {{json?: object, type?: string, headers?: Record<string, string>, signal?: AbortSignal}} [options]
 */
export async function request(method, url, { json, type = "application/json", headers = {}, signal } = {}) {
  const body = json === undefined ? undefined : JSON.stringify(json);
  const sent = { accept: "application/json", ...headers, ...(body ? { "content-type": type } : {}) };
  let response;
  try {
    response = await fetch(url, { method, headers: sent, body, signal });
  } catch {
    throw failure(0, "");
  }
  const text = await response.text();
  if (!response.ok) throw failure(response.status, text);
  return text && method !== "HEAD" ? JSON.parse(text) : response;
}
