"""Opening any image, and naming any that cannot be opened."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image

from fewshot.errors import FewShotError, ImageError
from fewshot.media import ZippedImage, describe, heif, image_bytes, image_hash, image_type, images, open_image, zips
from fewshot.media.images import FORMATS, SUFFIXES

LOSSLESS = ("PNG", "BMP", "TIFF", "WEBP")
# Upright: four corners of 8 x 8 blocks, wider than tall, so that any turn shows.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [0, 255, 255], [255, 0, 255]]], np.uint8)
UPRIGHT = np.kron(CORNERS, np.ones((8, 8, 1), np.uint8))  # (16, 24, 3)


def encoded(image, kind, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def pixels(source, **options):
    opened = open_image(source, **options)
    assert opened.mode == "RGB"
    return np.asarray(opened)


def refusal(source, **options):
    """The message of the ImageError that opening gives."""
    with pytest.raises(ImageError) as error:
        open_image(source, **options)
    assert str(error.value) == f"{error.value.source}: {error.value.reason}"
    return str(error.value)


# -- formats and modes


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_opens_as_the_picture_that_was_saved(kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    if kind == "AVIF":
        options = {"quality": 100, "subsampling": "4:4:4"}
    found = pixels(encoded(UPRIGHT, kind, **options)).astype(int)
    assert np.abs(found - UPRIGHT).max() <= (6 if kind in ("JPEG", "AVIF") else 0)


def test_a_phone_photo_of_several_pictures_opens_as_its_first():
    data = encoded(
        UPRIGHT, "MPO", save_all=True, append_images=[Image.new("RGB", (24, 16))], quality=100, subsampling=0
    )
    assert np.abs(pixels(data).astype(int) - UPRIGHT).max() <= 6


def as_stored(orientation):
    """The rows as a camera stores them when ``orientation`` tells how to turn them upright (EXIF 2.3, tag 0x0112)."""
    stored = {
        1: UPRIGHT,
        2: UPRIGHT[:, ::-1],
        3: UPRIGHT[::-1, ::-1],
        4: UPRIGHT[::-1],
        5: UPRIGHT.transpose(1, 0, 2),
        6: np.rot90(UPRIGHT, 1),  # to be turned a quarter clockwise
        7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(UPRIGHT, -1),
    }
    return np.ascontiguousarray(stored[orientation])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_exif_orientations_give_the_same_upright_picture(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = pixels(encoded(as_stored(orientation), kind, exif=exif, **options)).astype(int)
    assert found.shape == UPRIGHT.shape
    assert np.abs(found - UPRIGHT).max() <= (6 if kind == "JPEG" else 0)


def test_the_stored_orientations_all_differ_so_that_the_test_above_can_fail():
    assert len({as_stored(orientation).tobytes() for orientation in range(1, 9)}) == 8


def test_a_pil_image_is_turned_upright_and_left_as_it_was():
    exif = Image.Exif()
    exif[0x0112] = 6
    given = Image.open(io.BytesIO(encoded(as_stored(6), "PNG", exif=exif)))
    assert_array_equal(pixels(given), UPRIGHT)
    assert given.size == (16, 24)


def test_damaged_exif_does_not_stop_a_sound_picture():
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow: "Corrupt EXIF data"
            assert pixels(encoded(UPRIGHT, "JPEG", exif=exif)).shape == UPRIGHT.shape


@pytest.mark.parametrize("kind", LOSSLESS)
def test_grey_becomes_three_equal_channels(kind):
    grey = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert_array_equal(pixels(encoded(grey, kind, **options)), np.repeat(grey[:, :, None], 3, axis=2))


def test_one_bit_is_black_and_white():
    bits = np.array([[True, False], [False, True]])
    for kind in ("PNG", "BMP", "TIFF"):
        assert pixels(encoded(Image.fromarray(bits), kind))[:, :, 0].tolist() == [[255, 0], [0, 255]]


def palette_picture():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    return picture


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_is_looked_up(kind):
    assert pixels(encoded(palette_picture(), kind)).tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("transparency", [0, b"\0\xff"])
def test_a_transparent_palette_entry_is_white(transparency):
    data = encoded(palette_picture(), "PNG", transparency=transparency)
    assert pixels(data).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_a_transparent_gif_is_laid_on_white():
    data = encoded(palette_picture(), "GIF", transparency=0)
    assert pixels(data).tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize(("mode", "key"), [("RGB", (10, 20, 30)), ("L", 10)])
def test_a_colour_key_of_a_png_is_white(mode, key):
    picture = Image.new(mode, (2, 1), key)
    picture.putpixel((1, 0), 0 if mode == "L" else (0, 0, 0))
    assert pixels(encoded(picture, "PNG", transparency=key)).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(kind):
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    # 51 / 255 = 0.2 of black over white: 204.
    assert pixels(encoded(rgba, kind, **options)).tolist() == [[[255, 0, 0], [255] * 3, [204] * 3]]


def test_transparent_grey_is_laid_on_white():
    picture = Image.new("LA", (2, 1), (0, 51))
    picture.putpixel((1, 0), (7, 255))
    assert pixels(encoded(picture, "PNG")).tolist() == [[[204] * 3, [7] * 3]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind):
    cyan = pixels(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), kind))[0, 0].astype(int)
    assert np.abs(cyan - [0, 255, 255]).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    deep = np.array([[0, 257, 257 * 100, 65535]], np.uint16)
    assert pixels(encoded(Image.fromarray(deep), kind))[0, :, 0].tolist() == [0, 1, 100, 255]


def test_sixteen_bit_grey_that_pillow_holds_in_32_bits_is_scaled_too():
    assert pixels(Image.fromarray(np.array([[0, 257 * 100, 65535]], np.int32)))[0, :, 0].tolist() == [0, 100, 255]


def test_big_endian_sixteen_bits_are_scaled_too():
    assert pixels(Image.fromarray(np.array([[0, 25700, 65535]], ">u2")))[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize(("bits", "kind"), [(b, k) for b in (8, 10, 12, 14, 16) for k in ("PNG", "TIFF", None)])
def test_fewer_bits_in_sixteen_become_the_greys_of_their_8_bit_twin(bits, kind):
    greys = np.arange(256, dtype=np.uint16).reshape(16, 16)
    deep = greys * np.uint16(2 ** (bits - 8))
    found = pixels(encoded(Image.fromarray(deep), kind) if kind else deep)[:, :, 0]
    assert len(np.unique(found)) == 256 - (bits > 8)
    assert np.abs(found.astype(int) - greys).max() <= 1


def test_the_range_that_a_tiff_declares_is_taken():
    dark = np.array([[0, 100, 1023]], np.uint16)
    data = encoded(Image.fromarray(dark), "TIFF", tiffinfo={281: 4095})
    assert pixels(data)[0, :, 0].tolist() == [0, 100 * 255 // 4095, 1023 * 255 // 4095]
    assert pixels(dark)[0, :, 0].tolist() == [0, 100 * 255 // 1023, 255]


def test_an_image_that_8_bits_make_blank_is_refused():
    message = refusal(np.array([[40_000, 40_050]], np.uint16))
    assert "its values from 40000 to 40050 of 65535 are all one grey in 8 bits; scale them to the range" in message
    assert "all one grey" in refusal(np.array([[0.0, 1e-4]]))
    assert pixels(np.full((1, 2), 40_000, np.uint16)).max() == 155  # of one grey before


def test_colours_of_12_bits_in_sixteen_are_refused_rather_than_left_black():
    rows = b"".join(b"\0" + struct.pack(">6H", *[value] * 3, *[0] * 3) for value in (4095, 0))
    header = struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def file(rows):
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    assert "its 16 bits a colour hold values below 4,096 of 65,535 only" in refusal(file(rows))
    assert pixels(file(rows.replace(b"\x0f\xff", b"\x10\x00"))).max() == 16


HEIC = b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEmiafMiHBheic" + b"\0" * 4000


def test_a_heic_names_the_extra_whatever_its_suffix(tmp_path, monkeypatch):
    monkeypatch.setattr(heif, "find_spec", lambda name: None)
    for name in ("IMG_0001.HEIC", "renamed.jpg"):
        message = refusal(bad_file(tmp_path, name, HEIC))
        assert message == f"{tmp_path / name}: is a HEIC image, which needs pillow_heif: pip install 'fewshot[heic]'"


def test_an_avif_names_the_pillow_it_needs_where_this_one_has_no_decoder(monkeypatch):
    monkeypatch.setattr(heif, "avif_is_decoded", lambda: False)
    avif = b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf" + b"\0" * 100
    assert "is an AVIF image, which this Pillow does not decode: pip install -U 'pillow>=11.3'" in refusal(avif)


def test_a_heic_opens_upright_and_within_the_limit_of_pixels():
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(np.kron(UPRIGHT, np.ones((8, 8, 1), np.uint8)))).save(out, quality=100)
    found = pixels(out.getvalue()).astype(int)
    assert found.shape == (128, 192, 3)
    assert np.abs(found[32, 32] - [255, 0, 0]).max() <= 8
    assert "192 x 128 is over the limit of 1,000 pixels" in refusal(out.getvalue(), max_pixels=1_000)


def test_an_image_too_large_for_memory_is_its_own_failure(monkeypatch):
    def fails(image):
        raise MemoryError

    monkeypatch.setattr(images.ImageOps, "exif_transpose", fails)
    assert "there is not enough memory for its 24 x 16 pixels; scale it down" in refusal(encoded(UPRIGHT, "PNG"))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 3
        assert pixels(data)[0, 0].tolist() == [255, 0, 0]


# -- arrays


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[True, False]]), [255, 0]),
        (np.array([[7, 255]], np.uint8), [7, 255]),
        (np.array([[257 * 7, 65535]], np.uint16), [7, 255]),
        (np.array([[0.2, 1.0]], np.float32), [51, 255]),
        (np.array([[0.2, 1.0]], np.float64), [51, 255]),
        (np.array([[[7], [255]]], np.uint8), [7, 255]),
        (np.array([[7, 0, 255, 0]], np.uint8)[:, ::2], [7, 255]),
    ],
)
def test_arrays_of_every_kind_become_8_bits(array, expected):
    assert pixels(array).tolist() == [[[value] * 3 for value in expected]]


def test_arrays_of_three_and_four_channels_are_rgb_and_rgba():
    assert_array_equal(pixels(UPRIGHT), UPRIGHT)
    assert pixels(np.array([[[1.0, 0.0, 0.0, 0.0]]])).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("array", [np.array([[0, 255]]), np.array([[-1]]), np.array([[0]], np.uint32)])
def test_whole_numbers_of_unsaid_range_are_refused_rather_than_guessed(array):
    message = refusal(array)
    assert f"<array of shape {array.shape}>" in message
    assert str(array.dtype) in message
    assert "give uint8, uint16, or floats in [0, 1]" in message


@pytest.mark.parametrize(("value", "shown"), [(255.0, "255.0"), (-0.1, "-0.1"), (np.nan, "nan")])
def test_floats_outside_0_to_1_are_refused_with_their_range(value, shown):
    message = refusal(np.array([[0.0, value]]))
    assert shown in message
    assert "floats in [0, 1]" in message


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5), (3, 8, 8), (1, 2, 2, 3), (0, 4), (4, 0, 3), ()])
def test_arrays_of_other_shapes_are_refused_naming_the_shape(shape):
    message = refusal(np.zeros(shape, np.uint8))
    assert str(shape) in message
    assert "channels last" in message


@pytest.mark.parametrize("dtype", [complex, "U1", object, "M8[s]"])
def test_arrays_that_hold_no_numbers_are_refused_as_images(dtype):
    assert "give uint8, uint16, or floats" in refusal(np.zeros((2, 2), dtype))


# -- what a picture may be given as


def test_path_pathlib_bytes_file_and_pil_give_the_same_picture(tmp_path):
    path = tmp_path / "a b ü.png"
    path.write_bytes(encoded(UPRIGHT, "PNG"))
    data = path.read_bytes()
    with open(path, "rb") as file, Image.open(path) as opened:
        for source in (str(path), path, data, bytearray(data), memoryview(data), file, io.BytesIO(data), opened):
            assert_array_equal(pixels(source), UPRIGHT)


def test_a_file_object_is_read_from_where_it_stands_and_put_back_there():
    data = encoded(UPRIGHT, "PNG")
    stream = io.BytesIO(b"header" + data)
    stream.seek(6)
    for _ in range(2):
        assert_array_equal(pixels(stream), UPRIGHT)
        assert stream.tell() == 6


def test_a_file_object_that_cannot_seek_is_read_once():
    class Pipe(io.RawIOBase):
        def __init__(self, data):
            self.rest = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.rest.readinto(buffer)

    assert_array_equal(pixels(io.BufferedReader(Pipe(encoded(UPRIGHT, "PNG")))), UPRIGHT)


def test_opening_leaves_the_callers_image_and_array_unchanged():
    array = UPRIGHT.copy()
    open_image(array).paste("black", (0, 0, 24, 16))
    assert_array_equal(array, UPRIGHT)
    image = Image.fromarray(UPRIGHT)
    open_image(image).paste("black", (0, 0, 24, 16))
    assert_array_equal(np.asarray(image), UPRIGHT)


def test_something_that_holds_no_picture_is_a_type_error_naming_its_type():
    with pytest.raises(TypeError, match=r"an image must be a path, a URL, bytes, .* not int"):
        open_image(3)


def test_a_description_names_the_file_where_there_is_one(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encoded(UPRIGHT, "PNG"))
    with open(path, "rb") as file, Image.open(path) as opened:
        assert {describe(source) for source in (str(path), path, file, opened)} == {str(path)}
    assert describe(b"abc") == "<3 bytes>"
    assert describe(np.zeros((4, 5))) == "<array of shape (4, 5)>"
    assert describe(Image.new("L", (7, 8))) == "<PIL image of 7 x 8>"
    assert describe(io.BytesIO()) == "<BytesIO>"
    assert describe(ZippedImage("a.zip", "cat/1.png")) == "a.zip/cat/1.png"


# -- what cannot be read


def bad_file(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused_by_name_whatever_its_format(kind, share, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    path = bad_file(tmp_path, f"cut.{kind}", data[: int(len(data) * share)])
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert any(word in message for word in ("truncated", "damaged", "not an image"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"hello, this is text", "not an image; JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and HEIC can be read"),
        (b"\xff\xd8\xff", "not an image; JPEG, PNG"),
        (b"GIF89a", "not an image; JPEG, PNG"),
        (bytes(1000), "not an image; JPEG, PNG"),
    ],
)
def test_a_file_that_is_no_image_is_refused_by_name_saying_what_can_be_read(data, reason, tmp_path):
    path = bad_file(tmp_path, "notes.jpg", data)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert reason in message


@pytest.mark.parametrize("kind", ["PPM", "EPS", "TGA", "PCX", "ICO", "PDF", "SGI"])
def test_formats_outside_the_list_are_refused_though_pillow_could_read_some(kind):
    assert "not an image; JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and HEIC can be read" in refusal(encoded(UPRIGHT, kind))


def test_pillow_alone_would_open_a_ppm():
    assert Image.open(io.BytesIO(encoded(UPRIGHT, "PPM"))).size == (24, 16)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    assert refusal(tmp_path / "none.jpg") == f"{tmp_path / 'none.jpg'}: no such file"
    assert refusal(tmp_path) == f"{tmp_path}: is a folder, not an image file"
    assert "cannot be read" in refusal("a\0b.jpg")
    assert "name too long" in refusal("x" * 5000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_one_may_not_read_is_refused_by_name(tmp_path):
    path = bad_file(tmp_path, "locked.png", encoded(UPRIGHT, "PNG"))
    path.chmod(0)
    assert refusal(path) == f"{path}: cannot be read (Permission denied)"


def test_a_text_stream_is_refused_saying_to_open_it_in_binary():
    assert "open the file in binary mode ('rb')" in refusal(io.StringIO("abc"))


def test_a_closed_stream_and_a_closed_image_are_image_errors():
    stream = io.BytesIO(b"abc")
    stream.close()
    assert "closed file" in refusal(stream)
    image = Image.new("RGB", (2, 2))
    image.close()
    assert "damaged" in refusal(image)


def test_too_many_pixels_are_refused_with_both_numbers_before_decoding(tmp_path):
    path = bad_file(tmp_path, "big.png", encoded(Image.new("L", (101, 100)), "PNG"))
    message = refusal(path, max_pixels=10_000)
    assert message == f"{path}: 101 x 100 is over the limit of 10,000 pixels; scale it down"
    assert open_image(path, max_pixels=10_100).size == (101, 100)
    assert "101 x 100" in refusal(Image.new("L", (101, 100)), max_pixels=10_000)


def huge_png(width, height):
    """A PNG of a few bytes whose header claims width x height."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_500, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    message = refusal(huge_png(side, side))
    assert f"over the limit of {images.MAX_PIXELS:,} pixels; scale it down" in message


