/** The REST service: one way to ask, and words for what went wrong. */

const TOKEN = "fewshot token";
const BATCH = 8; // pictures a request, so that an answer comes soon,
const BATCH_BYTES = 8 * 2 ** 20; // and no more than these unless one picture has them alone
const AT_ONCE = 2; // requests: one is on its way while another is worked on
const PATIENCE = 6; // times a request is made while the server says that it is full

/** What went wrong, in words; `status` is HTTP's, 0 where there was no answer. */
export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.name = "Problem";
    this.status = status;
  }
}

/** How to ask for the token: set by the page, resolves when `keepToken` was called or the person gave up. */
export const hooks = { askToken: async () => {} };
let asking = null;

export const token = () => sessionStorage.getItem(TOKEN);
export const keepToken = (value) => sessionStorage.setItem(TOKEN, value);

/** The address of a path given in parts; what a name holds stays one part of it. */
export function address(parts, query = {}) {
  const url = new URL(["v1", ...parts].map((part) => encodeURIComponent(part)).join("/"), document.baseURI);
  url.hash = "";
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  return url;
}

/** Ask the service and return its answer's JSON; `form` or `json` is the body. */
export async function call(method, parts, options = {}) {
  const response = await respond(method, parts, options);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/** Ask the service and return its response; throws Problem for any answer that is not good. */
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
      throw new Problem(0, "The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    if (response.status === 401 && (await renewed(used))) continue;
    const wait = response.status === 503 ? Number(response.headers.get("Retry-After")) : 0;
    if (wait > 0 && attempt < PATIENCE) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(wait, 30)));
      continue;
    }
    throw await problemOf(response);
  }
}

async function renewed(used) {
  if (token() !== used) return true; // another request was told before this one
  asking ??= hooks.askToken(used !== null).finally(() => (asking = null));
  await asking;
  return token() !== used;
}

async function problemOf(response) {
  let said = {};
  try {
    said = (await response.json()) ?? {};
  } catch {
    // not the service's own words: a proxy's page, perhaps
  }
  const detail = typeof said.detail === "string" ? said.detail : said.title;
  return new Problem(response.status, detail || `The server answered ${response.status} ${response.statusText}`.trim());
}

/** A form of pictures, each under the name it is to be reported by. */
export function formOf(files, nameOf, fields = {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.set(name, value);
  for (const file of files) form.append("images", file, nameOf(file));
  return form;
}

/** The longest start of a list that makes one request. */
export function firstBatch(files, sizeOf = (file) => file.size) {
  let bytes = 0;
  let count = 0;
  while (count < Math.min(files.length, BATCH)) {
    bytes += sizeOf(files[count]);
    if (count && bytes > BATCH_BYTES) break;
    count += 1;
  }
  return files.slice(0, count);
}

/**
 * Send files in batches, a few at once. `send(batch)` makes the request; `took(batch, answer)` is told of each answer,
 * `refused(file, reason)` of each file that cannot be sent at all. After an error, or when `signal` is aborted, no more
 * is sent; what is on its way is waited for, and the first error thrown: what was not taken or refused is still to do.
 */
export async function inBatches(files, { send, took, refused, signal }) {
  const left = [...files];
  let failure = null;
  const worker = async () => {
    while (left.length && !failure) {
      try {
        signal?.throwIfAborted();
        await sendBatch(left.splice(0, firstBatch(left).length), { send, took, refused });
      } catch (error) {
        failure ??= error;
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  if (failure) throw failure;
}

/** Send one batch; in halves where it is too much for the server, without files that are gone where it fails. */
export async function sendBatch(batch, { send, took, refused }) {
  if (!batch.length) return;
  let answer;
  try {
    answer = await send(batch);
  } catch (error) {
    if (error.status === 413 && batch.length === 1) {
      refused(batch[0], error.message);
      return;
    }
    const parts = error.status === 413 ? halves(batch) : error.status === 0 ? await withoutGone(batch, refused) : null;
    if (parts === null) throw error;
    for (const part of parts) await sendBatch(part, { send, took, refused });
    return;
  }
  took(batch, answer);
}

function halves(batch) {
  const middle = batch.length >> 1;
  return [batch.slice(0, middle), batch.slice(middle)];
}

/** To a browser a file that was moved since it was chosen looks like a server that does not answer. */
async function withoutGone(batch, refused) {
  const there = [];
  for (const file of batch) {
    try {
      await file.slice(0, 1).arrayBuffer();
      there.push(file);
    } catch {
      refused(file, "it was moved or changed since it was chosen; choose it again");
    }
  }
  return there.length < batch.length ? [there] : null;
}
