"""The backend as Label Studio uses it, from the recorded bodies."""

from __future__ import annotations

import base64
import io
import json
import threading
import time

import pytest
from click.testing import CliRunner
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from label_studio_fakes import (
    BOXES,
    CHOICES,
    SEVERAL,
    TOKEN,
    FakeLabelStudio,
    annotation,
    boxed,
    chosen,
    created,
    event,
    predict,
    setup,
    task,
)
from media_examples import FILMS, HIGH, LOW, SOUPS, sound_encoder, text_encoder, tone_file
from PIL import Image
from service_client import client, problem

from fewshot import ClassRegistry
from fewshot.cli import main
from fewshot.errors import MissingExtra
from fewshot.integrations import LabelStudioClient, apply_pending, read_event
from fewshot.integrations.label_studio import label_studio_client
from fewshot.registry import AnnotationWriter
from fewshot.service import create_app

PROJECT = "project-2.1795241756"
R, B = "/data/upload/2/r.png", "/data/upload/2/b.png"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    fake = FakeLabelStudio()
    fake.pictures = {R: png(RED), B: png(BLUE)}
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture
def backend(tmp_path, server):
    with client(tmp_path, label_studio={}) as opened:
        assert opened.post("/setup", json=setup(server)).json() == {"model_version": "fewshot-0"}
        yield opened


def send(backend, body):
    answer = backend.post("/webhook", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"result": {"seen": body["action"]}, "status": "ok"}


def annotate(backend, id_, image, *labels, config=CHOICES, second=58.0, action="ANNOTATION_CREATED", **fields):
    results = [chosen(*labels)] if labels else []
    send(
        backend,
        created(
            annotation(id_, id_, *results, second=second, **fields), task(id_, image), config=config, action=action
        ),
    )


def suggest(backend, *images, config=CHOICES):
    tasks = [task(n, image) for n, image in enumerate(images, start=100)]
    answer = backend.post("/predict", json=predict(*tasks, config=config))
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def choices(predictions):
    return [p["result"][0]["value"]["choices"] if p["result"] else None for p in predictions]


def test_health_and_versions_answer_as_recorded(backend):
    assert backend.get("/health").json() == {"status": "UP", "model_class": "FewShot"}
    assert backend.get("/versions").json() == {"versions": ["fewshot-0"], "message": "ok"}


def test_before_the_first_annotation_there_is_one_empty_prediction_a_task(backend, server):
    empty = {"model_version": "fewshot-0", "score": 0.0, "result": []}
    assert suggest(backend, R, B) == [empty, empty]
    assert server.asked == []


def test_the_next_prediction_knows_every_annotation(backend):
    annotate(backend, 1, R, "Red")
    annotate(backend, 2, B, "Blue")
    first, second = suggest(backend, R, B)
    assert first["result"] == [
        {
            "from_name": "choice",
            "to_name": "image",
            "type": "choices",
            "score": first["score"],
            "value": {"choices": ["Red"]},
        }
    ]
    assert first["score"] > 0.8
    assert second["result"][0]["value"] == {"choices": ["Blue"]}


def test_with_examples_of_one_of_two_labels_the_score_is_one_half(backend):
    annotate(backend, 1, R, "Red")
    (found,) = suggest(backend, B)
    assert (found["score"], choices([found])) == (0.5, [["Red"]])


def test_the_model_version_changes_with_every_annotation_and_with_nothing_else(backend):
    seen = []
    annotate(backend, 1, R, "Red")
    seen.append(suggest(backend, R)[0]["model_version"])
    annotate(backend, 1, R, "Red")  # again
    assert suggest(backend, R)[0]["model_version"] == seen[-1]
    assert backend.get("/versions").json()["versions"] == seen
    annotate(backend, 1, R, "Blue", second=59.0, action="ANNOTATION_UPDATED")
    seen.append(suggest(backend, R)[0]["model_version"])
    send(backend, event("ANNOTATIONS_DELETED", annotations=[{"id": 1}]))
    seen.append(suggest(backend, R)[0]["model_version"])
    assert len(set(seen)) == 3