def test_too_many_bytes_are_refused_unread_with_both_numbers(tmp_path, monkeypatch):
    for module in (images, zips):
        monkeypatch.setattr(module, "MAX_BYTES", 50)
    data = encoded(UPRIGHT, "PNG")
    path = bad_file(tmp_path, "big.png", data)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("big.png", data)
    for source in (path, ZippedImage(str(tmp_path / "z.zip"), "big.png")):
        assert f"it is {len(data):,} bytes long, over the limit of 50" in refusal(source)
    assert "over the limit of 50" in refusal(io.BytesIO(data))


def test_an_image_error_is_ours_and_a_value_error():
    with pytest.raises(FewShotError):
        open_image(b"")
    with pytest.raises(ValueError, match="empty"):
        open_image(b"")


# -- bytes and hashes


def test_the_hash_is_the_files_sha256_whether_by_path_bytes_stream_or_zip(tmp_path):
    data = encoded(UPRIGHT, "JPEG")
    path = bad_file(tmp_path, "x.jpg", data)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("x.jpg", data)
    zipped = ZippedImage(str(tmp_path / "z.zip"), "x.jpg")
    expected = hashlib.sha256(data).hexdigest()
    assert {image_hash(source) for source in (path, str(path), data, io.BytesIO(data), zipped)} == {expected}


