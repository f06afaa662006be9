// Recognises images with a bundle of `fewshot export REGISTRY FILE --onnx --web`, as fewshot.runtime does in Python.
import { INTERPOLATIONS, MAX_PIXELS, prepare } from "./pixels.js";

const FORMAT = "fewshot bundle", VERSION = 1;
const RUNTIME = new URL("./onnxruntime-web/ort.wasm.bundle.min.js", import.meta.url).href;
const SHORTEST = 1e-12;
const SELF_TEST = [[61, 83, 0.11, 0.07], [96, 96, 0.05, 0.19], [150, 40, 0.31, 0.02]];
export const ONNXRUNTIME_MISSING = "onnxruntime-web is missing";

/** The files of a bundle: an uncompressed zip. */
function unzip(buffer) {
  try {
    return entries(buffer);
  } catch (error) {
    throw error instanceof RangeError ? new Error("the bundle is damaged") : error;
  }
}

function entries(buffer) {
  const view = new DataView(buffer), files = {};
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("the bundle is no zip, or cut short");
  let at = view.getUint32(end + 16, true);
  for (let n = view.getUint16(end + 10, true); n > 0; n--) {
    const size = view.getUint32(at + 24, true), local = view.getUint32(at + 42, true);
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    if (view.getUint16(at + 10, true) !== 0) throw new Error("the bundle is compressed, as fewshot writes none");
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    if (start + size > buffer.byteLength) throw new Error("the bundle is cut short");
    files[text(buffer.slice(at + 46, at + 46 + name))] = buffer.slice(start, start + size);
    at += 46 + name + extra + comment;
  }
  return files;
}

const text = (buffer) => new TextDecoder().decode(buffer);

/** An array of NumPy, of 32-bit floats or 8-bit integers: a vector, or the rows of a matrix. */
function array(name, buffer) {
  const begin = 10 + new DataView(buffer).getUint16(8, true), header = text(buffer.slice(10, begin));
  const found = header.match(/'descr': '(<f4|\|i1)', 'fortran_order': False, 'shape': \((\d+),( \d+)?\)/);
  const bytes = buffer.slice(begin), [rows, columns] = [Number(found?.[2]), Number(found?.[3] ?? 1)];
  const data = found?.[1] === "|i1" ? Float32Array.from(new Int8Array(bytes)) : new Float32Array(bytes);
  if (rows * columns !== data.length) throw new Error(`${name} is damaged`);
  if (found[3] === undefined) return data;
  return Array.from({ length: rows }, (_, n) => data.subarray(n * columns, (n + 1) * columns));
}

function dot(a, b) {
  let sum = 0;
  for (let n = 0; n < a.length; n++) sum += a[n] * b[n];
  return sum;
}

const length = (a) => Math.max(Math.sqrt(dot(a, a)), SHORTEST);
const cosine = (a, b) => Math.min(Math.max(dot(a, b) / (length(a) * length(b)), -1), 1);
const unit = (a) => { const own = length(a); return Float64Array.from(a, (x) => x / own); };
const minus = (a, b) => Float64Array.from(a, (x, n) => x - b[n]);
const highest = (numbers) => numbers.reduce((a, b) => Math.max(a, b));
const clip = (x, [low, high]) => Math.min(Math.max(x, low), high);

function mean(rows) {
  const sum = new Float64Array(rows[0].length);
  for (const row of rows) for (let n = 0; n < sum.length; n++) sum[n] += row[n];
  return sum.map((x) => x / rows.length);
}

/** x -> (x - center) W, where W is I + axes diag(factors) axes', or axes without factors, or I without these. */
const map = (center, axes, factors) => (vector) => {
  const moved = center ? minus(vector, center) : Float64Array.from(vector);
  if (!axes) return moved;
  const along = new Float64Array(axes[0].length);
  axes.forEach((axis, n) => { for (let k = 0; k < along.length; k++) along[k] += moved[n] * axis[k]; });
  if (!factors) return along;
  for (let k = 0; k < along.length; k++) along[k] *= factors[k];
  return moved.map((x, n) => x + dot(axes[n], along));
};

/** Scores of classes and the probability of the best: numpy_head.py. */
export class Head {
  constructor(about, arrays) {
    const { kind, parts } = about.head, { head_scale: scale, head_bias: bias, head_vectors: vectors } = arrays;
    if (!["cosine", "sqeuclidean", "linear"].includes(kind)) throw new Error(`the bundle's head is of kind ${kind}`);
    Object.assign(this, { kind, parts, scale, bias, of: about.calibration, ways: about.labels.length });
    this.map = map(arrays.head_center, arrays.head_axes, arrays.head_factors);
    this.keys = kind === "cosine" ? vectors.map(this.map) : vectors;
  }

