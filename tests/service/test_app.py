"""The application: its documentation, its page, its metrics, its log, its status."""

from __future__ import annotations

import json
import re

import pytest
from fakes import BLUE, RED, FakeEncoder, png
from service_client import PARTS, client, files, in_base64, problem

from fewshot import ClassRegistry
from fewshot.validation import check_label


def test_the_openapi_document_is_valid_and_complete(two_classes):
    from openapi_spec_validator import validate

    document = two_classes.get("/openapi.json").json()
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
    kinds = {"multipart/form-data", "application/json", "text/plain", "audio/*"}
    assert set(predict["requestBody"]["content"]) == kinds
    assert "securitySchemes" not in document["components"]
    bodies = [one["requestBody"] for one in operations if "multipart/form-data" in str(one.get("requestBody"))]
    assert [body["required"] for body in bodies] == [True] * 4


@pytest.mark.parametrize(
    "label",
    ["red", " Lemon ", "a b", "\u0645\u06cc\u200c\u062e", "\u200fred", "\U0001f469\u200d\U0001f680", "red\n",
     "", "  ", "\u200b", "a\x1bb", "a\nb", "\x7f", "a\x85b"],
)  # fmt: skip
def test_the_documented_pattern_of_labels_is_the_rule_that_is_applied(label, two_classes):
    document = two_classes.get("/openapi.json").json()
    schema = document["components"]["schemas"]["LabelledImages"]["properties"]["label"]
    try:
        valid = bool(check_label(label))
    except ValueError:
        valid = False
    assert bool(re.search(schema["pattern"], label)) == valid


def test_a_truth_is_true_or_false_as_the_document_says_and_no_number_or_other_word(filled):
    for value in (0, 1, "true", "no"):
        body = {"label": "blue", "images": in_base64(png(RED)), "allow_conflict": value}
        assert "allow_conflict: Input should be a valid boolean" in problem(
            filled.post(f"{PARTS}/examples", json=body), 422
        )
        renamed = filled.patch(f"{PARTS}/classes?label=red", json={"label": "blue", "merge": value})
        assert "merge: Input should be a valid boolean" in problem(renamed, 422)
    for value in ("0", "1", "no", ""):
        form = {"label": "true", "allow_conflict": value}
        answer = filled.post(f"{PARTS}/examples", data=form, files=files(png(BLUE)))
        assert "allow_conflict: Input should be a valid boolean" in problem(answer, 422)
    form = {"label": "true", "allow_conflict": "True"}
    assert filled.post(f"{PARTS}/examples", data=form, files=files(png(BLUE))).json()["label"] == "true"


def test_no_page_of_documentation_loads_scripts_from_elsewhere(two_classes):
    problem(two_classes.get("/docs"), 404)
    problem(two_classes.get("/redoc"), 404)


def test_the_page_is_served_under_a_strict_content_security_policy(two_classes):
    page = two_classes.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob: data:;")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == two_classes.get("/page/icon.svg").headers["cache-control"] == "no-cache"
    assert two_classes.get(PARTS).headers["cache-control"] == "no-store"
    assert problem(two_classes.get("/page/../app.py"), 404)
    assert problem(two_classes.get("/page/%2e%2e/app.py"), 404)


def test_metrics_count_requests_by_route_and_images_by_batch(tmp_path):
    with client(tmp_path / "parts.fewshot") as http:
        http.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED), png(RED, 5)))
        http.get("/v1/registries/other")
        text = http.get("/metrics").text
    assert 'fewshot_requests_total{method="POST",route="/v1/registries/{registry}/examples",status="200"} 1.0' in text
    assert 'fewshot_requests_total{method="GET",route="/v1/registries/{registry}",status="404"} 1.0' in text
    assert 'fewshot_batch_images_bucket{le="2.0"} 1.0' in text
    assert "fewshot_requests_in_flight 1.0" in text  # the one that asks
    assert "process_resident_memory_bytes" in text


def test_each_request_is_a_log_line_without_its_query(two_classes, caplog):
    caplog.set_level("INFO", logger="fewshot.service")
    two_classes.get(f"{PARTS}/examples?label=red", headers={"Authorization": "Bearer of-secrets"})
    (record,) = [record for record in caplog.records if record.name == "fewshot.service"]
    assert record.fields["path"] == f"{PARTS}/examples"
    assert (record.fields["method"], record.fields["status"]) == ("GET", 200)

    from fewshot.service.access_log import JsonFormatter

    line = JsonFormatter().format(record)
    assert json.loads(line)["event"] == "request"
    assert "label" not in line
    assert "secrets" not in line


def test_it_is_ready_only_once_the_encoder_is_loaded_and_the_registry_opens(tmp_path):
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
