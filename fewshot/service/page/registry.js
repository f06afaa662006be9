/** The registry that is shown, and changes of it. */

import { call, formOf, Problem } from "./api.js";
import { nameOf } from "./images.js";

const CONCURRENT = 4;
const PAGE_SIZE = 100;

/** `all`: every registry of the server; `classes`: of the one called `name`, as the service lists them. */
export const registry = { name: null, all: [], canCreate: false, classes: [], about: {} };

const listeners = { select: [], refresh: [], change: [] };

/** Call `listener` when another registry is chosen ("select"), its classes were read ("refresh"), or it was changed. */
export const on = (event, listener) => listeners[event].push(listener);

const emit = (event) => Promise.all(listeners[event].map((listener) => listener()));

export const path = (...parts) => ["registries", registry.name, ...parts];

export async function loadRegistries() {
  const list = await call("GET", ["registries"]);
  registry.all = list.registries;
  registry.canCreate = list.can_create;
}

/** Show another registry, after the changes of this one. */
export function choose(name) {
  return inOrder(async () => {
    registry.name = name;
    registry.classes = [];
    registry.about = {};
    await emit("select");
    await changed();
  });
}

/** Read the classes again; resolves to whether anything has changed. */
export async function refresh() {
  const { name } = registry;
  if (name === null) return false;
  const [{ classes }, about] = await Promise.all([call("GET", path("classes")), call("GET", path())]);
  if (name !== registry.name) return false; // another was chosen meanwhile
  const before = registry.about.revision;
  registry.classes = classes;
  registry.about = about;
  await emit("refresh");
  return about.revision !== before;
}

/** After a change: show it, and predict the queue again. */
export async function changed() {
  await refresh();
  await emit("change");
}

/** Each change waits for the one before, so that they are made in order. */
let last = Promise.resolve();

export function inOrder(change) {
  const done = last.then(change);
  last = done.catch(() => {});
  return done;
}

/** Add images to a class; returns the service's report. */
export function addExamples(label, files, allowConflict = false) {
  const fields = allowConflict ? { label, allow_conflict: "true" } : { label };
  return call("POST", path("examples"), { form: formOf(files, nameOf, fields) });
}

export const deleteExamples = (ids) => each(ids, (id) => call("DELETE", path("examples", id)));

export const moveExamples = (ids, label) => each(ids, (id) => call("PATCH", path("examples", id), { json: { label } }));

/** Call `work` for each id, a few at once; one that does not exist any more is skipped. */
async function each(ids, work) {
  const left = [...ids];
  const worker = async () => {
    while (left.length) {
      try {
        await work(left.shift());
      } catch (error) {
        if (!(error instanceof Problem && error.status === 404)) throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT }, worker));
}

/** A page of the examples of a class, with ids above `after`. */
export const examples = (label, after = null, limit = PAGE_SIZE) =>
  call("GET", path("examples"), { query: { label, after, limit } });

export const rename = (label, to, merge = false) =>
  call("PATCH", path("classes"), { query: { label }, json: merge ? { label: to, merge } : { label: to } });

/** Describe a class in words; with null it has no description any more. */
export const describe = (label, text) =>
  call("PUT", path("classes", "description"), { query: { label }, json: { text } });

export const deleteClass = (label) => call("DELETE", path("classes"), { query: { label } });
