"""What is forgotten is in no byte of the registry's file, nor in memory; and what is left elsewhere is told of."""

from __future__ import annotations

import io
import os
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, classes, png
from PIL import Image

from fewshot import ClassRegistry, EmbeddingCache, RegistryBusy, RegistryError
from fewshot.registry import AnnotationRecord, AnnotationWriter, FetchedAnnotation, ImageLabels, LabelledImage
from fewshot.registry import erasure as erasing
from fewshot.registry.traces import Traces

MARKER = np.random.default_rng(0).bytes(32)


def marked(colour, number=0) -> bytes:
    """A picture with noise of its own behind its end, where readers do not look: so long that it takes many pages."""
    return png(colour) + np.random.default_rng(number).bytes(9000)


class MarkedEncoder(FakeEncoder):
    """Vectors long and various enough to be found: of each picture another."""

    def __init__(self) -> None:
        super().__init__(more=381, name="marked")

    def encode(self, images):
        images = list(images)
        vectors = super().encode(images)
        for vector in vectors:
            vector[3:] = np.sin(np.arange(381) * (1 + vector[0] + 2 * vector[1] + 4 * vector[2]))
        return vectors


@pytest.fixture
def path(tmp_path):
    return tmp_path / "faces.fewshot"


@pytest.fixture
def registry(path):
    with ClassRegistry(path, encoder=MarkedEncoder()) as made:
        made.add("alice-liddell", [marked(RED), marked((200, 20, 0), 100)])
        made.add("bob", [marked(BLUE, 200), marked((0, 10, 200), 300)])
        made.add("carol", [marked(GREEN, 400)])
        yield made


def pieces(data, size=24):
    """What of bytes would be found wherever a page of SQLite's begins: samples from all over."""
    return [data[at : at + size] for at in range(0, len(data) - size + 1, 500)]


def vectors_of(registry, label):
    return [one.vector.tobytes() for one in registry.export_page(after=0, limit=99) if one.label == label]


def occurring(path, words) -> list[bytes]:
    raw = b"".join(one.read_bytes() for one in path.parent.glob(f"{path.name}*"))
    return [word for word in words if word in raw]


def test_no_byte_of_a_forgotten_class_is_left_in_the_file(registry, path):
    vectors = [one[12:] for one in vectors_of(registry, "alice-liddell")]
    hashes = [registry.image_hash(id_) for id_, _ in registry.examples("alice-liddell")]
    words = [b"alice-liddell", marked(RED)[-40:], *hashes, *(word for one in vectors for word in pieces(one))]
    assert len(occurring(path, words)) == len(words)
    report = registry.forget("alice-liddell")
    registry.close()
    assert occurring(path, words) == []
    assert (report.examples, report.searched, report.remaining) == (2, (str(path),), ())
    assert report.traces > 20
    assert classes(path) == {"bob": 2, "carol": 1}


def test_one_example_and_a_negative_are_forgotten_and_the_others_stay(registry, path):
    negative = marked((100, 100, 100), 500)
    registry.rejection.add_negatives([negative])
    ((id_, _), _) = registry.examples("bob")
    (gone, kept) = vectors_of(registry, "bob")
    report = registry.forget(examples=[id_], negatives=[registry.list_negatives()[0].id])
    assert (report.examples, report.negatives, registry.classes()) == (1, 1, {"alice-liddell": 2, "bob": 1, "carol": 1})
    registry.close()
    assert occurring(path, [negative[-40:], marked(BLUE, 200)[-40:], *pieces(gone)[1:]]) == []
    assert occurring(path, [kept]) == [kept]


def test_what_was_removed_before_is_erased_from_free_pages(registry, path):
    with closing(sqlite3.connect(path)) as connection:  # as an SQLite does that overwrites nothing
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("DELETE FROM images")
        connection.commit()
    tail = marked(RED)[-40:]
    assert occurring(path, [tail]) == [tail]
    with pytest.raises(KeyError, match=r"no class 'dave'.*fewshot remove .*faces.fewshot --forget"):
        registry.forget("dave")
    assert occurring(path, [tail]) == [tail]
    assert registry.forget().examples == 0
    assert occurring(path, [tail]) == []


