/** Pictures from a drop, a paste or a chooser, and pictures on the screen. */

import { address, respond, token } from "./api.js";
import { el, plural, say } from "./dom.js";

const SUFFIX = /\.(jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?)$/i;
const NOT_A_PICTURE = "not a picture; JPEG, PNG, WebP, BMP, GIF and TIFF can be read";
const paths = new WeakMap();
let pasted = 0;

/** A file's path below what was dropped or chosen, else its name. */
export const nameOf = (file) => paths.get(file) || file.webkitRelativePath || file.name;

/** The name of the folder a file came in, "" where it came alone. */
export const folderOf = (file) => nameOf(file).split("/").at(-2) ?? "";

/** Part files into pictures and what is none of them, as { pictures, failed }. */
export function sorted(files) {
  const pictures = files.filter((file) => file.type.startsWith("image/") || SUFFIX.test(file.name));
  const others = files.filter((file) => !pictures.includes(file));
  return { pictures, failed: others.map((file) => ({ source: nameOf(file), reason: NOT_A_PICTURE })) };
}

/** All files of a drop or paste, those in its folders too. */
export async function filesOf(transfer) {
  // The list is emptied as soon as the event is over: everything is taken out before the first wait.
  const taken = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  const found = await Promise.all(taken.map(({ entry, file }) => (entry?.isDirectory ? inFolder(entry) : [file])));
  return found.flat().filter(Boolean);
}

async function inFolder(folder) {
  const reader = folder.createReader();
  const files = [];
  for (;;) {
    // A reader gives a hundred entries at a time, and at last none.
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return files;
    for (const entry of entries) files.push(...(await (entry.isDirectory ? inFolder(entry) : fileOf(entry))));
  }
}

async function fileOf(entry) {
  const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
  paths.set(file, entry.fullPath.replace(/^\//, ""));
  return [file];
}

/** A picture that was copied, not a file, is always called image.png: number them. */
export function numbered(file) {
  if (file.name !== "image.png") return file;
  pasted += 1;
  return new File([file], `pasted-${pasted}.png`, { type: file.type });
}

/** Let files be dropped on an element; `take` is given all of them. */
export function dropZone(element, take) {
  let inside = 0;
  const mark = (more) => {
    inside = Math.max(0, inside + more);
    element.classList.toggle("over", inside > 0);
  };
  element.addEventListener("dragenter", () => mark(1));
  element.addEventListener("dragleave", () => mark(-1));
  element.addEventListener("drop", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    mark(-inside);
    const files = await filesOf(event.dataTransfer);
    if (files.length) take(files);
    else say("There was no file in that: save the picture, and drop its file");
  });
}

/** Give an input's files away, and empty it so that the same can be chosen again. */
export function fileInput(input, take) {
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) take(files);
  });
}

/** An image of a file in the browser's hands; formats it cannot show are named instead. */
export function preview(file, alt = "") {
  const image = el("img", { alt, decoding: "async", loading: "lazy" });
  showFile(image, file);
  return image;
}

/** Show a file in an image that is there, and free the one it showed before. */
export function showFile(image, file) {
  freeImage(image);
  image.classList.remove("unseen");
  const url = URL.createObjectURL(file);
  image.dataset.url = url;
  image.onerror = () => {
    image.classList.add("unseen");
    image.alt ||= `${nameOf(file)}, which this browser cannot show`;
  };
  image.src = url;
}

export function freeImage(image) {
  if (image.dataset.url) URL.revokeObjectURL(image.dataset.url);
  delete image.dataset.url;
}

const KEPT = 1000;
const fetched = new Map();
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    showFetched(target);
  }
}, { rootMargin: "200px" });

/** An example's thumbnail from the service. */
export function thumbnail(registry, id, { size = 128, alt = "" } = {}) {
  const image = el("img", { alt, decoding: "async", loading: "lazy", width: size, height: size });
  showThumbnail(image, registry, id, size);
  return image;
}

/** Show an example's thumbnail in an image; an <img> sends no token, so with one it is fetched when it comes in view. */
export function showThumbnail(image, registry, id, size) {
  const parts = ["registries", registry, "examples", id, "thumbnail"];
  image.onerror = () => image.classList.add("unseen");
  image.classList.remove("unseen");
  if (!token()) {
    image.src = address(parts, { size });
    return;
  }
  image.parts = parts;
  image.query = { size };
  seen.observe(image);
}

async function showFetched(image) {
  const key = String(address(image.parts, image.query));
  try {
    if (!fetched.has(key)) {
      fetched.set(key, URL.createObjectURL(await (await respond("GET", image.parts, { query: image.query })).blob()));
      // An image that shows a freed one goes on showing it.
      if (fetched.size > KEPT) free(fetched.keys().next().value);
    }
    image.src = fetched.get(key);
  } catch {
    image.classList.add("unseen");
  }
}

function free(key) {
  URL.revokeObjectURL(fetched.get(key));
  fetched.delete(key);
}

/** What became of pictures that were not taken, as a list to unfold. */
export function failures(failed) {
  if (!failed.length) return [];
  return [
    el(
      "details",
      { class: "problem", open: failed.length <= 5 },
      el("summary", {}, `${plural(failed.length, "file")} not taken`),
      el("ul", {}, ...failed.map(({ source, reason }) => el("li", {}, el("b", {}, source), `: ${reason}`))),
    ),
  ];
}