def test_an_update_replaces_and_a_skip_and_a_deletion_remove_an_annotation(backend):
    annotate(backend, 1, R, "Red")
    annotate(backend, 2, B, "Blue")
    annotate(backend, 1, R, "Blue", second=59.0, action="ANNOTATION_UPDATED")
    assert choices(suggest(backend, R)) == [["Blue"]]
    annotate(backend, 1, R, second=59.5, action="ANNOTATION_UPDATED", was_cancelled=True)
    assert suggest(backend, R)[0]["score"] == 0.5
    send(backend, event("ANNOTATIONS_DELETED", annotations=[{"id": 2}]))
    assert choices(suggest(backend, R)) == [None]


def test_a_deleted_task_takes_its_annotations_along(backend):
    annotate(backend, 1, R, "Red")
    send(backend, event("TASKS_DELETED", tasks=[{"id": 1}]))
    annotate(backend, 1, R, "Red", second=59.0)
    assert choices(suggest(backend, R)) == [None]


def test_a_bad_image_never_spoils_its_batch(backend, server):
    annotate(backend, 1, R, "Red")
    server.pictures["/data/text.png"] = b"no picture"
    found = suggest(
        backend, "/data/none.png", R, "/data/text.png", "s3://bucket/x.png", "data:image/png;base64,???", "//"
    )
    assert choices(found) == [None, ["Red"], None, None, None, None]
    assert [p["score"] for p in found] == [0.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert len({p["model_version"] for p in found}) == 1


def test_images_come_in_all_four_forms(backend, server):
    annotate(backend, 1, R, "Red")
    annotate(backend, 2, B, "Blue")
    server.pictures["/data/local-files/?d=imgs/mein Bild.png"] = png((250, 0, 0), 9)
    data = "data:image/png;base64," + base64.b64encode(png(BLUE, 9)).decode()
    local = "/data/local-files/?d=imgs/mein Bild.png"
    assert choices(suggest(backend, R, local, server.url + local, data)) == [["Red"], ["Red"], ["Red"], ["Blue"]]
    assert {token for _, token in server.asked} == {f"Token {TOKEN}"}


def test_a_registry_is_kept_for_each_project_and_names_its_pictures(backend, tmp_path):
    local = "/data/local-files/?d=imgs/a.png"
    annotate(backend, 1, R, "Red")
    annotate(backend, 2, "data:image/png;base64," + base64.b64encode(png(BLUE)).decode(), "Blue")
    annotate(backend, 3, local, "Blue")
    suggest(backend, R)
    assert [path.name for path in tmp_path.glob("*.fewshot")] == [f"{PROJECT}.fewshot"]
    with ClassRegistry(tmp_path / f"{PROJECT}.fewshot", create=False) as registry:
        assert [registry.examples(label)[0][1] for label in registry.classes()] == [R, "task 2"]
        assert TOKEN.encode() not in (tmp_path / f"{PROJECT}.fewshot").read_bytes()


def test_start_training_brings_the_registry_in_step_with_the_export(backend, server, tmp_path):
    annotate(backend, 1, R, "Red")
    suggest(backend, R)
    server.tasks = [task(2, B, annotations=[annotation(5, 2, chosen("Blue"))])]
    send(backend, event("START_TRAINING"))
    wait_for(lambda: choices(suggest(backend, R)) == [["Blue"]])
    with ClassRegistry(tmp_path / f"{PROJECT}.fewshot", create=False) as registry:
        assert registry.classes() == {"Blue": 1}
    version = suggest(backend, R)[0]["model_version"]
    asked = len(server.asked)
    send(backend, event("START_TRAINING"))
    wait_for(lambda: len(server.asked) > asked)
    assert suggest(backend, R)[0]["model_version"] == version


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_start_training_is_not_forgotten_over_a_restart(tmp_path, server):
    with client(tmp_path, label_studio={}) as opened:
        annotate(opened, 1, R, "Red")
        send(opened, event("START_TRAINING"))  # nobody has said yet where the export is
    server.tasks = [task(2, B, annotations=[annotation(5, 2, chosen("Blue"))])]
    with client(tmp_path, label_studio={}) as opened:
        server.fails = 500
        opened.post("/setup", json=setup(server))
        wait_for(lambda: server.asked)
        server.fails = None
        opened.post("/setup", json=setup(server))
        with AnnotationWriter(tmp_path / f"{PROJECT}.fewshot") as writer:
            wait_for(lambda: writer.resync_request() is None)
        assert choices(suggest(opened, R)) == [["Blue"]]
        asked = len(server.asked)
        opened.post("/setup", json=setup(server))
        suggest(opened, R)
        assert [path for path, _ in server.asked[asked:] if "export" in path] == []


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_the_server_failed_at_is_learned_once_it_answers(backend, server, caplog, status):
    server.fails = status
    annotate(backend, 1, R, "Red")
    assert choices(suggest(backend, R)) == [None]
    assert f"annotations wait to be learned: {server.url}{R} answers {status}" in caplog.text
    server.fails = None
    assert choices(suggest(backend, R)) == [["Red"]]


def test_annotations_of_a_dead_host_hold_up_neither_the_others_nor_each_other(tmp_path, server, monkeypatch):
    monkeypatch.setattr(label_studio_client, "_PAUSE_FACTOR", 1e6)
    real, host, tries = label_studio_client.fetch, "http://images.example:80", []

    def fetch(url, **settings):
        if url.host != "images.example":
            return real(url, **settings)
        tries.append(str(url))
        time.sleep(0.01)
        raise TimeoutError("timed out")

    monkeypatch.setattr(label_studio_client, "fetch", fetch)
    with client(tmp_path, label_studio={"image_hosts": [host]}) as opened:
        opened.post("/setup", json=setup(server))
        for n in range(1, 9):
            annotate(opened, n, f"http://images.example/{n}.png", "Blue")
        annotate(opened, 9, R, "Red")
        assert choices(suggest(opened, R)) == [["Red"]]
        opened.post("/setup", json=setup(server))  # says nothing new: what is dead is left alone
        assert choices(suggest(opened, "http://images.example/x.png", R)) == [None, ["Red"]]
    assert 0 < len(tries) <= 4  # those that were fetched at the same time as the first


def test_no_more_projects_are_held_than_fit(tmp_path, server, monkeypatch):
    monkeypatch.setattr("fewshot.service.label_studio_backend._MAX_PROJECTS", 3)
    with client(tmp_path, label_studio={}) as opened:
        opened.post("/setup", json=setup(server))
        annotate(opened, 1, R, "Red")
        for n in range(5):
            opened.post("/setup", json={**setup(server), "project": f"3.{n}"})
        assert opened.get("/versions").json()["versions"] == ["fewshot-0"]
        opened.post("/setup", json=setup(server))
        assert choices(suggest(opened, R)) == [["Red"]]


def test_a_damaged_registry_is_reported_without_its_folder(tmp_path, server):
    with client(tmp_path / "all of them", label_studio={}) as opened:
        (tmp_path / "all of them" / f"{PROJECT}.fewshot").write_bytes(b"damaged" * 1000)
        said = problem(opened.post("/setup", json=setup(server)), 503)
    assert said.startswith(f"{PROJECT}.fewshot is not a fewshot registry")


def test_an_annotation_is_applied_in_the_background_too(backend, tmp_path):
    annotate(backend, 1, R, "Red")
    with ClassRegistry(tmp_path / f"{PROJECT}.fewshot", create=False) as registry:
        wait_for(lambda: registry.classes() == {"Red": 1})


def test_what_was_acknowledged_is_learned_after_a_restart(tmp_path, server):
    server.fails = 503
    with client(tmp_path, label_studio={}) as opened:
        opened.post("/setup", json=setup(server))
        annotate(opened, 1, R, "Red")
        assert choices(suggest(opened, R)) == [None]
    server.fails = None
    with client(tmp_path, label_studio={}) as opened:
        annotate(opened, 2, B, "Blue")  # before anyone has said where Label Studio is
        opened.post("/setup", json=setup(server))
        assert choices(suggest(opened, R, B)) == [["Red"], ["Blue"]]


def test_the_webhook_waits_for_no_image(backend, server, monkeypatch):
    hold = threading.Event()
    monkeypatch.setattr(LabelStudioClient, "image", lambda *_: hold.wait(20) and png(RED))
    annotate(backend, 1, R, "Red")
    annotate(backend, 2, R, "Red")  # while the first is being fetched
    assert backend.get("/health").status_code == 200
    hold.set()
    assert choices(suggest(backend, R)) == [["Red"]]


# Several labels


def test_each_label_of_a_multiple_choice_is_decided_on_its_own(backend, server):
    purple, yellow = (255, 0, 255), (255, 255, 0)
    for n, (colour, labels) in enumerate(
        [(RED, ["Red"]), (BLUE, ["Blue"]), (purple, ["Red", "Blue"]), (GREEN, []), ((0, 200, 0), []), (yellow, ["Red"])]
    ):
        server.pictures[f"/data/{n}.png"] = png(colour)
        annotate(backend, n + 1, f"/data/{n}.png", *labels, config=SEVERAL)
    for n, colour in enumerate([RED, BLUE, purple, GREEN], start=10):
        server.pictures[f"/data/{n}.png"] = png(colour, 9)
    found = suggest(backend, *(f"/data/{n}.png" for n in range(10, 14)), config=SEVERAL)
    assert choices(found) == [["Red"], ["Blue"], ["Red", "Blue"], None]
    assert all(p["score"] > 0.5 for p in found)


def test_one_box_alone_is_learned_from_pictures_without_it(backend, server):
    config = SEVERAL.replace('<Choice value="Blue"/>', "")
    annotate(backend, 1, R, "Red", config=config)
    assert suggest(backend, B, config=config)[0]["score"] == 0.5
    annotate(backend, 2, B, config=config)
    assert choices(suggest(backend, R, B, config=config)) == [["Red"], None]


# Regions


@pytest.fixture
def halves(server):
    """A picture that is red on its left and blue on its right."""
    image = Image.new("RGB", (8, 4), RED)
    image.paste(BLUE, (4, 0, 8, 4))
    image.save(memory := io.BytesIO(), format="PNG")
    server.pictures["/data/halves.png"] = memory.getvalue()
    return "/data/halves.png"


LEFT, RIGHT = (0, 0, 50, 100), (50, 0, 50, 100)


def test_the_class_of_a_region_is_suggested_and_its_outline_is_left_as_it_was(backend, halves):
    made = annotation(1, 1, boxed("Red", *LEFT, id_="a"), boxed("Blue", *RIGHT, id_="b"))
    send(backend, created(made, task(1, halves), config=BOXES))
    drawn = boxed(None, 60, 10, 20, 80, id_="mine", type="rectangle", from_name="other")
    asked = task(9, halves, predictions=[{"result": [drawn]}])
    (found,) = backend.post("/predict", json=predict(asked, config=BOXES)).json()["results"]
    (result,) = found["result"]
    assert result.pop("score") == found["score"] > 0.8
    assert result == boxed("Blue", 60, 10, 20, 80, id_="mine")


def test_a_region_drawn_this_moment_is_answered(backend, halves):
    made = annotation(1, 1, boxed("Red", *LEFT, id_="a"), boxed("Blue", *RIGHT, id_="b"))
    send(backend, created(made, task(1, halves), config=BOXES))
    body = predict(task(9, halves), config=BOXES, context={"result": [boxed("Blue", *LEFT)]})
    (found,) = backend.post("/predict", json=body).json()["results"]
    assert [result["value"]["rectanglelabels"] for result in found["result"]] == [["Red"]]


def test_one_bad_region_leaves_the_others(backend, halves):
    made = annotation(1, 1, boxed("Red", *LEFT, id_="a"), boxed("Blue", 200, 0, 5, 5, id_="b"))
    send(backend, created(made, task(1, halves), config=BOXES))
    asked = task(9, halves, drafts=[{"result": [boxed(None, *LEFT), boxed(None, 200, 0, 5, 5)]}])
    (found,) = backend.post("/predict", json=predict(asked, config=BOXES)).json()["results"]
    assert [result["value"]["x"] for result in found["result"]] == [0]


def test_controls_with_the_same_labels_do_not_learn_from_each_other(backend, halves):
    both = BOXES.replace("</View>", CHOICES[len('<View><Image name="image" value="$image"/>') :])
    made = annotation(1, 1, chosen("Blue"), boxed("Red", *LEFT, id_="a"), boxed("Blue", *RIGHT, id_="b"))
    send(backend, created(made, task(1, halves), config=both))
    (found,) = backend.post("/predict", json=predict(task(9, halves), config=both)).json()["results"]
    assert [(r["type"], r["value"], r["score"]) for r in found["result"]] == [("choices", {"choices": ["Blue"]}, 0.5)]


# Only confident suggestions; where Label Studio is


def test_unsure_suggestions_are_left_out_where_only_confident_ones_are_wanted(tmp_path, server):
    with client(tmp_path, label_studio={"only_confident": True}) as opened:
        opened.post("/setup", json=setup(server))
        annotate(opened, 1, R, "Red")
        (found,) = suggest(opened, R)
        assert (found["result"], found["score"]) == ([], 0.5)
        annotate(opened, 2, B, "Blue")
        assert choices(suggest(opened, R)) == [["Red"]]


def test_a_host_that_is_not_this_machine_is_not_believed(tmp_path, server):
    with client(tmp_path, label_studio={}) as opened:
        body = setup(server) | {"hostname": "http://169.254.169.254"}
        detail = problem(opened.post("/setup", json=body), 422)
        assert "it is at http://169.254.169.254:80" in detail
        assert "--label-studio-url http://169.254.169.254:80" in detail


def test_the_url_given_at_the_start_is_the_one_asked_whatever_setup_says(tmp_path, server):
    with client(tmp_path, label_studio={"url": server.url}) as opened:
        opened.post("/setup", json=setup(server) | {"hostname": "http://label-studio.example:8080"})
        annotate(opened, 1, "http://label-studio.example:8080" + R, "Red")
        assert choices(suggest(opened, R)) == [["Red"]]


def test_a_token_of_the_environment_is_not_taken_where_setup_could_say_where_to_send_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    with pytest.raises(ValueError, match="say where Label Studio is too, with --label-studio-url") as caught:
        client(tmp_path, label_studio={})
    assert "secret" not in str(caught.value)


def test_the_environment_may_say_where_and_with_which_token(tmp_path, server, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_URL", server.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "of an operator")
    server.tokens = {"Token of an operator"}
    with client(tmp_path, label_studio={}) as opened:
        annotate(opened, 1, R, "Red")  # without any /setup
        assert choices(suggest(opened, R)) == [["Red"]]
        opened.post("/setup", json=setup(server) | {"access_token": "a foreign one"})
        assert choices(suggest(opened, R)) == [["Red"]]


@pytest.mark.parametrize(
    ("name", "options", "code", "message"),
    [
        ("one.fewshot", ["--label-studio"], 1, "serve a folder with --label-studio, not one registry"),
        ("some", ["--label-studio", "--label-studio-url", "ls:8080"], 1, "expected an http or https URL with a host"),
        ("some", ["--label-studio", "--label-studio-images", "x"], 1, "--label-studio-images: expected an http"),
        ("some", ["--only-confident"], 2, "need --label-studio"),
    ],
)
def test_the_command_refuses_what_cannot_work(tmp_path, name, options, code, message):
    refused = CliRunner().invoke(main, ["serve", str(tmp_path / name), *options])
    assert refused.exit_code == code, refused.stderr
    assert message in refused.stderr


def test_without_its_library_the_backend_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.validation.find_spec", {}.get)
    with pytest.raises(MissingExtra, match=r"Label Studio's backend needs httpx2: pip install 'fewshot\[serve\]'"):
        create_app(tmp_path, label_studio={})


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/setup", {}, "project must be an id and a time"),
        ("/setup", {"project": "2.1", "schema": "<!DOCTYPE a>"}, "declares a document type"),
        (
            "/setup",
            {"project": "2.1", "schema": "<a/>", "hostname": "file:///etc/passwd"},
            "expected an http or https URL",
        ),
        ("/predict", {"project": "2.1", "label_config": "<a/>"}, "tasks must be a list of objects"),
        ("/webhook", [], "the body must be an object, not list"),
        ("/webhook", {"action": "ANNOTATION_CREATED"}, "project must be an object"),
    ],
)
def test_what_label_studio_would_not_send_is_refused_and_says_why(backend, path, body, message):
    assert message in problem(backend.post(path, json=body), 422)


