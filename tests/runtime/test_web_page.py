"""The page that a bundle is exported to answers in a browser as fewshot.runtime does in Python."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import re
import shutil
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chromium import CONTRAST, chromium, wait
from click.testing import CliRunner
from digit_scans import scan
from numpy.testing import assert_allclose
from PIL import Image

from fewshot import ClassRegistry
from fewshot.cli import main
from fewshot.media import ImagePreparation
from fewshot.runtime import Recognizer, write_web_page
from fewshot.runtime.bundle_file import VERSION, read_bundle, write_bundle
from fewshot.runtime.numpy_head import NumpyHead
from fewshot.runtime.numpy_unknown import NumpyUnknown

WEB = Path(__file__).resolve().parents[2] / "fewshot" / "runtime" / "web"
NAMES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
WHOLE = ("china", "blossom")
PAGE_FILES = {"index.html", "page.js", "pixels.js", "recognizer.js", "style.css", "bundle.zip"}


def package(path, names=NAMES, folder="package/dist/"):
    """What `npm pack onnxruntime-web` makes, in small."""
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(folder + name)
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    return path


def test_a_page_is_written_whole_and_again_and_leaves_other_files(exported, tmp_path):
    folder = tmp_path / "page"
    assert set(write_web_page(exported.bundle, folder)) == PAGE_FILES
    (folder / "robots.txt").write_text("mine")
    (folder / "page.js").write_text("old")
    written = write_web_page(exported.bundle, folder, onnxruntime_web=package(tmp_path / "ort.tgz"))
    runtime = {"onnxruntime-web/ort.wasm.bundle.min.js", "onnxruntime-web/ort-wasm-simd-threaded.wasm"}
    assert set(written) == PAGE_FILES | runtime
    assert {one.relative_to(folder).as_posix() for one in folder.rglob("*.*")} == {*written, "robots.txt"}
    assert (folder / "bundle.zip").read_bytes() == exported.bundle.read_bytes()
    assert (folder / "page.js").read_bytes() == (WEB / "page.js").read_bytes()
    assert (folder / "onnxruntime-web" / "ort.wasm.bundle.min.js").read_text() == NAMES[0]
    assert set(write_web_page(folder / "bundle.zip", folder)) == set(written)  # of its own bundle


@pytest.mark.parametrize("inside", ["dist", "."])
def test_the_runtime_is_copied_from_a_folder_too(inside, exported, tmp_path):
    (tmp_path / "package" / inside).mkdir(parents=True)
    for name in NAMES:
        (tmp_path / "package" / inside / name).write_text(name)
    write_web_page(exported.bundle, tmp_path / "page", onnxruntime_web=tmp_path / "package")
    assert (tmp_path / "page" / "onnxruntime-web" / NAMES[1]).read_text() == NAMES[1]


def test_what_is_no_package_is_refused_before_anything_is_written(exported, tmp_path):
    (tmp_path / "no.tgz").write_bytes(b"no archive")
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "cut.tgz", "w:gz") as archive:
        archive.add(WEB, "package/dist")
    whole = package(tmp_path / "whole.tgz").read_bytes()
    (tmp_path / "short.tgz").write_bytes(whole[: len(whole) // 2])
    for name, told in [
        ("none.tgz", r"there is no .*none\.tgz; make it with: npm pack onnxruntime-web"),
        ("no.tgz", r"no\.tgz is no package of npm that can be read"),
        ("short.tgz", r"short\.tgz is no package of npm that can be read"),
        ("cut.tgz", r"cut\.tgz is not the package onnxruntime-web: it holds no dist/ort\.wasm\.bundle\.min\.mjs"),
        ("empty", r"empty is not the package onnxruntime-web: it holds no dist/ort\.wasm\.bundle\.min\.mjs"),
    ]:
        with pytest.raises((FileNotFoundError, ValueError), match=told):
            write_web_page(exported.bundle, tmp_path / "page", onnxruntime_web=tmp_path / name)
    assert not (tmp_path / "page").exists()


def test_another_page_is_not_replaced(exported, tmp_path):
    (tmp_path / "index.html").write_text("<title>mine</title>")
    with pytest.raises(FileExistsError, match=r"index\.html is no part of such a page, and is not replaced; give"):
        write_web_page(exported.bundle, tmp_path)
    assert os.listdir(tmp_path) == ["index.html"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "style.css").write_text("p {}")
    with pytest.raises(FileExistsError, match=r"style\.css is no part of such a page"):
        write_web_page(exported.bundle, tmp_path / "mine")
    assert (tmp_path / "mine" / "style.css").read_text() == "p {}"
    with pytest.raises(FileExistsError, match=r"index\.html is a file; give a folder for the page"):
        write_web_page(exported.bundle, tmp_path / "index.html")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none"):
        write_web_page(exported.bundle, tmp_path / "none" / "page")
    with pytest.raises(ValueError, match="File is not a zip file"):
        write_web_page(tmp_path / "index.html", tmp_path / "page")


def test_a_bundle_that_was_written_where_the_page_has_it_stays(exported, tmp_path):
    shutil.copy(exported.bundle, tmp_path / "bundle.zip")
    assert set(write_web_page(tmp_path / "bundle.zip", tmp_path)) == PAGE_FILES
    shutil.copy(exported.bundle, tmp_path / "b.zip")
    write_web_page(tmp_path / "b.zip", tmp_path)  # the page's own is replaced
    (tmp_path / "index.html").unlink()
    with pytest.raises(FileExistsError, match=r"page\.js is no part"):
        write_web_page(tmp_path / "b.zip", tmp_path)


def test_the_command_writes_bundle_and_page(with_head, float32, tmp_path, monkeypatch):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=float32) as registry:
        registry.add("a", scan(0, 0))
    arguments = ["export", str(tmp_path / "r.fewshot"), str(tmp_path / "b.zip"), "--onnx", "--web"]
    monkeypatch.setattr("fewshot.runtime.export_bundle", lambda registry, path, **_: with_head(registry, path))
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "page")], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["bytes"] == (tmp_path / "page" / "bundle.zip").stat().st_size
    assert (found["web"], set(found["web_files"])) == (str(tmp_path / "page"), PAGE_FILES)
    (tmp_path / "b.zip").unlink()
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "none" / "page")])
    assert result.exit_code == 1
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--web", "page"), "--web is for --onnx"),
        (("--onnxruntime-web", "a.tgz"), "--onnxruntime-web is for --onnx"),
        (("--onnx", "--onnxruntime-web", "a.tgz"), "--onnxruntime-web is for --web"),
    ],
)
def test_options_that_need_others_say_so(options, told, exported, tmp_path):
    result = CliRunner().invoke(main, ["export", str(exported.registry), str(tmp_path / "b.zip"), *options])
    assert result.exit_code == 2
    assert told in result.stderr


def test_the_page_reads_the_version_of_bundles_that_is_written():
    text = (WEB / "recognizer.js").read_text()
    assert re.search(r"VERSION = (\d+)", text)[1] == str(VERSION)


@pytest.mark.parametrize("path", sorted(WEB.iterdir()), ids=lambda path: path.name)
def test_no_file_of_the_page_makes_markup_of_text_or_names_another_server(path):
    text = path.read_text().replace("http://localhost:8000", "")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://[a-z]|//cdn", text) == []
    assert re.findall(r"\son\w+=|style=|<script>|<style>", text if path.suffix == ".html" else "") == []
    assert len(text.splitlines()) <= 400


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser(photos, tmp_path_factory):
    """Its camera films a flower."""
    film = tmp_path_factory.mktemp("film") / "film.mjpeg"
    film.write_bytes((photos / "new-photos" / "flower" / "0.jpg").read_bytes())
    options = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium(*options, f"--use-file-for-fake-video-capture={film}") as opened:
        yield opened


@pytest.fixture(scope="module")
def site(photos, with_head, float32, tmp_path_factory):
    """The folder and the address of a page that knows temples and flowers."""
    given = os.environ.get("FEWSHOT_ONNXRUNTIME_WEB") or None
    root = tmp_path_factory.mktemp("site")
    with ClassRegistry(root / "r.fewshot", encoder=float32) as registry:
        for label in ("temple", "flower"):
            registry.add(label, sorted((photos / "photos" / label).iterdir()))
        registry.rejection.add_negatives([scan(5, 0), scan(6, 0)])
        registry.rejection.set(max_false_accept=0.25)
        with_head(registry, root / "b.zip")
    write_web_page(root / "b.zip", root / "page", onnxruntime_web=given)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(root / "page"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield root / "page", f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def complete_site(site):
    """The same, with onnxruntime-web."""
    if not (site[0] / "onnxruntime-web").exists():
        pytest.skip("needs $FEWSHOT_ONNXRUNTIME_WEB, what `npm pack onnxruntime-web` made")
    return site


@pytest.fixture
def page(browser, complete_site):
    """The page, ready; what the browser complains of fails the test."""
    said = []
    opened = browser.new_page()
    opened.on("console", lambda one: said.append(one.text))
    opened.on("pageerror", lambda one: said.append(str(one)))
    opened.goto(complete_site[1])
    wait(opened, "document.querySelector('#status').textContent === 'Ready.'")
    yield opened
    opened.close()
    assert said == []


@pytest.fixture(scope="module")
def tools(browser, site):
    """A page that only holds the modules."""
    opened = browser.new_page()
    opened.goto(f"{site[1]}style.css")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pictures(photos, tmp_path_factory):
    """Ten of the classes, two whole photographs and two that are of no class."""
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("pictures")
    found = [photos / "new-photos" / label / f"{n}.jpg" for label in ("temple", "flower") for n in range(5)]
    for name, pixels in zip(WHOLE, load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=90)
        found.append(folder / f"{name}.jpg")
    for digit in (1, 0):
        Image.fromarray(scan(digit, 0)).save(folder / f"{digit}.png")
        found.append(folder / f"{digit}.png")
    return found


PREDICT = """async (files) => {
  const { Recognizer, imageOf } = await import("./recognizer.js");
  const recognizer = await Recognizer.open(await (await fetch("bundle.zip")).arrayBuffer());
  const found = [];
  for (const bytes of files) {
    const file = new Blob([Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0))]);
    found.push(await recognizer.predict(await imageOf(file)));
  }
  return found;
}"""


def base64_of(path):
    from base64 import b64encode

    return b64encode(path.read_bytes()).decode()


@pytest.mark.browser
def test_pictures_get_the_labels_and_scores_that_python_gives_them(tools, complete_site, pictures):
    found = tools.evaluate(PREDICT, [base64_of(path) for path in pictures])
    wanted = Recognizer(complete_site[0] / "bundle.zip", threads=1).predict(pictures)
    assert [one["label"] for one in found] == [one.label for one in wanted]
    assert {one.label for one in wanted} == {"temple", "flower", None}
    # The two whole photographs are reduced while they are decoded, which the page does afterwards.
    for name in ("score", "unknown_score", "probability"):
        apart = np.abs(np.subtract([one[name] for one in found], [getattr(one, name) for one in wanted]))
        assert (apart <= [5e-3 if path.stem in WHOLE else 1e-3 for path in pictures]).all(), (name, apart)
    for one, other in zip(found, wanted, strict=True):
        assert [label for label, _ in one["top"]] == [label for label, _ in other.top]


PREPARE = """async ([pixels, height, width, preparation]) => {
  const { prepare } = await import("./pixels.js");
  const rows = (top, count) => Uint8ClampedArray.from(pixels.slice(top * width * 4, (top + count) * width * 4));
  return Array.from(prepare({ width, height, rows }, preparation));
}"""


@pytest.mark.browser
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "hamming", "box", "nearest"])
@pytest.mark.parametrize(
    ("size", "resize", "crop", "apart"),
    [
        ((37, 53), 24, (24, 24), 0),
        ((13, 300), 16, (17, 13), 0),
        ((600, 13), 16, (17, 13), 1),  # from Pillow 13 on, columns of a strip come before its rows
        ((20, 15), 33, (40, 29), 0),
        ((21, 40), (30, 16), (30, 16), 0),
        ((16, 16), 16, (11, 12), 0),
    ],
)
def test_pixels_are_those_of_pillow(interpolation, size, resize, crop, apart, tools):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8)
    pixels[: size[0] // 2] = np.where(pixels[: size[0] // 2] < 128, 0, 255)  # that overshoot
    pixels = pixels // 2 + 64 if apart else pixels
    about = {"resize": resize, "crop": crop, "interpolation": interpolation}
    found = tools.evaluate(PREPARE, [pixels.ravel().tolist(), *size, about])
    wanted = ImagePreparation(resize, crop, interpolation)(np.ascontiguousarray(pixels[:, :, :3]))
    assert_allclose(np.reshape(found, (*crop, 3)), wanted, atol=apart, rtol=0)


NUMBERS = """async (vectors) => {
  const { read, Head, Unknown } = await import("./recognizer.js");
  const { about, arrays } = read(await (await fetch("other.zip", { cache: "no-store" })).arrayBuffer());
  const head = new Head(about, arrays), unknown = new Unknown(about, arrays);
  return vectors.map((vector) => {
    const scores = head.scores(vector);
    return [scores, head.probability(scores), unknown.score(vector)];
  });
}"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("classifier", "shots", "classes", "negatives", "background"),
    [
        ("whitened", 2, 3, False, True), ("no factors", 2, 3, False, False), ("whitened", 2, 1, True, False),
        ("prototype", 3, 4, True, False), ("ridge", 3, 4, False, False), ("logistic", 3, 4, False, False),
        ("int8", 2, 3, False, True),
    ],
)  # fmt: skip
def test_each_head_scores_as_in_python(
    classifier, shots, classes, negatives, background, float32, queries, with_head, site, tools, tmp_path
):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=float32) as registry:
        registry.set_classifier("whitened" if classifier in ("no factors", "int8") else classifier)
        for digit in range(classes):
            registry.add(str(digit), [scan(digit, n) for n in range(shots)])
        if negatives:
            registry.rejection.add_negatives([scan(9, 0), scan(8, 1)])
        others = float32.encode([scan(digit, n) for digit in (6, 7) for n in range(5)]) if background else None
        labels = [*"6666677777"] if background else None
        registry.rejection.set(max_false_accept=0.3, background=others, labels=labels)
        with_head(registry, site[0] / "other.zip", int8=classifier == "int8")
    if classifier == "no factors":  # as where there are more examples than numbers of an embedding
        bundle = read_bundle(site[0] / "other.zip")
        left = {name: one for name, one in bundle.arrays.items() if name != "head_factors"}
        write_bundle(replace(bundle, arrays=left), site[0] / "other.zip")
    vectors = float32.encode(queries[::9])
    found = tools.evaluate(NUMBERS, vectors.tolist())
    bundle = read_bundle(site[0] / "other.zip")
    head = NumpyHead(bundle)
    scores = head.scores(vectors)
    assert_allclose([one[0] for one in found], scores, atol=1e-5)
    assert_allclose([one[2] for one in found], NumpyUnknown(bundle).scores(vectors), atol=1e-5)
    shares = head.best_probability(scores)
    if shares is None:
        assert [one[1] for one in found] == [None] * len(vectors)
    else:
        assert_allclose([one[1] for one in found], shares, atol=1e-5)


