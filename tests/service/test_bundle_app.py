"""A bundle is served read only, without torch, with the answers of the service of its registry."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from click.testing import CliRunner
from digit_scans import scan
from fakes import png
from PIL import Image
from service_client import HERE, files, in_base64, problem
from starlette.testclient import TestClient

from fewshot import ClassRegistry, TimmEncoder
from fewshot.cli import main
from fewshot.service import create_app, create_bundle_app
from fewshot.service.limits import Limits

pytest.importorskip("onnxscript", reason="exporting needs the extra onnx")

DIGITS = "/v1/registries/digits"


def in_png(digit, n):
    out = io.BytesIO()
    Image.fromarray(scan(digit, n)).save(out, "png")
    return out.getvalue()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a registry and its bundle."""
    from fewshot.runtime import export_bundle

    folder = tmp_path_factory.mktemp("exported")
    with ClassRegistry(folder / "digits.fewshot", encoder=TimmEncoder("pocket", precision="float32")) as registry:
        for digit in range(4):
            registry.add(f"digit {digit}", [scan(digit, n) for n in range(5)])
        registry.rejection.set(max_false_accept=0.25)
        export_bundle(registry, folder / "digits.zip")
    return folder


@pytest.fixture(scope="module")
def http(exported):
    app = create_bundle_app(exported / "digits.zip", limits=Limits(max_images=8))
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def test_predictions_are_those_of_the_registrys_service(http, exported):
    images = [in_png(digit, 20) for digit in range(6)]
    found = http.post(f"{DIGITS}/predict", files=files(*images), params={"top": 2}).json()
    assert http.post(f"{DIGITS}/predict", json={"images": in_base64(*images)}, params={"top": 2}).json() == {
        **found, "predictions": [{**one, "source": f"file {n}"} for n, one in enumerate(found["predictions"], start=1)]
    }  # fmt: skip
    with TestClient(create_app(exported / "digits.fewshot"), base_url=HERE) as other:
        wanted = other.post(f"{DIGITS}/predict", files=files(*images), params={"top": 2, "nearest": 0}).json()
    assert len(found["predictions"]) == len(images)
    for one, like in zip(found["predictions"], wanted["predictions"], strict=True):
        assert one.keys() == like.keys()
        assert (one["source"], one["label"], one["false_accept_bound"]) == (
            like["source"], like["label"], like["false_accept_bound"]
        )  # fmt: skip
        assert abs(one["score"] - like["score"]) < 0.01  # the registry's precision here is the fastest


def test_what_is_served_is_described(http):
    assert http.get("/v1/registries").json() == {
        "registries": [{"name": "digits", "classes": 4, "examples": 20, "problem": None}], "can_create": False
    }  # fmt: skip
    about = http.get(DIGITS).json()
    assert (about["encoder"], about["precision"], about["dim"]) == ("pocket", "float32", 384)
    assert (about["max_false_accept"], about["read_only"]) == (0.25, True)
    assert http.get(f"{DIGITS}/classes").json()["classes"][1] == {"label": "digit 1", "examples": 5}
    assert http.get("/healthz").json()["status"] == http.get("/readyz").json()["status"] == "ok"
    assert 'route="/v1/registries/{registry}/classes"' in http.get("/metrics").text
    assert set(http.get("/openapi.json").json()["paths"]) == {
        "/v1/registries", "/v1/registries/{registry}", "/v1/registries/{registry}/classes",
        "/v1/registries/{registry}/predict", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/registries"),
        ("DELETE", DIGITS),
        ("POST", f"{DIGITS}/examples"),
        ("PATCH", f"{DIGITS}/classes?label=digit+1"),
        ("DELETE", f"{DIGITS}/examples/1"),
        ("PUT", f"{DIGITS}/rejection"),
    ],
)
def test_a_change_is_refused_with_the_remedy(method, path, http):
    answer = http.request(method, path, json={})
    assert "read only: change the registry that it was exported from, then do: fewshot export" in problem(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"
    assert len(http.get(f"{DIGITS}/classes").json()["classes"]) == 4


def test_what_cannot_be_answered_is_a_problem(http, exported):
    assert "no registry 'other' here, only the bundle 'digits'" in problem(http.get("/v1/registries/other"), 404)
    assert "openapi.json" in problem(http.get(f"{DIGITS}/examples"), 404)
    assert "images" in problem(http.post(f"{DIGITS}/predict", json={"texts": ["a"]}), 409)
    told = problem(http.post(f"{DIGITS}/predict?max_false_accept=0.1", files=files(png((1, 2, 3)))), 422)
    assert "that of max_false_accept=0.25, not the threshold of 0.1" in told
    assert str(exported) not in told
    too_many = http.post(f"{DIGITS}/predict", files=files(*[png((1, 2, 3))] * 9))
    assert "at most 8" in problem(too_many, 413)
    found = http.post(f"{DIGITS}/predict", files=files(b"no image", in_png(1, 20))).json()["predictions"]
    assert "not an image" in found[0]["error"]
    assert found[1]["label"] == "digit 1"
    assert http.post(f"{DIGITS}/predict", files=files(in_png(7, 20)), params={"max_false_accept": 1}).json()[
        "predictions"
    ][0]["label"]


def test_a_token_is_asked_for(exported):
    app = create_bundle_app(exported / "digits.zip", token="0123456789abcdef")
    with TestClient(app, base_url=HERE) as client:
        problem(client.get(DIGITS), 401)
        assert client.get(DIGITS, headers={"Authorization": "Bearer 0123456789abcdef"}).status_code == 200
    with pytest.raises(ValueError, match="the token is empty"):
        create_bundle_app(exported / "digits.zip", token=" ")


@pytest.mark.parametrize(
    ("name", "data", "status", "told"),
    [
        ("none.zip", None, 1, "none.zip"),
        ("cut.zip", b"PK\x03\x04 and no more", 1, "cut.zip is no bundle that can be used"),
    ],
)
def test_a_file_that_is_no_bundle_is_refused_and_nothing_made(name, data, status, told, tmp_path):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    result = CliRunner().invoke(main, ["serve", str(tmp_path / name)])
    assert result.exit_code == status
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert (tmp_path / name).exists() == (data is not None)


@pytest.mark.parametrize("option", [["--encoder", "pocket"], ["--label-studio"]])
def test_options_of_registries_are_refused(option, exported):
    result = CliRunner().invoke(main, ["serve", str(exported / "digits.zip"), *option])
    assert result.exit_code == 2
    assert f"{option[0]} is for registries, and" in result.stderr


def test_serving_imports_no_heavy_library(exported):
    code = f"""
import sys
import fewshot.service
from fewshot.service import server_process
def run(app, bound, ready):
    from starlette.testclient import TestClient
    with TestClient(app, base_url={HERE!r}) as http:
        image = open({str(exported / "a.png")!r}, "rb").read()
        answer = http.post({DIGITS + "/predict?max_false_accept=1"!r}, files=[("images", ("a.png", image))])
        print(answer.json()["predictions"][0]["label"])
        print(http.post({DIGITS + "/examples"!r}, data={{"label": "a"}}).status_code)
    heavy = ("torch", "timm", "sklearn", "scipy", "faiss", "onnx", "safetensors")
    print(sorted(set(heavy) & set(sys.modules)))
server_process.run = run
from fewshot.cli import main
main(["serve", {str(exported / "digits.zip")!r}, "--port", "0"], standalone_mode=False)
"""
    (exported / "a.png").write_bytes(in_png(2, 9))
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == ["digit 2", "405", "[]"]
