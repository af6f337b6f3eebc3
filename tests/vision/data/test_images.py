"""Every kind of image file becomes the 8-bit RGB that it shows, or is refused for a stated reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pt_core.errors import DataError
from pt_vision.data.checks import check, check_all, check_head
from pt_vision.data.images import BadImage, colour, decode, from_array, to_rgb

RNG = np.random.default_rng(0)
RED_LEFT = np.zeros((20, 30, 3), np.uint8)
RED_LEFT[:, :10] = (255, 0, 0)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_grey_is_repeated(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (8, 9)).astype(np.uint8)
    pixels = np.asarray(decode(save(tmp_path / "a.png", Image.fromarray(values))))
    assert np.array_equal(pixels, np.repeat(values[..., None], 3, 2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_by_the_full_range_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 1000, 32768, 65535]], np.uint16)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(values))
    assert np.asarray(decode(path))[0, :, 0].tolist() == [0, 1, 4, 128, 255]
    assert np.asarray(Image.open(path).convert("L"))[0, 2] == 255  # the trap: Pillow clips


def test_16_bit_big_endian_and_32_bit_containers_read_the_same(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 65535]], np.uint16)
    big = Image.frombytes("I;16B", (3, 1), values.astype(">u2").tobytes())
    wide = Image.fromarray(values.astype(np.int32))
    assert (big.mode, wide.mode) == ("I;16B", "I")
    for image in (big, wide):
        assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 4, 255]
    with pytest.raises(BadImage, match=r"from -1 to 70000, outside 0\.\.65535"):
        to_rgb(Image.fromarray(np.array([[-1, 70000]], np.int32)))


def test_16_bit_colour_keeps_its_range() -> None:
    rows = b"".join(b"\0" + np.array([[0, 32768, 65535]], ">u2").tobytes() for _ in range(2))
    head = struct.pack(">IIBBBBB", 1, 2, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    assert np.asarray(decode(png))[0, 0].tolist() == [0, 128, 255]


def test_transparency_is_composited_on_the_background(tmp_path: Path) -> None:
    pixels = np.array([[[200, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    assert np.asarray(decode(path))[0].tolist() == [[200, 0, 0], [255, 255, 255], [127, 127, 127]]
    assert np.asarray(decode(path, colour("blue")))[0, 1].tolist() == [0, 0, 255]


def test_palette_and_grey_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    path = save(tmp_path / "p.png", palette, transparency=1)
    assert np.asarray(decode(path))[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    grey = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
    assert np.asarray(decode(save(tmp_path / "la.png", grey)))[0].tolist() == [[10] * 3, [255] * 3]


def test_cmyk_shows_the_same_colours(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(RED_LEFT).convert("CMYK"), quality=95)
    with Image.open(path) as stored:
        assert stored.mode == "CMYK"
    assert np.abs(np.asarray(decode(path)).astype(int) - RED_LEFT).mean() < 6


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    path = save(tmp_path / "a.jpg", Image.fromarray(RED_LEFT), exif=exif, quality=95)
    image = decode(path)
    assert image.size == (20, 30)
    assert np.asarray(image)[2, 10, 0] > 200  # what was left is now on top
    assert np.asarray(image)[27, 10, 0] < 50


def test_one_bit_and_float_images(tmp_path: Path) -> None:
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert np.asarray(decode(save(tmp_path / "b.png", bits)))[0, :, 0].tolist() == [0, 255]
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert np.asarray(decode(save(tmp_path / "f.tif", unit)))[0, :, 0].tolist() == [0, 128, 255]
    for values, words in (([[0.0, 300.0]], "from 0 to 300"), ([[0.0, np.nan]], "NaN")):
        with pytest.raises(BadImage, match=words):
            to_rgb(Image.fromarray(np.array(values, np.float32)))


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"this is no image at all", "not an image"),
        ("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ("missing.jpg", None, "does not exist"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImage, match=f"^{reason}$"):
        decode(path)
    assert check(path).problem == check_head(path).problem == reason


def test_a_truncated_image_is_bad_but_its_head_is_not(tmp_path: Path, jpeg: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[: len(jpeg) // 2])
    assert check(path).problem == "truncated"
    assert check_head(path).problem is None


def test_damaged_png_data_are_bad(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8)))
    content = bytearray(path.read_bytes())
    content[200:260] = b"\xff" * 60
    path.write_bytes(content)
    assert check(path).problem


@pytest.mark.parametrize("limit", [50, 99])
def test_more_pixels_than_the_limit_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    paths = [save(tmp_path / f"{i}.png", Image.new("L", (10, 20))) for i in range(3)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert [bool(look.problem and "limit" in look.problem) for look in check_all(paths, check)] == [True] * 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_holds_for_a_single_image_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (10, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 199)  # Pillow itself refuses from twice the limit on
    with pytest.raises(BadImage, match="200 pixels, more than the limit of 199"):
        decode(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert decode(path).size == (10, 20)


def test_arrays_by_type_and_layout() -> None:
    colours = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    grey = colours[..., 0]
    assert np.array_equal(from_array(colours), colours)
    assert np.array_equal(from_array(grey), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(from_array(grey[..., None]), from_array(grey))
    assert np.array_equal(from_array(torch.as_tensor(colours).permute(2, 0, 1)), colours)
    assert np.array_equal(from_array(torch.as_tensor(colours).permute(2, 0, 1) / 255), colours)
    assert np.array_equal(from_array(colours.astype(np.uint16) * 257), colours)
    assert np.asarray(from_array(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]
    square = torch.zeros(3, 4, 3, dtype=torch.uint8)
    assert from_array(square).size == (3, 4)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4), np.int64), "type int64"),
        (np.zeros((2, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "shape"),
        (np.full((4, 4), 2.0), "outside 0..1"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(BadImage, match=words):
        from_array(array)


def test_the_caller_s_array_and_image_are_not_changed() -> None:
    pixels = RED_LEFT.copy()
    image = from_array(pixels)
    image.paste((9, 9, 9), (0, 0, 30, 20))
    given = Image.fromarray(RED_LEFT)
    decode(given).paste((9, 9, 9), (0, 0, 30, 20))
    assert np.array_equal(pixels, RED_LEFT)
    assert np.array_equal(np.asarray(given), RED_LEFT)


def test_digests_tell_pixels_from_files(tmp_path: Path) -> None:
    png = check(save(tmp_path / "a.png", Image.fromarray(RED_LEFT)))
    bmp = check(save(tmp_path / "a.bmp", Image.fromarray(RED_LEFT)))
    other = check(save(tmp_path / "b.png", Image.fromarray(RED_LEFT[::-1, ::-1])))
    assert png.pixels == bmp.pixels != other.pixels
    assert png.content != bmp.content
    tall, wide = (check(np.zeros(shape, np.uint8)) for shape in ((2, 8), (8, 2)))
    assert tall.pixels != wide.pixels


def test_an_unknown_background_is_named() -> None:
    with pytest.raises(DataError, match="--background 'whyte' is not a colour"):
        colour("whyte")
    assert colour("#102030") == (16, 32, 48)
