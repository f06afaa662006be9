"""The REST interface: what it answers, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from numpy.testing import assert_allclose
from PIL import Image
from service_client import Gated, client, files, in_base64, problem, queued, scope

from fewshot import ClassRegistry
from fewshot.service.app import create_app
from fewshot.service.limits import Limits

PARTS = "/v1/registries/parts"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def empty(tmp_path):
    with client(tmp_path / "parts.fewshot") as http:
        yield http


@pytest.fixture
def taught(empty):
    """Two red pictures (ids 1 and 2) and a blue one (3)."""
    empty.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED), png(RED, 5)))
    empty.post(f"{PARTS}/examples", data={"label": "blue"}, files=files(png(BLUE), names=["sky.png"]))
    return empty


def test_a_class_is_known_to_the_next_request(empty):
    added = empty.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED), png(RED, 5)))
    assert added.json() == {
        "label": "red", "added": 2, "example_ids": [1, 2], "new_ids": [1, 2], "duplicates": 0, "conflicts": [],
        "failed": [], "classes": 1,
    }  # fmt: skip
    ask = lambda: empty.post(f"{PARTS}/predict", files=files(png(BLUE))).json()["predictions"][0]  # noqa: E731
    assert ask()["label"] == "red"
    empty.post(f"{PARTS}/examples", json={"label": "blue", "images": in_base64(png(BLUE, 7))})
    assert ask()["label"] == "blue"


def test_pictures_are_answered_in_the_order_given_and_an_unreadable_one_alone(taught):
    pictures = files(png((204, 0, 153)), b"", png(BLUE), b"junk", names=["a.png"] * 4)
    answer = taught.post(f"{PARTS}/predict?top=2&nearest=1", files=pictures).json()
    first, second, third, fourth = answer["predictions"]
    # (0.8, 0, 0.6) has the length 1, so its cosines to red and blue are 0.8 and 0.6.
    assert [(one["label"], one["score"]) for one in first["top"]] == [("red", 0.8), ("blue", 0.6)]
    assert (first["source"], first["label"], first["score"]) == ("a.png", "red", 0.8)
    assert first["nearest"] == [{"id": 1, "label": "red", "source": "0.png", "score": 0.8}]
    assert second == {"source": "a.png", "error": "the file is empty (0 bytes)"}
    assert third["label"] == "blue"
    assert fourth == {"source": "a.png", "error": "not an image; JPEG, PNG, WebP, BMP, GIF and TIFF can be read"}
    assert answer["revision"] == taught.get(PARTS).json()["revision"]


def test_pictures_in_json_are_answered_as_files_are(taught):
    pictures = [png(RED, 9), png((0, 100, 200))]
    asked = [*in_base64(*pictures), "data:image/png;base64,AAAA"]
    *in_json, bad = taught.post(f"{PARTS}/predict", json={"images": asked}).json()["predictions"]
    as_files = taught.post(f"{PARTS}/predict", files=files(*pictures)).json()["predictions"]
    assert [one.pop("source") for one in in_json] == ["image 1", "image 2"]
    assert [one.pop("source") for one in as_files] == ["0.png", "1.png"]
    assert in_json == as_files
    assert bad["source"] == "image 3"
    assert "not base64" in bad["error"]


def test_what_is_not_added_is_accounted_for(taught):
    pictures = files(png(RED), png(BLUE), b"junk", png(GREEN))
    answer = taught.post(f"{PARTS}/examples", data={"label": "red"}, files=pictures).json()
    assert (answer["added"], answer["duplicates"], answer["classes"]) == (1, 1, 2)
    assert (answer["example_ids"], answer["new_ids"]) == ([1, 4], [4])
    assert answer["conflicts"] == [{"source": "1.png", "held_by": ["blue"], "example_ids": [3]}]
    assert [failed["source"] for failed in answer["failed"]] == ["2.png"]
    alike = files(png(GREEN, 7), png(BLUE), png(GREEN, 8), names=["a.png"] * 3)
    answer = taught.post(f"{PARTS}/examples", data={"label": "red"}, files=alike).json()
    assert answer["new_ids"] == [5, 6]
    assert answer["conflicts"] == [{"source": "a.png", "held_by": ["blue"], "example_ids": [3]}]
    allowed = taught.post(
        f"{PARTS}/examples", data={"label": "red", "allow_conflict": "true"}, files=files(png(BLUE))
    ).json()
    assert (allowed["added"], allowed["conflicts"]) == (1, [])


def test_classes_are_listed_renamed_joined_and_removed(taught):
    listed = lambda: taught.get(f"{PARTS}/classes").json()["classes"]  # noqa: E731
    assert listed() == [
        {"label": "red", "examples": 2, "example_ids": [1, 2]},
        {"label": "blue", "examples": 1, "example_ids": [3]},
    ]
    url, odd = f"{PARTS}/classes", "a/../b <i>&"
    renamed = taught.patch(url, params={"label": "red"}, json={"label": odd})
    assert renamed.json() == {"label": odd, "examples": 2}
    assert taught.patch(url, params={"label": odd}, json={"label": odd}).json() == {"label": odd, "examples": 2}
    refused = taught.patch(url, params={"label": "blue"}, json={"label": odd})
    assert "merge: true" in problem(refused, 409)
    joined = taught.patch(url, params={"label": "blue"}, json={"label": odd, "merge": True})
    assert joined.json() == {"label": odd, "examples": 3}
    assert taught.delete(url, params={"label": odd}).json() == {"removed": 3}
    assert listed() == []


def test_examples_are_listed_page_by_page_moved_and_removed(taught):
    url = f"{PARTS}/examples"
    page = taught.get(url, params={"label": "red", "limit": 1}).json()
    assert page == {"examples": [{"id": 1, "label": "red", "source": "0.png"}], "next": 1}
    page = taught.get(url, params={"label": "red", "limit": 1, "after": page["next"]}).json()
    assert ([one["id"] for one in page["examples"]], page["next"]) == ([2], None)
    assert [one["id"] for one in taught.get(url).json()["examples"]] == [1, 2, 3]
    moved = taught.patch(f"{url}/3", json={"label": "red"}).json()
    assert moved == {"id": 3, "label": "red", "source": "sky.png"}
    assert [one["label"] for one in taught.get(f"{PARTS}/classes").json()["classes"]] == ["red"]
    assert taught.patch(f"{url}/3", json={"label": "new"}).json()["label"] == "new"
    assert taught.post(f"{PARTS}/predict", files=files(png(BLUE))).json()["predictions"][0]["label"] == "new"
    assert taught.delete(f"{url}/3").json() == {"removed": 1}
    assert taught.post(f"{PARTS}/predict", files=files(png(BLUE))).json()["predictions"][0]["label"] == "red"


def test_a_picture_moved_to_a_class_that_holds_it_is_there_once(taught):
    taught.post(f"{PARTS}/examples", data={"label": "blue", "allow_conflict": "true"}, files=files(png(RED)))
    moved = taught.patch(f"{PARTS}/examples/1", json={"label": "blue"}).json()
    assert (moved["id"], moved["label"]) == (4, "blue")
    classes = taught.get(f"{PARTS}/classes").json()["classes"]
    assert [(one["label"], one["example_ids"]) for one in classes] == [("red", [2]), ("blue", [3, 4])]


def test_an_examples_picture_comes_back_byte_for_byte_and_small(taught):
    original = taught.get(f"{PARTS}/examples/1/image")
    assert (original.content, original.headers["content-type"]) == (png(RED), "image/png")
    jpeg = io.BytesIO()
    Image.new("RGB", (400, 100), GREEN).save(jpeg, format="JPEG")
    added = taught.post(f"{PARTS}/examples", data={"label": "green"}, files=files(jpeg.getvalue())).json()
    small = taught.get(f"{PARTS}/examples/{added['new_ids'][0]}/thumbnail?size=64")
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (64, 16)
    again = taught.get(
        f"{PARTS}/examples/{added['new_ids'][0]}/thumbnail?size=64", headers={"If-None-Match": small.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_a_picture_that_the_registry_does_not_keep_is_not_read_from_elsewhere(tmp_path):
    (tmp_path / "red.png").write_bytes(png(RED))
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder(), keep_images=False) as registry:
        registry.add("red", [tmp_path / "red.png"])
    with client(tmp_path / "parts.fewshot") as http:
        for what in ("image", "thumbnail"):
            answer = http.get(f"{PARTS}/examples/1/{what}")
            assert "its picture is not kept in the registry" in problem(answer, 404)


def test_what_is_none_of_the_classes_is_refused_once_a_limit_is_kept(empty, tmp_path):
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder()) as registry:
        for n in range(20):  # 20 colours between green and blue
            colour = (0, round(255 * np.cos(n * np.pi / 38)), round(255 * np.sin(n * np.pi / 38)))
            registry.add(f"colour {n}", [png(colour)])
    before = empty.get(f"{PARTS}/rejection").json()
    assert before == {"max_false_accept": None, "threshold": None, "problem": None, "negatives": 0}
    asked = empty.get(f"{PARTS}/rejection?max_false_accept=0.3").json()
    assert asked["max_false_accept"] is None
    assert (asked["threshold"]["max_false_accept"], asked["threshold"]["met"], asked["threshold"]["n_unknown"]) == (
        0.3,
        True,
        20,
    )
    kept = empty.put(f"{PARTS}/rejection", json={"max_false_accept": 0.3}).json()
    assert (kept["max_false_accept"], kept["threshold"]) == (0.3, asked["threshold"])
    ask = lambda **query: empty.post(f"{PARTS}/predict", files=files(png(RED)), params=query).json()["predictions"][0]  # noqa: E731
    assert ask()["label"] is None
    assert ask(max_false_accept=1)["label"] is not None
    assert empty.put(f"{PARTS}/rejection", json={"max_false_accept": None}).json()["max_false_accept"] is None
    assert ask()["label"] is not None


def test_where_nothing_can_be_promised_it_says_why(empty):
    assert "no class yet" in empty.get(f"{PARTS}/rejection").json()["problem"]
    assert "no class yet" in problem(empty.put(f"{PARTS}/rejection", json={"max_false_accept": 0.1}), 409)
    empty.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED)))
    asked = empty.get(f"{PARTS}/rejection?max_false_accept=0.1").json()
    assert asked["threshold"] is None
    assert "background" in asked["problem"]
    assert "background" in problem(empty.put(f"{PARTS}/rejection", json={"max_false_accept": 0.1}), 422)


def test_negatives_are_added_listed_and_forgotten_one_by_one_or_all(taught):
    url = f"{PARTS}/negatives"
    added = taught.post(url, files=files(png(GREEN), png(RED), b"junk", names=["g.png", "r.png", "j.png"])).json()
    assert (added["added"], added["new_ids"], added["negatives"]) == (1, [1], 1)
    assert added["conflicts"] == [{"source": "r.png", "held_by": ["red"], "example_ids": [1]}]
    assert [failed["source"] for failed in added["failed"]] == ["j.png"]
    again = taught.post(url, json={"images": in_base64(png(GREEN), png(GREEN, 5), png(GREEN, 6))}).json()
    assert (again["added"], again["duplicates"], again["new_ids"]) == (2, 1, [2, 3])
    page = taught.get(url, params={"limit": 2}).json()
    assert page == {"negatives": [{"id": 1, "source": "g.png"}, {"id": 2, "source": "image 2"}], "next": 2}
    assert taught.delete(f"{url}/1").json() == {"removed": 1}
    assert "no negative 1 in parts" in problem(taught.delete(f"{url}/1"), 404)
    assert taught.delete(url).json() == {"removed": 2}
    assert taught.get(url).json() == {"negatives": [], "next": None}


def test_an_export_holds_every_example_with_its_vector(taught):
    answer = taught.get(f"{PARTS}/export")
    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.headers["content-disposition"] == 'attachment; filename="parts.jsonl"'
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [(row["id"], row["label"], row["source"], row["vector"]) for row in rows] == [
        (1, "red", "0.png", [1, 0, 0]), (2, "red", "1.png", [1, 0, 0]), (3, "blue", "sky.png", [0, 0, 1]),
    ]  # fmt: skip
    assert rows[2]["sha256"] == hashlib.sha256(png(BLUE)).hexdigest()
    assert rows[2]["fingerprint"] == FakeEncoder().fingerprint


def test_a_registry_says_what_it_is_made_of(taught):
    about = taught.get(PARTS).json()
    assert (about["name"], about["encoder"], about["dim"], about["metric"]) == ("parts", "colours", 3, "cosine")
    assert (about["classes"], about["examples"], about["images_kept"], about["negatives"]) == (2, 3, 3, 0)
    before = about["revision"]
    taught.delete(f"{PARTS}/examples/1")
    assert taught.get(PARTS).json()["revision"] == before + 1


def test_what_the_service_stores_is_what_the_library_stores(taught, tmp_path):
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder()) as registry:
        assert registry.classes() == {"red": 2, "blue": 1}
        registry.add("green", [png(GREEN)])
        answer = taught.post(f"{PARTS}/predict", files=files(png(GREEN))).json()["predictions"][0]
        assert answer["label"] == "green"
        (same,) = registry.predict([png((10, 200, 90))])
    answer = taught.post(f"{PARTS}/predict", files=files(png((10, 200, 90)))).json()["predictions"][0]
    assert_allclose([one["score"] for one in answer["top"]], [score for _, score in same.top], atol=1e-6)
    assert answer["unknown_score"] == pytest.approx(same.unknown_score, abs=1e-6)
    assert answer["top"][0]["probability"] == pytest.approx(same.probability, abs=1e-4)
    assert [one["probability"] for one in answer["top"][1:]] == [None, None]
    assert answer["false_accept_bound"] is None


@pytest.mark.parametrize(
    ("method", "url", "sent", "status", "says"),
    [
        ("GET", "/v1/nothing", {}, 404, "there is nothing at /v1/nothing"),
        ("PUT", "/v1/registries", {}, 405, "PUT is not possible at /v1/registries, only GET, POST"),
        ("PUT", "/page/app.js", {}, 405, "PUT is not possible at /page/app.js, only GET, HEAD"),
        ("GET", "/v1/registries/other", {}, 404, "no registry 'other'; there is 'parts'"),
        ("GET", "/v1/registries/a%20b", {}, 422, "'a b' cannot name a registry"),
        ("POST", "/v1/registries", {"json": {"name": "new"}}, 409, "no folder to create others in"),
        ("DELETE", f"{PARTS}/classes?label=ret", {}, 404, "no class 'ret' in parts; did you mean 'red'?"),
        ("DELETE", f"{PARTS}/classes", {}, 422, "query.label: Field required"),
        ("PATCH", f"{PARTS}/classes?label=ret", {"json": {"label": "x"}}, 404, "no class 'ret'"),
        ("PATCH", f"{PARTS}/classes?label=red", {"json": {"label": " "}}, 422, "must hold something to read"),
        ("PATCH", f"{PARTS}/classes?label=red", {"json": {"lable": "x"}}, 422, "body.lable: Extra inputs"),
        ("PATCH", f"{PARTS}/classes?label=red", {"content": b"{", "headers": JSON}, 422, "JSON, from its character 1"),
        ("PATCH", f"{PARTS}/classes?label=red", {"content": b"\xe9", "headers": JSON}, 400, "not UTF-8 text"),
        ("GET", f"{PARTS}/examples?label=ret", {}, 404, "no class 'ret'"),
        ("GET", f"{PARTS}/examples?limit=0", {}, 422, "greater than or equal to 1"),
        ("PATCH", f"{PARTS}/examples/9", {"json": {"label": "x"}}, 404, "no example 9 in parts"),
        ("PATCH", f"{PARTS}/examples/1", {"json": {"label": "a\nb"}}, 422, "no control characters"),
        ("PATCH", f"{PARTS}/examples/1", {"json": {"label": "x" * 1001}}, 422, "at most 1000 characters"),
        ("DELETE", f"{PARTS}/examples/9", {}, 404, "no example 9 in parts"),
        ("GET", f"{PARTS}/examples/9/image", {}, 404, "no example 9 in parts"),
        ("GET", f"{PARTS}/examples/9/thumbnail", {}, 404, "no example 9 in parts"),
        ("GET", f"{PARTS}/examples/1/thumbnail?size=9999", {}, 422, "less than or equal to 512"),
        ("GET", f"{PARTS}/examples/{2**70}/image", {}, 422, "less than or equal to"),
        ("POST", f"{PARTS}/predict", {}, 415, "multipart/form-data"),
        ("POST", f"{PARTS}/predict", {"content": png(RED), "headers": {"Content-Type": "image/png"}}, 415, "image/png"),
        ("POST", f"{PARTS}/predict", {"json": {"images": []}}, 422, "at least 1 item"),
        ("POST", f"{PARTS}/predict", {"json": {"images": [1]}}, 422, "images.0: Input should be a valid string"),
        ("POST", f"{PARTS}/predict", {"json": []}, 422, "body: Input should be an object"),
        ("POST", f"{PARTS}/predict", {"content": b"{", "headers": JSON}, 422, "JSON"),
        ("POST", f"{PARTS}/predict", {"files": {"file": b"x"}}, 422, "a file came in the field 'file'"),
        ("POST", f"{PARTS}/predict", {"files": {"images": (None, b"x")}}, 422, "not a file with a file name"),
        ("POST", f"{PARTS}/predict?top=0", {"files": files(b"x")}, 422, "query.top"),
        ("POST", f"{PARTS}/predict?max_false_accept=2", {"files": files(b"x")}, 422, "query.max_false_accept"),
        ("POST", f"{PARTS}/predict", {"files": files(*[b"x"] * 9)}, 413, "9 images in one request; at most 8"),
        ("POST", f"{PARTS}/predict", {"json": {"images": ["AA"] * 9}}, 413, "9 images in one request; at most 8"),
        ("POST", f"{PARTS}/predict", {"data": {"label": "x"}, "files": files(b"x")}, 422, "label: Extra inputs"),
        ("POST", f"{PARTS}/examples", {"files": files(b"x")}, 422, "label: Field required"),
        ("POST", f"{PARTS}/examples", {"json": {"images": ["AA"]}}, 422, "label: Field required"),
        ("POST", f"{PARTS}/examples", {"data": {"label": ""}, "files": files(b"x")}, 422, "something to read"),
        ("PUT", f"{PARTS}/rejection", {"json": {"max_false_accept": 1}}, 422, "less than 1"),
        ("PUT", f"{PARTS}/rejection", {"json": {"max_false_accept": 5e-324}}, 422, "equal to 0.000001"),
        ("DELETE", f"{PARTS}/negatives/5", {}, 404, "no negative 5 in parts"),
    ],
)  # fmt: skip
def test_an_error_is_a_problem_that_says_what_is_wrong_and_changes_nothing(made, method, url, sent, status, says):
    before = made.get(PARTS).json()
    assert says in problem(made.request(method, url, **sent), status)
    assert made.get(PARTS).json() == before


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A registry with a red and a blue class, in a service that takes 8 pictures a request."""
    path = tmp_path_factory.mktemp("made") / "parts.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED), png(RED, 5)])
        registry.add("blue", [png(BLUE)])
    with client(path, limits=Limits(max_images=8)) as http:
        yield http


