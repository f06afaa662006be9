// The network's pixels, as fewshot.media prepares them by Pillow: its resizing, in two passes of integers.

const FILTERS = { // by distance in pixels: the support, and the weight
  nearest: null,
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(1 - Math.abs(x), 0)],
  hamming: [1, (x) => (x === 0 ? 1 : Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)))],
  bicubic: [2, (signed) => {
    const x = Math.abs(signed);
    if (x >= 2) return 0;
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : -0.5 * (((x - 5) * x + 8) * x - 4);
  }],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
const ONE = 2 ** 22; // Pillow's fixed point
const STRIP = 256; // rows that are read at once: a canvas of a whole photograph is more than some phones allow
const MOST_RATIO = 16; // of a longer picture only the centre is resized
const REDUCING_GAP = 2; // a JPEG of twice as many times the network's pixels is reduced as its decoder would

export const INTERPOLATIONS = Object.keys(FILTERS);
export const MAX_PIXELS = 89_478_485;

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/** Pixels (h, w, 3) of an image {width, height, rows(top, count) -> RGBA, jpeg}. */
export function prepare(image, { resize, crop, interpolation }) {
  const factor = image.jpeg ? reduction(image, Math.max(...[resize].flat())) : 1;
  const [width, height] = [image.width, image.height].map((size) => Math.ceil(size / factor));
  const box = Number.isInteger(resize) ? centre(width, height) : { left: 0, top: 0, width, height };
  const [newWidth, newHeight] = Number.isInteger(resize) ? shortSide(box, resize) : [resize[1], resize[0]];
  const across = table(box.width, newWidth, interpolation);
  const narrow = new Uint8ClampedArray(height * newWidth * 3);
  for (let top = 0; top < image.height; top += STRIP) {
    const count = Math.min(STRIP, image.height - top);
    const read = { data: image.rows(top, count), width: image.width, height: count, channels: 4 };
    const rows = factor > 1 ? reduced(read, factor) : read;
    const out = narrow.subarray((top / factor) * newWidth * 3);
    alongRows(rows, across, box.left, out);
  }
  const down = table(box.height, newHeight, interpolation);
  const inside = narrow.subarray(box.top * newWidth * 3, (box.top + box.height) * newWidth * 3);
  const resized = alongColumns(inside, newWidth * 3, down, new Uint8ClampedArray(newHeight * newWidth * 3));
  return cropped(resized, newWidth, newHeight, crop);
}

/** How many times smaller Pillow decodes a JPEG: its `draft`. */
function reduction(image, largest) {
  const times = Math.floor(Math.min(image.width, image.height) / (REDUCING_GAP * largest));
  return [8, 4, 2].find((factor) => times >= factor) ?? 1;
}

function centre(width, height) {
  const short = Math.min(width, height), long = Math.max(width, height);
  const most = Math.min(long, MOST_RATIO * short + Math.max(0, long - MOST_RATIO * short) % 2);
  const start = (long - most) / 2;
  return width === long
    ? { left: start, top: 0, width: most, height }
    : { left: 0, top: start, width, height: most };
}