# What Label Studio's own back-ends take (tests/test_api.py of label-studio-ml-backend, and its examples)


def test_a_project_without_a_creation_time_is_one_project_however_it_is_named(backend, server, tmp_path):
    for name in ("42", 42):
        assert backend.post("/setup", json=setup(server) | {"project": name}).status_code == 200
    body = created(annotation(1, 1, chosen("Red")), task(1, R))
    body["project"] = {"id": 42, "label_config": CHOICES}
    send(backend, body)
    answer = backend.post("/predict", json=predict(task(2, R)) | {"project": "42"})
    assert choices(answer.json()["results"]) == [["Red"]]
    assert [path.name for path in tmp_path.glob("*.fewshot")] == ["project-42.fewshot"]


@pytest.mark.parametrize("with_registry", [False, True])
def test_a_webhook_without_a_creation_time_is_of_the_newest_project_of_its_id(backend, server, tmp_path, with_registry):
    backend.post("/setup", json=setup(server) | {"project": "2.1"})
    if with_registry:
        annotate(backend, 2, B, "Blue")
    body = created(annotation(1, 1, chosen("Red")), task(1, R))
    del body["project"]["created_at"]
    send(backend, body)
    assert choices(suggest(backend, R)) == [["Red"]]
    assert [path.name for path in tmp_path.glob("*.fewshot")] == [f"{PROJECT}.fewshot"]


