"""One catalogue picture of each class, photographs to be recognised: ``augment="catalogue"`` against the picture alone.

No product photographs are at hand: the products are drawn (boxes, cans, bottles, jars, bags, tubes, with a pattern and
a word), the catalogue shows each on white, and the photographs show it smaller, turned, in other light, sometimes in
a row, among other products, on pictures of Tiny ImageNet's test classes, blurred and compressed. Synthetic views and
such photographs are pasted together alike, so that the gain is an upper bound of what real photographs would show. A
third kind of question is the catalogue's own: the product on white again, turned and of another size.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from calibration import ENCODERS
from common import save, shared_file
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont
from scipy.stats import t as student

from fewshot import ClassRegistry
from fewshot.classifiers import PrototypeClassifier, WhitenedPrototypeClassifier
from fewshot.datasets import load_dataset
from fewshot.encoders import load_encoder
from fewshot.media import open_image

SIDE, LARGE = 256, 512
PRODUCTS, FIRST, QUESTIONS = 160, 1_000, 6  # the first thousand products were for choosing
DRAWS = {20: 20, 80: 8}
COLOURS = (
    (200, 30, 40), (30, 90, 190), (20, 140, 70), (240, 190, 20), (230, 120, 30),
    (120, 50, 140), (245, 245, 240), (40, 40, 45), (150, 200, 230), (190, 150, 110),
)  # fmt: skip
CLASSIFIERS = {"whitened": WhitenedPrototypeClassifier, "prototype": PrototypeClassifier}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument("--sheet", help="write a picture of some products and their photographs here, and stop")
    options = parser.parse_args()
    grounds = [open_image(one) for one in load_dataset("tiny-imagenet", split="test").images[::5]]
    if options.sheet:
        sheet(grounds).save(options.sheet)
        return
    numbers = [(FIRST + n, number) for n in range(PRODUCTS) for number in range(QUESTIONS)]
    questions = {
        kind: [draw(*one, grounds) for one in numbers]
        for kind, draw in (("photographs", photograph), ("catalogue", again))
    }
    rows = []
    for encoder in options.encoders:
        place = ENCODERS[encoder]
        network = load_encoder(f"local-dir:{shared_file(*place)}" if place else encoder)
        examples = {augment: vectors(network, augment) for augment in (None, "catalogue")}
        for kind, images in questions.items():
            queries = network.encode(images).reshape(PRODUCTS, QUESTIONS, -1)
            for ways, draws in DRAWS.items():
                rows += compared(examples, queries, ways, draws, encoder=encoder, asked=kind)
                print(*rows[-len(CLASSIFIERS) :], sep="\n", file=sys.stderr, flush=True)
    save("catalogue", {"products": PRODUCTS, "questions": QUESTIONS, "rows": rows})


def vectors(network: Any, augment: Any) -> Any:
    """Return the vector of each product's only example, as a registry stores it."""
    with tempfile.TemporaryDirectory() as folder, ClassRegistry(Path(folder, "r.fewshot"), encoder=network) as registry:
        pairs = [(catalogue(FIRST + n), f"{n:04}") for n in range(PRODUCTS)]
        report = registry.add_labelled(pairs, augment=augment)
        assert (report.added, report.failed) == (PRODUCTS, ())
        return np.stack([one.vector for one in registry.export_page(after=0, limit=PRODUCTS)])


def compared(examples: dict[Any, Any], queries: Any, ways: int, draws: int, **column: Any) -> list[dict[str, Any]]:
    """Return, for each classifier, the accuracy without and with synthetic views, and the gain in the same draws."""
    rows = []
    for name, kind in CLASSIFIERS.items():
        found: dict[Any, list[float]] = {augment: [] for augment in examples}
        for draw in range(draws):
            chosen = np.random.default_rng(draw).choice(PRODUCTS, ways, replace=False)
            query, truth = queries[chosen].reshape(ways * QUESTIONS, -1), np.repeat(np.arange(ways), QUESTIONS)
            for augment, X in examples.items():
                answers = kind().fit(X[chosen], np.arange(ways)).predict(query)
                found[augment].append(float((answers == truth).mean()))
        gain = np.subtract(found["catalogue"], found[None])
        ci95 = student.ppf(0.975, draws - 1) * gain.std(ddof=1) / draws**0.5
        row = {**column, "classifier": name, "ways": ways, "draws": draws, "plain": float(np.mean(found[None]))}
        row |= {"augmented": float(np.mean(found["catalogue"])), "gain": float(gain.mean()), "ci95": float(ci95)}
        rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    return rows


