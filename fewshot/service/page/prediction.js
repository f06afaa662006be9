/** The current image of the queue: its prediction, and the class that a person gives it. */

import { call, formOf, Problem } from "./api.js";
import { $, ask, pushUndo, showError, el, plural, say, score } from "./dom.js";
import { showExample } from "./classes.js";
import { failures, revokePreview, nameOf, preview, showFile, thumbnail } from "./images.js";
import { clearWhole, holdsImages, noun, showWhole } from "./kinds.js";
import { predictAgain, predictRest, clear, first, clearPredictions, hooks, putBack, queue, remove, setOrder } from "./queue.js";
import { addExamples, changed, deleteExamples, inOrder, moveExamples, on, path, registry } from "./registry.js";

const SHOWN = 48; // of the queue
const ORDERS = {
  margin: "least confident first (smallest margin between the two best scores)",
  unknown_score: "most unknown first (highest unknown score)",
  arrival: "in the order added",
};
let saving = false;
let scheduled = false;
let drawn = null; // the item in the panel

export function startPrediction() {
  hooks.draw = schedule;
  on("select", clearPredictions);
  on("change", predictAgain);
  on("refresh", schedule);
  $("yes").addEventListener("click", () => confirm());
  $("remove").addEventListener("click", removeCurrent);
  $("order").addEventListener("change", () => setOrder($("order").value));
  $("clear-queue").addEventListener("click", clearQueue);
  $("other-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const label = $("other").value.trim();
    if (label) assign(label);
    else $("other").focus();
  });
  $("predict").addEventListener("keydown", onKey);
  $("queue").addEventListener("click", (event) => {
    const item = queue.items.find(({ node }) => node?.contains(event.target));
    if (item?.prediction) show(item);
  });
}

function schedule() {
  if (scheduled || saving) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    if (!saving) draw();
  });
}

function draw() {
  drawQueue();
  drawPanel();
  $("predict-report").replaceChildren(...failures(queue.failed));
}

function show(item) {
  queue.current = item;
  $("prediction-problem").textContent = "";
  $("other").value = "";
  draw();
  say(describe(item));
}

/** A prediction in a few words. */
function summary({ prediction }) {
  if (!prediction) return "not predicted yet";
  if (!prediction.top.length) return "no classes yet";
  const [best] = prediction.top;
  if (prediction.label === null) return `none of these (closest: ${best.label}, ${score(best.score)})`;
  return prediction.labels ? answered(prediction) : `${prediction.label}, ${score(prediction.score)}`;
}

/** The label, or all of a multi-label registry. */
const answered = ({ label, labels }) => (labels ? labels.map((one) => one.label).join(", ") : label);

const describe = (item) => `${nameOf(item.file)}: ${summary(item)}`;

function drawPanel() {
  const item = queue.current;
  const inside = $("prediction").contains(document.activeElement);
  $("prediction").hidden = !item;
  if (!item) {
    if (drawn && inside) $("predict").focus();
    if (drawn) revokePreview($("image"));
    clearWhole($("whole"));
    drawn = null;
    return;
  }
  const { file, prediction } = item;
  if (drawn !== item) {
    $("image").hidden = !holdsImages();
    clearWhole($("whole"));
    if (holdsImages()) showFile($("image"), file);
    else showWhole($("whole"), file);
    $("image").alt = nameOf(file);
    $("image-name").textContent = nameOf(file);
    $("prediction-problem").textContent = "";
  }
  drawn = item;
  const [best, second] = prediction.top;
  $("verdict").textContent = best ? (prediction.label === null ? "None of these" : answered(prediction)) : "No classes yet";
  $("verdict").classList.toggle("none", prediction.label === null);
  $("scores").textContent = best ? figures(prediction, best, second) : "Write what it is below; the next one is compared with it.";
  $("yes").hidden = !best;
  $("yes").textContent = prediction.label === null ? "Yes, none of these" : `Yes, it is ${answered(prediction)}`;
  const hadFocus = $("choices").contains(document.activeElement) || $("nearest").contains(document.activeElement);
  $("choices").replaceChildren(...prediction.top.map(choice), ...(best ? [noneChoice()] : []));
  $("nearest-part").hidden = !prediction.nearest.length;
  $("nearest").replaceChildren(...prediction.nearest.map(neighbor));
  if (hadFocus || (inside && document.activeElement === document.body)) $("queue").focus({ preventScroll: true });
}

