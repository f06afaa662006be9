"""A real browser, where there is one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def chromium(*arguments: str) -> Iterator[object]:
    """Start it, or skip with the reason."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs chromium, as of: apt-get install chromium")
    fixed = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=[*fixed, *arguments])
        yield opened
        opened.close()


def wait(page, expression, arg=None):
    """Wait until it is true; Playwright's own way is to eval it in the page, which the page's policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, f"never true: {expression} {arg or ''}"
        page.wait_for_timeout(10)


CONTRAST = """() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ratio = (a, b) => {
    const [dark, bright] = [light(a), light(b)].sort((x, y) => x - y);
    return (bright + 0.05) / (dark + 0.05);
  };
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour[3]) return colour;
    }
  };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    if (!one.checkVisibility()) continue;
    const style = getComputedStyle(one);
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (own) found.push([ratio(parse(style.color), ground(one)), 4.5, one.tagName, one.textContent.slice(0, 30)]);
    if (one.matches("button, .button, input, select") && style.borderTopWidth !== "0px") {
      found.push([ratio(parse(style.borderTopColor), ground(one.parentElement)), 3, one.tagName, "border"]);
    }
  }
  return found;
}"""
"""Of each text to its ground, and of the border of each control: what it is, what it must be, and where."""
