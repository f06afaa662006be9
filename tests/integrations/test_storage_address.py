"""Files in buckets come through Label Studio: by the address that it signs, which gets no token, or from itself."""

from __future__ import annotations

import base64
from urllib.parse import unquote

import pytest
from fakes import BLUE, RED, FakeEncoder, png
from label_studio_fakes import CHOICES, TOKEN, FakeLabelStudio, annotation, chosen, created, task

from fewshot import ClassRegistry, ImageError
from fewshot.integrations import LabelStudioClient, Origin, Unreachable, apply_pending, parse_config, read_event
from fewshot.integrations.label_studio import label_studio_client
from fewshot.integrations.label_studio.http_fetch import Answer, NotPublic
from fewshot.integrations.label_studio.storage_address import storage_address
from fewshot.integrations.label_studio.tasks import query_images
from fewshot.registry import AnnotationWriter

IN_BUCKET = "s3://photos/a picture+.png"
SIGNED = "https://photos.s3.example/a.png?X-Amz-Signature=secret"


def route(address, task_=7, kind="presign"):
    return f"/tasks/{task_}/{kind}/?fileuri={base64.urlsafe_b64encode(address.encode()).decode()}"


@pytest.fixture
def studio():
    with FakeLabelStudio() as fake:
        yield fake
        fake.shutdown()


@pytest.fixture
def other():
    with FakeLabelStudio() as fake:
        fake.pictures, fake.tokens = {"/b/a.png?signature=secret": b"from the bucket"}, {None}
        yield fake
        fake.shutdown()


class Web:
    """Hosts that are not there: ``answers`` by URL, and what was ``asked``; this machine's are asked themselves."""

    def __init__(self):
        self.answers, self.asked, self.real = {}, [], label_studio_client.fetch

    def __call__(self, url, **how):
        if url.host == "127.0.0.1":
            return self.real(url, **how)
        self.asked.append((str(url), how["headers"], how["public_only"]))
        found = self.answers[str(url)]
        if isinstance(found, Exception):
            raise found
        return found


def ok(body):
    return Answer(200, "OK", None, body)


@pytest.fixture
def web(monkeypatch):
    fake = Web()
    monkeypatch.setattr(label_studio_client, "fetch", fake)
    return fake


def client(studio, **settings):
    return LabelStudioClient(studio.url, TOKEN, **settings)


@pytest.mark.parametrize("address", ["s3://b/a.png", "gs://b/a.png", "azure-blob://b/a.png", "S3://b/ä?b.png"])
def test_a_file_in_a_bucket_is_had_from_the_server_by_its_task_and_name(address):
    path, _, coded = storage_address(address, 7).partition("?fileuri=")
    assert path == "/tasks/7/presign/"
    assert base64.urlsafe_b64decode(unquote(coded)).decode() == address


@pytest.mark.parametrize("address", ["/data/upload/2/a.png", "data:,abc", "https://s3.example/a.png", "s3.png", ""])
def test_any_other_address_stays_as_it_is(address):
    assert storage_address(address, 7) == address


def test_a_tasks_address_in_a_bucket_is_asked_of_the_server():
    (control,) = parse_config(CHOICES)
    (query,) = query_images(task(7, IN_BUCKET), [control])
    assert unquote(query.image) == route(IN_BUCKET)


def test_the_address_that_the_server_signs_is_asked_without_the_token_and_on_the_public_internet_alone(studio, web):
    studio.redirects, web.answers = {route(IN_BUCKET): SIGNED}, {SIGNED: ok(b"from the bucket")}
    assert client(studio).image(storage_address(IN_BUCKET, 7)) == b"from the bucket"
    assert studio.asked == [(route(IN_BUCKET), f"Token {TOKEN}")]
    assert web.asked == [(SIGNED, {}, True)]


@pytest.mark.parametrize("kind", ["presign", "resolve"])
def test_the_server_may_answer_with_the_file_itself(studio, kind):
    studio.pictures = {route(IN_BUCKET, kind=kind): b"through the server"}
    assert client(studio).image(route(IN_BUCKET, kind=kind)) == b"through the server"


def test_a_signed_address_of_a_host_that_is_allowed_may_be_of_http_and_of_a_private_network(studio, other):
    studio.redirects = {route(IN_BUCKET): other.url + "/b/a.png?signature=secret"}
    known = client(studio, image_hosts={Origin.of(other.url)})
    assert known.image(route(IN_BUCKET)) == b"from the bucket"
    assert other.asked == [("/b/a.png?signature=secret", None)]


def test_a_signed_address_on_the_server_itself_gets_no_token(studio):
    studio.redirects = {route(IN_BUCKET): studio.url + "/minio/a.png"}
    studio.pictures, studio.tokens = {"/minio/a.png": b"beside it"}, {None, f"Token {TOKEN}"}
    assert client(studio).image(route(IN_BUCKET)) == b"beside it"
    assert studio.asked[-1] == ("/minio/a.png", None)


