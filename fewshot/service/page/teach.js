/** Making classes: pictures are laid out, named, and sent in batches. */

import { inBatches } from "./api.js";
import { $, canUndo, complain, el, plural, say } from "./dom.js";
import { dropZone, failures, fileInput, folderOf, freeImage, nameOf, preview, sorted } from "./pictures.js";
import { changed, deleteExamples, inTurn, moveExamples, teach } from "./registry.js";

const SHOWN = 24;
let staged = []; // { file, label }: the label is its folder's, "" where it came alone
let failed = []; // of what was dropped last
let running = null; // an AbortController

export function startTeaching() {
  const form = $("teach-form");
  dropZone(form, stage);
  fileInput($("teach-files"), stage);
  fileInput($("teach-folder"), stage);
  $("label").addEventListener("input", drawStaged);
  $("unstage").addEventListener("click", () => {
    setStaged([]);
    $("label").focus();
  });
  $("teach-stop").addEventListener("click", () => running?.abort());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  // A picture on its way is lost with the page.
  window.addEventListener("beforeunload", (event) => running && event.preventDefault());
}

/** Take pictures for the class named in the form; without a name they wait for one. */
export function stage(files) {
  const { pictures, failed: others } = sorted(files);
  failed = others;
  setStaged([...staged, ...pictures.map((file) => ({ file, label: folderOf(file) }))]);
  if (staged.length && $("label").value.trim()) {
    submit();
    return;
  }
  if (!running) $("teach-report").replaceChildren(...failures(failed));
  if (staged.length) (byFolder() ? $("teach-now") : $("label")).focus();
}

function setStaged(next) {
  staged = next;
  drawStaged();
}

/** Whether every picture has a name from its folder, and none was written. */
const byFolder = () => !$("label").value.trim() && staged.length > 0 && staged.every(({ label }) => label);

function groups() {
  const named = new Map();
  const written = $("label").value.trim();
  for (const { file, label } of staged) {
    const key = written || label;
    named.set(key, [...(named.get(key) ?? []), file]);
  }
  return [...named];
}

function drawStaged() {
  const list = $("staged-pictures");
  const shown = staged.slice(0, SHOWN).map(({ file }) => file);
  if (shown.length !== list.children.length || shown.some((file, n) => list.children[n].file !== file)) {
    for (const image of list.querySelectorAll("img")) freeImage(image);
    list.replaceChildren(...shown.map((file) => Object.assign(el("li", {}, preview(file, nameOf(file))), { file })));
  }
  $("staged").hidden = !staged.length;
  const count = plural(staged.length, "picture");
  const named = groups();
  const written = $("label").value.trim();
  if (written) $("staged-text").textContent = `${count}, all “${written}”.`;
  else if (byFolder()) {
    const some = named.slice(0, 6).map(([label, files]) => `${label} (${files.length})`);
    const more = named.length > some.length ? ` and ${named.length - some.length} more` : "";
    $("staged-text").textContent =
      `${count}, to be taught as ${some.join(", ")}${more}. A name written above would hold for all of them.`;
  } else $("staged-text").textContent = `${count}: write the name of their class above.`;
}

function submit() {
  if (!staged.length) {
    $("teach-report").replaceChildren(el("p", { class: "problem" }, "First choose pictures of the class, or drop them here."));
    return;
  }
  const named = groups();
  if (named.some(([label]) => !label)) {
    $("teach-report").replaceChildren(el("p", { class: "problem" }, "What are they? Write a name for their class."));
    $("label").focus();
    return;
  }
  if (running) {
    say("These are taught when those before are done: press Teach then");
    return;
  }
  $("label").value = "";
  setStaged([]);
  teachAll(named);
}

/** Teach a class that is there more pictures. */
export function teachMore(label, files) {
  const { pictures, failed: others } = sorted(files);
  if (running) {
    setStaged([...staged, ...pictures.map((file) => ({ file, label }))]);
    say("These are taught when those before are done: press Teach then");
    return;
  }
  failed = others;
  teachAll([[label, pictures]]);
}

/** Teach groups of [label, files] one after the other, and say what became of them. */
function teachAll(named) {
  running = new AbortController();
  return inTurn(() => send(named, running.signal)).finally(() => (running = null));
}

