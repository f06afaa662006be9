/** Images from a drop, a paste or a file chooser, and images on the page. */

import { address, respond, token } from "./api.js";
import { el, plural, say } from "./dom.js";
import { exampleWords, fileWords, holdsImages, kind } from "./kinds.js";

const paths = new WeakMap();
let pasted = 0;

/** A file's path below what was dropped or chosen, else its name. */
export const nameOf = (file) => paths.get(file) || file.webkitRelativePath || file.name;

/** The name of the folder of a file, "" where it was chosen alone. */
export const folderOf = (file) => nameOf(file).split("/").at(-2) ?? "";

/** Split files into those that the registry can hold and others, as { images, failed }. */
export function partition(files) {
  const { type, suffix, other } = kind();
  const images = files.filter((file) => file.type.startsWith(type) || suffix.test(file.name));
  const others = files.filter((file) => !images.includes(file));
  return { images, failed: others.map((file) => ({ source: nameOf(file), reason: other })) };
}

/** All files of a drop or paste, and of its folders. */
export async function filesOf(transfer) {
  // The list is emptied when the event ends: everything is read before the first await.
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
    // A reader returns a hundred entries at a time, and none at the end.
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

/** A pasted image that is no file is always named image.png: number them. */
export function numbered(file) {
  if (file.name !== "image.png") return file;
  pasted += 1;
  return new File([file], `pasted-${pasted}.png`, { type: file.type });
}

/** Let files be dropped on an element; `onFiles` is called with all of them. */
export function dropZone(element, onFiles) {
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
    if (files.length) onFiles(files);
    else say("That was not a file: save the image, and drop its file");
  });
}

/** Call `onFiles` with the files chosen in an input, and empty it so that the same can be chosen again. */
export function fileInput(input, onFiles) {
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) onFiles(files);
  });
}

/** A preview of a file; one that the browser cannot show is named instead. */
export function preview(file, alt = "") {
  if (!holdsImages()) return fileWords(file, nameOf(file));
  const image = el("img", { alt, decoding: "async", loading: "lazy" });
  showFile(image, file);
  return image;
}

/** Show a file in an image element, and free the one it showed before. */
export function showFile(image, file) {
  revokePreview(image);
  image.classList.remove("unseen");
  const url = URL.createObjectURL(file);
  image.dataset.url = url;
  image.onerror = () => {
    image.classList.add("unseen");
    image.alt ||= `${nameOf(file)}, which this browser cannot show`;
  };
  image.src = url;
}

export function revokePreview(image) {
  if (!image) return; // of a text or sound there is none
  if (image.dataset.url) URL.revokeObjectURL(image.dataset.url);
  delete image.dataset.url;
}

const CACHE_SIZE = 1000;
const cache = new Map(); // URL of a thumbnail -> URL of its blob
const observer = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    showFetched(target);
  }
}, { rootMargin: "200px" });

/** An example's thumbnail from the service, or its words. */
export function thumbnail(registry, id, { size = 128, alt = "" } = {}) {
  if (!holdsImages()) return exampleWords(id);
  const image = el("img", { alt, decoding: "async", loading: "lazy", width: size, height: size });
  showThumbnail(image, registry, id, size);
  return image;
}

/** Show an example's thumbnail in an image; an <img> sends no token, so with one it is fetched once visible. */
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
  observer.observe(image);
}

async function showFetched(image) {
  const key = String(address(image.parts, image.query));
  try {
    if (!cache.has(key)) {
      cache.set(key, URL.createObjectURL(await (await respond("GET", image.parts, { query: image.query })).blob()));
      // An image that shows a freed one still shows it.
      if (cache.size > CACHE_SIZE) free(cache.keys().next().value);
    }
    image.src = cache.get(key);
  } catch {
    image.classList.add("unseen");
  }
}

function free(key) {
  URL.revokeObjectURL(cache.get(key));
  cache.delete(key);
}

/** The files that were not added, with their reasons, as a list that unfolds. */
export function failures(failed) {
  if (!failed.length) return [];
  return [
    el(
      "details",
      { class: "problem", open: failed.length <= 5 },
      el("summary", {}, `${plural(failed.length, "file")} not added`),
      el("ul", {}, ...failed.map(({ source, reason }) => el("li", {}, el("b", {}, source), `: ${reason}`))),
    ),
  ];
}