def test_nothing_is_forgotten_where_one_of_several_is_not_there(registry):
    for given in ({"examples": [1, 77]}, {"negatives": [77]}):
        with pytest.raises(KeyError, match="77; nothing was erased"):
            registry.forget("bob", **given)
    assert registry.classes() == {"alice-liddell": 2, "bob": 2, "carol": 1}


def test_a_reader_holds_up_the_rebuilding_for_a_while_and_a_second_call_finishes_it(path, registry):
    with (
        ClassRegistry(path, encoder=MarkedEncoder(), busy_seconds=0.2) as patient,
        closing(sqlite3.connect(path)) as reader,
    ):
        read = iter(reader.execute("SELECT data FROM images"))
        next(read)
        with pytest.raises(RegistryBusy):  # not even the rows: nothing has changed
            patient.forget("bob")
        read.close()
        assert patient.classes() == {"alice-liddell": 2, "bob": 2, "carol": 1}
        assert patient.forget("bob").examples == 2


class Killed(BaseException):
    """The process ends at this point."""


def killed(*_, **__):
    raise Killed


@pytest.mark.parametrize("place", ["_overwrite_journal", "_verify"])
def test_an_erasure_that_is_cut_short_is_finished_by_another_call(place, registry, path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(erasing, place, killed)
        with pytest.raises(Killed):
            registry.forget("alice-liddell")
    with ClassRegistry(path) as again:
        assert again.classes() == {"bob": 2, "carol": 1}
        report = again.forget("alice-liddell")  # no error: the name is gone already
    assert report.examples == 0
    assert occurring(path, [b"alice-liddell", marked(RED)[-40:]]) == []
    with ClassRegistry(path) as again, pytest.raises(KeyError):
        again.forget("alice-liddell")


def test_an_erasure_that_is_cut_short_within_the_rows_changes_nothing(registry, path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(erasing, "delete_threshold", killed)
        with pytest.raises(Killed):
            registry.forget("alice-liddell")
    assert classes(path) == {"alice-liddell": 2, "bob": 2, "carol": 1}


def test_a_full_disk_is_told_of_with_how_to_finish(registry, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(erasing, "_overwrite_journal", full)
        with pytest.raises(RegistryError, match=r"incomplete: the rows are gone.*disk is full.*remove .* --forget"):
            registry.forget("bob")
    assert registry.forget("bob").examples == 0


def test_a_byte_that_is_left_is_an_error(registry, path, monkeypatch):
    monkeypatch.setattr(erasing, "_is_kept", lambda *_: False)  # as if no row held what all pictures begin with
    with pytest.raises(RegistryError, match="still holds bytes of the content of example"):
        registry.forget("bob")


def test_the_same_picture_under_another_label_is_kept_and_named(registry):
    registry.add("dave-the-twin", [marked(RED)], allow_conflict=True)
    registry.add("dave-the-twin", [marked((0, 0, 9), 600)])
    report = registry.forget("alice-liddell")
    assert report.remaining == ("the same bytes are kept as example 6 of 'dave-the-twin'",)
    assert registry.stored_image(6) == marked(RED)


def test_copies_beside_the_registry_are_named_and_its_cache_is_erased(path):
    cache = path.with_name("embeddings.sqlite")
    picture = marked(RED)
    with ClassRegistry(path, encoder=EmbeddingCache(MarkedEncoder(), cache)) as registry:
        registry.add("alice-liddell", [picture])
        registry.add("bob", [marked(BLUE, 200)])
        registry.backup(path.with_name("copy.fewshot"))
        registry.export(path.with_name("export.npz"))
        vector = vectors_of(registry, "alice-liddell")[0]
        report = registry.forget("alice-liddell")
        (kept,) = vectors_of(registry, "bob")
    assert report.cached == 1
    assert occurring(cache, [vector[-40:], kept[-40:]]) == [kept[-40:]]
    named = {os.path.basename(sentence.partition(" holds ")[0]) for sentence in report.remaining}
    assert named == {"copy.fewshot", "export.npz"}
    assert len(report.searched) == 4


def test_the_files_that_examples_came_from_are_named_and_left(tmp_path, path):
    file = tmp_path / "portrait of alice.png"
    file.write_bytes(marked(RED))
    with ClassRegistry(path, encoder=MarkedEncoder(), keep_images=False) as registry:
        registry.add("alice-liddell", [file])
        registry.add("bob", [marked(BLUE, 200)])
        assert registry.forget("alice-liddell").originals == (str(file),)
    assert file.exists()
    assert occurring(path, [b"portrait of alice"]) == []


def test_a_label_that_other_rows_hold_as_a_word_is_told_of(registry, tmp_path):
    (tmp_path / "bob").mkdir()
    file = tmp_path / "bob" / "1.png"
    file.write_bytes(marked((9, 9, 9), 700))
    registry.add("carol", [file])
    registry.add("bobsled", [marked((9, 90, 9), 800)])
    report = registry.forget("bob")
    (told,) = report.remaining
    assert "the word 'bob' stays in 1 source(s) of examples" in told
    assert "'bob': too short to search bytes for" in report.not_known


def test_annotations_are_erased_and_do_not_come_back(path):
    encoder = MarkedEncoder()

    def record(annotation, updated, *labels):
        return AnnotationRecord(annotation, annotation, updated, (ImageLabels("choice", "/a.png", "", labels),))

    def image(picture, *labels):
        return LabelledImage("choice", "", labels, picture, f"task of {labels[0]}.png")

    ClassRegistry(path, encoder=encoder).close()
    with AnnotationWriter(path) as writer:
        for annotation, label, picture in ((1, "alice-liddell", marked(RED)), (2, "bob", marked(BLUE, 200))):
            writer.record([record(annotation, 1, label)])
            writer.apply([FetchedAnnotation(record(annotation, 1, label), (image(picture, label),))], encoder)
        writer.record([record(3, 1, "alice-liddell"), record(4, 1, "carol")])
        writer.request_resync("<View><Choice value='alice-liddell'/></View>")
        with ClassRegistry(path) as registry:
            report = registry.forget("alice-liddell")
        assert writer.record([record(1, 2, "alice-liddell"), record(3, 2, "alice-liddell")]) == 0
        assert writer.recorded() == {2, 4}
        assert writer.resync_request() is None
    assert report.annotations == 2
    assert [told.partition(" in the")[0] for told in report.remaining] == [
        "annotations 1, 3",
        "a request to read the labelling project again was dropped, for it names the label: ask again",
    ]
    assert occurring(path, [b"alice-liddell", marked(RED)[-40:]]) == []


def test_an_annotation_that_gives_other_labels_keeps_these(path):
    encoder = MarkedEncoder()
    labels = (ImageLabels("choice", "/a.png", "", ("alice-liddell", "hatter")),)
    record = AnnotationRecord(1, 1, 1, labels)
    ClassRegistry(path, encoder=encoder).close()
    with AnnotationWriter(path) as writer:
        writer.record([record])
        image = LabelledImage("choice", "", ("alice-liddell", "hatter"), marked(RED), "a.png")
        writer.apply([FetchedAnnotation(record, (image,))], encoder)
        with ClassRegistry(path) as registry:
            report = registry.forget("alice-liddell")
        assert classes(path) == {"hatter": 1}
        assert writer.record([record], refresh=True) == 0  # an export read again does not bring it back
        assert any("they give other labels, too" in told for told in report.remaining)
        writer.delete([1])
    assert classes(path) == {}


def test_a_described_class_loses_its_description(registry, path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO descriptions VALUES (1, 'bob', 'the queen of hearts', x'00', 1)")
        connection.commit()
    assert registry.forget("bob").descriptions == 1
    assert occurring(path, [b"queen of hearts"]) == []


def test_a_registry_open_elsewhere_answers_as_one_made_without_the_forgotten(registry, path, tmp_path):
    questions = [png(RED), png((5, 250, 5)), png((90, 90, 200))]
    with ClassRegistry(path, encoder=MarkedEncoder()) as other, ClassRegistry(path, encoder=MarkedEncoder()) as writer:
        other.rejection.set(max_false_accept=0.5)
        assert other.predict(questions)[0].top[0][0] == "alice-liddell"
        held = other._snapshots._held.vectors
        report = writer.forget("alice-liddell")
        answers = other.predict(questions)
        assert not np.shares_memory(other._snapshots._held.vectors, held)
    assert any("threshold" in told for told in report.estimated_again)
    with ClassRegistry(tmp_path / "fresh.fewshot", encoder=MarkedEncoder()) as fresh:
        fresh.add("bob", [marked(BLUE, 200), marked((0, 10, 200), 300)])
        fresh.add("carol", [marked(GREEN, 400)])
        fresh.rejection.set(max_false_accept=0.5)
        for answer, expected in zip(answers, fresh.predict(questions), strict=True):
            assert answer.top == expected.top  # to the last digit: recomputed, not subtracted
            assert (answer.unknown_score, answer.probability) == (expected.unknown_score, expected.probability)


@pytest.mark.parametrize("at", [0, 3, 4095, 2**22 - 7, 2**22 + 1])
def test_words_are_found_wherever_they_lie(at, tmp_path):
    traces = Traces()
    traces.add_bytes(MARKER, "the marker")
    traces.add_text("alices", "the label")
    data = bytearray(2**22 + 100)
    data[at : at + 32] = MARKER
    data[at + 40 : at + 46] = b"alices"
    file = tmp_path / "file"
    file.write_bytes(data)
    assert set(traces.found_in(file).values()) == {"the marker", "the label"}
    data[at] ^= 1
    data[at + 40] ^= 1
    file.write_bytes(data)
    assert traces.found_in(file) == {}


def test_a_file_that_cannot_be_searched_is_an_error(tmp_path):
    traces = Traces()
    traces.add_text("alices", "the label")
    with pytest.raises(OSError, match="cannot be searched"):
        traces.found_in(tmp_path / "none")


def photo(seed):
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)).save(held, "JPEG")
    return held.getvalue()


def test_another_picture_of_the_same_program_beside_is_no_copy(tmp_path):
    assert photo(1)[:500] == photo(2)[:500]  # the tables that Pillow writes
    with (
        ClassRegistry(tmp_path / "a.fewshot", encoder=MarkedEncoder()) as mine,
        ClassRegistry(tmp_path / "b.fewshot", encoder=MarkedEncoder()) as other,
    ):
        mine.add("alice-liddell", [photo(1)])
        other.add("carol", [photo(2)])
        other.add("dinah", [photo(3)])
        assert mine.forget("alice-liddell").remaining == ()
        mine.add("carol", [photo(2)])
        (told,) = mine.forget("carol").remaining
    assert "b.fewshot holds " in told
    assert "the content of example" in told


def test_an_original_is_named_once_and_a_url_too(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec", reason="needs the extra cloud")
    fsspec.filesystem("memory").pipe("/erasure/red.png", png(RED))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blue.png").write_bytes(png(BLUE))
    with ClassRegistry(tmp_path / "a.fewshot", encoder=MarkedEncoder(), keep_images=False) as registry:
        registry.add("alice-liddell", ["memory://erasure/red.png", "blue.png"])
        originals = registry.forget("alice-liddell").originals
    assert [os.path.basename(one) for one in originals] == ["blue.png", "red.png"]
    assert "memory://erasure/red.png" in originals