async function send(named, signal) {
  const total = named.reduce((sum, [, files]) => sum + files.length, 0);
  const report = { added: new Map(), ids: [], duplicates: 0, conflicts: [], failed, done: new Set(), problem: null };
  failed = [];
  drawProgress(0, total);
  for (const [label, files] of named) {
    try {
      await inBatches(files, {
        signal,
        send: (batch) => teach(label, batch),
        took: (batch, answer) => {
          note(report, label, batch, answer);
          drawProgress(report.done.size, total);
        },
        refused: (file, reason) => {
          report.failed.push({ source: nameOf(file), reason });
          report.done.add(file);
        },
      });
    } catch (error) {
      report.problem = error;
      break;
    }
  }
  drawProgress(total, total);
  // What was not sent is laid out again, so that nothing is lost by a pause of the server.
  const left = named.flatMap(([label, files]) => files.map((file) => ({ file, label })));
  if (report.problem) setStaged([...left.filter(({ file }) => !report.done.has(file)), ...staged]);
  finish(report);
  await changed().catch(complain);
}

function note(report, label, batch, answer) {
  for (const file of batch) report.done.add(file);
  report.added.set(label, (report.added.get(label) ?? 0) + answer.added);
  report.ids.push(...answer.new_ids);
  report.duplicates += answer.duplicates;
  report.failed.push(...answer.failed);
  for (const conflict of answer.conflicts) {
    const file = batch.find((one) => nameOf(one).endsWith(conflict.source)); // of a very long name only the end comes back
    report.conflicts.push({ ...conflict, label, file });
  }
}

function drawProgress(done, total) {
  $("teach-progress").hidden = done >= total;
  const bar = $("teach-progress").querySelector("progress");
  bar.max = total;
  bar.value = done;
  $("teach-progress-text").textContent = `${done.toLocaleString("en")} of ${plural(total, "picture")}`;
}

function finish(report) {
  const added = [...report.added].filter(([, count]) => count);
  const total = added.reduce((sum, [, count]) => sum + count, 0);
  const classes = added.length > 3 ? plural(added.length, "class", "classes") : added.map(([label]) => `“${label}”`).join(", ");
  const said = total ? [`Learned ${plural(total, "picture")} of ${classes}.`] : ["Nothing new was learned."];
  if (report.duplicates) said.push(`Already there: ${plural(report.duplicates, "picture")}.`);
  if (report.problem?.name === "AbortError") said.push("Stopped; the rest is laid out above.");
  else if (report.problem) said.push(`${report.problem.message} What was not sent is laid out above.`);
  $("teach-report").replaceChildren(
    el("p", { class: report.problem ? "problem" : "good" }, said.join(" ")),
    ...conflicts(report.conflicts),
    ...failures(report.failed),
  );
  if (report.conflicts.length) said.push(`${plural(report.conflicts.length, "picture")} of another class.`);
  if (report.failed.length) said.push(`${plural(report.failed.length, "file")} not taken.`);
  say(said.join(" "));
  if (!report.ids.length) return;
  canUndo(`teaching ${plural(total, "picture")} of ${classes}`, () =>
    inTurn(async () => {
      await deleteExamples(report.ids);
      await changed();
    }),
  );
}

/** Pictures that another class holds: which is right is for a person to say. */
function conflicts(found) {
  if (!found.length) return [];
  const described = found.map(({ source, held_by: held, label }) =>
    el("li", {}, el("b", {}, source), `: “${held.join("”, “")}” has it, not added to “${label}”`),
  );
  const box = el("div", { class: "problem" }, el("p", {}, `${plural(found.length, "picture")} of another class:`), el("ul", {}, ...described));
  const settle = async (change) => {
    box.remove();
    try {
      await inTurn(async () => {
        await change();
        await changed();
      });
    } catch (error) {
      complain(error);
    }
  };
  const movable = found.filter((conflict) => conflict.example_ids?.length);
  const copyable = found.filter((conflict) => conflict.file);
  const buttons = el("div", { class: "row" });
  if (movable.length === found.length) {
    buttons.append(el("button", { type: "button", on: { click: () => settle(() => move(movable)) } }, "Move to the new class"));
  }
  if (copyable.length === found.length) {
    buttons.append(el("button", { type: "button", on: { click: () => settle(() => copy(copyable)) } }, "Keep in both"));
  }
  box.append(buttons);
  return [box];
}

async function move(found) {
  for (const { example_ids: ids, label } of found) await moveExamples(ids, label);
  say(`Moved ${plural(found.length, "picture")}`);
  canUndo(`moving ${plural(found.length, "picture")}`, async () => {
    for (const { example_ids: ids, held_by: held } of found) await moveExamples(ids, held[0]);
    await changed();
  });
}

async function copy(found) {
  const ids = [];
  for (const { file, label } of found) ids.push(...(await teach(label, [file], true)).new_ids);
  say(`${plural(found.length, "picture")} now in two classes`);
  canUndo(`keeping ${plural(found.length, "picture")} in two classes`, async () => {
    await deleteExamples(ids);
    await changed();
  });
}
