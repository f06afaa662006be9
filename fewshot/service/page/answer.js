/** The picture that is shown: what it was recognised as, and what it is taught as. */

import { call, formOf, Problem } from "./api.js";
import { $, ask, canUndo, complain, el, plural, say, score } from "./dom.js";
import { showExample } from "./classes.js";
import { failures, freeImage, nameOf, preview, showFile, thumbnail } from "./pictures.js";
import { askAgain, askRest, clear, first, forgetAnswers, hooks, putBack, queue, remove, setOrder } from "./queue.js";
import { changed, deleteExamples, inTurn, moveExamples, on, path, registry, teach } from "./registry.js";

const SHOWN = 48; // of the queue
const ORDERS = {
  margin: "least sure first: smallest margin between the two best scores",
  unknown: "strangest first: highest unknown score",
  arrival: "in the order they came",
};
let learning = false;
let scheduled = false;
let drawn = null; // the item in the panel

export function startAnswer() {
  hooks.draw = schedule;
  on("chosen", forgetAnswers);
  on("lesson", askAgain);
  on("shown", schedule);
  $("yes").addEventListener("click", () => confirm());
  $("leave-out").addEventListener("click", leaveOut);
  $("order").addEventListener("change", () => setOrder($("order").value));
  $("clear-queue").addEventListener("click", clearQueue);
  $("other-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const label = $("other").value.trim();
    if (label) learn(label);
    else $("other").focus();
  });
  $("test").addEventListener("keydown", onKey);
  $("queue").addEventListener("click", (event) => {
    const item = queue.items.find(({ node }) => node?.contains(event.target));
    if (item?.answer) show(item);
  });
}

function schedule() {
  if (scheduled || learning) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    if (!learning) draw();
  });
}

function draw() {
  drawQueue();
  drawPanel();
  $("test-report").replaceChildren(...failures(queue.failed));
}

function show(item) {
  queue.current = item;
  $("answer-problem").textContent = "";
  $("other").value = "";
  draw();
  say(spoken(item));
}

/** An answer in a few words. */
function told({ answer }) {
  if (!answer) return "not asked yet";
  if (!answer.top.length) return "no class to compare with";
  const [best] = answer.top;
  return answer.label === null ? `none of these (closest: ${best.label}, ${score(best.score)})` : `${answer.label}, ${score(answer.score)}`;
}

const spoken = (item) => `${nameOf(item.file)}: ${told(item)}`;

function drawPanel() {
  const item = queue.current;
  const inside = $("answer").contains(document.activeElement);
  $("answer").hidden = !item;
  if (!item) {
    if (drawn && inside) $("test").focus();
    if (drawn) freeImage($("picture"));
    drawn = null;
    return;
  }
  const { file, answer } = item;
  if (drawn !== item) {
    showFile($("picture"), file);
    $("picture").alt = nameOf(file);
    $("picture-name").textContent = nameOf(file);
    $("answer-problem").textContent = "";
  }
  drawn = item;
  const [best, second] = answer.top;
  $("verdict").textContent = best ? (answer.label ?? "None of these") : "Nothing is known yet";
  $("verdict").classList.toggle("none", answer.label === null);
  $("scores").textContent = best ? figures(answer, best, second) : "Say what it is, and the next one can be compared with it.";
  $("yes").hidden = !best;
  $("yes").textContent = answer.label === null ? "Yes, none of these" : `Yes, it is ${answer.label}`;
  const had = $("choices").contains(document.activeElement) || $("nearest").contains(document.activeElement);
  $("choices").replaceChildren(...answer.top.map(choice), ...(best ? [noneChoice()] : []));
  $("nearest-part").hidden = !answer.nearest.length;
  $("nearest").replaceChildren(...answer.nearest.map(neighbor));
  if (had || (inside && document.activeElement === document.body)) $("queue").focus({ preventScroll: true });
}

function figures(answer, best, second) {
  const parts = [answer.label === null ? `closest: ${best.label}, score ${score(best.score)}` : `score ${score(best.score)}`];
  if (typeof best.probability === "number") parts.push(`${Math.round(100 * best.probability)} % sure`);
  const margin = second && score(best.score - second.score);
  if (second) parts.push(`${margin === "0.00" ? "hardly" : margin} ahead of ${second.label}`);
  if (typeof answer.unknown_score === "number") parts.push(`unknown score ${score(answer.unknown_score)}`);
  return parts.join(", ");
}

function choice({ label, score: value, probability }, n) {
  const sure = typeof probability === "number" ? `${score(value)}, ${Math.round(100 * probability)} %` : score(value);
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", "aria-keyshortcuts": String(n + 1), on: { click: () => learn(label) } },
      el("kbd", { "aria-hidden": "true" }, String(n + 1)),
      el("span", {}, label),
      el("span", { class: "figure" }, sure),
    ),
  );
}

function noneChoice() {
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", "aria-keyshortcuts": "0", on: { click: () => learn(null) } },
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
  const kept = new Set(shown);
  for (const node of list.children) {
    if (!kept.has(node.item) || node.item.node !== node) freeImage(node.querySelector("img"));
  }
  for (const item of items) if (!kept.has(item)) item.node = null;
  const nodes = shown.map(option);
  // Taking an element that is in its place out and in again would load its picture anew.
  if (nodes.length !== list.children.length || nodes.some((node, n) => list.children[n] !== node)) list.replaceChildren(...nodes);
  if (current?.node) list.setAttribute("aria-activedescendant", current.node.id);
  else list.removeAttribute("aria-activedescendant");
  const unasked = items.filter(({ answer }) => !answer).length;
  const parts = [`${plural(items.length, "picture")}, ${ORDERS[queue.order]}`];
  if (unasked) parts.push(`${unasked.toLocaleString("en")} still to be asked about`);
  $("queue-text").textContent = `${parts.join("; ")}.`;
  const rest = items.length - shown.length;
  $("queue-rest").textContent = rest ? `${rest.toLocaleString("en")} more move up as these are dealt with.` : "";
}

