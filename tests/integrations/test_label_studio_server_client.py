"""Where pictures are fetched from, and where the token goes."""

from __future__ import annotations

import json

import pytest
from fakes import RED, png
from label_studio_fakes import TOKEN, FakeLabelStudio

from fewshot import ImageError
from fewshot.integrations.label_studio import server as server_module
from fewshot.integrations.label_studio.server import Origin, Server, Unreachable

A = "/data/upload/2/a.png"


@pytest.fixture
def studio():
    fake = FakeLabelStudio()
    fake.pictures = {A: b"a picture"}
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture
def other():
    fake = FakeLabelStudio()
    fake.pictures = {"/x.png": b"another", A: b"not this"}
    fake.tokens = {None}
    yield fake
    fake.shutdown()
    fake.server_close()


def server(studio, **settings):
    return Server(studio.url, TOKEN, **settings)


def test_the_token_goes_to_the_server_itself(studio):
    assert server(studio).picture(A) == server(studio).picture(studio.url + A) == b"a picture"
    assert studio.asked == [(A, f"Token {TOKEN}")] * 2


def test_another_host_is_refused_unasked_and_the_message_says_what_allows_it(studio, other):
    with pytest.raises(ImageError, match=rf"--label-studio-images {other.url}") as caught:
        server(studio).picture(other.url + "/x.png?signature=secret")
    assert "secret" not in str(caught.value)
    assert other.asked == []


def test_an_allowed_host_is_asked_without_the_token(studio, other):
    allowed = server(studio, image_hosts={Origin.of(other.url)})
    assert allowed.picture(other.url + "/x.png") == b"another"
    assert other.asked == [("/x.png", None)]


@pytest.mark.parametrize("prefix", ["//", "http://user:word@", "http://127.0.0.1.example:80@"])
def test_a_url_that_only_looks_like_the_servers_gets_no_token(studio, other, prefix):
    with pytest.raises(ImageError, match=r"lies on|cannot be fetched"):
        server(studio).picture(prefix + other.url.removeprefix("http://") + A)
    assert other.asked == []


def test_a_redirect_to_another_host_is_refused_or_followed_without_the_token(studio, other):
    studio.redirects = {A: other.url + "/x.png"}
    with pytest.raises(ImageError, match=r"lies on http://127\.0\.0\.1"):
        server(studio).picture(A)
    assert other.asked == []
    assert server(studio, image_hosts={Origin.of(other.url)}).picture(A) == b"another"
    assert other.asked == [("/x.png", None)]


def test_redirects_end(studio):
    studio.redirects = {A: A}
    with pytest.raises(ImageError, match="is redirected more than 3 times"):
        server(studio).picture(A)
    assert len(studio.asked) == 4


def test_where_the_server_calls_itself_otherwise_its_pictures_come_from_where_it_is_reached(studio):
    known = server(studio, alias="http://label-studio:8080")
    assert known.picture("http://label-studio:8080" + A) == b"a picture"


def test_a_server_below_a_path_is_asked_there(studio):
    studio.pictures = {"/tools/data/a.png": b"below"}
    below = Server(studio.url + "/tools", TOKEN)
    assert below.picture("/data/a.png") == below.picture("/tools/data/a.png") == b"below"


def test_a_personal_access_token_is_exchanged_once(studio):
    studio.tokens = {"Bearer short-lived"}
    personal = Server(studio.url, "a.personal.token")
    assert personal.picture(A) == personal.picture(A) == b"a picture"
    assert studio.asked == [
        ("/api/token/refresh", json.dumps({"refresh": "a.personal.token"})),
        (A, "Bearer short-lived"),
        (A, "Bearer short-lived"),
    ]


def test_a_refused_personal_access_token_says_so(studio):
    with pytest.raises(Unreachable, match="gives nothing for the personal access token"):
        Server(studio.url, "a.revoked.token").picture(A)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, Unreachable, "refuses the token"),
        (503, Unreachable, "answers 503"),
        (429, Unreachable, "answers 429"),
        (404, ImageError, "answers 404"),
        (500, Unreachable, "a.png answers 500"),
    ],
)
def test_what_may_get_better_is_told_from_what_will_not(studio, status, error, message):
    studio.fails = status
    with pytest.raises(error, match=message):
        server(studio).picture(A)


def test_a_host_that_does_not_answer_is_left_alone_for_a_while_and_the_server_never(studio, other, monkeypatch):
    monkeypatch.setattr(server_module, "_PAUSE", 1e6)
    known = server(studio, image_hosts={Origin.of(other.url)})
    other.shutdown()
    other.server_close()
    studio.redirects = {"/leads/away.png": other.url + "/x.png"}
    with pytest.raises(Unreachable, match=r"does not answer \(.*\)$") as caught:
        known.picture(other.url + "/x.png")
    assert caught.value.pause == 0
    for address in (other.url + "/y.png", "/leads/away.png"):
        with pytest.raises(Unreachable, match=r"does not answer \(.*\); it is asked again in \d+ s"):
            known.picture(address)
    assert known.picture(A) == b"a picture"
    studio.shutdown()
    studio.server_close()
    for _ in range(2):
        with pytest.raises(Unreachable, match=r"does not answer \(.*\)$") as caught:
            known.picture(A)
        assert caught.value.pause > 0


def test_a_server_that_is_not_there_is_unreachable(studio):
    studio.shutdown()
    studio.server_close()
    with pytest.raises(Unreachable, match="does not answer"):
        server(studio).picture(A)


def test_too_large_a_picture_is_refused(studio, monkeypatch):
    monkeypatch.setattr(server_module, "MAX_PICTURE_BYTES", 5)
    with pytest.raises(ImageError, match="is over the limit of 5 bytes"):
        server(studio).picture(A)


def test_a_picture_within_the_task_is_decoded(studio):
    known = server(studio)
    assert known.picture("data:image/png;base64,YWJj") == known.picture("data:,abc") == b"abc"
    assert known.picture("DATA:image/png;BASE64,YWJ%6A") == b"abc"
    with pytest.raises(ImageError, match="a data: URI"):
        known.picture("data:image/png;base64")


@pytest.mark.parametrize(
    "address", ["", "imgs/a.png", "s3://bucket/a.png", "file:///etc/passwd", "http://[::1", "ftp://h/x"]
)
def test_an_address_that_is_no_url_of_a_picture_is_refused(studio, address):
    with pytest.raises(ImageError, match="cannot be fetched"):
        server(studio).picture(address)


def test_the_token_is_not_shown():
    assert TOKEN not in repr(Server("http://localhost:8080", TOKEN))


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:8080", True),
        ("http://127.8.0.1", True),
        ("http://[::1]:8080", True),
        ("http://localhost.example", False),
        ("http://127.0.0.1.example", False),
        ("http://0.0.0.0", False),
        ("http://2130706433", False),
        ("http://192.168.0.1", False),
    ],
)
def test_this_machine_is_known_by_name_and_number_alone(url, loopback):
    assert Origin.of(url).is_loopback is loopback


def test_an_origin_has_the_port_that_its_scheme_implies():
    assert Origin.of("HTTPS://Example.COM./x") == Origin("https", "example.com", 443)
    assert str(Origin.of("http://[::1]")) == "http://[::1]:80"


def test_a_picture_of_a_proxied_machine_is_fetched_directly(studio, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    studio.pictures = {A: png(RED)}
    assert server(studio).picture(A) == png(RED)
