/** The queue of images to be predicted, in batches, and their order: least confident first. */

import { call, firstBatch, formOf, sendBatch } from "./api.js";
import { nameOf } from "./images.js";
import { path, registry } from "./registry.js";

const FIRST_BATCH = 8; // predicted again before the next image is shown
const TOP = 9; // classes, one for each number key
const NEAREST = 4;
const NO_PREDICTION = { label: null, score: null, unknown_score: null, top: [], nearest: [] };

/** `items`: { file, number, prediction, requested }; `current`: the one that is shown, until it is saved or removed. */
export const queue = { items: [], current: null, order: "margin", failed: [] };

/** `draw` is called after every change, `onError` with an error; `maxFalseAccept` returns the limit to predict with. */
export const hooks = { draw() {}, maxFalseAccept: () => null, onError() {} };

let version = 0; // of the registry, counted in changes: what was predicted by an older one is predicted again
let count = 0;
let running = null;

/** The sort key of an item in an order; the smallest comes first. */
export function sortKey({ prediction, number }, order) {
  if (!prediction) return Infinity;
  if (order === "arrival") return number;
  if (order === "unknown_score") return -(prediction.unknown_score ?? 0);
  const [best, second] = prediction.top;
  // Of one class alone, the lowest score is the least confident.
  return best ? best.score - (second?.score ?? 0) : -Infinity;
}

function sort() {
  const key = new Map(queue.items.map((item) => [item, sortKey(item, queue.order)]));
  queue.items.sort((a, b) => (key.get(a) === key.get(b) ? a.number - b.number : key.get(a) - key.get(b)));
}

export function setOrder(order) {
  queue.order = order;
  sort();
  first();
}

/** Show the first image. */
export function first() {
  queue.current = queue.items.find(({ prediction }) => prediction) ?? null;
  hooks.draw();
}

export function add(files) {
  for (const file of files) {
    count += 1;
    queue.items.push({ file, number: count, prediction: null, requested: -1 });
  }
  hooks.draw();
  return predictRest();
}

/** Put an image back that was removed, and show it. */
export function putBack(item) {
  queue.items.push({ ...item, requested: -1, node: null });
  queue.current = queue.items.at(-1);
  sort();
}

export function remove(item) {
  const at = queue.items.indexOf(item);
  if (at < 0) return;
  queue.items.splice(at, 1);
  // Those without a prediction are last: the next one, else the one before.
  if (queue.current === item) queue.current = [queue.items[at], queue.items[at - 1]].find((one) => one?.prediction) ?? null;
  hooks.draw();
}

export function clear() {
  queue.items = [];
  queue.current = null;
  queue.failed = [];
  hooks.draw();
}

/** Drop the predictions of another registry. */
export function clearPredictions() {
  for (const item of queue.items) item.prediction = null;
  queue.current = null;
  hooks.draw();
}

/** After a change: predict again, the first of the queue first, so that the next image can be chosen. */
export async function predictAgain() {
  version += 1;
  sort();
  const others = queue.items.filter((item) => item.prediction && item !== queue.current);
  const stale = queue.current ? [queue.current, ...others] : others;
  try {
    await predictBatch(firstBatch(stale.slice(0, FIRST_BATCH), ({ file }) => file.size));
  } catch (error) {
    failed(error);
    return;
  }
  predictRest();
}

/** Predict all that was not predicted since the last change; one run at a time. */
export function predictRest() {
  running ??= run().finally(() => (running = null));
  return running;
}

async function run() {
  const workers = [0, 1].map(async () => {
    for (let batch = due(); batch.length; batch = due()) await predictBatch(batch);
  });
  const [failure] = (await Promise.allSettled(workers)).filter(({ status }) => status === "rejected");
  if (failure) failed(failure.reason);
}

function due() {
  return firstBatch(queue.items.filter(({ requested }) => requested < version), ({ file }) => file.size);
}

function failed(error) {
  for (const item of queue.items) if (item.pending) item.requested = -1;
  hooks.onError(error);
  hooks.draw();
}

async function predictBatch(batch) {
  const at = version;
  for (const item of batch) Object.assign(item, { requested: at, pending: true });
  if (!registry.classes.length) {
    for (const item of batch) Object.assign(item, { prediction: NO_PREDICTION, pending: false });
    settle();
    return;
  }
  const itemOf = new Map(batch.map((item) => [item.file, item]));
  const query = { top: TOP, nearest: NEAREST, max_false_accept: hooks.maxFalseAccept() };
  await sendBatch([...itemOf.keys()], {
    send: (files) => call("POST", path("predict"), { query, form: formOf(files, nameOf) }),
    onResponse: (files, { predictions }) => files.forEach((file, n) => store(itemOf.get(file), predictions[n], at)),
    onRejected: (file, reason) => store(itemOf.get(file), { error: reason }, at),
  });
  settle();
}

function store(item, prediction, at) {
  if (item.requested !== at || !queue.items.includes(item)) return; // requested again since, or removed
  item.pending = false;
  if (prediction.error) {
    queue.failed.push({ source: nameOf(item.file), reason: prediction.error });
    remove(item);
  } else item.prediction = prediction;
}

function settle() {
  sort();
  if (queue.current) hooks.draw();
  else first();
}
