"""One reader of pictures and masks: every mode means what it shows, and what is broken or too large is one sentence."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sounding.cli.app import app
from sounding.images.decoding import open_image, open_mask, read_pixels
from sounding.images.files import read_image, read_mask, write_image
from sounding.images.opening import FORMATS, MAX_PIXELS

LEVELS = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
GREY = LEVELS / 255
PLAIN = Image.fromarray(LEVELS)
SIXTEEN = LEVELS.astype(np.uint16) * 257


def big_endian() -> Image.Image:
    return Image.frombytes("I;16B", (60, 40), SIXTEEN.astype(">u2").tobytes())


def lab() -> Image.Image:
    return Image.fromarray(np.stack([LEVELS, *np.zeros((2, 40, 60), np.uint8)], axis=-1), "LAB")


MODES: list[tuple[str, Image.Image, str, dict[str, Any], float]] = [
    ("a.png", PLAIN, "L", {}, 1e-6),
    ("a.png", PLAIN.convert("RGB"), "RGB", {}, 1e-6),
    ("a.png", PLAIN.convert("RGBA"), "RGBA", {}, 1e-6),
    ("a.png", PLAIN.convert("LA"), "LA", {}, 1e-6),
    ("a.png", PLAIN.convert("P"), "P", {}, 1e-6),
    ("a.png", Image.fromarray(SIXTEEN), "I;16", {}, 1e-6),
    ("a.tif", Image.fromarray(SIXTEEN), "I;16", {}, 1e-6),
    ("a.tif", big_endian(), "I;16B", {}, 1e-6),
    ("a.tif", Image.fromarray(SIXTEEN.astype(np.int32)), "I", {}, 1e-6),
    ("a.tif", Image.fromarray(LEVELS.astype(np.int32) * 8421504), "I", {}, 1e-5),  # 2^31 / 255
    ("a.pgm", Image.fromarray(SIXTEEN.astype(np.int32)), "I", {}, 1e-6),
    ("a.tif", Image.fromarray(GREY.astype(np.float32)), "F", {}, 1e-6),
    ("a.tif", Image.fromarray((GREY * 1.002 - 0.001).astype(np.float32)), "F", {}, 2e-3),
    ("a.tif", Image.fromarray(LEVELS.astype(np.float32)), "F", {}, 1e-6),
    ("a.tif", Image.fromarray(SIXTEEN.astype(np.float32)), "F", {}, 1e-6),
    ("a.pfm", Image.fromarray(GREY.astype(np.float32)), "F", {}, 1e-6),
    ("a.tif", PLAIN.convert("RGB").convert("CMYK"), "CMYK", {}, 1e-6),
    ("a.tif", PLAIN.convert("RGB").convert("YCbCr"), "YCbCr", {}, 0.005),
    ("a.tif", lab(), "LAB", {}, 0.04),  # a grey's lightness is near, not equal, to its sRGB level
    ("a.webp", PLAIN.convert("RGB"), "RGB", {"lossless": True}, 1e-6),
    ("a.bmp", PLAIN, "L", {}, 1e-6),
    ("a.gif", PLAIN, "L", {}, 1e-6),
    ("a.tga", PLAIN, "L", {}, 1e-6),
    ("a.qoi", PLAIN.convert("RGB"), "RGB", {}, 1e-6),
]


@pytest.mark.parametrize(("name", "image", "mode", "options", "close"), MODES)
def test_every_mode_shows_the_same_picture(
    name: str, image: Image.Image, mode: str, options: dict[str, Any], close: float, tmp_path: Path
) -> None:
    path = tmp_path / name
    image.save(path, **options)
    with Image.open(path) as file:
        assert file.mode == mode
    shown, mask = read_image(path), read_mask(path)
    assert shown.shape == (1, 40, 60, 3)
    assert shown.dtype == mask.dtype == torch.float32
    np.testing.assert_allclose(shown[0].numpy(), np.repeat(GREY[..., None], 3, axis=2), atol=close)
    np.testing.assert_allclose(mask[0].numpy(), GREY, atol=close)
    np.testing.assert_allclose(np.asarray(open_mask(path)) / 255, GREY, atol=close + 0.002)
    assert open_image(path).mode in ("L", "RGB", "RGBA")


@pytest.mark.parametrize("mode", ["1", "HSV", "La", "RGBa", "PA", "RGBX", "I;16L"])
def test_modes_that_few_files_have(mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing writes them, but readers of other formats, and of other Pillows, give them."""
    via = {"La": "LA", "RGBa": "RGBA", "PA": "LA", "HSV": "RGB"}.get(mode)
    image = PLAIN.convert(via).convert(mode) if via else PLAIN.convert("I").convert(mode)
    image = PLAIN.convert("RGB").convert(mode) if mode == "RGBX" else image
    if mode == "I;16L":
        image = Image.frombytes("I;16L", (60, 40), SIXTEEN.astype("<u2").tobytes())
    expected = np.asarray(PLAIN.convert("1")) if mode == "1" else GREY
    PLAIN.save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", lambda *_, **__: image.copy())
    np.testing.assert_allclose(read_mask(tmp_path / "a.png")[0].numpy(), expected, atol=0.01)
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[0, ..., 1].numpy(), expected, atol=0.01)


