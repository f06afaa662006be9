"""Registries of texts and of sounds from the command line: files, folders, zips, tables, standard input."""

from __future__ import annotations

import csv
import io
import json
import shutil
import warnings
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from fakes import BLUE, RED, FakeEncoder, png
from media_examples import FILMS, HIGH, LOW, SOUPS, load_test_encoder, tone_file

import fewshot.encoders
from fewshot import ClassRegistry, ImageError
from fewshot.cli import main


@pytest.fixture(autouse=True)
def encoders(monkeypatch):
    def load(name="pocket", **_):
        return FakeEncoder(name=name) if name == "pocket" else load_test_encoder(name)

    monkeypatch.setattr(fewshot.encoders, "load_encoder", load)
    monkeypatch.setattr("fewshot.benchmark.inputs.load_encoder", load)


def call(*args, status=0, stdin=None):
    result = CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    return result


def answer(*args, status=0, stdin=None):
    return json.loads(call(*args, status=status, stdin=stdin).stdout)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "train.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "kind"])
        rows.writerows([[text, "film"] for text in FILMS] + [[text, "soup"] for text in SOUPS])
    return path


@pytest.fixture
def texts(tmp_path, table):
    path = tmp_path / "texts.fewshot"
    added = answer("add", path, "--from-csv", table, "--text", "review", "--label", "kind", "--encoder", "test-text")
    assert added == {"file": str(table), "added": 8, "duplicates": 0, "classes": 2}
    return path


@pytest.fixture
def sounds(tmp_path):
    for label, tones in (("low", LOW), ("high", HIGH)):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for n, hertz in enumerate(tones):
            (tmp_path / "sounds" / label / f"{n}.wav").write_bytes(tone_file(hertz, seed=n))
    path = tmp_path / "sounds.fewshot"
    answer("add", path, "--from-folder", tmp_path / "sounds", "--encoder", "test-audio")
    return path


def test_texts_themselves_are_added_and_predicted(tmp_path):
    path = tmp_path / "r.fewshot"
    first = call("add", path, "film", "--text", "a fine film", "--text", "a fine film ", "--encoder", "test-text")
    assert json.loads(first.stdout) == {"label": "film", "added": 1, "duplicates": 1, "classes": 1}
    answer("add", path, "soup", "--text", "boil the onions")

    (row,) = answer("predict", path, "--text", "what a fine film")

    assert (row["text"], row["label"]) == ("what a fine film", "film")
    assert row["nearest"][0]["source"] == '"a fine film"'
    assert answer("info", path)["modality"] == "text"
    assert answer("classes", path, "film") == [{"example": 1, "source": '"a fine film"'}]


def test_json_lines_hold_texts_too(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"t": text, "l": "film"}) + "\n" for text in FILMS), encoding="utf-8"
    )
    args = ("--from-csv", tmp_path / "a.jsonl", "--text", "t")
    assert answer("add", tmp_path / "r", *args, "--label", "l", "--encoder", "test-text")["added"] == 4
    assert [row["label"] for row in answer("predict", tmp_path / "r", *args)] == ["film"] * 4


def test_rows_without_a_text_or_a_label_are_listed_and_the_others_added(tmp_path):
    (tmp_path / "a.csv").write_text("t,l\na,x\n ,x\nb,\n", encoding="utf-8")
    args = ("--from-csv", tmp_path / "a.csv", "--text", "t", "--label", "l", "--encoder", "test-text")

    added = answer("add", tmp_path / "r.fewshot", *args, status=1)

    assert added["added"] == 1
    assert added["failed"] == [
        {"path": f"{tmp_path / 'a.csv'}, row 2", "reason": "the text is empty"},
        {"path": f'{tmp_path / "a.csv"}, row 3: "b"', "reason": "has no label"},
    ]


