/** What a registry holds, images, texts or sounds: which files, in which words, and how one is shown. */

import { respond } from "./api.js";
import { el } from "./dom.js";
import { registry } from "./registry.js";

const SHOWN = 160; // characters of a text in a list
const KINDS = {
  image: {
    noun: "image",
    type: "image/",
    suffix: /\.(jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?|avif|heic|heif|hif)$/i,
    accept: "image/*,.avif,.heic,.heif,.hif",
    other: "not an image; JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and HEIC can be read",
  },
  text: {
    noun: "text",
    type: "text/plain",
    suffix: /\.txt$/i,
    accept: ".txt,text/plain",
    other: "not a text; .txt files can be read",
  },
  audio: {
    noun: "sound",
    type: "audio/",
    suffix: /\.(wav|flac|ogg|oga|mp3)$/i,
    accept: "audio/*,.wav,.flac,.ogg,.oga,.mp3",
    other: "not a sound; WAV, FLAC, OGG and MP3 can be read",
  },
};

/** The kind of example that the chosen registry holds. */
export const kind = () => KINDS[registry.about.modality] ?? KINDS.image;

/** "image", "text" or "sound". */
export const noun = () => kind().noun;

export const holdsImages = () => kind() === KINDS.image;

/** Say everywhere on the page what the registry holds. */
export function drawKind() {
  const upper = noun().charAt(0).toUpperCase() + noun().slice(1);
  const words = (text) => text.replaceAll("image", noun()).replaceAll("Image", upper);
  for (const node of document.querySelectorAll("[data-words]")) node.textContent = words(node.dataset.words);
  for (const node of document.querySelectorAll("[data-name]")) node.setAttribute("aria-label", words(node.dataset.name));
  for (const node of document.querySelectorAll("input[type=file][accept]")) node.accept = kind().accept;
  for (const node of document.querySelectorAll(".typed")) node.hidden = kind() !== KINDS.text;
}

/** A written text as a file, named by its beginning. */
export function textFile(text) {
  const words = text.trim().replace(/\s+/g, " ");
  const name = words.length > 60 ? `${words.slice(0, 60)}...` : words;
  return new File([text], `"${name}"`, { type: "text/plain" });
}

/** A text or sound that the page holds, in a few words; a sound can be played where there is room for a player. */
export function fileWords(file, name) {
  const node = el("span", { class: "words" }, kind() === KINDS.text ? "" : `♪ ${name}`);
  if (kind() === KINDS.text) show(node, file.slice(0, 4 * SHOWN), SHOWN);
  return node;
}

/** An example of the service, text or sound, in a few words. */
export function exampleWords(id) {
  const node = el("span", { class: "words" }, "♪");
  if (kind() === KINDS.text) {
    node.textContent = "";
    blobOf(id).then((blob) => show(node, blob, SHOWN), () => node.classList.add("unseen"));
  }
  return node;
}

/** Show a text whole, or a player of a sound, in an element in place of what was there; `blob` may be a promise. */
export async function showWhole(place, blob) {
  clearWhole(place);
  const node = kind() === KINDS.text ? el("p", { class: "whole" }) : el("audio", { controls: true });
  place.append(node);
  try {
    const found = await blob;
    if (kind() === KINDS.text) await show(node, found, Infinity);
    else {
      node.dataset.url = URL.createObjectURL(found);
      node.src = node.dataset.url;
    }
  } catch (error) {
    node.replaceWith(el("p", { class: "problem" }, error.message));
  }
}

export function clearWhole(place) {
  for (const node of place.querySelectorAll("audio")) if (node.dataset.url) URL.revokeObjectURL(node.dataset.url);
  place.replaceChildren();
}

/** The bytes of an example. */
export async function blobOf(id) {
  return (await respond("GET", ["registries", registry.name, "examples", id, "image"])).blob();
}

async function show(node, blob, most) {
  const text = await blob.text();
  node.textContent = text.length > most ? `${text.slice(0, most)}...` : text;
}
