/** Elements, texts and dialogs. Nothing here or elsewhere turns text into markup: a label may hold any character. */

export const $ = (id) => document.getElementById(id);

/** Create an element; attributes of null or false are left out, `on` holds listeners, children are nodes or text. */
export function el(tag, { on = {}, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) made.addEventListener(event, listener);
  made.append(...children);
  return made;
}

export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/** A score with few digits; "–" for a missing one. */
export function score(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  return Math.abs(value) < 10 ? value.toFixed(2) : value.toPrecision(4);
}

/** Show a sentence at the foot of the page, which screen readers read out. */
export function say(text) {
  const said = $("said");
  // A live region is read when its text changes: the same words twice would be silent.
  said.textContent = said.textContent === text ? `${text}\u00a0` : text;
}

/** Show an error in a place, or at the foot of the page. */
export function showError(error, place = null) {
  if (place) place.textContent = error.message;
  else say(error.message);
  if (error.name !== "Problem") console.error(error);
}

const waiting = [];
let open = false;

/**
 * Ask for a confirmation, or with `field` for a text, which may be empty if `optional`; `act` is called with it while
 * the dialog stays open, which shows its error. Resolves to the result of `act`, or to null when cancelled. One dialog at a time.
 */
export function ask(question) {
  return new Promise((resolve) => {
    waiting.push([question, resolve]);
    if (!open) nextQuestion();
  });
}

function nextQuestion() {
  const next = waiting.shift();
  if (!next) return;
  const [question, resolve] = next;
  const { title, text = "", field = null, optional = false, value = "", secret = false, yes, danger = false, act } = question;
  open = true;
  const dialog = $("ask");
  const form = dialog.querySelector("form");
  const input = $("ask-value");
  const buttons = [$("ask-yes"), $("ask-no")];
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-problem").textContent = "";
  $("ask-field").hidden = field === null;
  $("ask-field").querySelector("span").textContent = field ?? "";
  input.type = secret ? "password" : "text";
  input.required = field !== null && !optional;
  input.value = value;
  buttons[0].textContent = yes;
  buttons[0].classList.toggle("danger", danger);
  buttons[0].classList.toggle("main", !danger);
  const done = (result) => {
    form.onsubmit = dialog.onclose = buttons[1].onclick = null;
    dialog.close();
    open = false;
    resolve(result);
    nextQuestion();
  };
  buttons[1].onclick = () => done(null);
  // The event is late: it may be of the previous dialog, when this one is open already.
  dialog.onclose = () => dialog.open || done(null);
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (buttons[0].disabled) return;
    buttons[0].disabled = true;
    try {
      const result = await act(input.value.trim());
      buttons[0].disabled = false;
      done(result === undefined ? true : result);
    } catch (error) {
      buttons[0].disabled = false;
      showError(error, $("ask-problem"));
      (field === null ? buttons[1] : input).focus();
    }
  };
  dialog.showModal();
  if (field !== null) input.select();
  // What cannot be undone is not one careless Enter away.
  else buttons[danger ? 1 : 0].focus();
}

const undoStack = [];

/** Remember how to undo a change; `what` completes "Undo: ...". */
export function pushUndo(what, revert) {
  undoStack.push({ what, revert });
  showUndo();
}

export function clearUndo() {
  undoStack.length = 0;
  showUndo();
}

let undoing = false;

export async function undo() {
  if (undoing || !undoStack.length) return;
  undoing = true;
  const last = undoStack.pop();
  try {
    say(`Undoing: ${last.what} …`);
    await last.revert();
    say(`Undone: ${last.what}`);
  } catch (error) {
    undoStack.push(last);
    showError(error);
  } finally {
    undoing = false;
    showUndo();
  }
}

function showUndo() {
  const button = $("undo");
  const last = undoStack.at(-1);
  if (!last && document.activeElement === button) $("predict").focus();
  button.hidden = !last;
  button.textContent = last ? `Undo: ${last.what}` : "";
}
