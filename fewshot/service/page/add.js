/** Adding examples: images are staged, get a class name, and are sent in batches. */

import { inBatches } from "./api.js";
import { $, pushUndo, showError, el, plural, say } from "./dom.js";
import { drawKind, noun, textFile } from "./kinds.js";
import { dropZone, failures, fileInput, folderOf, revokePreview, nameOf, preview, partition } from "./images.js";
import { addExamples, changed, deleteExamples, inOrder, moveExamples, on } from "./registry.js";

const MAX_PREVIEWS = 24;
let staged = []; // { file, label }: the label is the name of its folder, or ""
let failed = []; // of what was dropped last
let running = null; // an AbortController

export function startAdding() {
  const form = $("add-form");
  dropZone(form, stageFiles);
  fileInput($("add-files"), stageFiles);
  fileInput($("add-folder"), stageFiles);
  $("label").addEventListener("input", drawStaged);
  $("stage-text").addEventListener("click", () => {
    const text = $("add-text").value;
    if (!text.trim()) return $("add-text").focus();
    $("add-text").value = "";
    return stageFiles([textFile(text)]);
  });
  on("refresh", drawKind);
  $("unstage").addEventListener("click", () => {
    setStaged([]);
    $("label").focus();
  });
  $("add-stop").addEventListener("click", () => running?.abort());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  // What is being sent is lost with the page.
  window.addEventListener("beforeunload", (event) => running && event.preventDefault());
}

/** Add images to the class named in the form; without a name they wait for one. */
export function stageFiles(files) {
  const { images, failed: others } = partition(files);
  failed = others;
  setStaged([...staged, ...images.map((file) => ({ file, label: folderOf(file) }))]);
  if (staged.length && $("label").value.trim()) {
    submit();
    return;
  }
  if (!running) $("add-report").replaceChildren(...failures(failed));
  if (staged.length) (byFolder() ? $("add-now") : $("label")).focus();
}

function setStaged(next) {
  staged = next;
  drawStaged();
}

/** Whether every image has the name of its folder, and none was written. */
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
  const list = $("staged-images");
  const shown = staged.slice(0, MAX_PREVIEWS).map(({ file }) => file);
  if (shown.length !== list.children.length || shown.some((file, n) => list.children[n].file !== file)) {
    for (const image of list.querySelectorAll("img")) revokePreview(image);
    list.replaceChildren(...shown.map((file) => Object.assign(el("li", {}, preview(file, nameOf(file))), { file })));
  }
  $("staged").hidden = !staged.length;
  const count = plural(staged.length, noun());
  const named = groups();
  const written = $("label").value.trim();
  if (written) $("staged-text").textContent = `${count} for “${written}”.`;
  else if (byFolder()) {
    const some = named.slice(0, 6).map(([label, files]) => `${label} (${files.length})`);
    const more = named.length > some.length ? ` and ${named.length - some.length} more` : "";
    $("staged-text").textContent =
      `${count} for ${some.join(", ")}${more}. A name written above is used for all of them instead.`;
  } else $("staged-text").textContent = `${count}: write the name of their class above.`;
}

function submit() {
  if (!staged.length) {
    $("add-report").replaceChildren(el("p", { class: "problem" }, `Choose ${noun()}s of the class first, or drop them here.`));
    return;
  }
  const named = groups();
  if (named.some(([label]) => !label)) {
    $("add-report").replaceChildren(el("p", { class: "problem" }, "Write the name of their class."));
    $("label").focus();
    return;
  }
  if (running) {
    say("Others are being sent: press Add when they are done");
    return;
  }
  $("label").value = "";
  setStaged([]);
  addAll(named);
}

/** Add images to an existing class. */
export function addMore(label, files) {
  const { images, failed: others } = partition(files);
  if (running) {
    setStaged([...staged, ...images.map((file) => ({ file, label }))]);
    say("Others are being sent: press Add when they are done");
    return;
  }
  failed = others;
  addAll([[label, images]]);
}