  scores(vector) {
    let query = Float64Array.from(vector), at = 0;
    for (const size of this.parts) {
      query.set(unit(query.subarray(at, at + size)), at);
      at += size;
    }
    if (this.scale) query = query.map((x, n) => x * this.scale[n]);
    if (this.kind === "cosine") query = this.map(query);
    return this.keys.map((key, k) => {
      if (this.kind === "cosine") return cosine(query, key);
      if (this.kind === "linear") return dot(query, key) + (this.bias?.[k] ?? 0);
      const apart = minus(query, key);
      return -dot(apart, apart);
    });
  }

  probability(scores) {
    const of = this.of, c = this.ways;
    if (c === 1 || !Object.keys(of).length) return null;
    const best = highest(scores), margins = scores.map((score) => (best - score) / of.unit);
    const typical = margins.reduce((a, b) => a + b) / (c - 1);
    const logBeta = of.intercept + of.log_ways * Math.log(clip(c, of.ways_range) / 10)
      + of.similarity * clip((best - of.others) / of.unit, of.similarity_range)
      + of.log_margin * Math.log(clip(typical, of.margin_range));
    const beta = Math.exp(clip(logBeta, [-3, 7])), middle = Math.max(typical, 1e-30);
    const apart = margins.map((margin) => (middle * Math.expm1(of.shape * Math.log1p(margin / middle))) / of.shape);
    const share = 1 / apart.reduce((sum, x) => sum + Math.exp(-beta * x), 0);
    return (1 - of.uniform_mix) * share + of.uniform_mix / c;
  }
}

/** The unknown score, higher is more surely of no class: numpy_unknown.py. */
export class Unknown {
  constructor(about, arrays) {
    const { background, scale, center_classes: most } = about.unknown;
    Object.assign(this, { background, scale, most });
    this.prototypes = arrays.unknown_prototypes ?? arrays.head_vectors;
    this.negatives = arrays.unknown_negatives ?? [];
    this.map = map(arrays.unknown_mean, arrays.unknown_axes, arrays.unknown_factors);
    this.keys = this.prototypes.map(this.map);
    this.others = this.means(arrays.unknown_center);
    this.theirs = this.others?.map((other, k) => minus(this.keys[k], other));
  }

  /** For each class, the mean of all that a query is compared with but that class; undefined where there is none. */
  means(center) {
    if (this.background || (this.keys.length === 1 && !center)) return undefined;
    const c = this.keys.length, weight = center ? this.weight(center) : 0, mapped = center && this.map(center);
    const all = mean(this.keys).map((x, n) => x * c + (center ? weight * mapped[n] : 0));
    return this.keys.map((key) => minus(all, key).map((x) => x / (c + weight - 1)));
  }

  /** How many classes the encoder's centre counts as. */
  weight(center) {
    const c = this.prototypes.length, middle = mean(this.prototypes);
    if (c === 1) return this.most;
    const squares = (a, b) => { const apart = minus(a, b); return dot(apart, apart); };
    const spread = this.prototypes.reduce((sum, one) => sum + squares(one, middle), 0);
    const variance = Math.max(spread, SHORTEST) / (c - 1);
    return variance / Math.max(squares(middle, center) - variance / c, variance / this.most);
  }

  score(vector) {
    const query = unit(vector), mapped = this.map(query);
    const closeness = this.keys.map((key, k) => {
      if (this.others) return cosine(minus(mapped, this.others[k]), this.theirs[k]);
      return this.background ? cosine(mapped, key) : cosine(query, this.prototypes[k]);
    });
    const logits = closeness.map((close) => this.scale * close), best = highest(logits);
    const sum = logits.reduce((total, logit) => total + Math.exp(logit - best), 0);
    const nearest = (rows) => highest(rows.map((row) => cosine(query, row)));
    const negative = this.negatives.length ? Math.max(nearest(this.negatives) - nearest(this.prototypes), 0) : 0;
    return negative - (Math.log(sum) + best) / this.scale;
  }
}

/** What a bundle holds: its description, arrays, graph and licence. */
export function read(buffer) {
  const files = unzip(buffer), about = files["bundle.json"] ? JSON.parse(text(files["bundle.json"])) : {}, arrays = {};
  const { format, version, modality, preparation } = about;
  if (format !== FORMAT) throw new Error("the file is no bundle of fewshot");
  if (version !== VERSION) throw new Error(`the bundle is of version ${version}; this page reads version ${VERSION}`);
  if (modality !== "image") throw new Error(`the bundle recognises ${modality}s; this page recognises images`);
  const { interpolation } = preparation;
  if (!INTERPOLATIONS.includes(interpolation)) throw new Error(`no resizing by ${interpolation} is known`);
  for (const [name, data] of Object.entries(files)) {
    if (name.endsWith(".npy")) arrays[name.slice(0, -4)] = array(name, data);
  }
  for (const name of ["head_axes", "unknown_axes"]) { // of a bundle in int8
    const scale = arrays[`${name}_scale`];
    if (scale) arrays[name] = arrays[name].map((row) => row.map((x, k) => x * scale[k]));
  }
  return { about, arrays, graph: new Uint8Array(files["encoder.onnx"]), license: text(files["LICENSE.txt"]) };
}