def test_a_webhook_without_an_annotation_changes_nothing(backend):
    annotate(backend, 1, R, "Red")
    before = suggest(backend, R)
    send(backend, {"action": "ANNOTATION_CREATED", "project": {"id": 2, "label_config": "<View></View>"}})
    assert suggest(backend, R) == before


def test_a_setup_without_a_hostname_or_a_token_is_answered_and_logged_and_changes_nothing(backend, caplog):
    annotate(backend, 1, R, "Red")
    for missing in ("hostname", "access_token"):
        body = {"project": PROJECT[8:], "schema": CHOICES, "extra_params": {}}
        if missing == "access_token":
            body["hostname"] = "http://localhost:1"
        assert backend.post("/setup", json=body).status_code == 200
        assert f"{missing} is missing, images of Label Studio cannot be fetched" in caplog.text
    assert choices(suggest(backend, R)) == [["Red"]]


def test_a_single_task_may_come_as_an_object(backend):
    annotate(backend, 1, R, "Red")
    body = predict(task(2, R))
    answer = backend.post("/predict", json=body | {"tasks": body["tasks"][0]})
    assert answer.status_code == 200
    assert choices(answer.json()["results"]) == [["Red"]]


def test_a_prediction_before_any_setup_is_answered_with_what_can_be_had(tmp_path, server, caplog):
    red, blue = ("data:image/png;base64," + base64.b64encode(png(colour)).decode() for colour in (RED, BLUE))
    with client(tmp_path, label_studio={}) as opened:
        assert choices(suggest(opened, R, red)) == [None, None]
        annotate(opened, 1, red, "Red")
        annotate(opened, 2, R, "Blue")
        assert choices(suggest(opened, R, red)) == [None, ["Red"]]
        assert "no suggestion for task 100: Label Studio has not said where it is yet" in caplog.text
        server.pictures[R] = png(BLUE)
        opened.post("/setup", json=setup(server))
        assert choices(suggest(opened, R, blue)) == [["Blue"], ["Blue"]]


