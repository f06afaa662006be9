/** The classes with their examples: to look at, to rename, merge, move and delete. */

import { call, Problem, respond } from "./api.js";
import { $, ask, canUndo, complain, el, plural, say } from "./dom.js";
import { dropZone, fileInput, showThumbnail, thumbnail } from "./pictures.js";
import { changed, deleteClass, deleteExamples, examples, inTurn, moveExamples, on, path, registry, rename, teach } from "./registry.js";
import { teachMore } from "./teach.js";

const AT_FIRST = 60; // classes
const FIND_FROM = 8; // classes, below which finding one needs no field
let most = AT_FIRST;
const cards = new Map(); // label -> { made of, node, all: whether every example is shown }

export function startClasses() {
  on("shown", draw);
  $("find").addEventListener("input", draw);
  $("more-classes").addEventListener("click", () => {
    most += AT_FIRST;
    draw();
  });
  startExample();
}

function draw() {
  const wanted = $("find").value.trim().toLowerCase();
  const found = registry.classes.filter(({ label }) => label.toLowerCase().includes(wanted));
  const shown = found.slice(0, most);
  const total = registry.classes.reduce((sum, { examples: count }) => sum + count, 0);
  $("counts").textContent = `${plural(registry.classes.length, "class", "classes")}, ${plural(total, "example")}`;
  $("no-classes").hidden = registry.classes.length > 0;
  $("find-field").hidden = registry.classes.length < FIND_FROM;
  $("more-classes").hidden = shown.length === found.length;
  $("labels").replaceChildren(...registry.classes.map(({ label }) => el("option", { value: label })));
  for (const label of cards.keys()) {
    if (!registry.classes.some((one) => one.label === label)) cards.delete(label);
  }
  const focused = focusedExample();
  $("classes").replaceChildren(...shown.map(cardOf));
  focusExample(focused);
}

/** Where the focus is among the examples, so that a card made anew does not lose it. */
function focusedExample() {
  const button = document.activeElement?.closest("#classes button.example");
  if (!button) return null;
  const siblings = [...button.closest("ul").querySelectorAll("button.example")];
  return { label: button.closest(".class").dataset.label, at: siblings.indexOf(button) };
}

function focusExample(focused) {
  if (!focused) return;
  const node = cards.get(focused.label)?.node;
  const buttons = node ? [...node.querySelectorAll("button.example")] : [];
  (buttons[Math.min(focused.at, buttons.length - 1)] ?? $("teach")).focus();
}

function cardOf(about) {
  const key = JSON.stringify([registry.name, about]);
  const known = cards.get(about.label);
  if (known?.key === key) return known.node;
  const card = { key, node: makeCard(about) };
  cards.set(about.label, card);
  return card.node;
}

function makeCard({ label, examples: count, example_ids: ids }) {
  const list = el("ul", { class: "thumbs", "aria-label": `Examples of ${label}` });
  const add = el("input", { type: "file", multiple: true, accept: "image/*", "aria-label": `Add pictures to ${label}` });
  fileInput(add, (files) => teachMore(label, files));
  const node = el(
    "li",
    { class: "class", "data-label": label },
    el("div", { class: "row" }, el("h3", {}, label), el("span", { class: "hint" }, plural(count, "example"))),
    el(
      "div",
      { class: "row small" },
      el("label", { class: "button" }, add, "Add"),
      el("button", { type: "button", "aria-label": `Rename ${label}`, on: { click: () => askName(label, count) } }, "Rename"),
      el("button", { type: "button", "aria-label": `Delete ${label}`, on: { click: () => askDelete(label, count) } }, "Delete"),
    ),
    list,
  );
  dropZone(node, (files) => teachMore(label, files));
  list.append(...ids.map((id, n) => exampleItem(label, id, n)));
  if (count > ids.length) {
    const more = el("button", { type: "button", class: "small" }, `All ${plural(count, "example")}`);
    more.addEventListener("click", () => showAll(label, list, more));
    node.append(more);
  }
  return node;
}

function exampleItem(label, id, n) {
  const button = el("button", { type: "button", class: "example", "aria-label": `Example ${n + 1} of ${label}` }, thumbnail(registry.name, id));
  button.addEventListener("click", () => openExample(id));
  button.addEventListener("keydown", (event) => {
    if (event.key !== "Delete" && event.key !== "Backspace") return;
    event.preventDefault();
    deleteExample(id, label).catch(complain);
  });
  return el("li", {}, button);
}