export class Recognizer {
  /** Of the bytes of a bundle. */
  static async open(buffer) {
    const { about, arrays, graph, license } = read(buffer);
    const ort = await import(RUNTIME).catch((error) => { throw new Error(ONNXRUNTIME_MISSING, { cause: error }); });
    ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", RUNTIME).href };
    ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency ?? 1) : 1;
    ort.env.wasm.proxy = true; // beside the page, which can be used meanwhile
    const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
    const made = new Recognizer(about, arrays, license, session, ort.Tensor);
    await made.test(arrays.self_test);
    return made;
  }

  constructor(about, arrays, license, session, Tensor) {
    Object.assign(this, { about, license, session, Tensor, last: Promise.resolve() });
    this.head = new Head(about, arrays);
    this.unknown = new Unknown(about, arrays);
  }

  /** The prediction for an image {width, height, rows, jpeg}: fewshot.registry.Prediction. */
  async predict(image, top = 5) {
    if (image.width * image.height > MAX_PIXELS) {
      throw new Error(`${image.width} x ${image.height} is over the limit of ${MAX_PIXELS.toLocaleString()} pixels`);
    }
    const vector = await this.embed(image), scores = this.head.scores(vector), unknown = this.unknown.score(vector);
    const order = scores.map((_, k) => k).sort((a, b) => scores[b] - scores[a] || a - b);
    const limit = this.about.rejection, best = order[0];
    return {
      label: limit && unknown >= limit.value ? null : this.about.labels[best],
      score: scores[best],
      top: order.slice(0, top).map((k) => [this.about.labels[k], scores[k]]),
      unknown_score: unknown,
      probability: this.head.probability(scores),
    };
  }

  async embed(image) {
    const pixels = prepare(image, this.about.preparation), [height, width] = this.about.preparation.crop;
    const run = () => this.session.run({ pixels: new this.Tensor("uint8", pixels, [1, height, width, 3]) });
    this.last = this.last.then(run, run); // a session runs once at a time, and the camera may run beside files
    return (await this.last).embeddings.data;
  }

  /** Compare the embeddings of three images with those of the machine that wrote the bundle: self_test.py. */
  async test(wanted) {
    const least = this.about.self_test.least_cosine;
    for (const [n, [height, width, along, across]] of SELF_TEST.entries()) {
      const found = await this.embed(waves(height, width, along, across));
      const near = cosine(found, wanted[n]), apart = Math.abs(length(found) / length(wanted[n]) - 1);
      if (!(near >= least && apart <= 10 * (1 - least))) {
        const told = `a cosine of ${near.toFixed(4)}, at least ${least} is needed`;
        throw new Error(`the bundle's self-test fails in this browser: ${told}`);
      }
    }
  }
}

function waves(height, width, along, across) {
  const data = new Uint8ClampedArray(height * width * 4);
  data.forEach((_, at) => {
    const pixel = at >> 2, y = Math.floor(pixel / width), x = pixel % width, k = at % 4;
    data[at] = 127.5 + 63 * (Math.sin(along * y + k) + Math.cos(across * x - k));
  });
  return { width, height, rows: (top, count) => data.subarray(top * width * 4, (top + count) * width * 4) };
}

/** The image of a file. */
export async function imageOf(file) {
  const start = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const { width, height } = bitmap, canvas = canvasOf(width, 1);
  const rows = (top, count) => {
    canvas.canvas.height = count; // and clears it
    canvas.fillStyle = "white"; // under what is transparent
    canvas.fillRect(0, 0, width, count);
    canvas.drawImage(bitmap, 0, -top);
    return canvas.getImageData(0, 0, width, count).data;
  };
  return { width, height, rows, jpeg: start[0] === 0xff && start[1] === 0xd8, close: () => bitmap.close() };
}

/** What a video shows. */
export function frameOf(video) {
  const width = video.videoWidth, height = video.videoHeight, canvas = canvasOf(width, height);
  canvas.drawImage(video, 0, 0);
  return { width, height, rows: (top, count) => canvas.getImageData(0, top, width, count).data };
}

function canvasOf(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}