function option(item) {
  if (!item.node) {
    const words = el("span", {});
    item.node = el("li", { role: "option", id: `queued-${item.number}` }, preview(item.file), words);
    item.node.item = item;
  }
  const text = item.answer ? (item.answer.label ?? (item.answer.top.length ? "none of these" : "?")) : "…";
  item.node.lastChild.textContent = text;
  item.node.setAttribute("aria-label", spoken(item));
  item.node.setAttribute("aria-selected", String(item === queue.current));
  return item.node;
}

function confirm() {
  const answer = queue.current?.answer;
  if (answer?.top.length) learn(answer.label);
}

/** Teach the picture shown as a class, or with null as none of them; the next one is shown when all has sunk in. */
async function learn(label) {
  const item = queue.current;
  if (learning || !item) return;
  learning = true;
  $("answer").setAttribute("aria-busy", "true");
  $("answer-problem").textContent = "";
  const inside = $("test").contains(document.activeElement);
  try {
    const back = await inTurn(() => (label === null ? learnNone(item) : learnAs(item, label)));
    if (back === null) return;
    const what = `${nameOf(item.file)} is ${label === null ? "none of these" : label}`;
    remove(item);
    item.node = null;
    $("other").value = "";
    canUndo(what, async () => {
      await inTurn(back);
      putBack(item);
      await changed();
    });
    await changed();
    first();
    const next = queue.current ? `Next: ${spoken(queue.current)}` : "That was the last one.";
    say(`Learned: ${what}. ${next}`);
  } catch (error) {
    complain(error, $("answer-problem"));
  } finally {
    learning = false;
    $("answer").removeAttribute("aria-busy");
    draw();
    if (inside) (queue.items.length ? $("queue") : $("test")).focus({ preventScroll: true });
  }
}

/** Each of these resolves to how to take it back, or to null if nothing was to be changed after all. */
async function learnAs(item, label) {
  const report = await teach(label, [item.file]);
  if (report.failed.length) throw new Problem(422, report.failed[0].reason);
  if (report.conflicts.length) return settleConflict(item, label, report.conflicts[0]);
  return () => deleteExamples(report.new_ids);
}

function settleConflict(item, label, { held_by: held, example_ids: ids }) {
  const names = held.map((name) => `“${name}”`).join(", ");
  return ask({
    title: "It is an example already",
    text: `This very picture was taught as ${names}. ${ids?.length ? "Move it to" : "Keep it there and teach it also as"} “${label}”?`,
    yes: ids?.length ? "Move it" : "Keep it in both",
    act: async () => {
      if (!ids?.length) {
        const report = await teach(label, [item.file], true);
        return () => deleteExamples(report.new_ids);
      }
      await moveExamples(ids, label);
      return () => moveExamples(ids, held[0]);
    },
  });
}

async function learnNone(item) {
  const report = await call("POST", path("negatives"), { form: formOf([item.file], nameOf) });
  if (report.failed.length) throw new Problem(422, report.failed[0].reason);
  if (report.conflicts.length) {
    const held = report.conflicts[0].held_by.map((name) => `“${name}”`).join(", ");
    throw new Problem(409, `This very picture is an example of ${held}: delete it there first.`);
  }
  return async () => {
    for (const id of report.new_ids) await call("DELETE", path("negatives", id));
  };
}

function leaveOut() {
  const item = queue.current;
  if (!item || learning) return;
  remove(item);
  item.node = null;
  canUndo(`taking ${nameOf(item.file)} out of the queue`, async () => {
    putBack(item);
    await askRest();
  });
  draw();
  say(`${nameOf(item.file)} is out of the queue. ${queue.current ? `Next: ${spoken(queue.current)}` : "The queue is empty."}`);
  (queue.items.length ? $("queue") : $("test")).focus({ preventScroll: true });
}

function clearQueue() {
  const { items } = queue;
  clear();
  for (const item of items) item.node = null;
  canUndo(`clearing a queue of ${plural(items.length, "picture")}`, async () => {
    for (const item of items) putBack(item);
    first();
    await askRest();
  });
  draw();
  say("The queue is empty");
  $("test").focus();
}

function step(to) {
  const shown = [...$("queue").children].map(({ item }) => item).filter(({ answer }) => answer);
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
  Delete: leaveOut,
  Backspace: leaveOut,
  n: () => $("other").focus(),
  0: () => queue.current?.answer.top.length && learn(null),
};

function onKey(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || !queue.current) return;
  if (target.matches("input, select, textarea")) {
    if (key === "Escape" && target === $("other")) $("queue").focus();
    return;
  }
  if (key === "Enter" && target.matches("button, a, summary, label")) return; // they have an Enter of their own
  const picked = /^[1-9]$/.test(key) ? queue.current.answer.top[Number(key) - 1] : null;
  const work = picked ? () => learn(picked.label) : KEYS[key.length === 1 ? key.toLowerCase() : key];
  if (!work) return;
  event.preventDefault();
  if (!learning) work();
}