async function showAll(label, list, more) {
  more.disabled = true;
  try {
    const all = [];
    for (let next = null; ; ) {
      const page = await examples(label, next);
      all.push(...page.examples);
      next = page.next;
      if (next === null) break;
    }
    list.replaceChildren(...all.map(({ id }, n) => exampleItem(label, id, n)));
    more.remove();
    list.querySelector("button").focus();
  } catch (error) {
    more.disabled = false;
    complain(error);
  }
}

function askName(label, count) {
  ask({
    title: `Rename “${label}”`,
    field: "New name",
    value: label,
    yes: "Rename",
    act: async (name) => {
      if (name === label) return;
      if (registry.classes.some((one) => one.label === name)) {
        askMerge(label, count, name);
        return;
      }
      await inTurn(() => rename(label, name));
      canUndo(`renaming “${label}” to “${name}”`, async () => {
        await inTurn(() => rename(name, label));
        await changed();
      });
      await changed();
      say(`“${label}” is now “${name}”`);
    },
  });
}

function askMerge(label, count, into) {
  ask({
    title: `Merge “${label}” into “${into}”?`,
    text: `There is a class “${into}” already. ${plural(count, "example")} of “${label}” would be its own then. This cannot be undone.`,
    yes: "Merge them",
    danger: true,
    act: async () => {
      await inTurn(() => rename(label, into, true));
      await changed();
      say(`“${label}” is now part of “${into}”`);
    },
  });
}

function askDelete(label, count) {
  ask({
    title: `Delete “${label}”?`,
    text: `The class and its ${plural(count, "example")} are removed from the registry. This cannot be undone.`,
    yes: "Delete it",
    danger: true,
    act: async () => {
      await inTurn(() => deleteClass(label));
      await changed();
      say(`“${label}” is deleted`);
    },
  });
}

/** Delete an example; its picture is kept in hand until the page is left, for undoing. */
async function deleteExample(id, label) {
  const name = (await aboutExample(id, label))?.source ?? `example ${id}`;
  let file = null;
  try {
    const picture = await (await respond("GET", path("examples", id, "image"))).blob();
    file = new File([picture], name, { type: picture.type });
  } catch (error) {
    if (!(error instanceof Problem && error.status >= 400)) throw error;
    const sure = await ask({
      title: "Delete this example?",
      text: `Its picture is not to be had (${error.message}), so that this cannot be undone.`,
      yes: "Delete it",
      danger: true,
      act: () => true,
    });
    if (!sure) return;
  }
  await inTurn(() => deleteExamples([id]));
  if (file) {
    canUndo(`deleting an example of “${label}”`, async () => {
      const back = await inTurn(() => teach(label, [file], true));
      if (back.failed.length) throw new Problem(422, back.failed[0].reason);
      await changed();
    });
  }
  await changed();
  say(`${name} is no example of “${label}” any more`);
}

async function aboutExample(id, label) {
  const page = await examples(label, id - 1, 1);
  return page.examples.find((example) => example.id === id) ?? null;
}

let opened = null; // the id of the example in the dialog

function startExample() {
  const dialog = $("example");
  $("example-close").addEventListener("click", () => dialog.close());
  const closing = (change) => async (event) => {
    event.preventDefault();
    try {
      await change(opened.id, opened.label);
      dialog.close();
      if (document.activeElement === document.body) $("teach").focus();
    } catch (error) {
      complain(error, $("example-problem"));
    }
  };
  $("example-delete").addEventListener("click", closing(deleteExample));
  dialog.querySelector("form").addEventListener("submit", closing(moveExample));
}

/** Show an example large, with what can be done with it. */
export function openExample(id) {
  const label = registry.classes.find((one) => one.example_ids.includes(id))?.label;
  if (label !== undefined) showExample(id, label);
}

export async function showExample(id, label) {
  opened = { id, label };
  $("example-title").textContent = `Example of “${label}”`;
  $("example-label").value = label;
  $("example-problem").textContent = "";
  $("example-source").textContent = "";
  showThumbnail($("example-picture"), registry.name, id, 512);
  $("example-picture").alt = `Example of ${label}`;
  $("example").showModal();
  $("example-close").focus();
  try {
    const about = await aboutExample(id, label);
    if (opened.id === id) $("example-source").textContent = about ? about.source : "It was deleted meanwhile.";
  } catch (error) {
    complain(error, $("example-problem"));
  }
}

async function moveExample(id, label) {
  const to = $("example-label").value.trim();
  if (to === label) return;
  if (!to) throw new Problem(0, "Write the name of the class that it belongs to.");
  await inTurn(() => call("PATCH", path("examples", id), { json: { label: to } }));
  canUndo(`moving an example from “${label}” to “${to}”`, async () => {
    await inTurn(() => moveExamples([id], label));
    await changed();
  });
  await changed();
  say(`Moved from “${label}” to “${to}”`);
}