def test_rows_too_long_repeated_or_of_another_class_are_named_by_row(tmp_path):
    table = tmp_path / "a.csv"
    long = 1_000_001 * "a"
    table.write_text(f"t,l\nboil it,soup\nboil it ,soup\nboil it,film\n{long},soup\n", encoding="utf-8")
    args = ("add", tmp_path / "r.fewshot", "--from-csv", table, "--text", "t", "--label", "l", "--encoder", "test-text")

    result = call(*args, status=1)

    added = json.loads(result.stdout)
    assert (added["added"], added["duplicates"]) == (1, 1)
    assert f'added already: {table}, row 2: "boil it"' in result.stderr
    assert [(row["path"], row["held_by"]) for row in added["conflicts"]] == [(f'{table}, row 3: "boil it"', ["soup"])]
    (failed,) = added["failed"]
    assert failed["path"].startswith(f'{table}, row 4: "aaa')
    assert "1,000,001 characters long, over the limit" in failed["reason"]
    assert f"not added: {table}, row 4" in result.stderr
    assert answer("classes", tmp_path / "r.fewshot", "soup")[0]["source"] == f'{table}, row 1: "boil it"'


def test_a_table_is_read_from_standard_input(texts):
    columns = ("--text", "t", "--label", "l")
    tables = (b"t,l\nstir,soup\n", b"t\tl\nsimmer, then serve\tsoup\n", b'{"t": "boil leeks", "l": "soup"}\n')
    for table in tables:
        assert answer("add", texts, "--from-csv", "-", *columns, stdin=table)["added"] == 1
    (row,) = answer("predict", texts, "--from-csv", "-", "--text", "t", stdin=b"t\nboil onions\n")
    assert (row["text"], row["label"]) == ("boil onions", "soup")
    assert answer("evaluate", texts, "--from-csv", "-", *columns, stdin=b"t,l\nboil onions,soup\n")["accuracy"] == 1
    refused = call("add", texts, "--from-csv", "-", *columns, stdin=b"t,l\n\xff,soup\n", status=1)
    assert "standard input is not UTF-8" in refused.stderr


@pytest.fixture
def kinds(tmp_path):
    """Return a table of twelve classes of ten texts, the last row as the first."""
    path = tmp_path / "kinds.csv"
    rows = [f"{'abcdefghijkl'[c] * 3} number {n},kind{c}" for c in range(12) for n in range(10)]
    path.write_text("\n".join(["t,l", *rows, rows[0]]) + "\n", encoding="utf-8")
    return path


def test_a_table_is_benchmarked_and_calibrated_on(tmp_path, kinds):
    columns = ("--text", "t", "--label", "l", "--encoder", "test-text")
    args = ("--methods", "prototype", "--episodes", 5, "--out", tmp_path / "results")

    result = call("bench", "--from-csv", kinds, *columns, *args)

    best = json.loads(result.stdout)["best"]
    assert {(row["data"], row["encoder"], row["method"]) for row in best} == {("kinds", "test-text", "prototype")}
    assert f"an earlier row has the same text and label: {kinds}, row 121 (as row 1)" in result.stderr
    args = ("--queries", 5, "--episodes", 5, "--out", tmp_path / "table.json")
    assert answer("calibrate", "--from-csv", "-", *columns, *args, stdin=kinds.read_bytes())["data"] == "stdin"


def test_a_table_that_no_benchmark_can_be_made_of_is_refused_with_its_rows(tmp_path, kinds):
    columns = ("--text", "t", "--label", "l")
    out = ("--out", tmp_path / "results")
    (tmp_path / "a.csv").write_text("t,l\na,\n,x\nb,x\n", encoding="utf-8")
    refused = call("bench", "--from-csv", tmp_path / "a.csv", *columns, *out, status=1).stderr
    assert f"{tmp_path / 'a.csv'}, row 1: has no label; {tmp_path / 'a.csv'}, row 2: the text is empty" in refused
    refused = call("bench", "--from-csv", kinds, *columns, "--encoder", "pocket", *out, status=1).stderr
    assert "kinds holds texts, and pocket reads images" in refused
    for command in ("bench", "calibrate"):
        assert "--from-csv FILE" in call(command, *out, status=2).stderr
        assert "is given as: --from-csv FILE" in call(command, "--text", "t", *out, status=2).stderr
    assert "give either DATA" in call("calibrate", "photos", "--from-csv", kinds, *columns, *out, status=2).stderr