@pytest.mark.parametrize(
    ("image", "clear"),
    [
        (PLAIN, 5),
        (PLAIN.convert("RGB"), (5, 5, 5)),
        (Image.fromarray(SIXTEEN), 5 * 257),
        (PLAIN.convert("P"), 5),
    ],
)
def test_one_transparent_colour_is_laid_on_white_and_not_selected(
    image: Image.Image, clear: Any, tmp_path: Path
) -> None:
    image.save(tmp_path / "a.png", transparency=clear)
    free = LEVELS == 5
    assert free.any()
    shown = read_image(tmp_path / "a.png")[0].numpy()
    np.testing.assert_allclose(shown[..., 0], np.where(free, 1, GREY), atol=1e-6)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png")[0].numpy(), ~free)
    np.testing.assert_array_equal(np.asarray(open_mask(tmp_path / "a.png")), 255 * ~free)
    np.testing.assert_allclose(read_pixels(tmp_path / "a.png", white_behind=False)[..., 0], GREY, atol=1e-6)


def test_half_transparent_colours_are_blended(tmp_path: Path) -> None:
    picture = PLAIN.convert("RGB")
    picture.putalpha(PLAIN.transpose(Image.Transpose.ROTATE_180))
    picture.save(tmp_path / "a.webp", lossless=True, exact=True)
    alpha = GREY[::-1, ::-1]
    np.testing.assert_allclose(read_image(tmp_path / "a.webp")[0, ..., 2].numpy(), GREY * alpha + 1 - alpha, atol=1e-6)
    np.testing.assert_allclose(read_mask(tmp_path / "a.webp")[0].numpy(), alpha, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.png", PLAIN),
        ("a.webp", PLAIN.convert("RGB")),
        ("a.tif", PLAIN),
        ("a.tif", big_endian()),
        ("a.tif", Image.fromarray(SIXTEEN)),
        ("a.tif", Image.fromarray(GREY.astype(np.float32))),
    ],
)
def test_pictures_are_turned_as_exif_says(name: str, image: Image.Image, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name.endswith("webp") else {}
    image.save(tmp_path / name, exif=exif, **options)
    # Row 0 and column 0 of the file, by the EXIF standard: top and left, top and right, bottom and right ...
    turned = {
        1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1],
        5: GREY.T, 6: np.rot90(GREY, -1), 7: GREY[::-1, ::-1].T, 8: np.rot90(GREY),
    }[orientation]  # fmt: skip
    np.testing.assert_allclose(read_mask(tmp_path / name)[0].numpy(), turned, atol=1e-6)


def test_animations_show_their_first_frame(tmp_path: Path) -> None:
    second = Image.new("L", PLAIN.size)
    for name, options in {"a.gif": {}, "a.webp": {"lossless": True}, "a.png": {}, "a.tif": {}}.items():
        PLAIN.convert("RGB").quantize(256).convert("RGB").save(
            tmp_path / name, save_all=True, append_images=[second.convert("RGB")], **options
        )
        assert read_image(tmp_path / name).mean() == pytest.approx(GREY.mean(), abs=0.02)