def test_the_hash_of_pixels_tells_pictures_apart_and_keeps_them_whole():
    other = UPRIGHT.copy()
    other[0, 0, 0] -= 1
    assert image_hash(UPRIGHT) == image_hash(Image.fromarray(UPRIGHT)) == image_hash(UPRIGHT.copy())
    assert image_hash(UPRIGHT) != image_hash(other)
    assert_array_equal(pixels(image_bytes(UPRIGHT)), UPRIGHT)


def test_hashing_a_missing_file_names_it(tmp_path):
    with pytest.raises(ImageError, match=r"none\.jpg: no such file"):
        image_hash(tmp_path / "none.jpg")


def test_every_suffix_is_known_to_pillow_as_one_of_the_formats():
    Image.init()
    suffixes = SUFFIXES - {".heic", ".heif", ".hif"}  # pillow-heif's
    assert {Image.registered_extensions()[suffix] for suffix in suffixes} == set(FORMATS)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no device files here")
def test_a_device_is_refused_unread():
    with pytest.raises(ImageError, match="/dev/zero: is a device, not an image file"):
        open_image("/dev/zero")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_are_images_channels_first(dtype):
    tensor = torch.from_numpy(np.moveaxis(UPRIGHT, 2, 0).copy())
    assert set(np.unique(UPRIGHT)) <= {0, 255}
    given = tensor if dtype == torch.uint8 else (tensor / 255).to(dtype).requires_grad_()
    assert_array_equal(pixels(given), UPRIGHT)
    assert image_bytes(given) == image_bytes(UPRIGHT)
    grey = tensor[0]
    assert_array_equal(pixels(grey), pixels(tensor[:1]))


def test_a_tensor_that_is_no_image_is_refused_with_its_shape_or_values():
    message = refusal(torch.zeros(8, 8, 3))
    assert "<tensor of shape (8, 8, 3)>" in message
    assert "channels first" in message
    assert "from -2.0 to 2.0" in refusal(torch.tensor([[[-2.0, 2.0]]]))


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("GIF", "image/gif"), ("BMP", "image/bmp"), ("WEBP", "image/webp"),
     ("TIFF", "image/tiff")],
)  # fmt: skip
def test_the_media_type_is_that_of_the_first_bytes(suffix, kind):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(out, format=suffix)
    assert image_type(out.getvalue()) == kind
    assert image_type(b"text") == "application/octet-stream"
