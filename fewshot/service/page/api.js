/** Calls of the REST interface, with readable errors. */

const TOKEN = "fewshot token";
const BATCH_SIZE = 8; // images of a request, so that its response comes soon
const BATCH_BYTES = 8 * 2 ** 20; // of a request of more than one image
const CONCURRENT = 2; // requests: one is sent while another is computed
const MAX_ATTEMPTS = 6; // while the server is overloaded

/** An error with a readable message; `status` is that of HTTP, 0 where there was no response. */
export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.name = "Problem";
    this.status = status;
  }
}

/** Asks the person for the token: set by the page, resolves when `storeToken` was called or the dialog was cancelled. */
export const hooks = { askToken: async () => {} };
let tokenDialog = null;

export const token = () => sessionStorage.getItem(TOKEN);
export const storeToken = (value) => sessionStorage.setItem(TOKEN, value);

/** The URL of a path given in parts, each of which is encoded. */
export function address(parts, query = {}) {
  const url = new URL(["v1", ...parts].map((part) => encodeURIComponent(part)).join("/"), document.baseURI);
  url.hash = "";
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  return url;
}

/** Send a request and return the JSON of its response; `form` or `json` is the body. */
export async function call(method, parts, options = {}) {
  const response = await respond(method, parts, options);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/** Send a request and return its response; throws Problem for an error status. */
export async function respond(method, parts, { query, json, form } = {}) {
  const url = address(parts, query);
  for (let attempt = 1; ; attempt += 1) {
    const used = token();
    const headers = used ? { Authorization: `Bearer ${used}` } : {};
    if (json !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(url, { method, headers, body: form ?? (json && JSON.stringify(json)) });
    } catch {
      throw new Problem(0, "The server does not respond. Is it still running?");
    }
    if (response.ok) return response;
    if (response.status === 401 && (await tokenRenewed(used))) continue;
    const wait = response.status === 503 ? Number(response.headers.get("Retry-After")) : 0;
    if (wait > 0 && attempt < MAX_ATTEMPTS) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(wait, 30)));
      continue;
    }
    throw await problemOf(response);
  }
}

async function tokenRenewed(used) {
  if (token() !== used) return true; // another request has asked for it meanwhile
  tokenDialog ??= hooks.askToken(used !== null).finally(() => (tokenDialog = null));
  await tokenDialog;
  return token() !== used;
}

async function problemOf(response) {
  let body = {};
  try {
    body = (await response.json()) ?? {};
  } catch {
    // not from the service: a proxy's page, perhaps
  }
  const detail = typeof body.detail === "string" ? body.detail : body.title;
  return new Problem(response.status, detail || `The server responded ${response.status} ${response.statusText}`.trim());
}

/** A form of images, each with the name that it is reported by. */
export function formOf(files, nameOf, fields = {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.set(name, value);
  for (const file of files) form.append("images", file, nameOf(file));
  return form;
}

/** The files at the start of a list that fit into one request. */
export function firstBatch(files, sizeOf = (file) => file.size) {
  let bytes = 0;
  let count = 0;
  while (count < Math.min(files.length, BATCH_SIZE)) {
    bytes += sizeOf(files[count]);
    if (count && bytes > BATCH_BYTES) break;
    count += 1;
  }
  return files.slice(0, count);
}

/**
 * Send files in batches, a few at once. `send(batch)` makes the request, `onResponse(batch, response)` is called for each,
 * `onRejected(file, reason)` for each file that cannot be sent. After an error, or when `signal` is aborted, no more is
 * sent; requests in progress are waited for, and the first error is thrown.
 */
export async function inBatches(files, { send, onResponse, onRejected, signal }) {
  const left = [...files];
  let failure = null;
  const worker = async () => {
    while (left.length && !failure) {
      try {
        signal?.throwIfAborted();
        await sendBatch(left.splice(0, firstBatch(left).length), { send, onResponse, onRejected });
      } catch (error) {
        failure ??= error;
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT }, worker));
  if (failure) throw failure;
}

/** Send one batch: in halves where it is too large for the server, without missing files where it fails. */
export async function sendBatch(batch, { send, onResponse, onRejected }) {
  if (!batch.length) return;
  let response;
  try {
    response = await send(batch);
  } catch (error) {
    if (error.status === 413 && batch.length === 1) {
      onRejected(batch[0], error.message);
      return;
    }
    const parts = error.status === 413 ? halves(batch) : error.status === 0 ? await withoutMissing(batch, onRejected) : null;
    if (parts === null) throw error;
    for (const part of parts) await sendBatch(part, { send, onResponse, onRejected });
    return;
  }
  onResponse(batch, response);
}

function halves(batch) {
  const middle = batch.length >> 1;
  return [batch.slice(0, middle), batch.slice(middle)];
}

/** In a browser a file that was moved since it was chosen looks like a server that does not respond. */
async function withoutMissing(batch, onRejected) {
  const there = [];
  for (const file of batch) {
    try {
      await file.slice(0, 1).arrayBuffer();
      there.push(file);
    } catch {
      onRejected(file, "it was moved or changed since it was chosen; choose it again");
    }
  }
  return there.length < batch.length ? [there] : null;
}