def broken_exif(kind: str) -> bytes:
    """A picture with an EXIF block whose first entry lies beyond its end."""
    exif = (
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\xff\xff\xff\xff\xff\xff\xff\xff\x87\x69\0\x04\0\0\0\x01\0\0\0\x08"
    )
    file = io.BytesIO()
    PLAIN.convert("RGB").save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_broken_exif_does_not_keep_a_picture_from_being_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(broken_exif(kind))
    assert read_image(path)[0].mean() == pytest.approx(GREY.mean(), abs=0.02)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_pictures_of_every_format_are_one_sentence() -> None:
    """Cut, changed and filled at random, seeded: they are read or refused with a ValueError, and nothing else."""
    rng = np.random.default_rng(7)
    whole = []
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    for kind, mode, options in (
        ("PNG", "RGBA", {"exif": exif}), ("PNG", "P", {"transparency": 3}), ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "CMYK", {}), ("WEBP", "RGB", {"exif": exif}), ("GIF", "P", {"save_all": True}), ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"exif": exif}), ("TIFF", "F", {}), ("AVIF", "RGB", {"exif": exif}), ("PPM", "RGB", {}),
        ("TGA", "RGBA", {"compression": "tga_rle"}), ("QOI", "RGB", {}), ("MPO", "RGB", {"save_all": True}),
    ):  # fmt: skip
        file = io.BytesIO()
        PLAIN.convert("RGB").convert(mode).save(file, kind, **options)
        whole.append(file.getvalue())
    refused = 0
    for number in range(420):
        data = bytearray(whole[number % len(whole)])
        for _ in range(int(rng.integers(1, 8))):
            at = int(len(data) * rng.random() ** 3)
            what = rng.integers(3)
            if what == 0:
                data[at : at + 4] = bytes(rng.choice([0, 1, 127, 128, 255], 4).tolist())
            elif what == 1:
                del data[at : at + int(rng.integers(1, 20))]
            elif rng.random() < 0.3:
                del data[max(16, at) :]
        for read in (read_pixels, open_mask):
            try:
                read(io.BytesIO(bytes(data)))
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error)  # noqa: PT017
                assert "The image" in str(error)  # noqa: PT017
    assert refused > 100


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is that large, and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8001, 8001), (13_000, 13_000), (20_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_told_from_the_header(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(*size))
    for read in (read_image, read_mask, open_image, open_mask):
        with pytest.raises(ValueError, match=r"a\.png has .* pixels, but at most 64,000,000 .* make it smaller"):
            read(tmp_path / "a.png")
    assert MAX_PIXELS == 64_000_000


def test_other_formats_are_not_opened(tmp_path: Path) -> None:
    assert not {"EPS", "PSD", "WMF", "MPEG", "ICO", "PCD", "HDF5", "GRIB", "FITS"} & set(FORMATS)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    PLAIN.save(tmp_path / "b.png", "ICO")
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match=r"cannot be read as an image .*give a PNG, JPEG or WebP"):
            read_image(tmp_path / name)


def test_names_that_lead_to_no_ordinary_file_are_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    names = ["a\0b.png", "a\udcff\n\x1b[31m.png", "x" * 300, "none.png", "fifo.png", "loop.png", "", "huge.png"]
    for name in [*names, "/dev/zero"]:
        with pytest.raises(ValueError, match=r"cannot be read as an image \(|has 1,099,511,627,776 bytes") as error:
            read_mask(str(tmp_path / name) if name else str(tmp_path))
        str(error.value).encode()
        assert str(error.value).isprintable()


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match="no finite numbers"):
            read_mask(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ["png", "jpg", "JPEG", "webp", "gif", "bmp", "tif", "tiff"])
def test_the_ending_decides_what_is_written(ending: str, tmp_path: Path) -> None:
    picture = torch.linspace(0, 1, 64 * 48 * 3).reshape(48, 64, 3)
    write_image(tmp_path / f"a.{ending}", picture)
    with Image.open(tmp_path / f"a.{ending}") as file:
        assert file.format == {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
    torch.testing.assert_close(read_image(tmp_path / f"a.{ending}")[0], picture, atol=0.12, rtol=0)


def test_an_ending_that_is_not_written_is_told_before_the_work(tmp_path: Path) -> None:
    PLAIN.save(tmp_path / "a.png")
    for name in ("map.raw", "map", "map.psd"):
        with pytest.raises(ValueError, match=f"{name} ends in .*, but one of .png, .jpg"):
            write_image(tmp_path / name, torch.zeros(4, 4, 3))
        command = ["generate", "--image", str(tmp_path / "a.png"), "--out", str(tmp_path / "a.wav")]
        # A model that is not there would be told of next.
        result = CliRunner().invoke(app, [*command, "--attention-map", str(tmp_path / name), "--model", "none"])
        assert result.exit_code == 1
        assert "ends in" in result.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png"]