def product(seed: int) -> Image.Image:
    """Draw a product, transparent around it, within the box that it fills."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGBA", (LARGE, LARGE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    body, label, ink = (_colour(rng) for _ in range(3))
    left, top, right, bottom = BODIES[int(rng.integers(len(BODIES)))](draw, rng, body, ink)
    width, height = right - left, bottom - top
    upper = top + height * rng.uniform(0.15, 0.35)
    field = (left + 0.08 * width, upper, right - 0.08 * width, upper + height * rng.uniform(0.3, 0.5))
    _pattern(draw, field, label, rng)
    word = "".join(rng.choice(list("ABCDEGHIKLMNOPRSTUVZ"), int(rng.integers(3, 7))))
    font = ImageFont.load_default(size=int(1.2 * width / len(word)))
    draw.text(((left + right) / 2, (field[1] + field[3]) / 2), word, fill=ink, font=font, anchor="mm")
    return image.crop(image.getchannel("A").getbbox())


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    about = np.array(COLOURS[int(rng.integers(len(COLOURS)))]) + rng.integers(-20, 20, 3)
    return tuple(int(value) for value in about.clip(0, 255))


def _box(draw: ImageDraw.ImageDraw, rng: np.random.Generator, body: Any, ink: Any) -> tuple[float, ...]:
    w, h = LARGE * rng.uniform(0.25, 0.4), LARGE * rng.uniform(0.3, 0.45)
    where = (LARGE / 2 - w, LARGE / 2 - h, LARGE / 2 + w, LARGE / 2 + h)
    draw.rectangle(where, fill=body)
    return where


def _can(draw: ImageDraw.ImageDraw, rng: np.random.Generator, body: Any, ink: Any) -> tuple[float, ...]:
    w, h = LARGE * rng.uniform(0.2, 0.25), LARGE * rng.uniform(0.35, 0.45)
    where = (LARGE / 2 - w, LARGE / 2 - h, LARGE / 2 + w, LARGE / 2 + h)
    draw.rounded_rectangle(where, radius=30, fill=body)
    draw.ellipse((where[0], where[1] - 10, where[2], where[1] + 30), fill=(190, 190, 195))
    return where


def _bottle(draw: ImageDraw.ImageDraw, rng: np.random.Generator, body: Any, ink: Any) -> tuple[float, ...]:
    w = LARGE * rng.uniform(0.14, 0.2)
    left, right = LARGE / 2 - w, LARGE / 2 + w
    draw.rounded_rectangle((left, 179, right, 486), radius=25, fill=body)
    draw.polygon([(left, 195), (right, 195), (287, 102), (225, 102)], fill=body)
    draw.rectangle((225, 31, 287, 113), fill=ink)
    return left, 205, right, 471


def _jar(draw: ImageDraw.ImageDraw, rng: np.random.Generator, body: Any, ink: Any) -> tuple[float, ...]:
    w = LARGE * rng.uniform(0.25, 0.31)
    left, right = LARGE / 2 - w, LARGE / 2 + w
    draw.rounded_rectangle((left, 128, right, 435), radius=40, fill=body)
    draw.rectangle((left + 15, 67, right - 15, 133), fill=ink)
    return left, 154, right, 410


def _bag(draw: ImageDraw.ImageDraw, rng: np.random.Generator, body: Any, ink: Any) -> tuple[float, ...]:
    draw.polygon([(102, 51), (410, 51), (440, 471), (72, 471)], fill=body)
    return 102, 102, 410, 435


def _tube(draw: ImageDraw.ImageDraw, rng: np.random.Generator, body: Any, ink: Any) -> tuple[float, ...]:
    h = LARGE * rng.uniform(0.13, 0.17)
    upper, lower = LARGE / 2 - h, LARGE / 2 + h
    draw.rounded_rectangle((41, upper, 471, lower), radius=20, fill=body)
    draw.rectangle((430, upper, 486, lower), fill=ink)
    return 51, upper, 420, lower


BODIES = (_box, _can, _bottle, _jar, _bag, _tube)


def _pattern(draw: ImageDraw.ImageDraw, field: tuple[float, ...], colour: Any, rng: np.random.Generator) -> None:
    left, top, right, bottom = field
    kind = int(rng.integers(4))
    if kind == 0:
        draw.rectangle(field, fill=colour)
    elif kind == 1:
        draw.ellipse(field, fill=colour)
    elif kind == 2:
        for n in range(5):
            upper = top + (bottom - top) * n / 5
            draw.rectangle((left, upper, right, upper + (bottom - top) / 10), fill=colour)
    else:
        for _ in range(24):
            x, y, r = rng.uniform(left, right), rng.uniform(top, bottom), rng.uniform(5, 16)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def catalogue(seed: int) -> Image.Image:
    """Show a product on white."""
    image, shown = Image.new("RGB", (SIDE, SIDE), "white"), product(seed)
    shown.thumbnail((220, 220))
    image.paste(shown, ((SIDE - shown.width) // 2, (SIDE - shown.height) // 2), shown)
    return _compressed(image, 92)


def again(seed: int, number: int, grounds: Any) -> Image.Image:
    """Show it on white again, turned and of another size."""
    rng = np.random.default_rng([seed, number, 1])
    image = Image.new("RGB", (SIDE, SIDE), "white")
    _place(image, product(seed), rng, rng.uniform(0.5, 0.9))
    return _compressed(image, 92)


def photograph(seed: int, number: int, grounds: Any) -> Image.Image:
    """Show it in a scene."""
    rng = np.random.default_rng([seed, number])
    ground: Image.Image = grounds[int(rng.integers(len(grounds)))]
    image = ground.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    for _ in range(int(rng.integers(3))):
        _place(image, product(100_000 + int(rng.integers(500))), rng, rng.uniform(0.2, 0.45))
    if rng.uniform() < 0.25:
        size = rng.uniform(0.3, 0.45)
        for n in range(4):
            _place(image, product(seed), rng, size, (int(SIDE * 0.24 * n - 10), int(SIDE * 0.3)))
    else:
        _place(image, product(seed), rng, rng.uniform(0.35, 0.85))
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.55, 1.3))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.6, 1.2))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.7, 1.2))
    pixels = np.asarray(image) * rng.uniform(0.85, 1.15, 3) + rng.normal(0, rng.uniform(0, 10), (SIDE, SIDE, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return _compressed(image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5))), 75)


def _place(
    image: Image.Image,
    shown: Image.Image,
    rng: np.random.Generator,
    size: float,
    where: tuple[int, int] | None = None,
) -> None:
    shown.thumbnail((int(SIDE * size), int(SIDE * size)))
    w, h = shown.size
    slant = rng.uniform(-0.15, 0.15)
    one, other = h * max(0.0, slant), h * max(0.0, -slant)
    shown = shown.transform(
        shown.size, Image.Transform.QUAD, (0, one, 0, h - one, w, h - other, w, other), Image.Resampling.BILINEAR
    )
    shown = shown.rotate(rng.uniform(-25, 25), expand=True, resample=Image.Resampling.BICUBIC)
    free = (rng.uniform(-0.1 * SIDE, 1.1 * SIDE - side) for side in shown.size)
    left, top = where or (int(value) for value in free)
    image.paste(shown, (left, top), shown)


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def sheet(grounds: Any) -> Image.Image:
    """Return six products, each as the catalogue shows it and in five photographs."""
    rows = [
        np.hstack([np.asarray(one) for one in (catalogue(seed), *(photograph(seed, n, grounds) for n in range(5)))])
        for seed in range(6)
    ]
    return Image.fromarray(np.vstack(rows))


if __name__ == "__main__":
    main()
