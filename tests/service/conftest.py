"""Services to send requests to."""

from __future__ import annotations

import pytest
from fakes import BLUE, RED, FakeEncoder, png
from service_client import PARTS, client, files

from fewshot import ClassRegistry
from fewshot.service.limits import Limits


@pytest.fixture
def empty(tmp_path):
    """A service of an empty registry."""
    with client(tmp_path / "parts.fewshot") as http:
        yield http


@pytest.fixture
def filled(empty):
    """The same with two red images (ids 1 and 2) and a blue one (3)."""
    empty.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED), png(RED, 5)))
    empty.post(f"{PARTS}/examples", data={"label": "blue"}, files=files(png(BLUE), names=["sky.png"]))
    return empty


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    """A service, of up to 8 images a request, of a registry with a red and a blue class; not to be changed."""
    path = tmp_path_factory.mktemp("served") / "parts.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED), png(RED, 5)])
        registry.add("blue", [png(BLUE)])
    with client(path, limits=Limits(max_images=8)) as http:
        yield http
