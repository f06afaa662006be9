"""The command line, as a shell would use it: one JSON value on stdout, the rest on stderr, exit codes that mean it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.neighbors import NearestCentroid

from fewshot import ClassRegistry, Prediction
from fewshot.cli import main

pytestmark = pytest.mark.usefixtures("pocket_stays")


def call(*args, status=0, stdin=None):
    result = CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    return result


def answer(*args, status=0, stdin=None):
    lines = call(*args, status=status, stdin=stdin).stdout.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """A registry of both classes."""
    path = tmp_path_factory.mktemp("made") / "made.fewshot"
    answer("add", path, "--from-folder", photos / "photos")
    return path


@pytest.fixture
def registry(made, tmp_path):
    return shutil.copy(made, tmp_path / "my.fewshot")


def test_classes_are_added_one_by_one_and_new_pictures_recognised(photos, tmp_path):
    path = tmp_path / "my.fewshot"
    for count, label in enumerate(("temple", "flower"), start=1):
        files = sorted((photos / "photos" / label).iterdir())[:2]
        assert answer("add", path, label, *files) == {"label": label, "added": 2, "duplicates": 0, "classes": count}
    new = [photos / "new-photos" / label / "0.jpg" for label in ("flower", "temple")]
    rows = answer("predict", path, *new, "--top", 1, "--nearest", 1)
    assert [row["label"] for row in rows] == ["flower", "temple"]
    assert [row["path"] for row in rows] == [str(path) for path in new]
    for row in rows:
        assert row["top"] == [[row["label"], row["score"]]]
        assert row["nearest"][0]["label"] == row["label"]
        assert set(row) == {"path", "label", "score", "probability", "unknown_score", "top", "nearest"}


def test_a_catalogue_picture_is_added_with_synthetic_views_and_a_photograph_is_refused(photos, tmp_path):
    photo, shown = photos / "photos" / "temple" / "0.jpg", tmp_path / "shown.png"
    Image.fromarray(np.pad(np.zeros((60, 30), np.uint8), 30, constant_values=255)).save(shown)
    found = answer("add", tmp_path / "r.fewshot", "box", shown, photo, "--augment", "catalogue", status=1)
    assert (found["added"], [one["path"] for one in found["failed"]]) == (1, [str(photo)])


def test_a_folder_is_evaluated_and_the_rows_written(registry, photos, tmp_path):
    result = answer("evaluate", registry, photos / "new-photos", "--out", tmp_path / "rows.csv")
    assert result["n"] == 12
    assert result["per_class"] == {"flower": 1.0, "temple": 1.0}
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["correct"]) for row in rows) / len(rows) == result["accuracy"] == 1.0
    assert rows[0]["path"].endswith("new-photos/flower/0.jpg")
    assert rows[0]["predicted"] == "flower"


def test_a_zip_of_class_folders_serves_as_a_folder(registry, photos, tmp_path):
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for file in sorted((photos / "new-photos").rglob("*.jpg")):
            archive.write(file, file.relative_to(photos))
    assert answer("evaluate", registry, tmp_path / "new.zip")["n"] == 12
    assert answer("add", tmp_path / "z.fewshot", "--from-folder", tmp_path / "new.zip")["added"] == 12


def test_pictures_that_fail_are_listed_and_the_others_answered(registry, photos, tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    good = photos / "new-photos" / "temple" / "1.jpg"
    result = call("predict", registry, tmp_path / "empty.jpg", good, tmp_path / "none.jpg", status=1)
    rows = json.loads(result.stdout)
    assert rows[0] == {"path": str(tmp_path / "empty.jpg"), "error": "the file is empty (0 bytes)"}
    assert rows[1]["label"] == "temple"
    assert rows[2] == {"path": str(tmp_path / "none.jpg"), "error": "no such file"}
    assert "empty.jpg: the file is empty" in result.stderr
    added = answer("add", registry, "temple", tmp_path / "empty.jpg", good, status=1)
    assert (added["added"], added["failed"]) == (
        1,
        [{"path": str(tmp_path / "empty.jpg"), "reason": rows[0]["error"]}],
    )


def test_folders_patterns_and_standard_input_are_answered_in_the_order_given(registry, photos, tmp_path):
    new = photos / "new-photos"
    (tmp_path / "deep" / "er").mkdir(parents=True)
    shutil.copy(new / "flower" / "5.jpg", tmp_path / "deep" / "er" / "a.jpg")
    (tmp_path / "deep" / "notes.txt").write_text("")
    result = call(
        "predict", registry, new / "temple" / "[45].jpg", tmp_path / "deep", "-", stdin=f"{new}/flower/1.jpg\n\n"
    )
    rows = json.loads(result.stdout)
    assert [row["path"] for row in rows] == [
        str(new / "temple" / "4.jpg"), str(new / "temple" / "5.jpg"),
        str(tmp_path / "deep" / "er" / "a.jpg"), str(new / "flower" / "1.jpg"),
    ]  # fmt: skip
    assert [row["label"] for row in rows] == ["temple", "temple", "flower", "flower"]
    assert "ignored 1 file" in result.stderr
    assert "notes.txt" in result.stderr


def test_an_image_on_standard_input_is_predicted_and_added(registry, photos):
    picture = photos / "new-photos" / "temple" / "0.jpg"
    (row,) = answer("predict", registry, "-", stdin=picture.read_bytes())
    (same,) = answer("predict", registry, picture)
    assert row == {**same, "path": "-"}
    assert answer("add", registry, "temple", "-", stdin=picture.read_bytes())["added"] == 1
    (broken,) = answer("predict", registry, "-", stdin=picture.read_bytes()[:300], status=1)
    assert broken["path"] == "-"
    assert "damaged" in broken["error"]


def test_paths_on_standard_input_may_be_of_any_bytes(registry, photos, tmp_path):
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    shutil.copy(os.fsencode(photos / "new-photos" / "temple" / "0.jpg"), odd)
    (row,) = answer("predict", registry, "-", stdin=odd + b"\r\n")
    assert (os.fsencode(row["path"]), row["label"]) == (odd, "temple")


def test_the_images_of_a_zip_are_predicted_and_refused_where_a_format_names_files(registry, photos, tmp_path):
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for label in ("temple", "flower"):
            archive.write(photos / "new-photos" / label / "0.jpg", f"{label}/0.jpg")
        archive.writestr("notes.txt", "")
    result = call("predict", registry, tmp_path / "new.zip")
    rows = json.loads(result.stdout)
    assert [row["path"] for row in rows] == [f"{tmp_path}/new.zip/{label}/0.jpg" for label in ("flower", "temple")]
    assert [row["label"] for row in rows] == ["flower", "temple"]
    assert "ignored 1 file" in result.stderr
    for name in ("coco", "label-studio", "fiftyone"):
        told = call("predict", registry, tmp_path / "new.zip", "--format", name, status=1).stderr
        wanted = f"Error: --format {name} names files, and {tmp_path}/new.zip/flower/0.jpg is none: unpack or save it"
        assert told.splitlines()[-1] == wanted


def test_what_needs_images_says_that_an_import_has_none(registry, tmp_path):
    answer("export", registry, tmp_path / "all.npz")
    answer("import", tmp_path / "new.fewshot", tmp_path / "all.npz")
    for command in ("tune", "reindex"):
        options = ["--encoder", "pocket", "--layer", 1] if command == "reindex" else []
        told = call(command, tmp_path / "new.fewshot", *options, status=1).stderr
        assert "10 of 10 images cannot be embedded again" in told
        assert "They came without images, as `fewshot import` brings them: make a new registry from the images" in told
        assert "Put them back" not in told


def test_a_path_given_twice_is_answered_twice(registry, photos, tmp_path):
    good, bad = photos / "new-photos" / "temple" / "1.jpg", tmp_path / "none.jpg"
    rows = answer("predict", registry, good, bad, good, bad, status=1)
    assert ["error" in row for row in rows] == [False, True, False, True]


def test_the_same_picture_under_two_labels_is_refused_unless_allowed(registry, photos):
    picture = photos / "photos" / "temple" / "0.jpg"
    result = call("add", registry, "flower", picture, status=1)
    assert json.loads(result.stdout)["conflicts"] == [{"path": str(picture), "label": "flower", "held_by": ["temple"]}]
    assert "1 image registered under another label" in result.stderr
    assert answer("add", registry, "flower", picture, "--allow-conflict")["added"] == 1


def test_registered_pictures_and_unknown_classes_are_pointed_out(registry, photos, tmp_path):
    shutil.copytree(photos / "photos", tmp_path / "test")
    (tmp_path / "test" / "temple").rename(tmp_path / "test" / "church")
    result = call("evaluate", registry, tmp_path / "test")
    report = json.loads(result.stdout)
    assert report["unregistered"] == ["church"]
    assert report["also_registered"] == 10
    assert report["accuracy"] == 0.5
    assert "not registered, so always wrong: church" in result.stderr
    assert "registered examples among the 10 images: 10" in result.stderr


def test_classes_can_be_listed_renamed_merged_and_removed(registry):
    assert answer("classes", registry) == {"flower": 5, "temple": 5}
    examples = answer("classes", registry, "temple")
    assert [example["example"] for example in examples] == [6, 7, 8, 9, 10]
    assert answer("remove", registry, "--example", 6) == {"label": "temple", "removed": 1, "classes": 2}
    assert answer("rename", registry, "flower", "rose") == {"label": "rose", "previous": "flower", "examples": 5}
    assert answer("merge", registry, "rose", "temple", "--into", "both") == {
        "label": "both",
        "examples": 9,
        "classes": 1,
    }
    assert answer("remove", registry, "both") == {"label": "both", "removed": 9, "classes": 0}


def test_an_export_can_be_imported_and_read_by_others(registry, photos, tmp_path):
    assert answer("export", registry, tmp_path / "all.npz")["examples"] == 10
    assert answer("import", tmp_path / "new.fewshot", tmp_path / "all.npz")["added"] == 10
    assert answer("import", tmp_path / "new.fewshot", tmp_path / "all.npz")["duplicates"] == 10
    first, second = (
        answer("predict", path, photos / "new-photos", "--nearest", 0) for path in (registry, tmp_path / "new.fewshot")
    )
    assert first == second
    with np.load(tmp_path / "all.npz") as file:
        assert sorted(file["labels"].tolist()) == ["flower"] * 5 + ["temple"] * 5
        assert file["vectors"].shape == (10, answer("info", registry)["dim"])


def test_a_registry_is_not_exported_over_itself(registry, tmp_path):
    own = shutil.copy(registry, tmp_path / "parts.npz")
    told = call("export", own, own, status=1).stderr
    assert "parts.npz is what would be exported, and would be lost; give another file" in told
    assert answer("info", own)["examples"] == 10


def test_vectors_are_cached_when_asked(registry, photos, tmp_path):
    options = ("--cache", tmp_path / "vectors", "--precision", "float32", "--batch-size", 4)
    first = answer("predict", registry, photos / "new-photos", *options)
    assert (tmp_path / "vectors").stat().st_size > 0
    assert answer("predict", registry, photos / "new-photos", *options) == first


def test_a_layer_chosen_at_the_start_is_remembered(photos, tmp_path):
    path = tmp_path / "layer.fewshot"
    answer("add", path, "--from-folder", photos / "photos", "--layer", 2, "--pool", "max", "--encoder", "pocket")
    assert answer("info", path)["encoder"] == {"name": "pocket", "layer": 2, "pool": "max"}
    answer("predict", path, photos / "new-photos")
    refused = call("add", path, "temple", photos / "new-photos", "--encoder", "pocket", status=1)
    assert "holds embeddings from pocket --layer 2 --pool max" in refused.stderr
    assert f"fewshot reindex {path} --encoder pocket" in refused.stderr


def test_layers_and_flips_chosen_at_the_start_are_remembered_and_others_refused(photos, tmp_path):
    path = tmp_path / "layers.fewshot"
    answer("add", path, "--from-folder", photos / "photos", "--layers", "auto", "--tta")
    assert answer("info", path)["encoder"] == {
        "name": "pocket", "layer": None, "pool": None, "layers": "auto", "tta": True,
    }  # fmt: skip
    with ClassRegistry(path) as registry:
        assert registry.encoder.parts == (384, 64, 160)
    answer("predict", path, photos / "new-photos")
    assert {row["classifier"] for row in answer("classifier", path, "--compare")} >= {"whitened", "prototype"}
    refused = call("add", path, "temple", photos / "new-photos", "--encoder", "pocket", "--layers", "1,2", status=1)
    assert "holds embeddings from pocket --layers auto --tta (d=608" in refused.stderr
    assert f"fewshot reindex {path} --encoder pocket --layers 1,2" in refused.stderr


def test_reindexing_changes_the_encoder(registry, photos):
    before = answer("info", registry)
    report = answer("reindex", registry, "--encoder", "pocket", "--layer", 1)
    assert report == {"examples": 10, "encoder": {"name": "pocket", "layer": 1, "pool": None}}
    assert answer("info", registry)["fingerprint"] != before["fingerprint"]
    assert answer("evaluate", registry, photos / "new-photos")["n"] == 12


def test_a_metric_is_chosen_once(photos, tmp_path):
    path = tmp_path / "m.fewshot"
    answer("add", path, "temple", photos / "photos" / "temple", "--metric", "sqeuclidean")
    assert answer("predict", path, photos / "new-photos" / "temple" / "0.jpg")[0]["score"] < 0
    refused = call("add", path, "temple", photos / "new-photos" / "temple", "--metric", "cosine", status=1)
    assert "made for the metric 'sqeuclidean', not 'cosine'" in refused.stderr


def test_pictures_need_not_be_kept(photos, tmp_path):
    path = tmp_path / "slim.fewshot"
    answer("add", path, "--from-folder", photos / "photos", "--no-keep-images")
    assert answer("info", path)["images_kept"] == 0
    assert answer("reindex", path, "--encoder", "pocket", "--layer", 1)["examples"] == 10


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (("predict", "none.fewshot", "a.jpg"), 1, "there is no registry none.fewshot; make it with: fewshot add"),
        (("add", "r.fewshot"), 2, "give one of LABEL FILE..., --from-folder DIR"),
        (("add", "r.fewshot", "cat"), 2, "give the examples of 'cat'"),
        (("add", "r.fewshot", "--from-folder", "nowhere"), 1, "no such folder or zip: nowhere"),
        (("add", "r.fewshot", " ", "a.jpg"), 1, "a label must hold something to read"),
        (("add", "r.fewshot", "cat", "a.jpg", "--encoder", "resnte50"), 1, "did you mean resnet50"),
        (
            ("add", "r.fewshot", "--negative", "a.jpg", "--augment", "catalogue"),
            2,
            "--augment does not go with --negative",
        ),
        (("remove", "r.fewshot"), 2, "give one of LABEL, --example ID and --negative ID"),
        (("reindex", "r.fewshot"), 2, "give the new encoder"),
        (("import", "r.fewshot", "none.npz"), 1, "no such file: none.npz"),
        (("import", "r.fewshot", "none.csv"), 1, "an export is a .npz or .parquet file, not .csv"),
        (("predict",), 2, "Missing argument 'REGISTRY'"),
        (("add", "r.fewshot", "cat", "-"), 1, "no images in -"),
        (("evaluate", "r.fewshot", ".", "--out", "none/rows.csv"), 1, "cannot write none/rows.csv: there is no folder"),
        (("demo", "--picture", "none/demo.png"), 1, "cannot write none/demo.png: there is no folder"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_leaves_no_registry(args, status, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*args, status=status)
    assert message in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []
    if status == 1:
        assert len(result.stderr.splitlines()) == 1


def test_an_unknown_class_gets_its_close_matches(registry):
    assert "no class 'flwer' in" in call("remove", registry, "flwer", status=1).stderr
    assert "did you mean 'flower'?" in call("rename", registry, "flwer", "x", status=1).stderr


def test_a_reader_that_has_gone_ends_it_quietly(registry):
    script = [sys.executable, "-c", "from fewshot.cli import main; main()", "classes", registry]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(script, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


def test_encoders_are_listed():
    assert "pocket" in answer("encoders")
    assert answer("encoders", "resnet18.a1*") == ["resnet18.a1_in1k"]


@pytest.mark.data
def test_a_folder_of_unseen_photos_is_classified_as_scikit_learn_does_on_the_same_vectors(shared, tmp_path):
    """Real photographs of Tiny ImageNet's test classes with mobilenetv2: the registry against NearestCentroid."""
    encoder = str(shared / "weights" / "mobilenetv2_100.tf_in1k")
    with zipfile.ZipFile(shared / "data" / "tiny_imagenet" / "test.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for label in sorted({name.partition("/")[0] for name in names})[:5]:
            for number, name in enumerate([n for n in names if n.startswith(f"{label}/")][:13]):
                target = tmp_path / ("photos" if number < 5 else "new") / label / f"{number}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    path = tmp_path / "r.fewshot"
    assert answer("add", path, "--from-folder", tmp_path / "photos", "--encoder", encoder)["added"] == 25
    call("classifier", path, "prototype")
    report = answer("evaluate", path, tmp_path / "new", "--out", tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as file:
        predicted = [row["predicted"] for row in csv.DictReader(file)]

    from fewshot import load_encoder
    from fewshot.media import labelled_images

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    network = load_encoder(encoder)
    known, new = labelled_images(tmp_path / "photos"), labelled_images(tmp_path / "new")
    centroids = NearestCentroid().fit(network.encode(known.images), known.labels)
    closest = (unit(network.encode(new.images)) @ unit(centroids.centroids_).T).argmax(1)
    wanted = centroids.classes_[closest]
    assert predicted == wanted.tolist()
    assert_allclose(report["accuracy"], (wanted == np.array(new.labels)).mean())
    assert report["accuracy"] > 0.5


def test_the_sheet_gives_every_answer_its_score_and_wrong_ones_the_true_label():
    from fewshot.cli.demo import _caption

    answer = Prediction("7", 0.634, (("7", 0.634),))
    assert _caption(answer, "7") == "7  0.63"
    assert _caption(answer, "3") == "7  0.63, not 3"


def test_python_runs_the_package_as_the_command():
    command = [sys.executable, "-m", "fewshot", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "predict" in told
    assert "train" in told


def test_a_folder_of_splits_is_refused_with_the_command_for_each_and_makes_no_registry(photos, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(photos / "photos", tmp_path / "my data" / split)
    told = call("add", tmp_path / "r.fewshot", "--from-folder", tmp_path / "my data", status=1).stderr
    assert f"{tmp_path}/my data holds splits, test, train. Add what you mean:" in told
    for split in ("train", "test"):
        assert f"fewshot add {tmp_path}/r.fewshot --from-folder '{tmp_path}/my data/{split}'" in told
    assert not (tmp_path / "r.fewshot").exists()


def test_the_classes_of_a_folder_are_named_before_they_are_added(photos, tmp_path):
    told = call("add", tmp_path / "r.fewshot", "--from-folder", photos / "photos").stderr
    assert "classes (2): flower, temple" in told


@pytest.mark.parametrize("option", ["-lemon", "--lemon"])
def test_a_label_that_looks_like_an_option_is_told_where_to_go(option):
    assert "given after --" not in call("add", "r.fewshot", "--enoder", "pocket", status=2).stderr
    assert "given after --" not in call("info", "r.fewshot", option, status=2).stderr
    told = call("add", "r.fewshot", option, "1.jpg", status=2).stderr
    assert "fewshot add parts.fewshot -- -lemon 1.jpg" in " ".join(call("add", "--help").stdout.split())
    assert "given after --, as in: fewshot add REGISTRY -- -lemon FILE" in told


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_output_does_not_fail_on_the_streams_encoding(registry, tmp_path, encoding):
    code = "from fewshot.cli import main; main()"
    asked = [sys.executable, "-c", code, "rename", str(registry), "flower", "\u306d\u3053 \U0001f600"]
    shutil.copy(registry, tmp_path / "copy.fewshot")
    asked[4] = str(tmp_path / "copy.fewshot")
    done = subprocess.run(asked, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False)
    assert done.returncode == 0, done.stderr
    assert "\u306d\u3053 \U0001f600" in json.dumps(json.loads(done.stdout.decode("ascii")), ensure_ascii=False)