@pytest.mark.parametrize("body", [{"action": "PROJECT_UPDATED"}, {"action": "?"}, {"action": 3}, {}])
def test_an_unknown_action_is_answered_as_such(backend, body):
    answer = backend.post("/webhook", json=body)
    assert (answer.status_code, answer.json()) == (200, {"status": "Unknown event"})


def test_an_annotation_deleted_in_the_singular_is_removed(backend):
    annotate(backend, 1, R, "Red")
    annotate(backend, 2, B, "Blue")
    send(backend, event("ANNOTATION_DELETED", annotation={"id": 1}))
    assert choices(suggest(backend, R)) == [["Blue"]]


def test_a_control_that_models_are_to_skip_gets_no_suggestion(backend):
    annotate(backend, 1, R, "Red")
    (found,) = suggest(backend, R, config=CHOICES.replace("<Choices ", '<Choices model_skip="true" '))
    assert found["result"] == []


def test_a_suggestion_under_the_score_of_its_control_is_left_out(backend):
    annotate(backend, 1, R, "Red")
    below, at = (CHOICES.replace("<Choices ", f'<Choices model_score_threshold="{score}" ') for score in (0.51, 0.5))
    assert [(p["result"], p["score"]) for p in suggest(backend, R, config=below)] == [([], 0.5)]
    assert choices(suggest(backend, R, config=at)) == [["Red"]]


