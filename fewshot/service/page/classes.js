/** The classes and their examples: shown, renamed, merged, moved and deleted. */

import { call, Problem } from "./api.js";
import { $, ask, pushUndo, showError, el, plural, say } from "./dom.js";
import { dropZone, fileInput, showThumbnail, thumbnail } from "./images.js";
import {
  addExamples, changed, deleteClass, deleteExamples, describe, examples, inOrder, moveExamples, on, path, registry, rename,
} from "./registry.js";
import { blobOf, clearWhole, holdsImages, kind, noun, showWhole } from "./kinds.js";
import { addMore } from "./add.js";

const PAGE_SIZE = 60; // classes
const SEARCH_FROM = 8; // classes; fewer need no search field
let limit = PAGE_SIZE;
const cards = new Map(); // label -> { key, node }

export function startClasses() {
  on("refresh", draw);
  $("find").addEventListener("input", draw);
  $("more-classes").addEventListener("click", () => {
    limit += PAGE_SIZE;
    draw();
  });
  startExampleDialog();
}

function draw() {
  const wanted = $("find").value.trim().toLowerCase();
  const found = registry.classes.filter(({ label }) => label.toLowerCase().includes(wanted));
  const shown = found.slice(0, limit);
  const total = registry.classes.reduce((sum, { examples: count }) => sum + count, 0);
  $("counts").textContent = `${plural(registry.classes.length, "class", "classes")}, ${plural(total, "example")}`;
  $("no-classes").hidden = registry.classes.length > 0;
  $("find-field").hidden = registry.classes.length < SEARCH_FROM;
  $("more-classes").hidden = shown.length === found.length;
  $("labels").replaceChildren(...registry.classes.map(({ label }) => el("option", { value: label })));
  for (const label of cards.keys()) {
    if (!registry.classes.some((one) => one.label === label)) cards.delete(label);
  }
  const focused = focusedExample();
  $("classes").replaceChildren(...shown.map(cardOf));
  focusExample(focused);
}

/** The focused example, so that a new card does not lose the focus. */
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
  (buttons[Math.min(focused.at, buttons.length - 1)] ?? $("add")).focus();
}

function cardOf(about) {
  const key = JSON.stringify([registry.name, registry.about.describable, about]);
  const known = cards.get(about.label);
  if (known?.key === key) return known.node;
  const card = { key, node: makeCard(about) };
  cards.set(about.label, card);
  return card.node;
}

function makeCard({ label, examples: count, example_ids: ids, description = null }) {
  const list = el("ul", { class: "thumbs", "aria-label": `Examples of ${label}` });
  const add = el("input", { type: "file", multiple: true, accept: kind().accept, "aria-label": `Add ${noun()}s to ${label}` });
  fileInput(add, (files) => addMore(label, files));
  const node = el(
    "li",
    { class: "class", "data-label": label },
    el("div", { class: "row" }, el("h3", {}, label), el("span", { class: "hint" }, plural(count, "example"))),
    el(
      "div",
      { class: "row small" },
      el("label", { class: "button" }, add, "Add"),
      el("button", { type: "button", "aria-label": `Rename ${label}`, on: { click: () => askNewName(label, count) } }, "Rename"),
      ...describeButton(label, description),
      el("button", { type: "button", "aria-label": `Delete ${label}`, on: { click: () => askDelete(label, count) } }, "Delete"),
    ),
    ...(description === null ? [] : [el("p", { class: "description" }, `“${description}”`)]),
    list,
  );
  dropZone(node, (files) => addMore(label, files));
  list.append(...ids.map((id, n) => exampleItem(label, id, n)));
  if (count > ids.length) {
    const more = el("button", { type: "button", class: "small" }, `All ${plural(count, "example")}`);
    more.addEventListener("click", () => showAll(label, list, more));
    node.append(more);
  }
  return node;
}

/** A button to describe a class, where the encoder reads texts, or may. */
function describeButton(label, description) {
  const able = description !== null || (registry.about.describable ?? holdsImages());
  const click = () => askDescription(label, description);
  return able ? [el("button", { type: "button", "aria-label": `Describe ${label}`, on: { click } }, "Describe")] : [];
}

