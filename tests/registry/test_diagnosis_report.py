from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from media_examples import FILMS, SOUPS, sound_encoder, text_encoder, tone_file

from fewshot import ClassRegistry
from fewshot.registry import write_diagnosis_report

VOID = {"meta", "img", "line", "circle", "polyline", "br"}


class Checked(HTMLParser):
    """Notes what a page names outside itself, and whether each element is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.outside, self.images = [], [], 0
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.images += tag == "img"
        for name, value in attributes:
            if name in ("src", "href", "action") and not (value.startswith(("data:", "#"))):
                self.outside.append(value)
        assert tag not in ("script", "link", "iframe")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(registry, folder):
    path = write_diagnosis_report(registry, registry.diagnose(), folder)
    with open(path, encoding="utf-8") as file:
        return file.read()


@pytest.fixture
def registry(tmp_path):
    with ClassRegistry(tmp_path / "my <parts>.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red & <b>bold</b>", [png(RED), png((200, 60, 30)), png((220, 30, 60)), png((20, 240, 20))])
        registry.add("green", [png(GREEN), png((60, 200, 10)), png((30, 220, 40)), png(GREEN, 5)])
        registry.add("blue", [png(BLUE), png((40, 20, 230)), png((60, 60, 250))])
        yield registry


def test_the_page_needs_nothing_else_and_shows_what_was_found(registry, tmp_path):
    page = page_of(registry, tmp_path)
    checked = Checked(page)
    assert checked.outside == []
    assert checked.images > 3
    assert "url(" not in page
    assert "@import" not in page
    assert registry.diagnose().advice[1:] in page
    jpeg = base64.b64decode(re.search(r"data:image/jpeg;base64,([^\"]+)", page)[1])
    assert jpeg.startswith(b"\xff\xd8")
    assert "fewshot move" in page


def test_labels_and_names_are_text_and_never_markup(registry, tmp_path):
    page = page_of(registry, tmp_path)
    assert "<b>bold</b>" not in page
    assert "red &amp; &lt;b&gt;bold&lt;/b&gt;" in page
    assert "my &lt;parts&gt;.fewshot" in page


def test_an_example_that_is_gone_is_shown_by_its_name(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(4)]
    for file, colour in zip(files, (RED, (200, 60, 30), GREEN, (60, 200, 10)), strict=True):
        file.write_bytes(png(colour))
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(), keep_images=False) as registry:
        registry.add("red", [*files[:2], files[3], *(png((250, n, 30)) for n in (10, 70))])
        registry.add("green", [files[2], png((10, 240, 10)), png((40, 250, 20))])
        files[3].unlink()
        page = page_of(registry, tmp_path)
    assert Checked(page).outside == []
    assert f'<div class="shown">{files[3]}</div>' in page


def test_texts_are_shown_as_texts(tmp_path):
    with ClassRegistry(tmp_path / "t.fewshot", encoder=text_encoder()) as registry:
        registry.add("film", [*FILMS, "boil the <onions> & leeks slowly"])
        registry.add("soup", SOUPS)
        page = page_of(registry, tmp_path)
    assert Checked(page).images == 0
    assert '<blockquote class="shown">boil the &lt;onions&gt; &amp; leeks slowly</blockquote>' in page


def test_sounds_can_be_heard(tmp_path):
    with ClassRegistry(tmp_path / "s.fewshot", encoder=sound_encoder()) as registry:
        registry.add("low", [tone_file(300), tone_file(320), tone_file(3100)])
        registry.add("high", [tone_file(3000), tone_file(3200)])
        page = page_of(registry, tmp_path)
    assert Checked(page).outside == []
    assert '<audio controls preload="none" src="data:audio/wav;base64,' in page


def test_where_nothing_can_be_measured_the_page_says_why(tmp_path):
    with ClassRegistry(tmp_path / "o.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
        page = page_of(registry, tmp_path)
    Checked(page)
    assert "No image can be left out yet." in page
    assert "There is one class, and nothing to confuse it with: add another." in page


def test_a_registry_without_an_error_has_a_chart_too(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED), png((200, 60, 30)), png((220, 30, 60)), png((250, 80, 90))])
        registry.add("green", [png(GREEN), png((60, 200, 10)), png((30, 220, 70)), png((90, 240, 40))])
        registry.add("blue", [png(BLUE), png((40, 20, 230)), png((60, 90, 250)), png((90, 10, 200))])
        assert registry.diagnose().left_out.value == 1.0
        page = page_of(registry, tmp_path)
    Checked(page)
    assert "now 100 %" in page
    assert ">90 %</text>" in page  # the axis begins below