# Hosts that hang


def test_a_project_whose_images_do_not_come_leaves_threads_to_others(backend, server, monkeypatch):
    annotate(backend, 1, R, "Red")
    suggest(backend, R)
    backend.post("/setup", json=setup(server) | {"project": "3.7"})
    body = created(annotation(1, 1, chosen("Red")), task(1, R))
    body["project"] |= {"id": 3, "created_at": "1970-01-01T00:00:07Z"}
    send(backend, body)
    other = predict(task(2, R)) | {"project": "3.7"}
    assert choices(backend.post("/predict", json=other).json()["results"]) == [["Red"]]
    ended, real, hanging = threading.Event(), LabelStudioClient.image, threading.Semaphore(0)

    def image(self, address):
        if address == B:
            hanging.release()
            ended.wait(60)
        return real(self, address)

    monkeypatch.setattr(LabelStudioClient, "image", image)
    answers = []
    stuck = [threading.Thread(target=lambda: answers.append(suggest(backend, B))) for _ in range(20)]
    for thread in stuck:
        thread.start()
    try:
        for _ in range(4):
            assert hanging.acquire(timeout=30)
        asking = threading.Thread(target=lambda: answers.append(backend.post("/predict", json=other)))
        asking.start()
        asking.join(30)
        assert choices(answers[0].json()["results"]) == [["Red"]]  # and those of the other project still wait
        annotate(backend, 3, R, "Red")
        monkeypatch.setattr("fewshot.service.routes.label_studio_routes._WAITING_OF_PROJECT", 0)
        said = problem(backend.post("/predict", json=predict(task(2, R))), 503)
        assert said == "4 predictions of this project are in work and 0 wait; ask again later"
        assert choices(backend.post("/predict", json=other).json()["results"]) == [["Red"]]
    finally:
        ended.set()
        for thread in stuck:
            thread.join()
    assert len(answers) == 21


