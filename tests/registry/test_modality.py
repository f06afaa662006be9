"""A registry of texts and one of sounds do what one of images does; another kind of example is refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder, png
from media_examples import FILMS, HIGH, LOW, RATE, SOUPS, sound_encoder, text_encoder, tone, tone_file

from fewshot import ClassRegistry, EmbeddingCache
from fewshot.errors import EncoderMismatch, ExampleError, RegistryError, SoundError, TextError
from fewshot.registry import Failure, repair_registry

ENCODERS = {"text": text_encoder, "audio": sound_encoder}
FIRST, SECOND = {"text": "film", "audio": "low"}, {"text": "soup", "audio": "high"}


def sources(modality: str, which: int) -> list:
    """Four examples of a class."""
    if modality == "text":
        return (FILMS, SOUPS)[which]
    return [(tone(hertz, seed=n), RATE) for n, hertz in enumerate((LOW, HIGH)[which])]


def filled(path: Path, modality: str, n: int = 3, **settings) -> ClassRegistry:
    registry = ClassRegistry(path, encoder=ENCODERS[modality](), **settings)
    registry.add(FIRST[modality], sources(modality, 0)[:n])
    registry.add(SECOND[modality], sources(modality, 1)[:n])
    return registry


def class_folders(folder: Path, modality: str) -> Path:
    for n, label in enumerate((FIRST[modality], SECOND[modality])):
        (folder / label).mkdir(parents=True)
        for i in range(3):
            if modality == "text":
                (folder / label / f"{i}.txt").write_text(sources("text", n)[i] + "\n", encoding="utf-8")
            else:
                (folder / label / f"{i}.wav").write_bytes(tone_file((LOW, HIGH)[n][i], seed=i))
    (folder / FIRST[modality] / "cover.jpg").write_bytes(png())
    return folder


@pytest.fixture(params=["text", "audio"])
def modality(request):
    return request.param


def test_examples_are_added_and_others_recognised(tmp_path, modality):
    with filled(tmp_path / "r.fewshot", modality) as registry:
        assert registry.modality == registry.info().modality == modality
        assert registry.classes() == {FIRST[modality]: 3, SECOND[modality]: 3}
        found = registry.predict([sources(modality, 0)[3], sources(modality, 1)[3]])

    assert [one.label for one in found] == [FIRST[modality], SECOND[modality]]
    assert all(one.nearest[0].label == one.label for one in found)


def test_one_alone_is_one_example(tmp_path, modality):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=ENCODERS[modality]()) as registry:
        report = registry.add("one", sources(modality, 0)[0])
        assert (report.added, registry.predict(sources(modality, 0)[0])[0].label) == (1, "one")


def test_a_file_says_what_it_holds_and_opens_with_that_encoder_again(tmp_path, modality):
    filled(tmp_path / "r.fewshot", modality).close()

    with ClassRegistry(tmp_path / "r.fewshot", encoder=ENCODERS[modality](), create=False) as registry:
        assert registry.modality == modality
        assert registry.predict(sources(modality, 1)[3])[0].label == SECOND[modality]


def test_texts_are_duplicates_but_for_composition_and_blanks_at_their_ends(tmp_path):
    (tmp_path / "cafe.txt").write_text(" caf\u00e9\n", encoding="utf-8")
    with ClassRegistry(tmp_path / "r.fewshot", encoder=text_encoder()) as registry:
        report = registry.add("place", ["caf\u00e9", "cafe\u0301 ", tmp_path / "cafe.txt", b"caf\xc3\xa9", "Caf\u00e9"])
        assert (report.added, report.duplicates) == (2, 3)
        (example,) = registry.list_examples("place", limit=1)
        assert registry.image(example.id) == registry.stored_image(example.id) == b"caf\xc3\xa9"
        assert example.media_type == "text/plain"
        assert example.source == '"caf\u00e9"'


def test_samples_are_kept_as_a_wav_file_and_are_duplicates_of_it(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=sound_encoder()) as registry:
        report = registry.add("low", [(tone(300), RATE), tone_file(300), (tone(300).astype(np.float64), RATE)])
        assert (report.added, report.duplicates) == (1, 2)
        (example,) = registry.list_examples()
        assert registry.image(example.id) == tone_file(300)
        assert example.media_type == "audio/wav"


def test_class_folders_and_zips_of_files_are_added_and_evaluated(tmp_path, modality):
    folder = class_folders(tmp_path / "data", modality)
    shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)

    with ClassRegistry(tmp_path / "r.fewshot", encoder=ENCODERS[modality]()) as registry:
        report = registry.add_folder(folder)
        assert (report.added, report.failed) == (6, ())
        assert [os.path.basename(name) for name in report.ignored] == ["cover.jpg"]
        assert registry.add_folder(tmp_path / "zipped.zip").duplicates == 6
        result = registry.evaluate(folder)
        assert (result.n, result.accuracy, result.also_registered) == (6, 1.0, 6)
        labelled = registry.evaluate([sources(modality, 0)[3]], [FIRST[modality]])
        assert (labelled.accuracy, labelled.also_registered) == (1.0, 0)
        noun = {"text": "texts", "audio": "sounds"}[modality]
        with pytest.raises(ValueError, match=f"2 {noun} but 1 labels; each {noun[:-1]} needs one"):
            registry.evaluate(sources(modality, 0)[:2], ["one"])


def test_negatives_and_a_threshold_reject(tmp_path, modality):
    with filled(tmp_path / "r.fewshot", modality) as registry:
        other = ["zzz qqq xxx"] if modality == "text" else [(np.random.default_rng(3).normal(0, 0.3, 2400), RATE)]
        assert registry.rejection.add_negatives(other).added == 1
        conflict = registry.rejection.add_negatives([sources(modality, 0)[0]]).conflicts
        assert registry.list_negatives()[0].media_type == {"text": "text/plain", "audio": "audio/wav"}[modality]
        assert [one.held_by for one in conflict] == [(FIRST[modality],)]
        noun = {"text": "texts", "audio": "sounds"}[modality]
        said = registry.rejection.set(max_false_accept=0.5).describe(noun[:-1])
        assert said.startswith(f"at most 0.5 of unknown {noun} are accepted")
        found = registry.predict([*other, sources(modality, 0)[0]])

    assert [one.label for one in found] == [None, FIRST[modality]]


def test_an_export_is_imported_into_a_registry_of_the_same_kind(tmp_path, modality):
    for suffix in (".npz", ".parquet"):
        with filled(tmp_path / f"a{suffix}.fewshot", modality) as registry:
            registry.export(tmp_path / f"e{suffix}")
        with ClassRegistry(tmp_path / f"b{suffix}.fewshot") as registry:
            assert registry.import_examples(tmp_path / f"e{suffix}").added == 6
            assert registry.modality == modality
        with ClassRegistry(tmp_path / f"b{suffix}.fewshot", encoder=ENCODERS[modality]()) as registry:
            assert registry.predict(sources(modality, 0)[3])[0].label == FIRST[modality]


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_exported_texts_are_kept_where_they_are_imported_unless_no_examples_are_kept(tmp_path, suffix):
    with filled(tmp_path / "r.fewshot", "text") as registry:
        registry.export(tmp_path / f"e.{suffix}")
    for keep, kept in ((True, 6), (False, 0)):
        with ClassRegistry(tmp_path / f"{keep}.fewshot", encoder=text_encoder(), keep_images=keep) as registry:
            registry.import_examples(tmp_path / f"e.{suffix}")
            assert registry.info().images_kept == kept
            if keep:
                assert registry.image(1).decode() == FILMS[0]
                assert registry.reindex(text_encoder()) == 6
            else:
                with pytest.raises(RegistryError, match="They came without texts, as `fewshot import` brings them"):
                    registry.reindex(text_encoder())
                registry.export(tmp_path / f"none.{suffix}")
    with ClassRegistry(tmp_path / "new.fewshot", encoder=text_encoder()) as registry:
        assert registry.import_examples(tmp_path / f"none.{suffix}").added == 6
        assert registry.info().images_kept == 0


def test_a_text_that_was_changed_in_an_export_is_refused(tmp_path):
    with filled(tmp_path / "r.fewshot", "text") as registry:
        registry.export(tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as file:
        held = dict(file)
    np.savez(tmp_path / "e.npz", **{**held, "texts": np.array(str(held["texts"]).replace("fine", "poor"))})
    with (
        ClassRegistry(tmp_path / "new.fewshot", encoder=text_encoder()) as registry,
        pytest.raises(ValueError, match=r"e\.npz is damaged: the text of \"a fine film\" is not what was exported"),
    ):
        registry.import_examples(tmp_path / "e.npz")


def test_examples_are_embedded_again_by_another_encoder_of_the_kind(tmp_path, modality):
    other = ENCODERS[modality]()
    other.fingerprint = "another"
    with filled(tmp_path / "r.fewshot", modality) as registry:
        assert registry.reindex(other) == 6
        assert registry.info().fingerprint == "another"
        noun = {"text": "texts", "audio": "sounds"}[modality]
        with pytest.raises(RegistryError, match=f"holds {noun}, and the encoder reads images: give"):
            registry.reindex(FakeEncoder())
        with pytest.raises(RegistryError, match=f"holds {noun}, and the encoder reads images: give"):
            registry.compare_classifiers(FakeEncoder())


def test_files_that_are_not_kept_are_read_where_they_were(tmp_path, modality):
    folder = class_folders(tmp_path / "data", modality)
    with ClassRegistry(tmp_path / "r.fewshot", encoder=ENCODERS[modality](), keep_images=False) as registry:
        registry.add_folder(folder)
        assert registry.info().images_kept == 0
        assert {one.media_type for one in registry.list_examples()} == {f"{modality}/*"}
        assert registry.reindex(ENCODERS[modality]()) == 6
        next(iter(folder.rglob("0.*"))).write_bytes(b"changed")
        with pytest.raises(RegistryError, match=r"the (text|sound) has changed since it was registered"):
            registry.reindex(ENCODERS[modality]())


def test_a_cache_serves_a_registry(tmp_path, modality):
    cache = EmbeddingCache(ENCODERS[modality](), tmp_path / "cache.sqlite")
    with ClassRegistry(tmp_path / "r.fewshot", encoder=cache) as registry:
        registry.add("one", sources(modality, 0))
        assert registry.modality == modality
        assert registry.predict(sources(modality, 0)[1])[0].label == "one"


def test_it_is_checked_repaired_and_compared(tmp_path, modality):
    with filled(tmp_path / "r.fewshot", modality) as registry:
        assert registry.check() == []
        assert {one.name for one in registry.compare_classifiers()} >= {"prototype", "nearest"}
    with sqlite3.connect(tmp_path / "r.fewshot") as connection:
        connection.execute("UPDATE images SET data = x'00' WHERE rowid = 1")
    noun = {"text": "text", "audio": "sound"}[modality]
    with ClassRegistry(tmp_path / "r.fewshot") as registry:
        assert [problem.startswith(f"the {noun} ") for problem in registry.check()] == [True]
    repaired = repair_registry(tmp_path / "r.fewshot", tmp_path / "new.fewshot")
    assert [lost.startswith(f"the {noun} of example ") for lost in repaired.lost] == [True]
    with ClassRegistry(tmp_path / "new.fewshot", encoder=ENCODERS[modality]()) as registry:
        assert registry.modality == modality


def test_what_cannot_be_read_is_listed_and_the_rest_is_added(tmp_path):
    bad = tmp_path / "latin.txt"
    bad.write_bytes(b"caf\xe9")
    with ClassRegistry(tmp_path / "t.fewshot", encoder=text_encoder()) as registry:
        report = registry.add("film", ["a fine film", " ", bad, float("nan")])
        assert (report.added, [failure.reason for failure in report.failed]) == (
            1,
            [
                "the text is empty",
                "is not UTF-8 (byte 3 is 0xe9); if it is a text, save it as UTF-8",
                "is missing, as an empty cell of a table is",
            ],
        )
        with pytest.raises(TextError, match="the text is empty"):
            registry.predict("")
    with ClassRegistry(tmp_path / "s.fewshot", encoder=sound_encoder()) as registry:
        report = registry.add("low", [tone_file(300), tone_file(300)[:-99], (np.zeros(9), RATE)])
        assert (report.added, len(report.failed)) == (1, 2)
        with pytest.raises(SoundError, match="cut short"):
            registry.predict(tone_file(300)[:-99])


@pytest.mark.parametrize(
    ("modality", "name", "reason"),
    [
        ("image", "a.wav", "It is a sound: sounds go into a registry of their own, made with an encoder of sounds"),
        ("image", "a.txt", "It is a text: texts go into a registry of their own, made with an encoder of texts"),
        ("text", "a.png", "It is an image: images go into a registry of their own, made with an encoder of images"),
        ("audio", "a.png", "It is an image: images go into a registry of their own, made with an encoder of images"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_where_it_goes(tmp_path, modality, name, reason):
    file = tmp_path / name
    file.write_bytes({".wav": tone_file(300), ".txt": b"a fine film", ".png": png()}[file.suffix])
    encoder = FakeEncoder() if modality == "image" else ENCODERS[modality]()
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder) as registry:
        for report in (registry.add("one", file), registry.rejection.add_negatives(file)):
            assert [failure.reason.endswith(reason) for failure in report.failed] == [True]
        good = {"image": png(), "text": "a", "audio": tone_file(300)}[modality]
        registry.add("one", good)
        with pytest.raises(ExampleError, match=reason):
            registry.predict(file)
        (failure,) = registry.predict_valid([file.read_bytes(), good]).failed
        assert isinstance(failure, Failure)


def test_samples_are_no_images_and_an_array_no_text(tmp_path):
    with (
        ClassRegistry(tmp_path / "i.fewshot", encoder=FakeEncoder()) as registry,
        pytest.raises(TypeError, match=r"\(samples, sampling_rate\) is a sound, and images are wanted: sounds go into"),
    ):
        registry.add("one", (tone(300), RATE))
    with (
        ClassRegistry(tmp_path / "t.fewshot", encoder=text_encoder()) as registry,
        pytest.raises(TypeError, match="a text must be a str, a text file's Path"),
    ):
        registry.add("one", [np.zeros((4, 4, 3), np.uint8)])


def test_the_name_of_a_text_file_as_str_is_refused_for_it_would_be_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("a fine film", encoding="utf-8")
    with ClassRegistry(tmp_path / "t.fewshot", encoder=text_encoder()) as registry:
        (failure,) = registry.add("film", [str(tmp_path / "a.txt")]).failed
        assert failure.reason == "is the name of a file; give pathlib.Path of it, for a str is the text itself"


def test_a_registry_is_not_opened_with_an_encoder_of_another_modality(tmp_path):
    filled(tmp_path / "r.fewshot", "text").close()

    with pytest.raises(
        EncoderMismatch,
        match=r"holds texts, by test-text, and test-audio reads sounds: open it with the first; sounds go",
    ):
        ClassRegistry(tmp_path / "r.fewshot", encoder=sound_encoder())


def test_a_file_from_before_texts_holds_images(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", png())
        assert registry.list_examples()[0].media_type == "image/png"
    with sqlite3.connect(tmp_path / "r.fewshot") as connection:
        connection.execute("DELETE FROM meta WHERE key = 'modality'")
        connection.execute("PRAGMA user_version = 7")

    ClassRegistry(tmp_path / "r.fewshot").close()

    with sqlite3.connect(tmp_path / "r.fewshot") as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'modality'").fetchone() == ("image",)


def test_a_setting_that_is_no_modality_is_damage(tmp_path):
    filled(tmp_path / "r.fewshot", "text").close()
    with sqlite3.connect(tmp_path / "r.fewshot") as connection:
        connection.execute("UPDATE meta SET value = 'video' WHERE key = 'modality'")

    with pytest.raises(RegistryError, match="is damaged: its settings say modality is 'video'"):
        ClassRegistry(tmp_path / "r.fewshot")


def test_a_text_in_a_zip_is_bounded_as_others_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("film/1.txt", "a" * 30_000_000)
    with ClassRegistry(tmp_path / "r.fewshot", encoder=text_encoder()) as registry:
        (failure,) = registry.add_folder(tmp_path / "bomb.zip").failed
    assert "as a zip bomb does" in failure.reason
