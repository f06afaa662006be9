/** The registry that is shown, and the changes that can be made to it. */

import { call, formOf, Problem } from "./api.js";
import { nameOf } from "./pictures.js";

const AT_ONCE = 4;
const PAGE = 100;

/** `all`: every registry of the server; `classes`: of the one called `name`, as the service lists them. */
export const registry = { name: null, all: [], canCreate: false, classes: [], about: {} };

const listeners = { chosen: [], shown: [], lesson: [] };

/** Call `listener` for another registry ("chosen"), when its classes were read ("shown"), and after a "lesson". */
export const on = (event, listener) => listeners[event].push(listener);

const tell = (event) => Promise.all(listeners[event].map((listener) => listener()));

export const path = (...parts) => ["registries", registry.name, ...parts];

export async function loadRegistries() {
  const answer = await call("GET", ["registries"]);
  registry.all = answer.registries;
  registry.canCreate = answer.can_create;
}

/** Show another registry, after what was begun in this one. */
export function choose(name) {
  return inTurn(async () => {
    registry.name = name;
    registry.classes = [];
    registry.about = {};
    await tell("chosen");
    await changed();
  });
}

/** Read the classes anew; resolves to whether anything has changed. */
export async function refresh() {
  const { name } = registry;
  if (name === null) return false;
  const [{ classes }, about] = await Promise.all([call("GET", path("classes")), call("GET", path())]);
  if (name !== registry.name) return false; // another was chosen meanwhile
  const before = registry.about.revision;
  registry.classes = classes;
  registry.about = about;
  await tell("shown");
  return about.revision !== before;
}

/** After a change: show it, and have everything that was answered before asked again. */
export async function changed() {
  await refresh();
  await tell("lesson");
}

/** The next change waits for the one before: the order is the one in which they were made. */
let last = Promise.resolve();

export function inTurn(change) {
  const turn = last.then(change);
  last = turn.catch(() => {});
  return turn;
}

/** Teach pictures as a class; returns the service's report. */
export function teach(label, files, allowConflict = false) {
  const fields = allowConflict ? { label, allow_conflict: "true" } : { label };
  return call("POST", path("examples"), { form: formOf(files, nameOf, fields) });
}

export const deleteExamples = (ids) => each(ids, (id) => call("DELETE", path("examples", id)));

export const moveExamples = (ids, label) => each(ids, (id) => call("PATCH", path("examples", id), { json: { label } }));

/** Do something with each of many, a few at once; those that are gone already are passed over. */
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
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

/** A page of a class's examples, from the one after `after`. */
export const examples = (label, after = null, limit = PAGE) =>
  call("GET", path("examples"), { query: { label, after, limit } });

export const rename = (label, to, merge = false) =>
  call("PATCH", path("classes"), { query: { label }, json: merge ? { label: to, merge } : { label: to } });

export const deleteClass = (label) => call("DELETE", path("classes"), { query: { label } });