def test_a_table_of_new_texts_is_answered_row_by_row_in_csv(texts, tmp_path):
    (tmp_path / "new.csv").write_text('id,review\n1,"what a film, a fine one"\n2,\n3,boil it\n', encoding="utf-8")

    result = call("predict", texts, "--from-csv", tmp_path / "new.csv", "--text", "review", "--format", "csv", status=1)

    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["text"] for row in rows] == ["what a film, a fine one", "", "boil it"]
    assert [row["label"] for row in rows] == ["film", "", "soup"]
    assert rows[1]["error"] == "the text is empty"
    assert f"no prediction for {tmp_path / 'new.csv'}, row 2: the text is empty" in result.stderr


def test_a_table_of_labelled_texts_is_evaluated(texts, table, tmp_path):
    columns = ("--text", "review", "--label", "kind")
    found = answer("evaluate", texts, "--from-csv", table, *columns, "--out", tmp_path / "rows.csv")
    assert (found["accuracy"], found["n"], found["also_registered"]) == (1.0, 8, 8)
    rows = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1].startswith(f'"{table}, row 1: ""a fine film""",film,film,')
    (tmp_path / "no.csv").write_text("review,kind\na,film\nb,\n", encoding="utf-8")
    message = f"each text to evaluate needs a label, but none has {tmp_path / 'no.csv'}, row 2"
    assert message in call("evaluate", texts, "--from-csv", tmp_path / "no.csv", *columns, status=1).stderr
    for args in ((), ("--from-csv", table, "--text", "review"), (tmp_path, "--from-csv", table, *columns)):
        assert "give either DIR, or --from-csv FILE" in call("evaluate", texts, *args, status=2).stderr


def test_standard_input_is_one_text_a_line(texts):
    rows = answer("predict", texts, "-", stdin=b"a fine old film\n\nboil onions\n")
    assert [(row["text"], row["label"]) for row in rows] == [("a fine old film", "film"), ("boil onions", "soup")]
    assert answer("add", texts, "soup", "-", stdin=b"stir\r\nsimmer\n")["added"] == 2
    odd = "a fine\u2028old film\x0cboil onions"  # ends of a line to Python alone
    assert [row["text"] for row in answer("predict", texts, "-", stdin=odd.encode())] == [odd]
    assert "no texts in -" in call("predict", texts, "-", stdin=b"\n", status=1).stderr
    assert "standard input is not UTF-8 (byte 0)" in call("predict", texts, "-", stdin=b"\xff", status=1).stderr


def test_a_warning_of_the_encoder_is_one_line_without_its_source(texts, monkeypatch):
    encoder = load_test_encoder("test-text")
    function = encoder.function

    def warn(opened):
        warnings.warn("1 of 1 texts reach the limit", UserWarning, stacklevel=1)
        return function(opened)

    encoder.function = warn
    monkeypatch.setattr(fewshot.encoders, "load_encoder", lambda *_, **__: encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = call("predict", texts, "--text", "a fine film")
    assert "1 of 1 texts reach the limit" in result.stderr.splitlines()


def test_classes_of_texts_are_not_described_and_the_reason_is_said(texts):
    message = "reads no images, and images and texts are needed to describe classes of"
    assert message in call("describe", texts, "film", "about a film", status=1).stderr


def test_files_folders_zips_and_patterns_of_texts_are_read(texts, tmp_path):
    folder = tmp_path / "new" / "film"
    folder.mkdir(parents=True)
    (folder / "1.txt").write_text("a fine old film", encoding="utf-8")
    (folder / "cover.jpg").write_bytes(png())
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "new")

    for given in (folder / "1.txt", tmp_path / "new", tmp_path / "zipped.zip", folder / "*.txt"):
        (row,) = answer("predict", texts, given)
        assert row["path"].endswith("1.txt")
        assert row["label"] == "film"
    result = call("evaluate", texts, tmp_path / "new")
    assert json.loads(result.stdout)["accuracy"] == 1.0
    assert "ignored 1 file, not texts or not in a class folder" in result.stderr


