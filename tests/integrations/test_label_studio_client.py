"""Where images are fetched from, where the token goes, and how long a fetch may take."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from contextlib import suppress

import pytest
from fakes import RED, png
from label_studio_fakes import CHOICES, TOKEN, FakeLabelStudio

from fewshot import ImageError
from fewshot.integrations import FetchSlots, LabelStudioClient, Origin, Unreachable, parse_config
from fewshot.integrations.label_studio import label_studio_client
from fewshot.integrations.label_studio.task_images import fetch_images
from fewshot.integrations.label_studio.tasks import QueryImage

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


def client(studio, **settings):
    return LabelStudioClient(studio.url, TOKEN, **settings)


def test_the_token_goes_to_the_server_itself(studio):
    assert client(studio).image(A) == client(studio).image(studio.url + A) == b"a picture"
    assert studio.asked == [(A, f"Token {TOKEN}")] * 2


def test_another_host_is_refused_unasked_and_the_message_says_what_allows_it(studio, other):
    with pytest.raises(ImageError, match=rf"--label-studio-images {other.url}") as caught:
        client(studio).image(other.url + "/x.png?signature=secret")
    assert "secret" not in str(caught.value)
    assert other.asked == []


def test_an_allowed_host_is_asked_without_the_token(studio, other):
    allowed = client(studio, image_hosts={Origin.of(other.url)})
    assert allowed.image(other.url + "/x.png") == b"another"
    assert other.asked == [("/x.png", None)]


@pytest.mark.parametrize("prefix", ["//", "http://user:word@", "http://127.0.0.1.example:80@"])
def test_a_url_that_only_looks_like_the_servers_gets_no_token(studio, other, prefix):
    with pytest.raises(ImageError, match=r"lies on|cannot be fetched"):
        client(studio).image(prefix + other.url.removeprefix("http://") + A)
    assert other.asked == []


def test_a_redirect_to_another_host_is_refused_or_followed_without_the_token(studio, other):
    studio.redirects = {A: other.url + "/x.png"}
    with pytest.raises(ImageError, match=r"lies on http://127\.0\.0\.1"):
        client(studio).image(A)
    assert other.asked == []
    assert client(studio, image_hosts={Origin.of(other.url)}).image(A) == b"another"
    assert other.asked == [("/x.png", None)]


def test_redirects_end(studio):
    studio.redirects = {A: A}
    with pytest.raises(ImageError, match="is redirected more than 3 times"):
        client(studio).image(A)
    assert len(studio.asked) == 4


def test_where_the_server_calls_itself_otherwise_its_pictures_come_from_where_it_is_reached(studio):
    known = client(studio, alias="http://label-studio:8080")
    assert known.image("http://label-studio:8080" + A) == b"a picture"


def test_a_server_below_a_path_is_asked_there(studio):
    studio.pictures = {"/tools/data/a.png": b"below"}
    below = LabelStudioClient(studio.url + "/tools", TOKEN)
    assert below.image("/data/a.png") == below.image("/tools/data/a.png") == b"below"


def test_a_personal_access_token_is_exchanged_once(studio):
    studio.tokens = {"Bearer short-lived"}
    personal = LabelStudioClient(studio.url, "a.personal.token")
    assert personal.image(A) == personal.image(A) == b"a picture"
    assert studio.asked == [
        ("/api/token/refresh", json.dumps({"refresh": "a.personal.token"})),
        (A, "Bearer short-lived"),
        (A, "Bearer short-lived"),
    ]


def test_a_refused_personal_access_token_says_so(studio):
    with pytest.raises(Unreachable, match="gives nothing for the personal access token"):
        LabelStudioClient(studio.url, "a.revoked.token").image(A)


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
        client(studio).image(A)


def test_a_host_that_does_not_answer_is_left_alone_for_a_while_and_the_server_never(studio, other, monkeypatch):
    monkeypatch.setattr(label_studio_client, "_PAUSE_FACTOR", 1e6)
    known = client(studio, image_hosts={Origin.of(other.url)})
    other.shutdown()
    other.server_close()
    studio.redirects = {"/leads/away.png": other.url + "/x.png"}
    with pytest.raises(Unreachable, match=r"does not answer \(.*\)$") as caught:
        known.image(other.url + "/x.png")
    assert caught.value.pause == 0
    for address in (other.url + "/y.png", "/leads/away.png"):
        with pytest.raises(Unreachable, match=r"does not answer \(.*\); it is asked again in \d+ s"):
            known.image(address)
    assert known.image(A) == b"a picture"
    studio.shutdown()
    studio.server_close()
    for _ in range(2):
        with pytest.raises(Unreachable, match=r"does not answer \(.*\)$") as caught:
            known.image(A)
        assert caught.value.pause > 0


def test_a_server_that_is_not_there_is_unreachable(studio):
    studio.shutdown()
    studio.server_close()
    with pytest.raises(Unreachable, match="does not answer"):
        client(studio).image(A)


def test_too_large_a_picture_is_refused(studio, monkeypatch):
    monkeypatch.setattr(label_studio_client, "MAX_IMAGE_BYTES", 5)
    with pytest.raises(ImageError, match="is over the limit of 5 bytes"):
        client(studio).image(A)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTTP/1.1 200 OK\r\nA-header: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"],
    ids=["status", "header", "body"],
)
def test_a_host_that_drips_its_answer_is_given_up_after_the_total_time(studio, other, monkeypatch, beginning):
    monkeypatch.setattr(label_studio_client, "_DEADLINE_SECONDS", 0.5)
    monkeypatch.setattr(label_studio_client, "_PAUSE_FACTOR", 1e6)
    studio.drips = other.drips = beginning
    known = client(studio, image_hosts={Origin.of(other.url)})
    with pytest.raises(Unreachable, match=r"does not answer \(it took more than 0\.\d+ s\)$") as caught:
        known.image(A)
    assert caught.value.pause > 0
    for end in ("$", "; it is asked again in"):
        with pytest.raises(Unreachable, match=rf"does not answer \(it took more than 0\.\d+ s\){end}"):
            known.image(other.url + "/x.png")
    assert len(other.asked) <= 1


@pytest.mark.parametrize("drips", ["server", "image host"])
def test_a_host_that_drips_is_asked_for_few_images_at_once_and_others_are_not_held_up(studio, other, drips):
    slots = FetchSlots(total=4, per_host=2, patience=0.0)
    hosts = {Origin.of(other.url)}
    slow, good = (studio, other) if drips == "server" else (other, studio)
    slow.drips = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    addresses = {studio: studio.url + A, other: other.url + "/x.png"}

    def fetch():
        with suppress(Unreachable):
            client(studio, image_hosts=hosts, slots=slots).image(addresses[slow])

    held = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in held:
        thread.start()
    while len(slow.asked) < 2:
        threading.Event().wait(0.01)
    known = client(studio, image_hosts=hosts, slots=slots)
    for _ in range(2):  # and is not thought to hang itself
        with pytest.raises(Unreachable, match=r"is not asked now \(2 fetches from it are in progress") as caught:
            known.image(addresses[slow])
    assert caught.value.pause == 0
    assert len(slow.asked) == 2
    assert known.image(addresses[good]) == good.pictures[A if good is studio else "/x.png"]
    slow.stops.set()
    for thread in held:
        thread.join()


def test_once_the_server_has_hung_it_is_not_asked_for_the_other_images_of_a_request(studio, other, monkeypatch):
    monkeypatch.setattr(label_studio_client, "_DEADLINE_SECONDS", 0.5)
    monkeypatch.setattr(label_studio_client, "_PAUSE_FACTOR", 1e6)
    studio.drips = b""
    known = client(studio, image_hosts={Origin.of(other.url)})
    (control,) = parse_config(CHOICES)
    addresses = [*(f"/{n}.png" for n in range(40)), other.url + "/x.png", "data:,abc"]
    (batch,) = fetch_images([QueryImage(control, address) for address in addresses], known)
    assert [image for _, image in batch[40:]] == [b"another", b"abc"]
    assert {type(image) for _, image in batch[:40]} == {Unreachable}
    assert len(studio.asked) < 40


def test_without_a_server_images_are_had_from_elsewhere(other):
    known = LabelStudioClient(None, "", None, {Origin.of(other.url)})
    assert (known.image(other.url + "/x.png"), known.image("data:,abc")) == (b"another", b"abc")
    assert other.asked == [("/x.png", None)]
    for unknown in (lambda: known.image(A), lambda: known.export(2)):
        with pytest.raises(Unreachable, match=r"has not said where it is yet; .* --label-studio-url, and a token as"):
            unknown()
    with pytest.raises(ImageError, match="neither the Label Studio server nor a host"):
        known.image("http://127.0.0.1:1/x.png")


def test_a_name_server_that_does_not_answer_is_given_up_after_the_total_time(studio, monkeypatch):
    monkeypatch.setattr(label_studio_client, "_DEADLINE_SECONDS", 0.2)
    given_up, waited = threading.Event(), []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: waited.append(given_up.wait(20)) or [])
    known = client(studio, image_hosts={Origin.of("http://images.example")})
    with pytest.raises(Unreachable, match="it took more than"):
        known.image("http://images.example/x.png")
    given_up.set()
    for thread in threading.enumerate():
        if thread.name.startswith("asyncio"):
            thread.join()
    assert waited == [True]


def test_an_answer_that_breaks_off_is_no_image(studio):
    studio.headers = {"Content-Length": "1000"}
    with pytest.raises(Unreachable, match=r"does not answer \(peer closed connection"):
        client(studio).image(A)


def test_a_compressed_answer_is_not_unpacked(studio):
    studio.headers = {"Content-Encoding": "gzip"}
    studio.pictures[A] = packed = gzip.compress(bytes(10**6))
    assert client(studio).image(A) == packed


def test_a_cookie_of_the_server_reaches_no_other_port_of_its_host(studio, other):
    studio.redirects, studio.headers = {A: other.url + "/x.png"}, {"Set-Cookie": "sessionid=secret; Path=/"}
    assert client(studio, image_hosts={Origin.of(other.url)}).image(A) == b"another"
    assert other.cookies == [None]


@pytest.mark.parametrize("place", ["s3://bucket/a.png", "file:///etc/passwd", "http://user:word@127.0.0.1/a.png"])
def test_a_redirect_to_what_is_no_url_of_an_image_is_refused(studio, place):
    studio.redirects = {A: place}
    with pytest.raises(ImageError, match="cannot be fetched"):
        client(studio).image(A)


def test_a_picture_within_the_task_is_decoded(studio):
    known = client(studio)
    assert known.image("data:image/png;base64,YWJj") == known.image("data:,abc") == b"abc"
    assert known.image("DATA:image/png;BASE64,YWJ%6A") == b"abc"
    with pytest.raises(ImageError, match="a data: URI"):
        known.image("data:image/png;base64")


@pytest.mark.parametrize(
    "address",
    ["", "imgs/a.png", "s3://bucket/a.png", "file:///etc/passwd", "http://[::1", "ftp://h/x", "http://h:65536/x"],
)
def test_an_address_that_is_no_url_of_a_picture_is_refused(studio, address):
    with pytest.raises(ImageError, match="cannot be fetched"):
        client(studio).image(address)


def test_the_token_is_not_shown():
    assert TOKEN not in repr(LabelStudioClient("http://localhost:8080", TOKEN))


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
    assert Origin.of("http://h:0").port == 0


def test_a_picture_of_a_proxied_machine_is_fetched_directly(studio, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    studio.pictures = {A: png(RED)}
    assert client(studio).image(A) == png(RED)