function figures(prediction, best, second) {
  if (prediction.labels) {
    const said = prediction.labels.map(({ label, probability }) => `${label} ${Math.round(100 * probability)} %`).join(", ");
    const shown = said || `most probable: ${best.label}, ${Math.round(100 * best.score)} %`;
    return prediction.note ? `${shown}; ${prediction.note}.` : shown;
  }
  const parts = [prediction.label === null ? `closest: ${best.label}, score ${score(best.score)}` : `score ${score(best.score)}`];
  if (typeof best.probability === "number") parts.push(`probability ${Math.round(100 * best.probability)} %`);
  const margin = second && score(best.score - second.score);
  if (second) parts.push(`${margin === "0.00" ? "hardly" : margin} ahead of ${second.label}`);
  if (typeof prediction.unknown_score === "number") parts.push(`unknown score ${score(prediction.unknown_score)}`);
  return prediction.note ? `${parts.join(", ")}; ${prediction.note}.` : parts.join(", ");
}

function choice({ label, score: value, probability }, n) {
  const text = typeof probability === "number" ? `${score(value)}, ${Math.round(100 * probability)} %` : score(value);
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", "aria-keyshortcuts": String(n + 1), on: { click: () => assign(label) } },
      el("kbd", { "aria-hidden": "true" }, String(n + 1)),
      el("span", {}, label),
      el("span", { class: "figure" }, text),
    ),
  );
}

function noneChoice() {
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", "aria-keyshortcuts": "0", on: { click: () => assign(null) } },
      el("kbd", { "aria-hidden": "true" }, "0"),
      el("span", { class: "none" }, "none of these"),
    ),
  );
}

function neighbor({ id, label, source, score: value }) {
  const name = `Example of ${label}: ${source}, score ${score(value)}`;
  return el(
    "li",
    {},
    el("button", { type: "button", class: "example", "aria-label": name, title: source, on: { click: () => showExample(id, label) } }, thumbnail(registry.name, id)),
    el("span", {}, label),
    el("span", { class: "figure" }, score(value)),
  );
}

function drawQueue() {
  const { items, current } = queue;
  const list = $("queue");
  $("queue-part").hidden = !items.length;
  const shown = items.slice(0, SHOWN);
  if (current && !shown.includes(current)) shown.push(current);
  const visible = new Set(shown);
  for (const node of list.children) {
    if (!visible.has(node.item) || node.item.node !== node) revokePreview(node.querySelector("img"));
  }
  for (const item of items) if (!visible.has(item)) item.node = null;
  const nodes = shown.map(option);
  // Moving an element that is in its place already would load its image again.
  if (nodes.length !== list.children.length || nodes.some((node, n) => list.children[n] !== node)) list.replaceChildren(...nodes);
  if (current?.node) list.setAttribute("aria-activedescendant", current.node.id);
  else list.removeAttribute("aria-activedescendant");
  const missing = items.filter(({ prediction }) => !prediction).length;
  const parts = [`${plural(items.length, noun())}, ${ORDERS[queue.order]}`];
  if (missing) parts.push(`${missing.toLocaleString("en")} not predicted yet`);
  $("queue-text").textContent = `${parts.join("; ")}.`;
  const rest = items.length - shown.length;
  $("queue-rest").textContent = rest ? `${rest.toLocaleString("en")} more follow after these.` : "";
}

function option(item) {
  if (!item.node) {
    const words = el("span", {});
    item.node = el("li", { role: "option", id: `queued-${item.number}` }, preview(item.file), words);
    item.node.item = item;
  }
  const text = item.prediction ? (answered(item.prediction) || (item.prediction.top.length ? "none of these" : "?")) : "…";
  item.node.lastChild.textContent = text;
  item.node.setAttribute("aria-label", describe(item));
  item.node.setAttribute("aria-selected", String(item === queue.current));
  return item.node;
}

function confirm() {
  const prediction = queue.current?.prediction;
  if (!prediction?.top.length) return;
  assign(prediction.labels && prediction.label !== null ? prediction.labels.map(({ label }) => label) : prediction.label);
}

/** Add the current image to a class, or to several, or with null to the negatives, and show the next one by the new predictions. */
async function assign(label) {
  const item = queue.current;
  if (saving || !item) return;
  saving = true;
  $("prediction").setAttribute("aria-busy", "true");
  $("prediction-problem").textContent = "";
  const inside = $("predict").contains(document.activeElement);
  try {
    const undo = await inOrder(() => (label === null ? addNegative(item) : Array.isArray(label) ? addToEach(item, label) : addExample(item, label)));
    if (undo === null) return;
    const what = `${nameOf(item.file)} is ${label === null ? "none of these" : [label].flat().join(", ")}`;
    remove(item);
    item.node = null;
    $("other").value = "";
    pushUndo(what, async () => {
      await inOrder(undo);
      putBack(item);
      await changed();
    });
    await changed();
    first();
    const next = queue.current ? `Next: ${describe(queue.current)}` : "That was the last one.";
    say(`Saved: ${what}. ${next}`);
  } catch (error) {
    showError(error, $("prediction-problem"));
  } finally {
    saving = false;
    $("prediction").removeAttribute("aria-busy");
    draw();
    if (inside) (queue.items.length ? $("queue") : $("predict")).focus({ preventScroll: true });
  }
}