def test_a_form_that_is_torn_is_a_problem(made):
    torn = made.post(
        f"{PARTS}/predict", content=b"--x\r\nContent-", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert 400 <= torn.status_code < 500
    problem(torn, torn.status_code)
    unbounded = made.post(f"{PARTS}/predict", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert "boundary" in problem(unbounded, 400)


def test_a_client_that_goes_away_is_no_error_of_the_servers(tmp_path, caplog):
    app = create_app(tmp_path / "parts.fewshot", encoder=FakeEncoder())
    came = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent = []

    async def receive():
        return next(came)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope("POST", f"{PARTS}/predict"), receive, send))
    assert sent[0]["status"] == 400
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_a_client_that_has_gone_still_waits_for_is_not_computed(tmp_path):
    encoder, gone = Gated(), threading.Event()
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
    app = create_app(tmp_path / "parts.fewshot", encoder=encoder)
    body = json.dumps({"images": in_base64(png(BLUE))}).encode()
    came, statuses = iter([{"type": "http.request", "body": body}]), []

    async def receive():
        for message in came:
            return message
        while not gone.is_set():
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message):
        statuses.append(message.get("status"))

    (shared,) = app.state.registries.encoders
    with ThreadPoolExecutor() as threads:
        blocker = threads.submit(shared.encode, [png(GREEN)])
        assert encoder.started.wait(20)
        asking = threads.submit(asyncio.run, app(scope("POST", f"{PARTS}/predict"), receive, send))
        queued(shared, 1)
        gone.set()
        while shared.queued:
            time.sleep(0.001)
        encoder.gate.set()
        blocker.result(), asking.result()
    assert statuses[0] == 400  # for the log
    assert encoder.batches == [1]
    assert "fewshot_requests_disconnected_total 1.0" in app.state.metrics.text().decode()
    app.state.registries.close()


