"""Security of the service: tokens, requests of other sites, and limits."""

from __future__ import annotations

import asyncio
import base64
import threading

import pytest
from fakes import RED, FakeEncoder, png
from service_client import Gated, client, files, in_base64, problem, ready, scope

from fewshot.service.app import create_app
from fewshot.service.limits import Limits
from fewshot.service.middleware import InFlight, SecurityMiddleware, is_loopback

PARTS = "/v1/registries/parts"
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def open_(tmp_path_factory):
    with client(tmp_path_factory.mktemp("open") / "parts.fewshot") as http:
        yield http


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with client(
        tmp_path_factory.mktemp("locked") / "parts.fewshot", token=TOKEN, base_url="http://parts.example"
    ) as http:
        yield http


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "127.1.2.3", "[::1]:8000"])
def test_without_a_token_requests_of_this_machine_are_accepted(open_, host):
    assert open_.get("/v1/registries", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:8000", "127.0.0.1.nip.io", "10.0.0.1", "", "[::1", "a@127.0.0.1.x"]
)
def test_without_a_token_a_name_that_was_rebound_to_this_machine_is_refused(open_, host):
    for path in ("/", "/v1/registries", "/healthz", "/openapi.json"):
        assert "start it with --token-file" in problem(open_.get(path, headers={"Host": host}), 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9"},
        {"Origin": "http://127.0.0.1", "Host": "127.0.0.1:8000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_without_a_token_a_page_of_another_site_can_change_nothing(open_, headers):
    sent = {"data": {"label": "red"}, "files": files(png(RED)), "headers": headers}
    assert "may not change anything here" in problem(open_.post(f"{PARTS}/examples", **sent), 403)
    assert "may not change anything here" in problem(open_.delete(f"{PARTS}/classes?label=red", headers=headers), 403)
    assert open_.get(PARTS).json()["examples"] == 0


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://127.0.0.1"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}],
)
def test_the_own_page_and_programs_may_change_something(open_, headers):
    assert open_.delete(f"{PARTS}/negatives", headers=headers).status_code == 200


def test_no_other_site_may_read_a_response(open_):
    answer = open_.get(PARTS, headers={"Origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    preflight = open_.options(PARTS, headers={"Origin": "http://e.example", "Access-Control-Request-Method": "PUT"})
    problem(preflight, 405)


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer ", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é", "Basic é",
        "Basic !", "Basic " + base64.b64encode(b"x:y").decode(), "Basic " + base64.b64encode(TOKEN.encode()).decode(),
        f"Digest {TOKEN}",
    ],
)  # fmt: skip
def test_a_server_with_a_token_refuses_requests_without_it(locked, authorization):
    headers = {} if authorization is None else {"Authorization": authorization.encode()}
    for path in ("/v1/registries", "/metrics", "/openapi.json", "/nothing"):
        refused = locked.get(path, headers=headers)
        assert "Authorization: Bearer TOKEN" in problem(refused, 401)
        assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer  {TOKEN}", "Basic " + base64.b64encode(f"labels:{TOKEN}".encode()).decode()],
)
def test_with_the_token_any_host_and_origin_is_accepted(locked, authorization):
    headers = {"Authorization": authorization, "Origin": "http://other.example"}
    assert locked.delete(f"{PARTS}/negatives", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/icon.svg", "/healthz", "/readyz"])
def test_the_page_and_health_need_no_token(locked, path):
    assert locked.get(path).status_code in (200, 503)


def test_an_empty_token_is_refused_and_one_is_in_the_openapi_document(locked, tmp_path):
    with pytest.raises(ValueError, match="the token is empty"):
        create_app(tmp_path, token=" ")
    document = locked.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"token": []}]


def chunks(*parts):
    """A body that does not say how long it is."""
    yield from parts


def test_a_body_that_is_too_large_is_refused_with_or_without_a_content_length(tmp_path):
    with client(tmp_path / "parts.fewshot", limits=Limits(max_body_bytes=10_000)) as http:
        large = {"images": in_base64(bytes(10_000))}
        assert "10,000 bytes" in problem(http.post(f"{PARTS}/predict", json=large), 413)
        headers = {"Content-Type": "application/json"}
        lines = chunks(b'{"images":["', *[b"A" * 1000] * 11, b'"]}')
        assert "10,000 bytes" in problem(http.post(f"{PARTS}/predict", content=lines, headers=headers), 413)
        many = files(bytes(6000), bytes(6000))
        problem(http.post(f"{PARTS}/examples", data={"label": "x"}, files=many), 413)
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
        problem(http.post(f"{PARTS}/predict", content=chunks(part, *[b"A" * 1000] * 11), headers=form), 413)
        problem(http.patch(f"{PARTS}/classes?label=x", content=chunks(*[b" " * 1000] * 11), headers=headers), 413)
        assert http.get(PARTS).json()["examples"] == 0
        assert "fewshot_request_body_bytes 0.0" in http.get("/metrics").text


def test_bodies_of_all_requests_together_are_bounded(tmp_path):
    with client(tmp_path / "parts.fewshot", limits=Limits(max_total_body_bytes=5000)) as http:
        refused = http.post(f"{PARTS}/predict", json={"images": in_base64(bytes(5000))})
        assert "too much is being received" in problem(refused, 503)
        assert refused.headers["retry-after"] == "1"
        unsaid = http.post(f"{PARTS}/predict", content=chunks(*[bytes(1000)] * 6))
        problem(unsaid, 415)  # its type is looked at first, and none of it is kept
        assert "fewshot_request_body_bytes 0.0" in http.get("/metrics").text