function askDescription(label, before) {
  const set = async (text) => {
    await inOrder(() => describe(label, text));
    await changed();
  };
  ask({
    title: `Describe “${label}”`,
    text: "Words say what its images show, where examples are few. Leave it empty for none.",
    field: "Description",
    optional: true,
    value: before ?? "",
    yes: "Describe",
    act: async (words) => {
      const text = words || null;
      if (text === before) return;
      await set(text);
      pushUndo(`describing “${label}”`, () => set(before));
      say(text === null ? `“${label}” has no description any more` : `“${label}” is described as “${text}”`);
    },
  });
}

function exampleItem(label, id, n) {
  const button = el("button", { type: "button", class: "example", "aria-label": `Example ${n + 1} of ${label}` }, thumbnail(registry.name, id));
  button.addEventListener("click", () => openExample(id));
  button.addEventListener("keydown", (event) => {
    if (event.key !== "Delete" && event.key !== "Backspace") return;
    event.preventDefault();
    deleteExample(id, label).catch(showError);
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
    showError(error);
  }
}

function askNewName(label, count) {
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
      await inOrder(() => rename(label, name));
      pushUndo(`renaming “${label}” to “${name}”`, async () => {
        await inOrder(() => rename(name, label));
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
    text: `There is a class “${into}” already. ${plural(count, "example")} of “${label}” would be moved to it. This cannot be undone.`,
    yes: "Merge them",
    danger: true,
    act: async () => {
      await inOrder(() => rename(label, into, true));
      await changed();
      say(`“${label}” was merged into “${into}”`);
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
      await inOrder(() => deleteClass(label));
      await changed();
      say(`“${label}” was deleted`);
    },
  });
}

/** Delete an example; its bytes are held until the page is left, so that it can be undone. */
async function deleteExample(id, label) {
  const name = (await aboutExample(id, label))?.source ?? `example ${id}`;
  let file = null;
  try {
    const image = await blobOf(id);
    file = new File([image], name, { type: image.type });
  } catch (error) {
    if (!(error instanceof Problem && error.status >= 400)) throw error;
    const sure = await ask({
      title: "Delete this example?",
      text: `Its ${noun()} cannot be downloaded (${error.message}), so this cannot be undone.`,
      yes: "Delete it",
      danger: true,
      act: () => true,
    });
    if (!sure) return;
  }
  await inOrder(() => deleteExamples([id]));
  if (file) {
    pushUndo(`deleting an example of “${label}”`, async () => {
      const report = await inOrder(() => addExamples(label, [file], true));
      if (report.failed.length) throw new Problem(422, report.failed[0].reason);
      await changed();
    });
  }
  await changed();
  say(`${name} was deleted from “${label}”`);
}

async function aboutExample(id, label) {
  const page = await examples(label, id - 1, 1);
  return page.examples.find((example) => example.id === id) ?? null;
}

let opened = null; // the example in the dialog

function startExampleDialog() {
  const dialog = $("example");
  $("example-close").addEventListener("click", () => dialog.close());
  const closing = (change) => async (event) => {
    event.preventDefault();
    try {
      await change(opened.id, opened.label);
      dialog.close();
      if (document.activeElement === document.body) $("add").focus();
    } catch (error) {
      showError(error, $("example-problem"));
    }
  };
  $("example-delete").addEventListener("click", closing(deleteExample));
  dialog.querySelector("form").addEventListener("submit", closing(moveExample));
}

/** Show an example in a dialog, to move or delete it. */
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
  $("example-image").hidden = !holdsImages();
  clearWhole($("example-whole"));
  if (holdsImages()) showThumbnail($("example-image"), registry.name, id, 512);
  else showWhole($("example-whole"), blobOf(id));
  $("example-image").alt = `Example of ${label}`;
  $("example").showModal();
  $("example-close").focus();
  try {
    const about = await aboutExample(id, label);
    if (opened.id === id) $("example-source").textContent = about ? about.source : "It was deleted meanwhile.";
  } catch (error) {
    showError(error, $("example-problem"));
  }
}

async function moveExample(id, label) {
  const to = $("example-label").value.trim();
  if (to === label) return;
  if (!to) throw new Problem(0, "Write the name of its class.");
  await inOrder(() => call("PATCH", path("examples", id), { json: { label: to } }));
  pushUndo(`moving an example from “${label}” to “${to}”`, async () => {
    await inOrder(() => moveExamples([id], label));
    await changed();
  });
  await changed();
  say(`Moved from “${label}” to “${to}”`);
}