def test_a_text_given_as_a_file_is_told_how_to_give_it(texts):
    result = call("predict", texts, "a fine film", status=1)
    assert "there is no file 'a fine film'; a text itself is given as: --text TEXT" in result.stderr


def test_sounds_are_added_from_folders_and_predicted_from_files_zips_and_standard_input(sounds, tmp_path):
    new = tmp_path / "new.wav"
    new.write_bytes(tone_file(305, seed=9))
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "sounds")

    assert [row["label"] for row in answer("predict", sounds, new, tmp_path / "sounds" / "high")] == ["low"] + 4 * [
        "high"
    ]
    assert len(answer("predict", sounds, tmp_path / "zipped.zip")) == 8
    (row,) = answer("predict", sounds, "-", stdin=new.read_bytes())
    assert (row["path"], row["label"]) == ("-", "low")
    (row,) = answer("predict", sounds, "-", stdin=f"{new}\n".encode())
    assert (row["path"], row["label"]) == (str(new), "low")
    result = call("evaluate", sounds, tmp_path / "sounds")
    assert json.loads(result.stdout)["accuracy"] == 1.0
    assert "registered examples among the 8 sounds: 8; the accuracy on new sounds may be lower" in result.stderr


def test_negatives_are_texts_or_sounds(texts, sounds, tmp_path):
    assert answer("add", texts, "--negative", "--text", "zzz", "--text", "qqq")["negatives"] == 2
    (tmp_path / "n.wav").write_bytes(tone_file(1000))
    assert answer("add", sounds, "--negative", tmp_path / "n.wav")["negatives"] == 1
    result = call("add", texts, "--negative", "--text", FILMS[0], status=1)
    assert json.loads(result.stdout)["conflicts"][0]["held_by"] == ["film"]
    assert "not added: 1 text registered under another label" in result.stderr


def test_registries_of_texts_and_sounds_are_exported_thresholded_and_compared(texts, sounds, tmp_path):
    for registry in (texts, sounds):
        assert answer("export", registry, tmp_path / "e.npz")["examples"] == 8
        answer("import", f"{registry}.copy", tmp_path / "e.npz")
        assert answer("info", f"{registry}.copy")["modality"] == answer("info", registry)["modality"]
        assert answer("threshold", registry, "--max-false-accept", "0.5")["max_false_accept"] == 0.5
        assert {row["classifier"] for row in answer("classifier", registry, "--compare")} >= {"prototype"}
        assert answer("check", registry)["problems"] == []


def test_predictions_become_label_studio_tasks_of_texts_and_sounds(texts, sounds, tmp_path, monkeypatch):
    (tmp_path / "1.txt").write_text("a fine old film\n", encoding="utf-8")
    result = call("predict", texts, tmp_path / "1.txt", "--text", "boil onions", "--format", "label-studio")
    tasks = json.loads(result.stdout)
    assert [task["data"] for task in tasks] == [{"text": "boil onions"}, {"text": "a fine old film"}]
    assert [task["predictions"][0]["result"][0]["to_name"] for task in tasks] == ["text", "text"]
    assert '<Text name="text" value="$text"/>' in result.stderr

    own = '<View><Text name="t" value="$words"/><Choices name="kind" toName="t"/></View>'
    (tmp_path / "own.xml").write_text(own, encoding="utf-8")
    config = ("--format", "label-studio", "--label-config", tmp_path / "own.xml")
    assert answer("predict", texts, "--text", "boil onions", *config)[0]["data"] == {"words": "boil onions"}
    message = "own.xml has no Choices for an Audio; add them, or leave --label-config out"
    assert message in call("predict", sounds, "sounds/low/0.wav", *config, status=1).stderr

    monkeypatch.chdir(tmp_path)
    result = call("predict", sounds, "sounds/low/0.wav", "--format", "label-studio")
    (task,) = json.loads(result.stdout)
    assert task["data"] == {"audio": "/data/local-files/?d=sounds/low/0.wav"}
    config = ElementTree.fromstring(result.stderr[result.stderr.index("<View>") :].splitlines()[0])
    assert config.find("Audio").attrib == {"name": "audio", "value": "$audio"}


