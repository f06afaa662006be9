"""The page in a real browser: by mouse and by keys, and what may go wrong."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from chromium import CONTRAST, chromium, wait
from fakes import BLACK, BLUE, GREEN, RED, FakeEncoder, png
from media_examples import FILMS, HIGH, LOW, SOUPS, sound_encoder, text_encoder, tone_file

from fewshot import ClassRegistry, WhitenedPrototypeClassifier

pytestmark = pytest.mark.browser
PAGE = Path(__file__).resolve().parents[2] / "fewshot" / "service" / "page"
TOKEN = "a token that nobody knows".replace(" ", "-")


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


def serve(folder, token=None, encoder=None):
    """A server in a thread, and its address."""
    pytest.importorskip("fastapi", reason="needs fewshot[serve]")
    import uvicorn

    from fewshot.service.app import create_app

    app = create_app(folder, encoder=encoder or FakeEncoder(), token=token)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    return server, thread, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running, thread, url = serve(tmp_path_factory.mktemp("served") / "registries")
    yield url
    running.should_exit = True
    thread.join(10)


def ask(url, path, body=None, method=None):
    headers = {"Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method)) as answer:
        return json.loads(answer.read())


@dataclass
class OpenPage:
    """A page on a registry of its own, and what the browser reported."""

    page: object
    url: str
    name: str
    said: list
    requests: list

    def api(self, path, body=None, method=None):
        return ask(self.url, f"/v1/registries/{self.name}{path}", body, method)

    def classes(self):
        return {one["label"]: one["examples"] for one in self.api("/classes")["classes"]}

    def add(self, label, *files):
        self.page.set_input_files("#add-files", list(files))
        self.page.fill("#label", label)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("heading", name=label, exact=True).wait_for()
        self.settled()

    def predict(self, *files):
        self.page.set_input_files("#predict-files", list(files))
        wait(self.page, "!document.querySelector('#queue-text').textContent.includes('not predicted yet')")
        self.page.wait_for_selector("#prediction:visible")

    def settled(self):
        wait(self.page, "document.querySelector('#add-progress').hidden")

    def queued(self):
        """The images in the queue by name, with their predictions."""
        found = self.page.locator("#queue li").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
        return [tuple(one.split(": ", 1)) for one in found]

    def says(self, words):
        wait(self.page, "w => document.querySelector('#said').textContent.includes(w)", words)

    def reload(self):
        self.page.reload()
        wait(self.page, "document.querySelector('#counts').textContent !== ''")


@pytest.fixture(scope="module")
def tab(browser):
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def shown(tab, server, request):
    name = re.sub(r"\W", "-", request.node.name)[5:100]
    ask(server, "/v1/registries", {"name": name})
    page, said, requests = tab, [], []
    page.goto("about:blank")
    page.set_viewport_size({"width": 1200, "height": 900})
    listeners = {
        "console": lambda message: said.append(message.text),
        "pageerror": lambda error: said.append(str(error)),
        "request": lambda asked: requests.append(asked.url),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    page.goto(f"{server}/#registry={name}")
    wait(page, "document.querySelector('#counts').textContent !== ''")
    yield OpenPage(page, server, name, said, requests)
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    assert said == []
    assert [url for url in requests if not url.startswith((server, f"blob:{server}"))] == []


def image(name, colour, size=8):
    return {"name": name, "mimeType": "image/png", "buffer": png(colour, size)}


def test_examples_are_added_a_prediction_is_corrected_an_example_deleted_and_all_is_there_after_a_reload(shown):
    page = shown.page
    shown.add("red", image("a.png", RED), image("b.png", RED, 9))
    shown.add("green", image("c.png", GREEN))
    assert shown.classes() == {"red": 2, "green": 1}
    shown.predict(image("d.png", (204, 153, 0)))
    assert page.inner_text("#verdict") == "red"
    # Between two classes the scores are opposite.
    assert re.match(r"score 0\.14, probability \d\d %, 0\.27 ahead of green", page.inner_text("#scores"))
    shares = re.sub(r", \d+ %", "", page.inner_text("#choices")).split("\n")
    assert shares == ["1", "red", "0.14", "2", "green", "-0.14", "0", "none of these"]
    assert page.locator("#nearest img").evaluate_all("all => all.map(one => one.naturalWidth > 0)") == [True] * 3
    page.get_by_role("button", name=re.compile(r"green -0\.14")).click()
    shown.says("Saved: d.png is green")
    assert shown.classes() == {"red": 2, "green": 2}
    page.get_by_role("button", name="Example 1 of red").click()
    page.locator("#example-source", has_text="a.png").wait_for()
    page.get_by_role("button", name="Delete this example").click()
    shown.says("a.png was deleted from “red”")
    assert shown.classes() == {"red": 1, "green": 2}
    page.get_by_role("button", name="Undo: deleting an example of “red”").click()
    shown.says("Undone")
    assert shown.classes() == {"red": 2, "green": 2}
    shown.reload()
    assert page.locator("#classes h3").all_inner_texts() == ["red", "green"]
    assert page.inner_text("#counts") == "2 classes, 4 examples"
    assert page.locator(".class").first.locator("img").evaluate_all("all => all.map(one => one.complete)") == [True] * 2


def test_the_least_confident_come_first_and_are_sorted_again_after_each_change(shown):
    page = shown.page
    shown.add("red", image("r.png", RED))
    shown.add("green", image("g.png", GREEN))
    colours = {"orange.png": (200, 110, 0), "sky.png": (20, 100, 250), "olive.png": (130, 120, 0)}
    shown.predict(*(image(name, colour) for name, colour in colours.items()))

    def by_margin(names, *examples):
        classifier = WhitenedPrototypeClassifier().fit([colour for colour, _ in examples], [y for _, y in examples])
        scores = np.sort(classifier.scores([colours[name] for name in names]), axis=1)
        return [names[n] for n in np.argsort(scores[:, -1] - scores[:, -2])]

    known = [(RED, "red"), (GREEN, "green")]
    first = by_margin(list(colours), *known)
    assert [name for name, _ in shown.queued()] == first
    assert first[0] == "olive.png"
    assert "least confident first (smallest margin between the two best scores)" in page.inner_text("#queue-text")
    page.select_option("#order", "unknown_score")
    wait(page, "document.querySelector('#queue li').getAttribute('aria-label').startsWith('sky')")
    assert "most unknown first (highest unknown score)" in page.inner_text("#queue-text")
    page.select_option("#order", "margin")
    wait(page, "document.querySelector('#queue li').getAttribute('aria-label').startsWith('olive')")
    page.focus("#queue")
    page.keyboard.press("2")
    then = by_margin(first[1:], *known, (colours["olive.png"], "green"))
    shown.says(f"Saved: olive.png is green. Next: {then[0]}")
    assert [name for name, _ in shown.queued()] == then


def test_everything_about_a_queue_is_done_by_keys_alone(shown):
    page = shown.page
    shown.add("red", image("r.png", RED))
    shown.add("green", image("g.png", GREEN))
    # Margins 0.1, 0.2 and so on: the order is theirs.
    shown.predict(*(image(f"{n}.png", (200, 200 - 20 * n, 0)) for n in range(1, 6)))
    assert page.evaluate("document.activeElement.id") == "queue"
    assert page.inner_text("#image-name") == "1.png"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#image-name") == "3.png"
    page.keyboard.press("Home")
    assert page.inner_text("#image-name") == "1.png"
    page.keyboard.press("Delete")
    assert page.inner_text("#image-name") == "2.png"
    page.keyboard.press("Enter")
    shown.says("Saved: 2.png is red")
    page.keyboard.press("2")
    shown.says("is green")
    page.keyboard.press("0")
    shown.says("is none of these")
    page.keyboard.press("n")
    page.keyboard.type("amber")
    page.keyboard.press("Enter")
    shown.says("is amber")
    assert shown.classes() == {"red": 2, "green": 2, "amber": 1}
    assert shown.api("/rejection")["negatives"] == 1
    assert page.locator("#queue li").count() == 0
    for _ in range(3):
        page.keyboard.press("Control+z")
        wait(page, "!document.querySelector('#said').textContent.startsWith('Undoing')")
    assert shown.classes() == {"red": 2, "green": 1}
    assert shown.api("/rejection")["negatives"] == 0
    assert len(shown.queued()) == 3


def test_tab_reaches_every_control_and_the_focus_can_be_seen(shown):
    page = shown.page
    shown.add("red", image("r.png", RED))
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):  # where the browser's own controls would come
            continue
        about = page.evaluate(
            """() => {
              const one = document.activeElement, style = getComputedStyle(one.closest(".button") ?? one);
              return [one.id || one.ariaLabel || one.textContent, style.outlineStyle !== "none"];
            }"""
        )
        if about[0] in [name for name, _ in reached]:
            break
        reached.append(about)
    names = [name for name, _ in reached]
    assert {"label", "add-files", "add-folder", "Rename red", "Delete red", "predict-files", "reject"} <= set(names)
    assert {"Example 1 of red", "Add images to red", "limit", "undo", "show-keys"} <= set(names)
    assert [name for name, visible in reached if not visible] == []


def test_a_label_with_markup_in_it_is_shown_as_it_is_written(shown):
    page = shown.page
    label = "<img src=x onerror=alert(1)>&amp;'\"/../ü"
    shown.add(label, image("<b>a.png", RED))
    shown.add("green", image("c.png", GREEN))
    shown.predict(image("d.png", (250, 10, 0)))
    assert page.inner_text("#verdict") == label
    assert page.locator("#classes h3").first.inner_text() == label
    assert page.locator("img[src='x']").count() == 0
    page.get_by_role("button", name=f"Rename {label}").click()
    page.fill("#ask-value", "a/b")
    page.keyboard.press("Enter")
    shown.says("is now “a/b”")
    page.wait_for_selector("#ask", state="hidden")  # keys are the dialog's until then
    page.keyboard.press("Control+z")
    shown.says("Undone")
    assert shown.classes() == {label: 1, "green": 1}


def test_a_file_that_cannot_be_read_is_named_with_the_reason_and_stops_no_other(shown):
    page = shown.page
    bad = {"name": "bad.png", "mimeType": "image/png", "buffer": b"no image"}
    text = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}
    shown.add("red", image("a.png", RED), bad, text)
    assert shown.classes() == {"red": 1}
    report = page.inner_text("#add-report")
    assert "Added 1 image to “red”." in report
    assert "2 files not added" in report
    assert "bad.png: not an image" in report
    assert "notes.txt: not an image; JPEG, PNG" in report
    shown.predict(bad, image("b.png", RED, 9), text)
    assert [name for name, _ in shown.queued()] == ["b.png"]
    assert "bad.png: not an image" in page.inner_text("#predict-report")
    assert "notes.txt: not an image" in page.inner_text("#predict-report")


def test_an_image_of_another_class_is_not_added_before_a_person_decides(shown):
    page = shown.page
    shown.add("red", image("a.png", RED), image("b.png", RED, 9))
    page.set_input_files("#add-files", [image("again.png", RED)])
    page.fill("#label", "crimson")
    page.keyboard.press("Enter")
    page.get_by_text("again.png: it is an example of “red”, so it was not added to “crimson”").wait_for()
    assert shown.classes() == {"red": 2}
    page.get_by_role("button", name="Move to the new class").click()
    page.get_by_role("heading", name="crimson").wait_for()
    assert shown.classes() == {"red": 1, "crimson": 1}
    shown.predict(image("b.png", RED, 9))
    page.fill("#other", "crimson")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Move it").click()
    shown.says("Saved: b.png is crimson")
    assert shown.classes() == {"crimson": 2}
    page.keyboard.press("Control+z")
    shown.says("Undone")
    assert shown.classes() == {"crimson": 1, "red": 1}


def test_classes_cannot_be_described_where_the_encoder_reads_no_texts(shown):
    shown.add("red", image("a.png", RED))
    assert shown.api("")["describable"] is False
    assert shown.page.get_by_role("button", name="Describe red").count() == 0


def test_classes_are_renamed_merged_and_deleted_and_what_cannot_be_undone_is_confirmed_first(shown):
    page = shown.page
    shown.add("red", image("a.png", RED))
    shown.add("crimson", image("b.png", (200, 0, 0)))
    shown.add("green", image("c.png", GREEN))
    page.get_by_role("button", name="Rename crimson").click()
    page.fill("#ask-value", "red")
    page.keyboard.press("Enter")
    page.get_by_text("There is a class “red” already. 1 example of “crimson” would be moved to it.").wait_for()
    page.keyboard.press("Enter")  # the focus is on Cancel
    assert shown.classes() == {"red": 1, "crimson": 1, "green": 1}
    page.get_by_role("button", name="Rename crimson").click()
    page.fill("#ask-value", "red")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Merge them").click()
    shown.says("“crimson” was merged into “red”")
    assert shown.classes() == {"red": 2, "green": 1}
    page.get_by_role("button", name="Delete red").click()
    page.keyboard.press("Escape")
    assert shown.classes() == {"red": 2, "green": 1}
    page.get_by_role("button", name="Delete red").click()
    page.get_by_role("button", name="Delete it").click()
    shown.says("“red” was deleted")
    assert shown.classes() == {"green": 1}


def test_an_unknown_image_is_none_of_these_once_that_is_switched_on(shown):
    page = shown.page
    for label, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        shown.add(label, image(f"{label}.png", colour))
    shown.predict(image("grey.png", (90, 90, 90)))
    page.keyboard.press("0")
    shown.says("Saved: grey.png is none of these")
    page.get_by_text("1 image added as “none of these”.").wait_for()
    shown.predict(image("grey2.png", (90, 90, 90), 9))
    assert page.inner_text("#verdict") in ("red", "green", "blue")
    page.get_by_label("Answer “none of these” for unknown images").check()
    page.get_by_text("3 registered classes are too few to bound false accepts at 0.05: that takes 19").wait_for()
    page.select_option("#limit", "0.2")
    page.get_by_text("too few to bound false accepts at 0.2").wait_for()
    wait(page, "document.querySelector('#verdict').textContent === 'None of these'")
    message = shown.api("/rejection?max_false_accept=0.2")["threshold"]["message"]
    assert page.inner_text("#threshold").lower().startswith(message.lower())
    page.get_by_role("button", name="Save in this registry").click()
    wait(page, "document.querySelector('#save-limit').hidden")
    assert shown.api("/rejection")["max_false_accept"] == 0.2
    shown.reload()
    wait(page, "document.querySelector('#reject').checked")
    assert page.input_value("#limit") == "0.2"


def test_with_one_class_alone_it_says_why_nothing_can_be_rejected_and_still_predicts(shown):
    page = shown.page
    shown.add("red", image("a.png", RED))
    page.get_by_label("Answer “none of these” for unknown images").check()
    page.get_by_text("Not possible yet: with one class and no background").wait_for()
    shown.predict(image("b.png", (200, 50, 0)))
    assert page.inner_text("#verdict") == "red"
    assert "no probability: with one class" in page.inner_text("#scores")
    assert "%" not in page.inner_text("#scores") + page.inner_text("#choices")


def test_the_first_class_can_be_added_from_the_queue(shown):
    page = shown.page
    shown.predict(image("a.png", RED), image("b.png", GREEN))
    assert page.inner_text("#verdict") == "No classes yet"
    page.keyboard.press("n")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    shown.says("Saved: a.png is red. Next: b.png: red, 0.00")
    assert shown.classes() == {"red": 1}


def test_many_images_are_sent_in_batches_no_more_than_two_at_once(shown):
    page = shown.page
    page.evaluate(
        """() => {
          const real = window.fetch;
          window.sent = [], window.now = 0, window.most = 0;
          window.fetch = async (url, options) => {
            const images = options.body instanceof FormData ? options.body.getAll("images").length : 0;
            if (!images) return real(url, options);
            sent.push(images);
            most = Math.max(most, ++now);
            try { return await real(url, options); } finally { now--; }
          };
        }"""
    )
    shown.add("grey", *(image(f"{n}.png", (n, n, n)) for n in range(1, 31)))
    assert shown.classes() == {"grey": 30}
    assert page.evaluate("[sent.reduce((a, b) => a + b), Math.max(...sent), most]") == [30, 8, 2]
    page.get_by_role("button", name="All 30 examples").click()
    page.get_by_role("button", name="Example 30 of grey").wait_for()
    page.get_by_role("button", name="Undo: adding 30 images").click()
    shown.says("Undone")
    assert shown.classes() == {}


def test_images_are_dropped_on_a_class_pasted_to_be_predicted_and_harmless_elsewhere(shown):
    page = shown.page
    shown.add("red", image("a.png", RED))
    transfer = """([kind, target, bytes, name]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
      const about = { bubbles: true, cancelable: true };
      const event = kind === "paste"
        ? new ClipboardEvent("paste", { ...about, clipboardData: transfer })
        : new DragEvent("drop", { ...about, dataTransfer: transfer });
      document.querySelector(target).dispatchEvent(event);
      return event.defaultPrevented;
    }"""
    page.evaluate(transfer, ["drop", ".class", list(png(RED, 9)), "b.png"])
    page.get_by_text("2 examples", exact=True).wait_for()
    page.evaluate("document.activeElement.blur()")
    page.evaluate(transfer, ["paste", "body", list(png(RED, 10)), "image.png"])
    page.wait_for_selector("#prediction:visible")
    assert page.inner_text("#image-name") == "pasted-1.png"
    assert page.evaluate(transfer, ["drop", "header", list(png(RED, 9)), "b.png"]) is True
    shown.says("Drop images on a class")


def test_a_server_that_stops_responding_loses_nothing(shown):
    page = shown.page
    shown.add("red", image("a.png", RED))
    page.route("**/v1/**", lambda route: route.abort())
    page.set_input_files("#add-files", [image("b.png", GREEN)])
    page.fill("#label", "green")
    page.keyboard.press("Enter")
    page.locator("#add-report").get_by_text("The server does not respond. Is it still running?").wait_for()
    page.set_input_files("#predict-files", [image("c.png", RED, 9)])
    page.locator("#trouble").get_by_text("The server does not respond").wait_for()
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("#prediction:visible")
    assert not page.is_visible("#trouble")
    assert page.inner_text("#staged-text").startswith("1 image for green (1)")
    page.get_by_role("button", name="Add", exact=True).first.click()
    page.get_by_role("heading", name="green").wait_for()
    assert [text for text in shown.said if "ERR_FAILED" not in text] == []
    shown.said.clear()


def test_another_registry_is_made_and_chosen_and_stays_chosen(shown):
    page = shown.page
    shown.add("red", image("a.png", RED))
    page.get_by_role("button", name="New registry").click()
    page.fill("#ask-value", "../escape")
    page.keyboard.press("Enter")
    page.get_by_text("cannot name a registry").wait_for()
    page.fill("#ask-value", "second")
    page.keyboard.press("Enter")
    page.get_by_text("None yet. One to five images").wait_for()
    shown.reload()
    assert page.input_value("#registry") == "second"
    page.select_option("#registry", shown.name)
    page.get_by_role("heading", name="red", exact=True).wait_for()
    assert [text for text in shown.said if "422" not in text] == []
    shown.said.clear()


def test_the_token_is_asked_for_kept_for_the_session_and_sent_for_thumbnails(browser, tmp_path):
    running, thread, url = serve(tmp_path / "r.fewshot", TOKEN)
    try:
        page = browser.new_page()
        page.goto(url)
        page.get_by_role("heading", name="This server requires a token").wait_for()
        page.fill("#ask-value", "wrong")
        page.keyboard.press("Enter")
        page.get_by_text("The token was not accepted.").wait_for()
        page.fill("#ask-value", TOKEN)
        page.keyboard.press("Enter")
        page.get_by_text("None yet.").wait_for()
        page.set_input_files("#add-files", [image("a.png", RED)])
        page.fill("#label", "red")
        page.keyboard.press("Enter")
        wait(page, "document.querySelector('.class img')?.naturalWidth > 0")
        assert page.get_attribute(".class img", "src").startswith("blob:")
        page.reload()
        page.get_by_role("heading", name="red", exact=True).wait_for()
        assert TOKEN not in page.url
        assert TOKEN not in page.content()
    finally:
        page.close()
        running.should_exit = True
        thread.join(10)


def test_texts_and_borders_have_contrast_in_light_and_in_dark(shown):
    page = shown.page
    shown.add("red", image("a.png", RED), {"name": "bad.png", "mimeType": "image/png", "buffer": b"no"})
    shown.add("black", image("b.png", BLACK))
    shown.predict(image("c.png", (200, 50, 0)))
    page.get_by_label("Answer “none of these” for unknown images").check()
    page.get_by_text("too few to bound").wait_for()
    grounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(CONTRAST)
        page.click("#show-keys")
        found += page.evaluate(CONTRAST)
        page.keyboard.press("Escape")
        assert len(found) > 60
        assert [one for one in found if one[0] < one[1]] == []
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_every_control_and_image_has_a_name_for_a_screen_reader(shown):
    page = shown.page
    shown.add("red", image("a.png", RED))
    shown.add("green", image("b.png", GREEN))
    shown.predict(image("c.png", (200, 50, 0)))
    roles = page.locator("body").aria_snapshot()
    nameless = r"- (button|textbox|searchbox|checkbox|combobox|option|listbox|img|figure|region|link)( \[[^\]]*\])*:?$"
    assert re.findall(nameless, roles, re.MULTILINE) == []
    assert re.search(r'option "c\.png: red, 0\.\d\d" \[selected\]', roles)
    assert '- listbox "What should I label next?"' in roles
    assert page.locator("[role=status]:visible").count() >= 2


def test_it_fits_the_width_of_a_phone(shown):
    page = shown.page
    page.set_viewport_size({"width": 320, "height": 640})
    shown.add("a name that is rather long " * 3, image("a.png", RED))
    shown.predict(image("c" * 80 + ".png", (200, 50, 0)))
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("path", sorted(PAGE.glob("*.*")), ids=lambda path: path.name)
def test_no_file_of_the_page_makes_markup_of_text_or_names_another_server(path):
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://|//cdn", text) == []
    assert re.findall(r"\son\w+=|style=|<script>|<style>", text if path.suffix == ".html" else "") == []
    assert len(text.splitlines()) <= 400


def test_a_file_that_makes_markup_of_text_is_noticed():
    assert re.search(r"innerHTML", "node.innerHTML = label")


@pytest.fixture
def served(tab, tmp_path, request):
    """A page on a registry of an encoder of texts or sounds, or of images and texts."""
    running, thread, url = serve(tmp_path / "registries", encoder=request.param())
    ask(url, "/v1/registries", {"name": "own"})
    while ask(url, "/v1/registries/own")["describable"] is None:  # before the encoder is loaded
        time.sleep(0.01)
    said = []
    listeners = {"console": lambda one: said.append(one.text), "pageerror": lambda one: said.append(str(one))}
    for event, listener in listeners.items():
        tab.on(event, listener)
    tab.goto(f"{url}/#registry=own")
    wait(tab, "document.querySelector('#counts').textContent !== ''")
    yield OpenPage(tab, url, "own", said, [])
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    tab.goto("about:blank")
    running.should_exit = True
    thread.join(10)
    assert said == []


class Reading(FakeEncoder):
    """Reads the names of colours, too."""

    def encode_texts(self, texts):
        named = {"red": RED, "green": GREEN, "blue": BLUE}
        return np.float32([named[text.split()[-1]] for text in texts]) / 255


@pytest.mark.parametrize("served", [Reading], indirect=True)
def test_a_class_is_described_by_keys_and_the_description_is_shown_changed_undone_and_removed(served):
    page = served.page
    served.add("leaf", image("a.png", GREEN))
    served.api("/classes/description?label=sky", {"text": "blue"}, "PUT")
    served.reload()
    page.get_by_role("button", name="Describe leaf").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Description").wait_for()
    page.keyboard.type("something green")
    page.keyboard.press("Enter")
    served.says("“leaf” is described as “something green”")
    told = {one["label"]: one.get("description") for one in served.api("/classes")["classes"]}
    assert told == {"leaf": "something green", "sky": "blue"}
    assert page.locator("#classes .description").all_inner_texts() == ["“something green”", "“blue”"]
    page.get_by_role("button", name="Describe leaf").click()
    page.fill("#ask-value", "")
    page.keyboard.press("Enter")
    served.says("“leaf” has no description any more")
    page.click("#undo")
    served.says("Undone: describing “leaf”")
    assert page.locator("#classes .description").count() == 2


def file_of(name, kind, data):
    return {"name": name, "mimeType": kind, "buffer": data}


@pytest.mark.parametrize("served", [text_encoder], indirect=True)
def test_texts_are_written_chosen_predicted_corrected_and_shown(served):
    page = served.page
    assert "Choose texts" in page.inner_text("#add-form")
    served.add("soup", *(file_of(f"{n}.txt", "text/plain", text.encode()) for n, text in enumerate(SOUPS[:3])))
    for text in FILMS[:2]:
        page.fill("#label", "film")
        page.fill("#add-text", text)
        page.click("#stage-text")
        served.settled()
    served.says("Added 1 text to “film”.")
    assert served.classes() == {"soup": 3, "film": 2}
    wait(page, "[...document.querySelectorAll('#classes .words')].some(one => one.textContent === 'a fine film')")

    page.fill("#predict-text", "what a fine old film")
    page.click("#predict-text-form button")
    page.wait_for_selector("#prediction:visible")
    wait(page, "document.querySelector('#whole').textContent === 'what a fine old film'")
    assert page.inner_text("#verdict") == "film"
    assert page.inner_text("#image-name") == '"what a fine old film"'
    page.click("#yes")
    served.says('Saved: "what a fine old film" is film')
    assert served.classes() == {"soup": 3, "film": 3}
    page.set_input_files("#predict-files", [file_of("a.png", "image/png", png(RED))])
    wait(page, "document.querySelector('#predict-report').textContent.includes('a.png: not a text; .txt files')")

    page.locator("#classes button.example").last.click()
    wait(page, "document.querySelector('#example-whole').textContent === 'what a fine old film'")
    page.click("#example-delete")
    served.says("was deleted from “film”")
    page.click("#undo")
    wait(page, "document.querySelector('#counts').textContent.includes('6 examples')")
    served.reload()
    assert "Choose texts" in page.inner_text("#add-form")


@pytest.mark.parametrize("served", [sound_encoder], indirect=True)
def test_sounds_are_added_predicted_and_can_be_played(served):
    page = served.page
    for label, tones in (("low", LOW[:2]), ("high", HIGH[:2])):
        served.add(label, *(file_of(f"{hertz}.wav", "audio/wav", tone_file(hertz)) for hertz in tones))
    served.says("Added 2 sounds to “high”.")
    served.predict(file_of("new.wav", "audio/wav", tone_file(305, seed=9)))
    assert page.inner_text("#verdict") == "low"
    wait(page, "document.querySelector('#whole audio')?.duration > 0.2")
    assert page.locator("#predict-text-form").is_hidden()
    page.locator("#classes button.example").first.click()
    wait(page, "document.querySelector('#example-whole audio')?.duration > 0.2")
    page.click("#example-close")


def test_the_doctor_finds_a_wrong_label_and_mends_it_and_says_when_it_is_out_of_date(shown):
    page = shown.page
    assert page.is_disabled("#examine")  # there is nothing to examine
    reds = [RED, (200, 60, 30), (220, 30, 60), (250, 80, 90), (20, 240, 20)]
    shown.add("red", *(image(f"red{n}.png", colour) for n, colour in enumerate(reds)))
    greens = [GREEN, (60, 200, 10), (30, 220, 70), (90, 240, 40)]
    shown.add("green", *(image(f"green{n}.png", colour) for n, colour in enumerate(greens)))
    page.focus("#examine")
    page.keyboard.press("Enter")
    shown.says("Examined: 1 example likely mislabelled")
    assert "red → green" in page.inner_text("#doctor-found")
    assert "What to add next" in page.inner_text("#doctor-found")
    assert page.is_hidden("#doctor-stale")
    assert [one for one in page.evaluate(CONTRAST) if one[0] < one[1]] == []
    page.get_by_role("button", name="Move to “green”").click()
    shown.says("Moved from “red” to “green”")
    assert shown.classes() == {"red": 4, "green": 5}
    assert page.is_visible("#doctor-stale")
    page.click("#undo")
    shown.says("Undone")
    assert shown.classes() == {"red": 5, "green": 4}
    page.click("#examine")
    shown.says("Examined")
    page.get_by_role("button", name="Open the example of red, red4.png").click()
    page.wait_for_selector("#example:visible")
    page.click("#example-close")
    page.get_by_role("button", name="Leave it in red").click()
    assert "red → green" not in page.inner_text("#doctor-found")


def test_all_labels_of_a_multi_label_registry_are_shown_and_confirmed_together(tab, tmp_path):
    path = tmp_path / "scenes.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder(), multi_label=True) as registry:
        for colour, labels in ((RED, ["red"]), (BLUE, ["blue"]), ((255, 0, 255), ["red", "blue"])):
            registry.add(labels, [png([max(0, part - 9 * n) for part in colour]) for n in range(3)])
        registry.rejection.add_negatives([png((0, 9, 0)), png((9, 0, 9))])
    running, thread, url = serve(path)
    try:
        tab.goto(url)
        opened = OpenPage(tab, url, "scenes", [], [])
        opened.predict(image("both.png", (250, 0, 250)), image("none.png", BLACK))
        assert dict(opened.queued())["both.png"] in ("red, blue", "blue, red")
        assert "none of these" in dict(opened.queued())["none.png"]
        tab.locator("#queue li", has_text=", ").click()
        assert re.search(r"red \d+ %", tab.inner_text("#scores"))
        before = opened.classes()
        tab.click("#yes")
        opened.says("Saved: both.png is")
        assert opened.classes() == {label: n + 1 for label, n in before.items()}
    finally:
        running.should_exit = True
        thread.join(10)