/** Add groups of [label, files] one after the other, and report on them. */
function addAll(named) {
  running = new AbortController();
  return inOrder(() => send(named, running.signal)).finally(() => (running = null));
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
        send: (batch) => addExamples(label, batch),
        onResponse: (batch, result) => {
          record(report, label, batch, result);
          drawProgress(report.done.size, total);
        },
        onRejected: (file, reason) => {
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
  // What was not sent is staged again, so that nothing is lost.
  const left = named.flatMap(([label, files]) => files.map((file) => ({ file, label })));
  if (report.problem) setStaged([...left.filter(({ file }) => !report.done.has(file)), ...staged]);
  finish(report);
  await changed().catch(showError);
}

function record(report, label, batch, result) {
  for (const file of batch) report.done.add(file);
  report.added.set(label, (report.added.get(label) ?? 0) + result.added);
  report.ids.push(...result.new_ids);
  report.duplicates += result.duplicates;
  report.failed.push(...result.failed);
  for (const conflict of result.conflicts) {
    const file = batch.find((one) => nameOf(one).endsWith(conflict.source)); // of a very long name only the end is returned
    report.conflicts.push({ ...conflict, label, file });
  }
}

function drawProgress(done, total) {
  $("add-progress").hidden = done >= total;
  const bar = $("add-progress").querySelector("progress");
  bar.max = total;
  bar.value = done;
  $("add-progress-text").textContent = `${done.toLocaleString("en")} of ${plural(total, noun())}`;
}

function finish(report) {
  const added = [...report.added].filter(([, count]) => count);
  const total = added.reduce((sum, [, count]) => sum + count, 0);
  const classes = added.length > 3 ? plural(added.length, "class", "classes") : added.map(([label]) => `“${label}”`).join(", ");
  const said = total ? [`Added ${plural(total, noun())} to ${classes}.`] : ["Nothing new was added."];
  if (report.duplicates) said.push(`${plural(report.duplicates, noun())} there already.`);
  if (report.problem?.name === "AbortError") said.push("Stopped; the rest is listed above.");
  else if (report.problem) said.push(`${report.problem.message} What was not sent is listed above.`);
  $("add-report").replaceChildren(
    el("p", { class: report.problem ? "problem" : "good" }, said.join(" ")),
    ...conflicts(report.conflicts),
    ...failures(report.failed),
  );
  if (report.conflicts.length) said.push(`${plural(report.conflicts.length, noun())} of another class.`);
  if (report.failed.length) said.push(`${plural(report.failed.length, "file")} not added.`);
  say(said.join(" "));
  if (!report.ids.length) return;
  pushUndo(`adding ${plural(total, noun())} to ${classes}`, () =>
    inOrder(async () => {
      await deleteExamples(report.ids);
      await changed();
    }),
  );
}

/** Images that another class holds, for a person to decide. */
function conflicts(found) {
  if (!found.length) return [];
  const described = found.map(({ source, held_by: held, label }) =>
    el("li", {}, el("b", {}, source), `: it is an example of “${held.join("”, “")}”, so it was not added to “${label}”`),
  );
  const box = el("div", { class: "problem" }, el("p", {}, `${plural(found.length, noun())} of another class:`), el("ul", {}, ...described));
  const resolve = async (change) => {
    box.remove();
    try {
      await inOrder(async () => {
        await change();
        await changed();
      });
    } catch (error) {
      showError(error);
    }
  };
  const movable = found.filter((conflict) => conflict.example_ids?.length);
  const copyable = found.filter((conflict) => conflict.file);
  const buttons = el("div", { class: "row" });
  if (movable.length === found.length) {
    buttons.append(el("button", { type: "button", on: { click: () => resolve(() => move(movable)) } }, "Move to the new class"));
  }
  if (copyable.length === found.length) {
    buttons.append(el("button", { type: "button", on: { click: () => resolve(() => copy(copyable)) } }, "Keep in both"));
  }
  box.append(buttons);
  return [box];
}

async function move(found) {
  for (const { example_ids: ids, label } of found) await moveExamples(ids, label);
  say(`Moved ${plural(found.length, noun())}`);
  pushUndo(`moving ${plural(found.length, noun())}`, async () => {
    for (const { example_ids: ids, held_by: held } of found) await moveExamples(ids, held[0]);
    await changed();
  });
}

async function copy(found) {
  const ids = [];
  for (const { file, label } of found) ids.push(...(await addExamples(label, [file], true)).new_ids);
  say(`${plural(found.length, noun())} now in two classes`);
  pushUndo(`keeping ${plural(found.length, noun())} in two classes`, async () => {
    await deleteExamples(ids);
    await changed();
  });
}