def test_more_requests_than_may_be_in_progress_are_answered_with_retry_after(tmp_path):
    encoder = Gated()
    with client(tmp_path / "parts.fewshot", encoder=encoder, limits=Limits(max_requests=1)) as http:
        sent = {"data": {"label": "red"}, "files": files(png(RED))}
        answers = []
        first = threading.Thread(target=lambda: answers.append(http.post(f"{PARTS}/examples", **sent)))
        first.start()
        assert encoder.started.wait(20)
        refused = http.get("/v1/registries")
        assert "1 requests are in progress already" in problem(refused, 503)
        assert refused.headers["retry-after"] == "1"
        assert http.get("/healthz").status_code == 200
        encoder.gate.set()
        first.join()
        assert answers[0].json()["added"] == 1
        assert http.get("/v1/registries").status_code == 200


def test_what_is_not_computed_in_time_adds_nothing(tmp_path):
    encoder = Gated()
    with client(tmp_path / "parts.fewshot", encoder=encoder, limits=Limits(timeout_seconds=0.3)) as http:
        late = http.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED)))
        assert "not computed in time, and nothing was changed" in problem(late, 503)
        assert late.headers["retry-after"] == "1"
        encoder.gate.set()
        assert http.get(PARTS).json()["examples"] == 0


class Stalling(FakeEncoder):
    """Embeds 64 images, and then no more until it is let go."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def encode(self, images):
        if self.encoded >= 64:
            assert self.gate.wait(20)
        return super().encode(images)


@pytest.mark.parametrize(("route", "count"), [("examples", "examples"), ("negatives", "negatives")])
def test_of_a_request_that_is_refused_midway_nothing_is_stored(tmp_path, route, count):
    encoder = Stalling()
    limits = Limits(max_images=200, timeout_seconds=1.0)
    images = files(*(png((n, 0, 0)) for n in range(100)))
    fields = {"label": "red"} if route == "examples" else {}
    with client(tmp_path / "parts.fewshot", encoder=encoder, limits=limits) as http:
        ready(http)
        refused = http.post(f"{PARTS}/{route}", data=fields, files=images)
        assert "not computed in time, and nothing was changed" in problem(refused, 503)
        assert encoder.encoded == 64
        encoder.gate.set()
        before = http.get(PARTS).json()
        assert before[count] == 0
        assert http.post(f"{PARTS}/{route}", data=fields, files=images).json()["added"] == 100
        after = http.get(PARTS).json()
        assert (after[count], after["revision"]) == (100, before["revision"] + 1)  # in one transaction


async def never(*_):
    await asyncio.Event().wait()


def test_a_body_that_does_not_arrive_times_out(tmp_path):
    app = create_app(tmp_path / "parts.fewshot", encoder=FakeEncoder(), limits=Limits(timeout_seconds=0.05))
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope("POST", f"{PARTS}/predict", **{"content-length": "9"}), never, send))
    assert sent[0]["status"] == 408
    assert b"did not arrive within 0.05 s" in sent[1]["body"]


def test_a_client_that_does_not_take_its_response_is_dropped(tmp_path, caplog):
    in_flight, taken = InFlight(), []

    async def large(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(200 * 2**10)})

    async def slow(message):
        if taken:  # the headers only
            await never()
        taken.append(message)

    guard = SecurityMiddleware(large, token=None, limits=Limits(timeout_seconds=0.05), in_flight=in_flight)
    asyncio.run(guard(scope("GET", "/v1/registries"), never, slow))
    assert in_flight == InFlight(requests=0, bytes=0)
    (record,) = caplog.records
    assert (record.message, record.fields["bytes"]) == ("a client did not take its response", 0)


def test_a_long_response_arrives_complete_in_pieces():
    body, taken = bytes(range(256)) * 1024, []

    async def large(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def take(message):
        taken.append(message)

    guard = SecurityMiddleware(large, token=None, limits=Limits(), in_flight=InFlight())
    asyncio.run(guard(scope("GET", "/v1/registries"), never, take))
    assert [len(message["body"]) for message in taken[1:]] == [65536] * 4
    assert [message.get("more_body", False) for message in taken[1:]] == [True, True, True, False]
    assert b"".join(message["body"] for message in taken[1:]) == body


def test_a_body_without_images_must_be_short(open_):
    long = {"label": "x" * 70_000}
    assert "65,536 bytes" in problem(open_.patch(f"{PARTS}/classes?label=red", json=long), 413)
    assert "65,536 bytes" in problem(open_.post("/v1/registries", content=chunks(*[b" " * 1000] * 70)), 413)
    assert open_.post(f"{PARTS}/predict", json={"images": ["A" * 70_000]}).status_code == 409  # taken, but no class yet


def test_a_client_that_is_still_sending_receives_the_refusal(open_):
    body = chunks(*[bytes(65536)] * 40)
    assert open_.post(PARTS, content=body, headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True),
        ("0.0.0.0", False), ("::", False), ("192.168.0.1", False), ("example.org", False), ("", False),
        ("localhost.example.org", False), ("::ffff:10.0.0.1", False), ("2130706433", False),
    ],
)  # fmt: skip
def test_only_loopback_addresses_are_loopback(host, here):
    assert is_loopback(host) is here


def test_a_websocket_is_refused(open_):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), open_.websocket_connect("/v1/registries"):
        pass