def test_a_signed_address_by_http_is_refused_unasked_unless_its_host_is_allowed(studio, other):
    studio.redirects = {route(IN_BUCKET): other.url + "/b/a.png?signature=secret"}
    with pytest.raises(ImageError, match=rf"lies on {other.url}.*--label-studio-images {other.url}$") as caught:
        client(studio).image(route(IN_BUCKET))
    assert "secret" not in str(caught.value)
    assert other.asked == []


def test_a_signed_address_of_a_private_network_says_what_allows_it(studio, web):
    studio.redirects = {route(IN_BUCKET): SIGNED}
    web.answers = {SIGNED: NotPublic("photos.s3.example is at 10.0.0.1, which is not of the public internet")}
    with pytest.raises(ImageError, match=r"10\.0\.0\.1.*allow it with: --label-studio-images https://photos") as caught:
        client(studio).image(route(IN_BUCKET))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["/data/upload/2/a.png", "/data/upload" + route(IN_BUCKET), "/tasks/7/"])
def test_only_the_route_of_buckets_may_lead_to_a_host_that_nobody_allowed(studio, web, address):
    studio.redirects = {address: SIGNED}
    with pytest.raises(ImageError, match=r"lies on https://photos\.s3\.example"):
        client(studio).image(address)
    assert web.asked == []


def test_a_server_below_a_path_signs_there(studio, web):
    studio.redirects, web.answers = {"/tools" + route(IN_BUCKET): SIGNED}, {SIGNED: ok(b"from the bucket")}
    below = LabelStudioClient(studio.url + "/tools/", TOKEN)
    assert below.image(storage_address(IN_BUCKET, 7)) == b"from the bucket"


def test_a_signed_address_leads_to_no_further_host(studio, web):
    further = Answer(302, "Found", label_studio_client.httpx2.URL("https://169.254.169.254/secrets"), b"")
    studio.redirects, web.answers = {route(IN_BUCKET): SIGNED}, {SIGNED: further}
    with pytest.raises(ImageError, match=r"lies on https://169\.254\.169\.254"):
        client(studio).image(route(IN_BUCKET))
    assert len(web.asked) == 1


def test_an_allowed_host_that_has_such_a_route_signs_nothing(studio, other, web):
    other.redirects = {route(IN_BUCKET): SIGNED}
    with pytest.raises(ImageError, match=r"lies on https://photos\.s3\.example"):
        client(studio, image_hosts={Origin.of(other.url)}).image(other.url + route(IN_BUCKET))
    assert web.asked == []


@pytest.mark.parametrize(("status", "error"), [(403, Unreachable), (404, ImageError), (503, Unreachable)])
def test_a_bucket_that_refuses_is_named_without_the_signature(studio, web, status, error):
    studio.redirects, web.answers = {route(IN_BUCKET): SIGNED}, {SIGNED: Answer(status, "No", None, b"")}
    with pytest.raises(error, match=rf"photos\.s3\.example/a\.png.*answers {status}") as caught:
        client(studio).image(route(IN_BUCKET))
    assert "secret" not in str(caught.value)
    assert "refuses the token" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, ImageError, "answers 404.*; add its bucket as a source storage of the project"),
        (424, Unreachable, "answers 424"),
        (401, Unreachable, "refuses the token"),
    ],
)
def test_what_the_server_cannot_sign_is_named_as_the_task_names_it(studio, status, error, message):
    studio.fails = status
    with pytest.raises(error, match=message) as caught:
        client(studio).image(route(IN_BUCKET))
    assert IN_BUCKET in str(caught.value) or status == 401


def test_too_large_a_file_of_a_bucket_is_refused(studio, monkeypatch):
    studio.pictures = {route(IN_BUCKET): b"too large"}
    monkeypatch.setattr(label_studio_client, "MAX_IMAGE_BYTES", 5)
    with pytest.raises(ImageError, match=r"s3://photos/a picture\+\.png: is over the limit of 5 bytes"):
        client(studio).image(route(IN_BUCKET))


def test_annotations_of_pictures_in_a_bucket_are_learned_under_the_names_that_they_have_there(studio, tmp_path):
    addresses = {7: ("s3://photos/red.png", RED, "Red"), 8: ("gs://photos/blue.png", BLUE, "Blue")}
    studio.pictures = {route(place, id_): png(colour) for id_, (place, colour, _) in addresses.items()}
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        writer = AnnotationWriter(registry.path)
        for id_, (place, _, label) in addresses.items():
            event = read_event(created(annotation(id_, id_, chosen(label)), task(id_, place)))
            writer.record(event.annotations.records)
        report = apply_pending(writer, FakeEncoder(), client(studio))
        assert (report.annotations, report.problems, report.unreachable) == (2, (), None)
        assert [source for _, source in registry.examples("Red")] == ["/red.png"]