/** Each of these resolves to a function that undoes it, or to null if nothing was changed. */
async function addExample(item, label) {
  const report = await addExamples(label, [item.file]);
  if (report.failed.length) throw new Problem(422, report.failed[0].reason);
  if (report.conflicts.length) return resolveConflict(item, label, report.conflicts[0]);
  return () => deleteExamples(report.new_ids);
}

async function addToEach(item, labels) {
  const undone = [];
  for (const label of labels) undone.push(await addExample(item, label));
  return async () => {
    for (const undo of undone.filter(Boolean)) await undo();
  };
}

function resolveConflict(item, label, { held_by: held, example_ids: ids }) {
  const names = held.map((name) => `“${name}”`).join(", ");
  return ask({
    title: `This ${noun()} is an example already`,
    text: `It is an example of ${names}. ${ids?.length ? "Move it to" : "Keep it there and add it also to"} “${label}”?`,
    yes: ids?.length ? "Move it" : "Keep it in both",
    act: async () => {
      if (!ids?.length) {
        const report = await addExamples(label, [item.file], true);
        return () => deleteExamples(report.new_ids);
      }
      await moveExamples(ids, label);
      return () => moveExamples(ids, held[0]);
    },
  });
}

async function addNegative(item) {
  const report = await call("POST", path("negatives"), { form: formOf([item.file], nameOf) });
  if (report.failed.length) throw new Problem(422, report.failed[0].reason);
  if (report.conflicts.length) {
    const held = report.conflicts[0].held_by.map((name) => `“${name}”`).join(", ");
    throw new Problem(409, `This ${noun()} is an example of ${held}: delete it there first.`);
  }
  return async () => {
    for (const id of report.new_ids) await call("DELETE", path("negatives", id));
  };
}

function removeCurrent() {
  const item = queue.current;
  if (!item || saving) return;
  remove(item);
  item.node = null;
  pushUndo(`removing ${nameOf(item.file)} from the queue`, async () => {
    putBack(item);
    await predictRest();
  });
  draw();
  say(`${nameOf(item.file)} was removed from the queue. ${queue.current ? `Next: ${describe(queue.current)}` : "The queue is empty."}`);
  (queue.items.length ? $("queue") : $("predict")).focus({ preventScroll: true });
}

function clearQueue() {
  const { items } = queue;
  clear();
  for (const item of items) item.node = null;
  pushUndo(`clearing a queue of ${plural(items.length, noun())}`, async () => {
    for (const item of items) putBack(item);
    first();
    await predictRest();
  });
  draw();
  say("The queue is empty");
  $("predict").focus();
}

function step(to) {
  const shown = [...$("queue").children].map(({ item }) => item).filter(({ prediction }) => prediction);
  const at = shown.indexOf(queue.current);
  const next = shown[Math.max(0, Math.min(shown.length - 1, to(at, shown.length)))];
  if (!next || next === queue.current) return;
  show(next);
  next.node?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

const KEYS = {
  Enter: confirm,
  ArrowRight: () => step((at) => at + 1),
  ArrowDown: () => step((at) => at + 1),
  ArrowLeft: () => step((at) => at - 1),
  ArrowUp: () => step((at) => at - 1),
  Home: () => step(() => 0),
  End: () => step((at, count) => count - 1),
  Delete: removeCurrent,
  Backspace: removeCurrent,
  n: () => $("other").focus(),
  0: () => queue.current?.prediction.top.length && assign(null),
};

function onKey(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || !queue.current) return;
  if (target.matches("input, select, textarea")) {
    if (key === "Escape" && target === $("other")) $("queue").focus();
    return;
  }
  if (key === "Enter" && target.matches("button, a, summary, label")) return; // Enter activates these
  const picked = /^[1-9]$/.test(key) ? queue.current.prediction.top[Number(key) - 1] : null;
  const work = picked ? () => assign(picked.label) : KEYS[key.length === 1 ? key.toLowerCase() : key];
  if (!work) return;
  event.preventDefault();
  if (!saving) work();
}