function shortSide({ width, height }, resize) {
  const long = Math.trunc((resize * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? [resize, long] : [long, resize];
}

/** Which pixels make each of `to` of `from`, by which weights; `size` weights a pixel lie in `taps`. */
function table(from, to, interpolation) {
  const scale = from / to, starts = new Int32Array(to);
  if (interpolation === "nearest") {
    const taken = starts.map((_, n) => Math.floor((n + 0.5) * scale));
    return { starts: taken, taps: new Float64Array(to).fill(1), size: 1, finish: (sum) => sum };
  }
  const [reach, weight] = FILTERS[interpolation], wide = Math.max(scale, 1);
  const size = Math.ceil(reach * wide) * 2 + 1, taps = new Float64Array(to * size);
  for (let n = 0; n < to; n++) {
    const middle = (n + 0.5) * scale;
    const first = Math.max(Math.trunc(middle - reach * wide + 0.5), 0);
    const count = Math.min(Math.trunc(middle + reach * wide + 0.5), from) - first;
    const own = Array.from({ length: count }, (_, k) => weight((k + first - middle + 0.5) * (1 / wide)));
    const sum = own.reduce((a, b) => a + b, 0);
    own.forEach((value, k) => { taps[n * size + k] = rounded((sum ? value / sum : value) * ONE); });
    starts[n] = first;
  }
  return { starts, taps, size, finish: (sum) => Math.floor((sum + ONE / 2) / ONE) };
}

const rounded = (x) => Math.trunc(x + (x < 0 ? -0.5 : 0.5));

function alongRows({ data, width, height, channels }, { starts, taps, size, finish }, left, out) {
  const count = starts.length;
  for (let y = 0, to = 0; y < height; y++) {
    for (let n = 0; n < count; n++, to += 3) {
      let r = 0, g = 0, b = 0, at = (y * width + left + starts[n]) * channels;
      for (let k = n * size; k < (n + 1) * size; k++, at += channels) {
        const tap = taps[k];
        if (tap === 0) continue; // also those past the border
        r += tap * data[at];
        g += tap * data[at + 1];
        b += tap * data[at + 2];
      }
      out[to] = finish(r);
      out[to + 1] = finish(g);
      out[to + 2] = finish(b);
    }
  }
  return out;
}

function alongColumns(data, stride, { starts, taps, size, finish }, out) {
  const sums = new Float64Array(stride);
  for (let n = 0; n < starts.length; n++) {
    sums.fill(0);
    for (let k = 0; k < size; k++) {
      const tap = taps[n * size + k], from = (starts[n] + k) * stride;
      if (tap !== 0) for (let x = 0; x < stride; x++) sums[x] += tap * data[from + x];
    }
    for (let x = 0; x < stride; x++) out[n * stride + x] = finish(sums[x]);
  }
  return out;
}

/** Rows of a JPEG at a part of their size, as its decoder makes them: the low frequencies of each block of 8 x 8. */
function reduced(rows, factor) {
  const [width, height] = [rows.width, rows.height].map((size) => Math.ceil(size / factor));
  const wide = alongRows(rows, blocks(rows.width, width, factor), 0, new Float32Array(rows.height * width * 3));
  const data = new Uint8ClampedArray(height * width * 3);
  alongColumns(wide, width * 3, blocks(rows.height, height, factor), data);
  return { data, width, height, channels: 3 };
}

function blocks(from, to, factor) {
  const kept = 8 / factor, starts = new Int32Array(to), taps = new Float64Array(to * 8);
  const wave = (k, x, n) => (k ? Math.SQRT2 : 1) * Math.cos(((2 * x + 1) * k * Math.PI) / (2 * n));
  for (let n = 0; n < to; n++) {
    starts[n] = Math.floor(n / kept) * 8;
    for (let x = 0; x < 8; x++) {
      let tap = 0;
      for (let k = 0; k < kept; k++) tap += (wave(k, n % kept, kept) * wave(k, x, 8)) / 8;
      taps[n * 8 + Math.min(x, from - 1 - starts[n])] += tap; // a block that is cut goes on as it ends
    }
  }
  return { starts, taps, size: 8, finish: (sum) => sum };
}

function cropped(data, width, height, [newHeight, newWidth]) {
  const left = start(width, newWidth), top = start(height, newHeight);
  const out = new Uint8Array(newHeight * newWidth * 3);
  const begin = Math.max(left, 0), end = Math.min(left + newWidth, width);
  for (let y = Math.max(top, 0); y < Math.min(top + newHeight, height); y++) {
    out.set(data.subarray((y * width + begin) * 3, (y * width + end) * 3), ((y - top) * newWidth + begin - left) * 3);
  }
  return out;
}

/** Where the middle `wanted` of `have` pixels begin, with Python's rounding of halves to even. */
function start(have, wanted) {
  if (have < wanted) return -Math.floor((wanted - have) / 2);
  const half = (have - wanted) / 2, whole = Math.floor(half);
  return half === whole ? whole : whole + (whole % 2);
}