def test_a_body_that_is_no_json_is_refused(backend):
    assert problem(backend.post("/webhook", content=b"{" * 100_000), 422) == "the body is not JSON"


@pytest.mark.parametrize("odd", ["1e999", "NaN", '"\\ud800"'])
@pytest.mark.parametrize("key", ["original_width", "rotation"])
def test_a_region_that_no_json_holds_goes_without_a_suggestion_and_the_others_have_theirs(backend, halves, key, odd):
    made = annotation(1, 1, boxed("Red", *LEFT), boxed("Blue", *RIGHT, id_="b"))
    send(backend, created(made, task(1, halves), config=BOXES))
    bad = boxed(None, *LEFT)
    (bad["value"] if key == "rotation" else bad)[key] = 77
    tasks = [
        task(9, halves, drafts=[{"result": [bad, boxed(None, *RIGHT)]}]),
        task(10, halves, drafts=[{"result": [bad]}]),
    ]
    answer = backend.post(
        "/predict", content=json.dumps(predict(*tasks, config=BOXES)).replace(f'"{key}": 77', f'"{key}": {odd}')
    )
    assert answer.status_code == 200, answer.text
    found = answer.json()["results"]
    assert [[r["value"]["rectanglelabels"] for r in p["result"]] for p in found] == [[["Blue"]], []]


def test_a_region_may_have_any_name(backend, halves, tmp_path):
    wanted = boxed("Red", *LEFT, id_="\ud800")
    body = created(annotation(1, 1, wanted), task(1, halves), config=BOXES)
    assert backend.post("/webhook", content=json.dumps(body)).status_code == 201
    suggest(backend, halves)
    with ClassRegistry(tmp_path / f"{PROJECT}.fewshot", create=False) as registry:
        assert registry.examples("Red") == [(1, f"{halves}, region ?")]


def test_an_image_that_the_encoder_fails_at_fails_alone(tmp_path, server):
    class Picky(FakeEncoder):
        def encode(self, images):
            images = list(images)
            if any(image.size == (7, 7) for image in images):
                raise RuntimeError("no sevens")
            return super().encode(images)

    path = tmp_path / "one.fewshot"
    ClassRegistry(path).close()
    server.pictures["/seven.png"] = png(RED, 7)
    with AnnotationWriter(path) as writer:
        for n, image in enumerate([R, "/seven.png", B, "/none.png", "http://[::1"], start=1):
            event = read_event(created(annotation(n, n, chosen("Red")), task(n, image)))
            writer.record(event.annotations.records)
        report = apply_pending(writer, Picky(), LabelStudioClient(server.url, TOKEN))
        assert writer.pending(limit=9) == []
    assert report.annotations == 5
    assert [problem.partition(" (")[0] for problem in report.problems] == [
        "annotation 2: /seven.png: it could not be learned",
        "annotation 4: /none.png: the server answers 404 Not Found",
        "annotation 5: task 5: cannot be fetched",
    ]
    with ClassRegistry(path, create=False) as registry:
        assert registry.classes() == {"Red": 2}