def test_before_the_first_class_nothing_can_be_recognised(empty):
    refused = empty.post(f"{PARTS}/predict", files=files(png(RED)))
    assert "no class yet; add images of some first" in problem(refused, 409)


def test_an_error_of_the_servers_own_says_no_more_than_that(tmp_path, caplog):
    class Broken(FakeEncoder):
        def encode(self, images):
            raise RuntimeError("secret of the house")

    with client(tmp_path / "parts.fewshot", encoder=Broken()) as http:
        answer = http.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED)))
        assert "secret" not in problem(answer, 500)
        assert http.get("/healthz").json()["status"] == "ok"


def test_the_description_of_the_interface_is_valid_and_whole(made):
    from openapi_spec_validator import validate

    document = made.get("/openapi.json").json()
    validate(document)
    operations = [one for path in document["paths"].values() for one in path.values()]
    names = [one["operationId"] for one in operations]
    assert len(names) == len(set(names)) >= 20
    for one in operations:
        assert one["tags"]
        assert one["description"]
        good = next(answer for status, answer in one["responses"].items() if status.startswith("2"))
        assert good["content"], one["operationId"]
        if one["tags"] != ["server"]:
            schema = one["responses"]["422"]["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}
    predict = document["paths"]["/v1/registries/{registry}/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert "securitySchemes" not in document["components"]


def test_nothing_is_loaded_from_elsewhere_to_read_the_documentation(made):
    problem(made.get("/docs"), 404)
    problem(made.get("/redoc"), 404)


def test_the_page_is_served_under_a_strict_policy(made):
    page = made.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob: data:;")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == made.get("/page/icon.svg").headers["cache-control"] == "no-cache"
    assert made.get(PARTS).headers["cache-control"] == "no-store"
    assert problem(made.get("/page/../app.py"), 404)
    assert problem(made.get("/page/%2e%2e/app.py"), 404)


def test_metrics_count_requests_by_route_and_pictures_by_batch(tmp_path):
    with client(tmp_path / "parts.fewshot") as http:
        http.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED), png(RED, 5)))
        http.get("/v1/registries/other")
        text = http.get("/metrics").text
    assert 'fewshot_requests_total{method="POST",route="/v1/registries/{registry}/examples",status="200"} 1.0' in text
    assert 'fewshot_requests_total{method="GET",route="/v1/registries/{registry}",status="404"} 1.0' in text
    assert 'fewshot_batch_images_bucket{le="2.0"} 1.0' in text
    assert "fewshot_requests_in_flight 1.0" in text  # the one that asks
    assert "process_resident_memory_bytes" in text


