"""Files made to harm: archives that lead elsewhere or swell, pictures that claim to be huge, weights that run."""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes import RED, ROOT, FakeEncoder, png
from PIL import Image, ImageFile

import fewshot.encoders
from fewshot import EncoderNotFound, ImageError, load_encoder, open_image
from fewshot.cli import main
from fewshot.encoders.timm_network import load_network
from fewshot.media import ZippedImage, images, labelled_images, zips
from fewshot.registry.registry import ClassRegistry
from fewshot.training.encoder_folder import write_config, write_weights
from fewshot.validation import check_label

LINK = 0o120777 << 16
OUTSIDE = (
    "../a.png",
    "cat/../../a.png",
    "/etc/a.png",
    "C:/a.png",
    "..\\a.png",
    "cat\\..\\..\\a.png",
    "\\\\host\\a.png",
)


@pytest.fixture
def fake_pocket(monkeypatch):
    monkeypatch.setattr(fewshot.encoders, "load_encoder", lambda name="pocket", **_: FakeEncoder(name=name))


def zip_of(path: Path, *members: tuple[str, bytes], links: tuple[tuple[str, str], ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
        for name, target in links:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, LINK
            archive.writestr(info, target)
    return path


def refusal(source: object) -> str:
    with pytest.raises(ImageError) as error:
        open_image(source)
    return str(error.value)


# -- zips


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_member_whose_name_leads_out_of_the_zip_is_listed_and_refused(name, tmp_path):
    place = zip_of(tmp_path / "z.zip", (name, png()), ("cat/1.png", png()))
    found = labelled_images(place)
    assert len(found.images) + len(found.ignored) == 2  # nothing in silence
    assert "its name leads out of the zip, so it is refused" in refusal(ZippedImage(str(place), name))


@pytest.mark.parametrize("name", ["cat/..png", "cat/a..b/1.png", "cat/...png", "c/a.png", "cat/a:b.png"])
def test_names_with_dots_that_lead_nowhere_are_read(name, tmp_path):
    place = zip_of(tmp_path / "z.zip", (name, png()))
    assert open_image(ZippedImage(str(place), name)).getpixel((0, 0)) == RED


def test_a_link_in_a_zip_is_refused_whatever_it_leads_to(tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    place = zip_of(tmp_path / "z.zip", links=(("cat/1.png", str(tmp_path / "secret.png")),))
    assert refusal(labelled_images(place).images[0]).endswith(
        "cat/1.png: is a link, and links in zips are not followed; make the zip anew with the file itself"
    )


def test_links_in_a_folder_of_ones_own_are_followed(tmp_path):
    (tmp_path / "elsewhere.png").write_bytes(png())
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").symlink_to(tmp_path / "elsewhere.png")
    (source,) = labelled_images(tmp_path / "photos").images
    assert open_image(source).getpixel((0, 0)) == RED


def test_a_hostile_zip_costs_only_its_hostile_members_and_each_is_told_of(tmp_path, monkeypatch, fake_pocket):
    monkeypatch.setattr(zips, "SMALL", 100_000)
    place = zip_of(
        tmp_path / "z.zip",
        ("cat/1.png", png()),
        ("../../home/x.png", png(size=5)),
        ("cat/bomb.png", bytes(zips.SMALL + 1)),
        ("cat/more.zip", b"PK"),
        links=(("dog/link.png", "/etc/passwd"),),
    )
    run = CliRunner().invoke(main, ["add", str(tmp_path / "r.fewshot"), "--from-folder", str(place)])
    answer = json.loads(run.stdout)
    assert (run.exit_code, answer["added"], answer["classes"]) == (1, 1, 1)
    reasons = {failure["path"].partition("z.zip/")[2]: failure["reason"] for failure in answer["failed"]}
    assert "leads out of the zip" in reasons["../../home/x.png"]
    assert "as a zip bomb does; unpack it yourself if it is none" in reasons["cat/bomb.png"]
    assert "is a link" in reasons["dog/link.png"]
    assert "cat/more.zip" in run.stderr  # a zip in a zip is passed over, and told of
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.fewshot", "z.zip"]


def test_a_zip_bomb_is_refused_by_the_zips_list_before_anything_is_unpacked(tmp_path, monkeypatch):
    place = zip_of(tmp_path / "z.zip", ("cat/1.png", bytes(200_000)))
    monkeypatch.setattr(zips, "SMALL", 100_000)
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    message = refusal(ZippedImage(str(place), "cat/1.png"))
    assert "to 200,000 bytes, over 100 times" in message


def test_no_more_is_unpacked_than_the_list_says(tmp_path):
    data = bytearray(zip_of(tmp_path / "z.zip", ("cat/1.png", bytes(1_000_000))).read_bytes())
    for mark, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # the lie: 10 bytes
        data[data.index(mark) + at : data.index(mark) + at + 4] = struct.pack("<I", 10)
    (tmp_path / "z.zip").write_bytes(data)
    assert "cannot be read (Bad CRC-32" in refusal(ZippedImage(str(tmp_path / "z.zip"), "cat/1.png"))


def test_a_scan_that_packs_well_is_no_bomb(tmp_path):
    blank = io.BytesIO()
    Image.new("RGB", (1000, 1000), "white").save(blank, "BMP")  # 3 MB, packed to 1/1000
    place = zip_of(tmp_path / "z.zip", ("cat/1.bmp", blank.getvalue()))
    assert open_image(ZippedImage(str(place), "cat/1.bmp")).size == (1000, 1000)


def test_a_zip_with_a_damaged_list_is_said_to_be_damaged(tmp_path):
    data = bytearray(zip_of(tmp_path / "z.zip", ("cat/1.png", png())).read_bytes())
    data[data.index(b"PK\x01\x02")] ^= 1
    (tmp_path / "z.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"z\.zip is a damaged zip \(.*\); fetch it again"):
        labelled_images(tmp_path / "z.zip")


# -- pictures that claim to be huge


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def saved(kind: str, **settings: object) -> bytearray:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(out, kind, **settings)
    return bytearray(out.getvalue())


def huge(kind: str, side: int = 50_000) -> bytes:
    """A file of a few bytes whose header claims over a hundred million pixels."""
    if kind == "PNG":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    if kind == "GIF":
        image = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x4c\x01\x00\x3b"
        return b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + image
    data = saved(kind, **({"lossless": True} if kind == "WEBP" else {}))
    if kind == "BMP":
        data[18:26] = struct.pack("<ii", 40_000, 40_000)
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    elif kind == "TIFF":
        (at,) = struct.unpack_from("<I", data, 4)
        for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
            if struct.unpack_from("<H", data, entry)[0] in (256, 257):
                struct.pack_into("<HI I", data, entry + 2, 4, 1, 60_000)
    elif kind == "AVIF":
        struct.pack_into(">II", data, data.index(b"ispe") + 8, 16_000, 16_000)
    else:  # VP8L: two sizes of 14 bits, less one
        at = data.index(b"VP8L") + 9
        (bits,) = struct.unpack_from("<I", data, at)
        struct.pack_into("<I", data, at, bits >> 28 << 28 | 16_383 << 14 | 16_383)
    return bytes(data)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(kind, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # would be a TypeError
    data = huge(kind)
    assert len(data) < 2_000
    assert f"over the limit of {images.MAX_PIXELS:,} pixels" in refusal(data)


def test_a_huge_picture_is_told_of_in_one_line(tmp_path, fake_pocket):
    (tmp_path / "huge.png").write_bytes(huge("PNG", side=10_000))  # of this size, Pillow alone would only warn
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = CliRunner().invoke(main, ["add", str(tmp_path / "r.fewshot"), "cat", str(tmp_path / "huge.png")])
    reason = "10000 x 10000 is over the limit of 89,478,485 pixels; scale it down"
    assert (run.exit_code, seen) == (1, [])
    assert run.stderr == f"not added: {tmp_path / 'huge.png'}: {reason}\n"


def test_an_unpacked_text_chunk_is_bounded():
    bomb = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(2_000_000)))
    whole = png()
    assert "Decompressed data too large" in refusal(whole[:33] + bomb + whole[33:])


# -- weights that run


def test_a_folder_of_pickled_weights_is_refused_unread(tmp_path):
    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "it ran",))

    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}))
    (tmp_path / "net" / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(
        EncoderNotFound, match=r"holds no model\.safetensors; pytorch_model\.bin may be a pickle, which is never read"
    ):
        _ = load_encoder(str(tmp_path / "net")).fingerprint
    assert not (tmp_path / "it ran").exists()


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A folder of a small network with weights of chance."""
    folder = tmp_path_factory.mktemp("network")
    made = load_network("fewshot_conv4", pretrained=False)
    write_config(made, 16, {}, folder)
    write_weights(made, folder)
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop_pct", 1e-9),  # a side of 16 would be resized to sixteen thousand million
        ("crop_pct", [1]),
        ("input_size", [3, 100_000, 100_000]),
        ("mean", [0.5]),
        ("mean", [None, 0.5, 0.5]),
        ("std", [0.5, 0, 0.5]),
        ("interpolation", "guess"),
        ("crop_mode", {"a": 1}),
    ],
)
def test_a_config_that_asks_for_nonsense_or_for_more_than_memory_is_refused(key, value, network, tmp_path):
    shutil.copytree(network, tmp_path / "net")
    config = json.loads((network / "config.json").read_text())
    config["pretrained_cfg"][key] = value
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderNotFound, match=f"net': its config says that {key} is "):
        load_encoder(str(tmp_path / "net"), device="cpu")


FORBIDDEN = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def running(source: str) -> list[str]:
    """What of a module could run a foreign file: pickles in any disguise, and eval."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"imports {name}" for name in names if name.partition(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called == "torch.load" and given.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if called in ("np.load", "numpy.load", "np.lib.format.read_array") and given.get("allow_pickle") != "False":
                found.append(f"{called} without allow_pickle=False")
            if called in ("eval", "exec", "torch.hub.load", "yaml.load") or called.endswith(
                (".read_pickle", ".to_pickle")
            ):
                found.append(called)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "fewshot").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_in_the_package_could_run_a_foreign_file(path):
    assert running(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import joblib.memory",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "eval(text)",
    ],
)
def test_what_could_is_noticed(source):
    assert len(running(source)) == 1


# -- names that steer


def test_a_folder_whose_name_cannot_be_a_label_is_listed_and_the_others_are_added(tmp_path, fake_pocket):
    for name in ("cat", "a\x1b[31mb"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_bytes(png(size=3 + len(name)))
    run = CliRunner().invoke(main, ["add", str(tmp_path / "r.fewshot"), "--from-folder", str(tmp_path / "photos")])
    answer = json.loads(run.stdout)
    assert (run.exit_code, answer["added"], answer["classes"]) == (1, 1, 1)
    (failure,) = answer["failed"]
    assert failure["path"].endswith("a\x1b[31mb/1.png")
    assert "no control characters, not 'a\\x1b[31mb'" in failure["reason"]
    assert "\x1b" not in run.stderr  # no name of a file steers the terminal
    with ClassRegistry(tmp_path / "r.fewshot") as registry:
        assert registry.classes() == {"cat": 1}
        with pytest.raises(ValueError, match="no control characters"):
            registry.add("a\x1bb", [png(size=9)])
    with pytest.raises(ValueError, match="no control characters"):
        check_label("a\x1bb")
