/** Pictures to be recognised: asked about in batches, those that the model is least sure of first. */

import { call, firstBatch, formOf, sendBatch } from "./api.js";
import { nameOf } from "./pictures.js";
import { path, registry } from "./registry.js";

const AHEAD = 8; // asked again before the next picture is shown
const TOP = 9; // answers, one for each number key
const NEAREST = 4;
const NOTHING = { label: null, score: null, unknown: null, top: [], nearest: [] };

/** `items`: { file, number, answer, asked }; `current`: the one that is shown, which stays until it is dealt with. */
export const queue = { items: [], current: null, order: "margin", failed: [], refused: null };

/** `draw` is called after every change; `maxFalseAccept` says what to ask for; `trouble` is told of what went wrong. */
export const hooks = { draw() {}, maxFalseAccept: () => null, trouble() {} };

let epoch = 0; // counts lessons: what was asked before the last one is asked again
let numbered = 0;
let asking = null;

/** How little an answer leaves open, in the order chosen; the smallest comes first. */
export function sureness({ answer, number }, order) {
  if (!answer) return Infinity;
  if (order === "arrival") return number;
  if (order === "unknown_score") return -(answer.unknown_score ?? 0);
  const [best, second] = answer.top;
  // One class alone has no rival: the least alike is the least sure.
  return best ? best.score - (second?.score ?? 0) : -Infinity;
}

function sort() {
  const key = new Map(queue.items.map((item) => [item, sureness(item, queue.order)]));
  queue.items.sort((a, b) => (key.get(a) === key.get(b) ? a.number - b.number : key.get(a) - key.get(b)));
}

export function setOrder(order) {
  queue.order = order;
  sort();
  first();
}

/** Show the first picture. */
export function first() {
  queue.current = queue.items.find(({ answer }) => answer) ?? null;
  hooks.draw();
}

export function add(files) {
  for (const file of files) {
    numbered += 1;
    queue.items.push({ file, number: numbered, answer: null, asked: -1 });
  }
  hooks.draw();
  return askRest();
}

/** Put a picture back that was taken out, and show it. */
export function putBack(item) {
  queue.items.push({ ...item, asked: -1, node: null });
  queue.current = queue.items.at(-1);
  sort();
}

export function remove(item) {
  const at = queue.items.indexOf(item);
  if (at < 0) return;
  queue.items.splice(at, 1);
  // Those without an answer yet stand last: the next one, else the one before.
  if (queue.current === item) queue.current = [queue.items[at], queue.items[at - 1]].find((one) => one?.answer) ?? null;
  hooks.draw();
}

export function clear() {
  queue.items = [];
  queue.current = null;
  queue.failed = [];
  hooks.draw();
}

/** What another registry would answer is not known yet. */
export function forgetAnswers() {
  for (const item of queue.items) item.answer = null;
  queue.current = null;
  hooks.draw();
}

/** After a lesson: ask again, at first about what was least sure, so that the next picture can be chosen. */
export async function askAgain() {
  epoch += 1;
  sort();
  const others = queue.items.filter((item) => item.answer && item !== queue.current);
  const stale = queue.current ? [queue.current, ...others] : others;
  try {
    await askBatch(firstBatch(stale.slice(0, AHEAD), ({ file }) => file.size));
  } catch (error) {
    failedToAsk(error);
    return;
  }
  askRest();
}

/** Ask about all that was not asked since the last lesson; one run at a time. */
export function askRest() {
  asking ??= run().finally(() => (asking = null));
  return asking;
}

async function run() {
  const workers = [0, 1].map(async () => {
    for (let batch = due(); batch.length; batch = due()) await askBatch(batch);
  });
  const [failure] = (await Promise.allSettled(workers)).filter(({ status }) => status === "rejected");
  if (failure) failedToAsk(failure.reason);
}

function due() {
  return firstBatch(queue.items.filter(({ asked }) => asked < epoch), ({ file }) => file.size);
}

function failedToAsk(error) {
  for (const item of queue.items) if (item.pending) item.asked = -1;
  hooks.trouble(error);
  hooks.draw();
}

async function askBatch(batch) {
  const at = epoch;
  for (const item of batch) Object.assign(item, { asked: at, pending: true });
  if (!registry.classes.length) {
    for (const item of batch) Object.assign(item, { answer: NOTHING, pending: false });
    settle();
    return;
  }
  const itemOf = new Map(batch.map((item) => [item.file, item]));
  const query = { top: TOP, nearest: NEAREST, max_false_accept: hooks.maxFalseAccept() };
  await sendBatch([...itemOf.keys()], {
    send: (files) => call("POST", path("predict"), { query, form: formOf(files, nameOf) }),
    took: (files, { predictions }) => files.forEach((file, n) => place(itemOf.get(file), predictions[n], at)),
    refused: (file, reason) => place(itemOf.get(file), { error: reason }, at),
  });
  settle();
}

function place(item, answer, at) {
  if (item.asked !== at || !queue.items.includes(item)) return; // asked again since, or taken out
  item.pending = false;
  if (answer.error) {
    queue.failed.push({ source: nameOf(item.file), reason: answer.error });
    remove(item);
  } else item.answer = answer;
}

function settle() {
  sort();
  if (queue.current) hooks.draw();
  else first();
}