def test_the_first_annotations_of_a_project_are_all_taken_though_they_come_together(backend):
    codes = []

    def first(number):
        body = created(annotation(number, number, chosen("Red")), task(number, R))
        codes.append(backend.post("/webhook", json=body).status_code)

    together = [threading.Thread(target=first, args=(number,)) for number in range(1, 7)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert codes == [201] * 6


def test_an_address_that_is_none_spoils_neither_its_batch_nor_its_project(backend):
    annotate(backend, 1, R, "Red")
    send_raw = json.dumps(created(annotation(2, 2, chosen("Blue")), task(2, "/data/\ud800.png"))).encode()
    assert backend.post("/webhook", content=send_raw, headers={"content-type": "application/json"}).status_code == 201
    body = json.dumps(predict(task(3, "/data/\ud800.png"), task(4, R))).encode()
    answer = backend.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert choices(answer.json()["results"]) == [None, ["Red"]]
    assert choices(suggest(backend, R)) == [["Red"]]


def test_regions_of_one_id_are_each_removed_with_their_annotation(backend, halves, tmp_path):
    both = [boxed("Red", *LEFT), boxed("Red", *RIGHT)]
    send(backend, created(annotation(1, 1, *both), task(1, halves), config=BOXES))
    suggest(backend, halves, config=BOXES)
    with ClassRegistry(tmp_path / f"{PROJECT}.fewshot", encoder=FakeEncoder()) as registry:
        assert registry.classes() == {"Red": 2}
    send(backend, event("ANNOTATIONS_DELETED", annotations=[{"id": 1}]))
    suggest(backend, halves, config=BOXES)
    with ClassRegistry(tmp_path / f"{PROJECT}.fewshot", encoder=FakeEncoder()) as registry:
        assert registry.classes() == {}


TEXTS = (
    '<View><Text name="review" value="$review"/><Choices name="kind" toName="review"><Choice value="film"/>'
    '<Choice value="soup"/></Choices></View>'
)
SOUNDS = TEXTS.replace("Text name", "Audio name")


@pytest.mark.parametrize(("config", "encoder"), [(TEXTS, text_encoder), (SOUNDS, sound_encoder)], ids=["text", "audio"])
def test_texts_and_sounds_are_learned_and_suggested(tmp_path, server, config, encoder):
    if config is TEXTS:
        given = {"film": FILMS[:3], "soup": SOUPS[:3]}
        new = (FILMS[3], SOUPS[3])
    else:
        server.pictures = {f"/data/upload/{hertz}.wav": tone_file(hertz) for hertz in (*LOW, *HIGH)}
        addresses = [f"/data/upload/{hertz}.wav" for hertz in (*LOW, *HIGH)]
        given = {"film": addresses[:3], "soup": addresses[4:7]}
        new = (addresses[3], addresses[7])

    def about(id_, value):
        return {**task(id_, ""), "data": {"review": value}}

    def result(label):
        return {"from_name": "kind", "to_name": "review", "type": "choices", "value": {"choices": [label]}}

    with client(tmp_path, encoder=encoder(), label_studio={}) as backend:
        assert backend.post("/setup", json=setup(server, config)).status_code == 200
        id_ = 0
        for label, values in given.items():
            for value in values:
                id_ += 1
                send(backend, created(annotation(id_, id_, result(label)), about(id_, value), config=config))
        tasks = [about(n, value) for n, value in enumerate(new, start=100)]
        found = backend.post("/predict", json=predict(*tasks, config=config)).json()["results"]

    assert choices(found) == [["film"], ["soup"]]
    assert found[0]["result"][0]["to_name"] == "review"
    with ClassRegistry(tmp_path / f"{PROJECT}.fewshot") as registry:
        assert registry.classes() == {"film": 3, "soup": 3}
        sources = [source for _, source in registry.examples("film")]
    assert sources == ([f'"{text}"' for text in FILMS[:3]] if config is TEXTS else addresses[:3])


def test_controls_of_another_kind_than_the_registry_holds_get_no_suggestion(backend):
    annotate(backend, 1, R, "Red")
    answer = backend.post("/predict", json=predict({**task(2, ""), "data": {"review": "a film"}}, config=TEXTS))
    assert answer.json()["results"][0]["result"] == []
