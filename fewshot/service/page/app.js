/** The page: choosing a registry, and what belongs to neither section. */

import { call, hooks as service, storeToken, Problem } from "./api.js";
import { startPrediction } from "./prediction.js";
import { startClasses } from "./classes.js";
import { $, ask, showError, el, clearUndo, say, undo } from "./dom.js";
import { startDoctor } from "./doctor.js";
import { dropZone, fileInput, filesOf, numbered, partition } from "./images.js";
import { noun, textFile } from "./kinds.js";
import { add, predictRest, hooks as predicting, queue } from "./queue.js";
import { changed, choose, loadRegistries, on, refresh, registry } from "./registry.js";
import { startRejection } from "./rejection.js";
import { stageFiles, startAdding } from "./add.js";

service.askToken = async (refused) => {
  await ask({
    title: "This server requires a token",
    text: refused ? "The token was not accepted." : "It is in the file that the server was started with, as --token-file.",
    field: "Token",
    secret: true,
    yes: "Continue",
    act: (value) => {
      // A header holds no other characters.
      if (!/^[\x21-\x7e]+$/.test(value)) throw new Problem(0, "This is not a token: a token has no spaces or accents.");
      storeToken(value);
    },
  });
};

function showTrouble(error) {
  $("trouble").firstElementChild.textContent = error.message;
  $("trouble").hidden = false;
  if (error.name !== "Problem") console.error(error);
}

async function attempt(work) {
  try {
    await work();
    $("trouble").hidden = true;
  } catch (error) {
    showTrouble(error);
  }
}

/** The registry of the URL, so that a reload and a bookmark show it again. */
const wanted = () => new URLSearchParams(location.hash.slice(1)).get("registry");

async function start() {
  await loadRegistries();
  drawRegistries();
  const names = registry.all.map(({ name }) => name);
  const readable = registry.all.find(({ problem }) => !problem)?.name;
  const name = [registry.name, wanted(), readable, names[0]].find((one) => names.includes(one)) ?? null;
  if (name === null) {
    for (const id of ["add", "predict", "doctor"]) $(id).inert = true;
    say("There is no registry yet: create one");
    if (registry.canCreate) createRegistry();
    return;
  }
  await show(name);
}

function drawRegistries() {
  const option = ({ name, problem }) => el("option", { value: name }, problem ? `${name} (cannot be opened)` : name);
  $("registry").replaceChildren(...registry.all.map(option));
  $("registry").disabled = registry.all.length < 2;
  $("new-registry").hidden = !registry.canCreate;
}

async function show(name) {
  for (const id of ["add", "predict", "doctor"]) $(id).inert = false;
  $("registry").value = name;
  document.title = `${name} – fewshot`;
  await choose(name);
}

function updateAddress() {
  if (registry.name !== null && wanted() !== registry.name) {
    history.replaceState(null, "", `#registry=${encodeURIComponent(registry.name)}`);
  }
}

function createRegistry() {
  return ask({
    title: "New registry",
    text: "A registry is a set of classes to choose from.",
    field: "Name",
    yes: "Create it",
    act: async (name) => {
      await call("POST", ["registries"], { json: { name } });
      await loadRegistries();
      drawRegistries();
      await show(name);
      say(`“${name}” was created: add a class`);
      $("label").focus();
    },
  });
}

function predict(files) {
  const { images, failed } = partition(files);
  queue.failed = failed;
  const wasEmpty = !queue.items.length;
  add(images);
  // After the frame that shows the queue; from then on its keys work.
  if (wasEmpty && images.length) requestAnimationFrame(() => $("queue").focus({ preventScroll: true }));
}

startAdding();
startClasses();
startRejection();
startPrediction();
startDoctor();
predicting.onError = showTrouble;
on("select", clearUndo);
on("select", updateAddress);

dropZone($("predict-drop"), predict);
dropZone($("predict"), predict);
fileInput($("predict-files"), predict);
fileInput($("predict-folder"), predict);
$("predict-text-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("predict-text").value;
  if (!text.trim()) return;
  $("predict-text").value = "";
  predict([textFile(text)]);
});

// An image dropped elsewhere would otherwise replace the page, and its queue be lost.
for (const event of ["dragover", "drop"]) window.addEventListener(event, (dropped) => dropped.preventDefault());
window.addEventListener("drop", () => say(`Drop ${noun()}s on a class or on “Add examples” to add them, on “Predict” to predict them`));

window.addEventListener("paste", async (event) => {
  const text = event.target.matches("input, textarea") ? "" : event.clipboardData.getData("text/plain");
  const files = (await filesOf(event.clipboardData)).map(numbered);
  if (!files.length && text.trim() && noun() === "text") files.push(textFile(text));
  if (files.length) ($("add").contains(document.activeElement) ? stageFiles : predict)(files);
});

window.addEventListener("keydown", (event) => {
  if (event.target.matches("input:not([type=checkbox], [type=file]), textarea, select") || document.querySelector("dialog[open]")) return;
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z") {
    event.preventDefault();
    undo();
  }
});
$("undo").addEventListener("click", undo);
$("show-keys").addEventListener("click", () => $("keys").showModal());
$("registry").addEventListener("change", () => attempt(() => show($("registry").value)));
$("new-registry").addEventListener("click", createRegistry);
window.addEventListener("hashchange", () => {
  const known = registry.all.some(({ name }) => name === wanted());
  if (!known) updateAddress(); // "Skip to predictions" was followed
  else if (wanted() !== registry.name) attempt(() => show(wanted()));
});
$("trouble").querySelector("button").addEventListener("click", () =>
  attempt(async () => {
    await (registry.name === null ? start() : changed());
    await predictRest();
  }),
);
// Others may have changed the registry meanwhile.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && registry.name !== null) {
    refresh().then((isNew) => isNew && changed()).catch(showError);
  }
});

attempt(start);
