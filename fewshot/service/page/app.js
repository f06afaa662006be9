/** The page: registries to choose from, and what belongs to neither side. */

import { call, hooks as service, keepToken, Problem } from "./api.js";
import { startAnswer } from "./answer.js";
import { startClasses } from "./classes.js";
import { $, ask, complain, el, forgetUndo, say, undo } from "./dom.js";
import { dropZone, fileInput, filesOf, numbered, sorted } from "./pictures.js";
import { add, askRest, hooks as asking, queue } from "./queue.js";
import { changed, choose, loadRegistries, on, refresh, registry } from "./registry.js";
import { startRefusal } from "./refusal.js";
import { stage, startTeaching } from "./teach.js";

service.askToken = async (refused) => {
  await ask({
    title: "The server asks for its token",
    text: refused ? "The token was not accepted." : "It is in the file given with --token-file when the server was started.",
    field: "Token",
    secret: true,
    yes: "Go on",
    act: (value) => {
      // A header holds no other characters.
      if (!/^[\x21-\x7e]+$/.test(value)) throw new Problem(0, "That cannot be a token: it has no spaces or accents.");
      keepToken(value);
    },
  });
};

function trouble(error) {
  $("trouble").firstElementChild.textContent = error.message;
  $("trouble").hidden = false;
  if (error.name !== "Problem") console.error(error);
}

async function attempt(work) {
  try {
    await work();
    $("trouble").hidden = true;
  } catch (error) {
    trouble(error);
  }
}

/** The registry that the address names, so that a reload and a bookmark show it again. */
const wanted = () => new URLSearchParams(location.hash.slice(1)).get("registry");

async function start() {
  await loadRegistries();
  drawRegistries();
  const names = registry.all.map(({ name }) => name);
  const sound = registry.all.find(({ problem }) => !problem)?.name;
  const name = [registry.name, wanted(), sound, names[0]].find((one) => names.includes(one)) ?? null;
  if (name === null) {
    for (const id of ["teach", "test"]) $(id).inert = true;
    say("There is no registry yet: make one");
    if (registry.canCreate) makeRegistry();
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
  for (const id of ["teach", "test"]) $(id).inert = false;
  $("registry").value = name;
  document.title = `${name} – fewshot`;
  await choose(name);
}

function keepAddress() {
  if (registry.name !== null && wanted() !== registry.name) {
    history.replaceState(null, "", `#registry=${encodeURIComponent(registry.name)}`);
  }
}

function makeRegistry() {
  return ask({
    title: "New registry",
    text: "Classes of one registry are told from each other.",
    field: "Name",
    yes: "Make it",
    act: async (name) => {
      await call("POST", ["registries"], { json: { name } });
      await loadRegistries();
      drawRegistries();
      await show(name);
      say(`“${name}” is made: teach it a class`);
      $("label").focus();
    },
  });
}

function test(files) {
  const { pictures, failed } = sorted(files);
  queue.failed = failed;
  const unattended = !queue.items.length;
  add(pictures);
  // After the frame that shows the queue; from then on its keys work.
  if (unattended && pictures.length) requestAnimationFrame(() => $("queue").focus({ preventScroll: true }));
}

startTeaching();
startClasses();
startRefusal();
startAnswer();
asking.trouble = trouble;
on("chosen", forgetUndo);
on("chosen", keepAddress);

dropZone($("test-drop"), test);
dropZone($("test"), test);
fileInput($("test-files"), test);
fileInput($("test-folder"), test);

// A picture dropped beside the mark would otherwise take the page's place, with all that is queued.
for (const event of ["dragover", "drop"]) window.addEventListener(event, (dropped) => dropped.preventDefault());
window.addEventListener("drop", () => say("Drop pictures on a class or on “Teach” to teach them, on “Test” to recognise them"));

window.addEventListener("paste", async (event) => {
  const files = (await filesOf(event.clipboardData)).map(numbered);
  if (files.length) ($("teach").contains(document.activeElement) ? stage : test)(files);
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
$("new-registry").addEventListener("click", makeRegistry);
window.addEventListener("hashchange", () => {
  const known = registry.all.some(({ name }) => name === wanted());
  if (!known) keepAddress(); // "Skip to testing" was followed
  else if (wanted() !== registry.name) attempt(() => show(wanted()));
});
$("trouble").querySelector("button").addEventListener("click", () =>
  attempt(async () => {
    await (registry.name === null ? start() : changed());
    await askRest();
  }),
);
// Others may have taught meanwhile.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && registry.name !== null) {
    refresh().then((others) => others && changed()).catch(complain);
  }
});

attempt(start);