def test_each_request_is_a_log_line_without_its_query(made, caplog):
    caplog.set_level("INFO", logger="fewshot.service")
    made.get(f"{PARTS}/examples?label=red", headers={"Authorization": "Bearer of-secrets"})
    (record,) = [record for record in caplog.records if record.name == "fewshot.service"]
    assert record.fields["path"] == f"{PARTS}/examples"
    assert (record.fields["method"], record.fields["status"]) == ("GET", 200)

    from fewshot.service.access_log import JsonFormatter

    line = JsonFormatter().format(record)
    assert json.loads(line)["event"] == "request"
    assert "label" not in line
    assert "secrets" not in line


def test_ready_only_once_the_encoder_is_loaded_and_the_registry_opens(tmp_path):
    path = tmp_path / "parts.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder(times=2.0)) as registry:
        registry.add("red", [png(RED)])
    with client(path) as http:  # its encoder makes other vectors
        while (answer := http.get("/readyz")).json()["status"] == "starting":
            assert answer.status_code == 503
        assert answer.status_code == 503
        assert answer.json() == {"status": "failing", "detail": "the server's log says why"}  # which may name paths
        assert http.get("/healthz").status_code == 200
        assert "cannot be compared" in problem(http.post(f"{PARTS}/predict", files=files(png(RED))), 503)
    with client(path, encoder=FakeEncoder(times=2.0)) as http:
        while (answer := http.get("/readyz")).json()["status"] == "starting":
            assert answer.status_code == 503
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
