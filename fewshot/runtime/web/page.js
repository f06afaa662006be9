// The page: pictures that are dropped, pasted or chosen, and the camera.
import { frameOf, imageOf, ONNXRUNTIME_MISSING, Recognizer } from "./recognizer.js";

const $ = (id) => document.getElementById(id);
const BUNDLE = "bundle.zip";
const UNDECODED = "this browser cannot read it as a picture; JPEG, PNG, WebP, GIF and BMP can be read";
let recognizer, stream = null, asked = Promise.resolve(), waiting = 0;

function element(name, about = {}, ...children) {
  const made = Object.assign(document.createElement(name), about);
  made.append(...children);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(share > 0.995 ? 1 : 0)} %`;

function named({ label, probability, top }) {
  if (label === null) return `none of these; the closest is ${top[0][0]}`;
  return probability === null ? label : `${label}, ${percent(probability)}`;
}

/** What is shown of a prediction. */
function answer({ label, probability, top }) {
  const cell = (name, textContent, scope = "") => element(name, { textContent, scope });
  const head = element("tr", {}, cell("th", "Closest classes", "col"), cell("th", "Score", "col"));
  const rows = top.map(([one, score]) => element("tr", {}, cell("th", one, "row"), cell("td", score.toFixed(3))));
  const sure = probability === null ? "With one class there is no probability." : `Probability ${percent(probability)}`;
  return [
    element("p", { className: label === null ? "label none" : "label", textContent: label ?? "None of these" }),
    element("p", { className: "quiet", textContent: label === null ? "Unlike the examples of every class." : sure }),
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)),
  ];
}

async function recognised(file) {
  const image = await imageOf(file);
  try {
    return await recognizer.predict(image);
  } finally {
    image.close();
  }
}

/** Answer pictures one after the other, each in a card of its own. */
function ask(files) {
  for (const file of files) {
    const name = file.name || "picture";
    const picture = element("img", { className: "picture", alt: "", src: URL.createObjectURL(file) });
    picture.onload = picture.onerror = () => URL.revokeObjectURL(picture.src);
    const told = element("div", { className: "answer" });
    told.append(element("p", { className: "name", textContent: name }), element("p", { textContent: "Waiting…" }));
    const card = element("li", { className: "card" }, picture, told);
    $("answers").prepend(card);
    waiting++;
    asked = asked.then(async () => {
      if (card.isConnected) await answered(file, name, told, picture);
      waiting--;
    });
  }
  $("answers-heading").hidden = !$("answers").children.length;
}

async function answered(file, name, told, picture) {
  told.lastChild.textContent = "Recognising…";
  try {
    const found = await recognised(file);
    told.lastChild.replaceWith(...answer(found));
    $("status").textContent = `${name}: ${named(found)}${waiting > 1 ? ` (${waiting - 1} to come)` : ""}`;
  } catch (error) {
    const undecoded = error.name === "InvalidStateError" || error.name === "EncodingError";
    const reason = undecoded ? UNDECODED : error.message;
    picture.hidden = undecoded;
    told.lastChild.replaceWith(element("p", { className: "bad", textContent: reason }));
    $("status").textContent = `${name}: ${reason}`;
  }
}

async function startCamera() {
  $("camera-trouble").hidden = true;
  $("camera").disabled = true;
  try {
    if (!navigator.mediaDevices) throw new Error("browsers give it to pages of https:// and of localhost only");
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    cameraFails(error);
    return;
  } finally {
    $("camera").disabled = false;
  }
  stream.getVideoTracks()[0].onended = stopCamera; // unplugged, or forbidden meanwhile
  $("video").srcObject = stream;
  $("live").hidden = false;
  $("camera").hidden = true;
  $("stop").focus();
  await film(stream).catch((error) => {
    stopCamera();
    cameraFails(error);
  });
}

function cameraFails(error) {
  $("camera-trouble").textContent = `The camera cannot be used: ${error.message}`;
  $("camera-trouble").hidden = false;
}

/** Recognise one frame after the other, until the camera is stopped. */
async function film(own) {
  for (let last = ""; own === stream; await new Promise(requestAnimationFrame)) {
    if ($("video").readyState < 2 || !$("video").videoWidth) continue;
    const found = await recognizer.predict(frameOf($("video")));
    if (own !== stream) return;
    $("live-answer").replaceChildren(...answer(found));
    const label = found.label ?? "none of these";
    if (label !== last) $("status").textContent = `Camera: ${label}`; // said aloud where it changes only
    last = label;
  }
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = $("video").srcObject = null;
  $("live").hidden = true;
  $("camera").hidden = false;
  $("camera").focus();
}

function listen() {
  $("files").onchange = () => {
    ask($("files").files);
    $("files").value = "";
  };
  $("camera").onclick = startCamera;
  $("stop").onclick = stopCamera;
  $("clear").onclick = () => {
    $("answers").replaceChildren();
    $("answers-heading").hidden = true;
    $("status").textContent = "";
    $("files").focus();
  };
  document.addEventListener("paste", (event) => ask(event.clipboardData.files));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") ask(event.dataTransfer.files);
    });
  }
}

function describe({ about, license }) {
  const { labels, counts, encoder, rejection, written_by: by } = about;
  $("summary").textContent = `${labels.length} ${labels.length === 1 ? "class" : "classes"}, on your own machine.`;
  $("about-text").textContent = `Encoder ${encoder.name}, written by fewshot ${by.fewshot}. ` + (rejection
    ? `Of pictures of no class, at most ${percent(rejection.max_false_accept)} should get a label.`
    : "It has no threshold: every picture gets one of the classes.");
  $("classes").append(...labels.map((label, k) => element("li", { textContent: `${label} (${counts[k]})` })));
  $("license").textContent = license;
  $("about").hidden = false;
}

async function begin() {
  $("trouble").hidden = true;
  $("status").textContent = "Loading the model…";
  try {
    const response = await fetch(BUNDLE);
    if (!response.ok) throw new Error(`${BUNDLE} cannot be loaded: ${response.status} ${response.statusText}`);
    recognizer = await Recognizer.open(await response.arrayBuffer());
    describe(recognizer);
    listen();
    $("work").hidden = false;
    $("status").textContent = "Ready.";
  } catch (error) {
    $("status").textContent = "";
    if (error.message === ONNXRUNTIME_MISSING) {
      $("reason").textContent = `The browser says: ${error.cause.message}`;
      $("missing").hidden = false;
      return;
    }
    const title = element("h2", { textContent: "The model cannot be used" });
    $("trouble").replaceChildren(title, element("p", { textContent: error.message }));
    $("trouble").hidden = false;
  }
}

begin();