def transfer(page, kind, target, path):
    """Drop or paste a file."""
    return page.evaluate(
        """([kind, target, bytes, name]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0))], name));
          const about = { bubbles: true, cancelable: true };
          document.querySelector(target).dispatchEvent(kind === "paste"
            ? new ClipboardEvent("paste", { ...about, clipboardData: transfer })
            : new DragEvent("drop", { ...about, dataTransfer: transfer }));
        }""",
        [kind, target, base64_of(path), path.name],
    )


def answered(page, count):
    wait(page, "(count) => document.querySelectorAll('#answers table, #answers .bad').length === count", count)
    return page.locator("#answers > li").all()


@pytest.mark.browser
def test_pictures_are_chosen_dropped_and_pasted_and_each_has_its_answer(page, pictures, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    page.set_input_files("#files", [pictures[0], bad])
    answered(page, 2)
    transfer(page, "drop", "#drop", pictures[5])
    answered(page, 3)
    transfer(page, "paste", "body", pictures[-1])
    none, flower, unread, temple = answered(page, 4)
    assert page.inner_text("#status").startswith("0.png: none of these; the closest is ")
    assert none.locator(".label").inner_text() == "None of these"
    assert flower.locator(".label").inner_text() == "flower"
    assert re.search(
        r"0\.jpg\s+flower\s+Probability \d+(\.\d)? %\s+Closest classes\s+Score\s+flower", flower.inner_text()
    )
    assert "this browser cannot read it as a picture; JPEG, PNG" in unread.inner_text()
    assert temple.locator(".label").inner_text() == "temple"
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#answers > li").count() == 0
    assert page.evaluate("document.activeElement.id") == "files"


@pytest.mark.browser
def test_what_the_camera_shows_is_recognised_until_it_is_stopped(page):
    page.get_by_role("button", name="Use the camera").press("Enter")
    wait(page, "document.querySelector('#live-answer .label')?.textContent === 'flower'")
    assert page.inner_text("#status") == "Camera: flower"
    assert page.evaluate("document.activeElement.id") == "stop"
    page.keyboard.press("Enter")
    assert not page.is_visible("#live")
    assert page.evaluate("document.querySelector('#video').srcObject") is None
    assert page.evaluate("document.activeElement.id") == "camera"


@pytest.mark.browser
def test_no_request_leaves_the_page_s_own_server(browser, complete_site, pictures):
    page = browser.new_page()
    asked = []
    page.on("request", lambda one: asked.append((one.method, one.url)))
    page.goto(complete_site[1])
    wait(page, "document.querySelector('#status').textContent === 'Ready.'")
    page.set_input_files("#files", pictures[0])
    answered(page, 1)
    page.close()
    assert {method for method, _ in asked} == {"GET"}
    assert [url for _, url in asked if not url.startswith((complete_site[1], "blob:", "data:"))] == []


@pytest.mark.browser
def test_a_page_without_the_runtime_says_which_files_it_needs(browser, site):
    page = browser.new_page()
    page.route("**/onnxruntime-web/*", lambda route: route.fulfill(status=404))
    page.goto(site[1])
    page.get_by_text("npm pack onnxruntime-web").wait_for()
    assert "ort.wasm.bundle.min.mjs as onnxruntime-web/ort.wasm.bundle.min.js" in page.inner_text("#missing")
    assert "The browser says: " in page.inner_text("#reason")
    page.close()


REFUSED = """async (name) => {
  const { read } = await import("./recognizer.js");
  const data = await (await fetch(name, { cache: "no-store" })).arrayBuffer();
  try {
    read(data);
  } catch (error) {
    return error.message;
  }
}"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data[: len(data) // 2], "the bundle is no zip, or cut short"),
        (lambda data: b"", "the bundle is no zip, or cut short"),
        (lambda data: b"cut" + data[-len(data) // 2 :], "the bundle is damaged"),
        (lambda data: data.replace(b'"version": 1,', b'"version": 2,'), "version 2; this page reads version 1"),
        (lambda data: data.replace(b'"modality": "image"', b'"modality": "texts"'), "recognises textss; this page"),
        (lambda data: data.replace(b'"bicubic"', b'"bicubix"'), "no resizing by bicubix is known"),
        (lambda data: data.replace(b"'shape': (2, ", b"'shape': (3, "), "head_vectors.npy is damaged"),
    ],
)
def test_a_bundle_that_cannot_be_used_is_refused_in_a_sentence(change, told, tools, site):
    (site[0] / "other.zip").write_bytes(change((site[0] / "bundle.zip").read_bytes()))
    assert told in tools.evaluate(REFUSED, "other.zip")


@pytest.mark.browser
def test_a_bundle_with_other_numbers_fails_its_self_test_and_the_page_says_so(browser, complete_site):
    data = (complete_site[0] / "bundle.zip").read_bytes()
    page = browser.new_page()
    changed = data.replace(b'"least_cosine": 0.999', b'"least_cosine": 1.999')
    page.route("**/bundle.zip", lambda route: route.fulfill(body=changed))
    page.goto(complete_site[1])
    page.get_by_text("The model cannot be used").wait_for()
    assert "the bundle's self-test fails in this browser: a cosine of 1.0000, at least 1.999" in page.inner_text("main")
    page.close()


@pytest.mark.browser
def test_a_page_that_is_opened_as_a_file_says_how_to_serve_it(browser, site):
    page = browser.new_page()
    page.goto((site[0] / "index.html").as_uri())
    assert "run python -m http.server" in page.inner_text("#trouble")
    page.close()


@pytest.mark.browser
def test_texts_have_contrast_names_and_the_width_of_a_phone(page, pictures, tmp_path):
    bad = tmp_path / ("a name that is rather long " * 5 + ".jpg")
    bad.write_bytes(b"no image")
    page.set_viewport_size({"width": 320, "height": 640})
    page.set_input_files("#files", [pictures[0], pictures[-1], bad])
    answered(page, 3)
    page.click("#about summary")
    assert page.inner_text("#license").startswith("encoder.onnx holds the weights of pocket.")
    assert "temple (5)" in page.inner_text("#classes")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(CONTRAST)
        assert len(found) > 30
        assert [one for one in found if one[0] < one[1]] == []
    roles = page.locator("body").aria_snapshot()
    assert re.findall(r"- (button|textbox|figure|region|link)( \[[^\]]*\])*:?$", roles, re.MULTILINE) == []
    assert '- button "Choose pictures"' in roles
