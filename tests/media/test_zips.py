"""Members of zips are opened, and a wrong one is named."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from fewshot.errors import ImageError
from fewshot.media import ZippedImage, open_image

PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def png():
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG")
    return out.getvalue()


def refusal(source):
    """The message of the ImageError that opening gives."""
    with pytest.raises(ImageError) as error:
        open_image(source)
    return str(error.value)


def test_a_zip_member_opens_and_a_wrong_one_is_named(tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", png())
        archive.writestr("cat/text.png", b"hello")
    assert_array_equal(np.asarray(open_image(ZippedImage(str(path), "cat/1.png"))), PIXELS)
    message = refusal(ZippedImage(str(path), "cat/2.png"))
    assert message.startswith(f"{path}/cat/2.png: cannot be read")
    assert refusal(ZippedImage(str(path), "cat/text.png")).startswith(f"{path}/cat/text.png: not an image")
    assert refusal(ZippedImage(str(tmp_path / "no.zip"), "1.png")) == f"{tmp_path}/no.zip/1.png: no such file"
    path.write_bytes(b"PK no zip")
    assert "cannot be read (File is not a zip file)" in refusal(ZippedImage(str(path), "cat/1.png"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_member_is_an_image_error_whatever_its_compression(method, tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("1.png", png())
    data = bytearray(path.read_bytes())
    start = 30 + len("1.png")
    data[start + 4 : start + 40] = bytes(b ^ 0xA5 for b in data[start + 4 : start + 40])
    path.write_bytes(data)
    assert f"{path}/1.png: cannot be read" in refusal(ZippedImage(str(path), "1.png"))


def test_an_encrypted_zip_member_is_an_image_error(tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.png", b"secret")
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refusal(ZippedImage(str(path), "1.png"))