@pytest.mark.parametrize("name", ["coco", "fiftyone"])
def test_formats_of_images_refuse_texts_and_sounds(texts, sounds, tmp_path, name):
    result = call("predict", texts, "--text", "a", "--format", name, status=1)
    assert f"--format {name} is for images, not texts; --format jsonl is for all" in result.stderr


def test_texts_for_a_registry_of_images_are_refused_with_the_remedy(tmp_path):
    path = tmp_path / "pictures.fewshot"
    (tmp_path / "a.png").write_bytes(png())

    for holds in ("is to hold", "holds"):
        result = call("add", path, "film", "--text", "a fine film", status=1)
        assert f"--text gives texts, but {path} {holds} images, for its encoder reads images" in result.stderr
        assert "made with an encoder of texts: --encoder NAME" in result.stderr
        answer("add", path, "red", tmp_path / "a.png")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--from-csv", "a.csv", "--text", "t"), "--from-csv needs the columns: --text COLUMN --label COLUMN"),
        (("--from-csv", "a.csv", "--label", "t"), "--from-csv needs the columns: --text COLUMN --label COLUMN"),
        (("x", "--text", "t", "--label", "l"), "--label is a column of --from-csv; a label itself is given as"),
        (("x", "--from-csv", "a.csv", "--text", "t", "--label", "l"), "give one of LABEL FILE..."),
        (("--negative", "--from-csv", "a.csv", "--text", "t"), "--negative takes files"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(texts, args, message):
    assert message in call("add", texts, *args, status=2).stderr
    assert "give what to predict: FILE..., --text TEXT" in call("predict", texts, status=2).stderr
    assert "--from-csv needs the column of texts" in call("predict", texts, "--from-csv", "a.csv", status=2).stderr


@pytest.fixture
def many_texts(tmp_path):
    """Class folders of texts for a benchmark: twelve classes of eight."""
    for n in range(12):
        folder = tmp_path / "many" / f"class-{n:02}"
        folder.mkdir(parents=True)
        for i in range(8):
            (folder / f"{i}.txt").write_text(f"{chr(97 + n) * 3} {chr(98 + n) * 4} number {i}", encoding="utf-8")
    return tmp_path / "many"


def test_texts_are_benchmarked_and_calibrated_and_make_a_background(texts, many_texts, tmp_path):
    bench = ("--methods", "prototype", "--episodes", "20", "--ways", "2", "--out", tmp_path / "out")
    found = answer("bench", many_texts, "--encoder", "test-text", *bench)
    assert [row["accuracy"] > 0.9 for row in found["best"]] == [True] * len(found["best"])
    result = call("bench", many_texts, "--encoder", "pocket", *bench, status=1)
    assert "many holds texts, and pocket reads images: give an encoder, or data, of the other kind" in result.stderr
    args = ("--encoder", "test-text", "--methods", "prototype", "--episodes", "20", "--queries", "3")
    assert answer("calibrate", many_texts, *args, "--out", tmp_path / "c.json")["encoder"] == "test-text"
    found = answer("threshold", texts, "--max-false-accept", "0.2", "--background", many_texts)
    assert (found["estimated_from"], found["unknown_classes"]) == ("background", 12)


def test_a_background_of_another_kind_is_refused(texts, sounds, tmp_path):
    result = call("threshold", texts, "--max-false-accept", "0.2", "--background", tmp_path / "sounds", status=1)
    assert "sounds holds sounds, and the registry's encoder reads texts" in result.stderr


# Behind URLs


@pytest.fixture
def photos_behind_url(memory):
    """Class folders behind a URL: red and blue pictures, some of which are of the split "test"."""
    for split, size in (("train", 8), ("test", 9)):
        for label, colour in (("red", RED), ("blue", BLUE)):
            memory.pipe({f"/b/{split}/{label}/{n}.png": png(colour, size + 4 * n) for n in range(7)})
    memory.pipe({"/loose/notes.txt": b"x", "/loose/bad.png": b"bad", "/loose/r.png": png(RED, 5)})


def test_a_folder_behind_a_url_is_added_recognised_and_evaluated_as_one_on_disk(photos_behind_url, tmp_path):
    path = tmp_path / "r.fewshot"
    secret = "memory://user:secret@b/train?sig=secret"  # of no use to this store, and not to be kept
    assert "secret" not in (first := call("add", path, "red", f"{secret}", status=1)).stderr + first.stdout
    added = answer("add", path, "--from-folder", "memory://b/train")
    assert added == {"folder": "memory://b/train", "added": 14, "duplicates": 0, "classes": 2}
    assert answer("classes", path, "red")[0]["source"] == "memory://b/train/red/0.png"
    assert answer("evaluate", path, "memory://b/test")["accuracy"] == 1.0

    missing = ("memory://b/none.png", "memory://b/test/*.gif")
    told = call("predict", path, "memory://loose", "memory://b/test/blue/*.png", *missing, status=1)

    rows = {row["path"]: row.get("label", row.get("error")) for row in json.loads(told.stdout)}
    assert rows.pop("memory://loose/r.png") == "red"
    assert [rows.pop(name) for name in missing] == ["does not exist"] * 2
    assert rows.pop("memory://loose/bad.png").startswith("not an image")
    assert rows == {f"memory://b/test/blue/{n}.png": "blue" for n in range(7)}
    assert "ignored 1 file, not images or not in a class folder: memory://loose/notes.txt" in told.stderr


def test_the_commands_for_ambiguous_folders_behind_a_url_can_be_run(photos_behind_url, tmp_path):
    told = call("add", tmp_path / "r.fewshot", "--from-folder", "memory://b", status=1).stderr
    assert "\n  fewshot add" in told
    assert "--from-folder memory://b/test\n" in told


def test_a_registry_of_paths_reads_pictures_behind_urls_again(photos_behind_url, memory, tmp_path):
    path = tmp_path / "r.fewshot"
    answer("add", path, "red", "memory://loose/r.png", "--no-keep-images")
    with ClassRegistry(path, encoder=FakeEncoder(name="pocket")) as registry:
        ((example, source),) = registry.examples("red")
        assert source == "memory://loose/r.png"
        assert registry.image(example) == png(RED, 5)
        memory.pipe("/loose/r.png", png(BLUE))
        with pytest.raises(ImageError, match="has changed since it was registered"):
            registry.image(example)


def test_label_studio_gets_the_urls_of_a_bucket_and_what_needs_files_refuses_them(photos_behind_url, tmp_path):
    path = tmp_path / "r.fewshot"
    answer("add", path, "red", "memory://b/train/red")
    (task,) = answer("predict", path, "memory://loose/r.png", "--format", "label-studio")
    assert task["data"] == {"image": "memory://loose/r.png"}
    told = call("predict", path, "memory://loose/r.png", "--format", "fiftyone", status=1).stderr
    assert "--format fiftyone names files, and memory://loose/r.png is none" in told


def test_a_folder_behind_a_url_is_benchmarked_and_its_split_found(photos_behind_url, tmp_path):
    options = "--encoder pocket --methods prototype --episodes 2 --ways 2 --shots 1 --queries 2".split()
    report = answer("bench", "memory://b", *options, "--base", "memory://b", "--out", tmp_path / "out")
    assert [row["accuracy"] for row in report["best"]] == [1.0]


def test_a_folder_behind_a_url_is_added_from_python(photos_behind_url, tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        assert registry.add("red", "memory://b/train/red/0.png").added == 1
        assert registry.add_folder("memory://b/train").added == 13
        assert registry.predict(["memory://b/test/blue/0.png"])[0].label == "blue"
        report = registry.add("red", ["memory://user:secret@b/none.png?sig=secret"])
        assert [(one.source, one.reason) for one in report.failed] == [("memory://b/none.png", "does not exist")]
        assert registry.evaluate("memory://b/test").accuracy == 1.0
