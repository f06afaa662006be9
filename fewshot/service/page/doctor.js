/** The doctor: what the examples of the registry tell about it, and buttons that mend it. */

import { call } from "./api.js";
import { showExample } from "./classes.js";
import { $, el, plural, pushUndo, say, showError } from "./dom.js";
import { thumbnail } from "./images.js";
import { noun } from "./kinds.js";
import { changed, inOrder, moveExamples, on, path, registry } from "./registry.js";

const SHOWN = 24; // of each list
let revision = null; // of the registry that was examined

export function startDoctor() {
  $("examine").addEventListener("click", examine);
  on("select", clear);
  on("refresh", () => {
    $("examine").disabled = !registry.classes.length;
    $("doctor-stale").hidden = revision === null || revision === registry.about.revision;
  });
}

function clear() {
  revision = null;
  $("doctor-found").replaceChildren();
  $("doctor-problem").textContent = "";
  $("doctor-stale").hidden = true;
}

async function examine() {
  const { name } = registry;
  $("examine").disabled = true;
  $("doctor").setAttribute("aria-busy", "true");
  $("doctor-problem").textContent = "";
  say("Examining …");
  try {
    const found = await call("GET", path("diagnosis"), { query: { limit: SHOWN } });
    if (name !== registry.name) return;
    revision = found.revision;
    $("doctor-stale").hidden = revision === registry.about.revision;
    draw(found);
    say(`Examined: ${plural(found.mislabelled, "example")} likely mislabelled, ${plural(found.duplicates.length, "near-duplicate")}`);
  } catch (error) {
    showError(error, $("doctor-problem"));
    say("");
  } finally {
    $("examine").disabled = false;
    $("doctor").removeAttribute("aria-busy");
  }
}

function draw(found) {
  const wrong = found.suspects.filter(({ mislabelled }) => mislabelled);
  $("doctor-found").replaceChildren(
    el("div", { class: "facts" }, accuracy(found), next(found)),
    ...found.notes.map((note) => el("p", { class: "hint" }, sentence(note))),
    ...part("Likely mislabelled", wrong, suspect, "Recognised by the other examples as another class."),
    ...part("Hurt", found.harmful, harmful, "Without one of these, more of the other examples are recognised."),
    ...part("Near-duplicates", found.duplicates, pair, "Two that are nearly the same tell little more than one."),
    ...part("Will be confused", found.confused, confused, "More examples of both tell them apart better."),
    ...part("One-sided", found.one_sided, labelOnly, "Their examples are far more alike than those of other classes."),
    ...part("Too few", found.too_few, labelOnly, "One example only: how well they are recognised is not known."),
  );
}

const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u00a0%`;
const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

function accuracy({ accuracy: expected, left_out: counted }) {
  const title = el("h3", {}, "Accuracy to be expected");
  if (!expected) return el("div", {}, title, el("p", { class: "hint" }, `No ${noun()} can be left out yet.`));
  const between = `95 % interval ${percent(expected.low, 1)} to ${percent(expected.high, 1)}`;
  const of = `the others recognise ${percent(counted.value, 1)} of ${plural(counted.n, noun())}, from fewer of their class`;
  return el("div", {}, title, el("p", { class: "big" }, percent(expected.value, 1)), el("p", { class: "hint" }, `${between}; ${of}.`));
}

function next({ advice, add }) {
  const chip = ({ label, examples }) =>
    el("li", {}, el("button", { type: "button", class: "small", "aria-label": `Add ${examples} to ${label}`, on: { click: () => prepare(label) } }, `${examples} × ${label}`));
  return el("div", {}, el("h3", {}, "What to add next"), el("p", { class: "advice" }, sentence(advice)), el("ul", { class: "chips" }, ...add.map(chip)));
}

/** Ask for examples of a class where examples are added. */
function prepare(label) {
  $("label").value = label;
  $("label").focus();
}

function part(title, items, item, about) {
  if (!items.length) return [];
  const id = `doctor-${title.toLowerCase().replaceAll(" ", "-")}`;
  return [
    el("h3", { id }, `${title} (${items.length === SHOWN ? `the first ${SHOWN}` : items.length})`),
    el("p", { class: "hint" }, about),
    el("ul", { class: "findings", "aria-labelledby": id }, ...items.map(item)),
  ];
}

function view({ id, label, source }) {
  const name = `Open the example of ${label}, ${source}`;
  return el("button", { type: "button", class: "example", "aria-label": name, title: source, on: { click: () => showExample(id, label) } }, thumbnail(registry.name, id));
}

function suspect({ example, closest, closest_probability: probability }) {
  const move = el("button", { type: "button", class: "small main" }, `Move to “${closest}”`);
  const leave = el("button", { type: "button", class: "small", "aria-label": `Leave it in ${example.label}` }, "It is right");
  const node = el(
    "li",
    {},
    view(example),
    el(
      "div",
      {},
      el("p", {}, el("s", {}, example.label), " → ", el("b", {}, closest), el("span", { class: "figure" }, ` ${percent(probability)}`)),
      el("div", { class: "row" }, move, leave),
    ),
  );
  leave.addEventListener("click", () => drop(node));
  move.addEventListener("click", async () => {
    move.disabled = true;
    try {
      await moveTo(example, closest);
      drop(node);
    } catch (error) {
      move.disabled = false;
      showError(error);
    }
  });
  return node;
}

/** Take an item from its list; the focus goes to the next one, or to the section. */
function drop(node) {
  const beside = node.nextElementSibling ?? node.previousElementSibling;
  node.remove();
  (beside?.querySelector(".row button") ?? $("doctor")).focus();
}

async function moveTo({ id, label }, to) {
  await inOrder(() => call("PATCH", path("examples", id), { json: { label: to } }));
  pushUndo(`moving an example from “${label}” to “${to}”`, async () => {
    await inOrder(() => moveExamples([id], label));
    await changed();
  });
  await changed();
  say(`Moved from “${label}” to “${to}”`);
}

function harmful({ example, mended, broken }) {
  const cost = broken ? `, and ${broken} no longer` : "";
  return el("li", {}, view(example), el("p", {}, el("b", {}, example.label), el("br"), `Without it ${mended} more are recognised${cost}.`));
}

function pair({ first, second, cosine }) {
  const labels = first.label === second.label ? first.label : `${first.label} | ${second.label}`;
  const across = first.label === second.label ? [] : [el("br"), el("span", { class: "problem" }, "in two classes")];
  return el("li", { class: "pair" }, view(first), view(second), el("p", {}, el("b", {}, labels), el("span", { class: "figure" }, ` ${cosine.toFixed(3)}`), ...across));
}

const confused = ({ label, taken_for: other, rate }) =>
  el("li", {}, el("p", {}, el("b", {}, label), " ↔ ", el("b", {}, other), el("span", { class: "figure" }, ` ${percent(rate)}`)));

const labelOnly = (label) => el("li", {}, el("button", { type: "button", class: "small", on: { click: () => prepare(label) } }, label));
