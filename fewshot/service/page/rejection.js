/** "None of these": the switch, the limit on false accepts, and the threshold of the registry. */

import { call } from "./api.js";
import { $, ask, showError, el, plural, say } from "./dom.js";
import { holdsImages, noun } from "./kinds.js";
import { predictAgain, hooks } from "./queue.js";
import { changed, inOrder, on, path, registry } from "./registry.js";

const LIMITS = [0.01, 0.02, 0.05, 0.1, 0.2];
const DEFAULT = 0.05;
let shownFor = null; // the registry whose stored limit the switch was set to
let possible = false; // whether there is a threshold for the chosen limit

export function startRejection() {
  hooks.maxFalseAccept = () => ($("reject").checked && possible ? Number($("limit").value) : 1);
  on("refresh", read);
  $("reject").addEventListener("change", update);
  $("limit").addEventListener("change", update);
  $("save-limit").addEventListener("click", save);
  $("negatives").querySelector("button").addEventListener("click", removeNegatives);
}

async function update() {
  try {
    await read();
    await predictAgain();
  } catch (error) {
    showError(error);
  }
}

function drawLimits(chosen) {
  const limits = [...new Set([...LIMITS, chosen])].sort((a, b) => a - b);
  const name = (limit) => `${Number((100 * limit).toPrecision(3))} %`;
  $("limit").replaceChildren(...limits.map((limit) => el("option", { value: limit }, name(limit))));
  $("limit").value = chosen;
}

/** Read the settings of the registry; the switch is set by them when a registry is first shown. */
async function read() {
  if (shownFor !== registry.name) {
    shownFor = registry.name;
    const own = await call("GET", path("rejection"));
    drawLimits(own.max_false_accept ?? DEFAULT);
    $("reject").checked = own.max_false_accept !== null;
  }
  const on = $("reject").checked;
  const limit = Number($("limit").value);
  const { max_false_accept: stored, threshold, problem, negatives } = await call("GET", path("rejection"), {
    query: on ? { max_false_accept: limit } : {},
  });
  possible = on && threshold !== null;
  if (!on) $("threshold").textContent = holdsImages() ? "Every image gets its closest class, whatever it shows." : `Every ${noun()} gets its closest class.`;
  else $("threshold").textContent = threshold ? sentence(threshold) : `Not possible yet: ${problem}.`;
  $("save-limit").hidden = !possible || stored === limit;
  $("negatives").hidden = !negatives;
  $("negatives").firstElementChild.textContent = `${plural(negatives, noun())} added as “none of these”.`;
}

function sentence({ message, estimated_false_reject: rejected }) {
  const first = `${message.charAt(0).toUpperCase()}${message.slice(1)}.`;
  return rejected === null ? first : `${first} About ${Math.round(100 * rejected)} % of the ${noun()}s of known classes are rejected, too.`;
}

async function save() {
  const limit = Number($("limit").value);
  try {
    await inOrder(() => call("PUT", path("rejection"), { json: { max_false_accept: limit } }));
    await read();
    $("limit").focus();
    say(`The limit is saved in “${registry.name}”`);
  } catch (error) {
    showError(error);
  }
}

function removeNegatives() {
  ask({
    title: `Remove all “none of these” ${noun()}s?`,
    text: `All ${noun()}s that were added as none of the classes are removed. This cannot be undone.`,
    yes: "Remove them",
    danger: true,
    act: async () => {
      await inOrder(() => call("DELETE", path("negatives")));
      await changed();
      say("Removed");
    },
  });
}
