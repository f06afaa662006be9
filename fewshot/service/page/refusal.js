/** "None of these": the switch, the level, and what the registry can promise. */

import { call } from "./api.js";
import { $, ask, complain, el, plural, say } from "./dom.js";
import { askAgain, hooks } from "./queue.js";
import { changed, inTurn, on, path, registry } from "./registry.js";

const LEVELS = [0.01, 0.02, 0.05, 0.1, 0.2];
const DEFAULT = 0.05;
let shownFor = null; // the registry whose own level the switch was set to
let possible = false; // whether there is enough to draw a line at the level chosen

export function startRefusal() {
  hooks.maxFalseAccept = () => ($("refuse").checked && possible ? Number($("level").value) : 1);
  on("shown", read);
  $("refuse").addEventListener("change", again);
  $("level").addEventListener("change", again);
  $("keep-level").addEventListener("click", keep);
  $("negatives").querySelector("button").addEventListener("click", forget);
}

async function again() {
  try {
    await read();
    await askAgain();
  } catch (error) {
    complain(error);
  }
}

function drawLevels(chosen) {
  const levels = [...new Set([...LEVELS, chosen])].sort((a, b) => a - b);
  const name = (level) => `${Number((100 * level).toPrecision(3))} %`;
  $("level").replaceChildren(...levels.map((level) => el("option", { value: level }, name(level))));
  $("level").value = chosen;
}

/** Read what the registry keeps and promises; the switch is set by it when a registry is first shown. */
async function read() {
  if (shownFor !== registry.name) {
    shownFor = registry.name;
    const own = await call("GET", path("rejection"));
    drawLevels(own.max_false_accept ?? DEFAULT);
    $("refuse").checked = own.max_false_accept !== null;
  }
  const asked = $("refuse").checked;
  const level = Number($("level").value);
  const { max_false_accept: kept, threshold: promise, problem, negatives } = await call("GET", path("rejection"), {
    query: asked ? { max_false_accept: level } : {},
  });
  possible = asked && promise !== null;
  if (!asked) $("promise").textContent = "Every picture is given its closest class, whatever it shows.";
  else $("promise").textContent = promise ? sentence(promise) : `Not possible yet: ${problem}.`;
  $("keep-level").hidden = !possible || kept === level;
  $("negatives").hidden = !negatives;
  $("negatives").firstElementChild.textContent = `${plural(negatives, "picture")} taught as none of these.`;
}

function sentence({ message: text, estimated_false_reject: lost }) {
  const promised = `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
  return lost === null ? promised : `${promised} About ${Math.round(100 * lost)} % of the pictures of known classes are refused with them.`;
}

async function keep() {
  const level = Number($("level").value);
  try {
    await inTurn(() => call("PUT", path("rejection"), { json: { max_false_accept: level } }));
    await read();
    $("level").focus();
    say(`“${registry.name}” keeps this limit from now on`);
  } catch (error) {
    complain(error);
  }
}

function forget() {
  ask({
    title: "Forget what is none of these?",
    text: "All pictures that were taught as none of the classes are removed. This cannot be undone.",
    yes: "Forget them",
    danger: true,
    act: async () => {
      await inTurn(() => call("DELETE", path("negatives")));
      await changed();
      say("Forgotten");
    },
  });
}
