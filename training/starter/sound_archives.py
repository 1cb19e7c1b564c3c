"""Recordings and images that lie inside of other files: what games and educational programs pack them into.

A path with `!` in it names a member of an archive, `FILE!MEMBER`:

- `.zip` (0 A.D.), `.sh3f` (Sweet Home 3D): the member's path
- `.rcc` (Qt's binary resources, GCompris): the resource's path
- `.cat` (OpenTTD's sound sets): the sound's number
- `.json` (Iconify's icon sets): the drawing's name; what is read is an SVG file
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from ..data.shard_format import read_json

MOST_MEMBER = 1 << 26  # bytes of a member
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"  # the namespaces of SVG files
ICON_SIDE = 16  # an icon's width and height where its set tells none, as Iconify has it
COMPRESSED, DIRECTORY = 1, 2  # flags of a Qt resource


def read_packed(root: Path, path: str) -> bytes:
    """The bytes of a file under `root`, or of a member of an archive there.

    Raises:
        FileNotFoundError: there is no such file or member.
        ValueError: the archive is damaged, of a kind that is not known, or the member is larger than 64 MiB.
    """
    outer, _, member = path.partition("!")
    file = below(root, outer)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing.")
    if not member:
        _check_size(file.stat().st_size, path)
        return file.read_bytes()
    readers = {
        ".zip": _from_zip,
        ".sh3f": _from_zip,
        ".rcc": _from_resources,
        ".cat": _from_sound_set,
        ".json": _from_icon_set,
    }
    if file.suffix not in readers:
        raise ValueError(f"{file} is no archive that can be read; {', '.join(readers)} are.")
    try:
        return readers[file.suffix](file, member)
    except KeyError:
        raise FileNotFoundError(f"{file} has no {member[:200]!r}; another version of the package may have.") from None
    except (
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        UnicodeDecodeError,
        NotImplementedError,  # zipfile's for compression that it does not know
        RuntimeError,  # and for members with a password
    ) as error:
        raise ValueError(f"{file} is damaged ({error}); unpack the package again.") from None


def below(root: Path, path: str) -> Path:
    """A file below `root`.

    Raises:
        ValueError: the path is absolute, or leads out by `..`.
    """
    parts = PurePath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{path[:200]!r} leads out of {root}, but a path below it is expected; mend the table.")
    return root / parts


def _check_size(size: int, name: str) -> None:
    if size > MOST_MEMBER:
        raise ValueError(f"{name[:200]} has {size} bytes, but at most {MOST_MEMBER} are expected.")


def _from_zip(file: Path, member: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo(member)
        _check_size(info.file_size, member)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are inflated without bounds
            raise NotImplementedError("neither stored nor deflated")
        with archive.open(info) as opened:
            return opened.read(MOST_MEMBER)  # without a number all is inflated, whatever size the header states


def _from_icon_set(file: Path, member: str) -> bytes:
    """Iconify's format: per name what stands inside the SVG file, with its size unless all are of one size."""
    try:
        content = read_json(file, MOST_MEMBER)
        icon = content["icons"][member]
        width, height = (float(icon.get(side, content.get(side, ICON_SIDE))) for side in ("width", "height"))
        start = f'<svg xmlns="{SVG}" xmlns:xlink="{XLINK}" viewBox="0 0 {width:g} {height:g}">'
        return f"{start}{icon['body']}</svg>".encode()
    except (TypeError, AttributeError, ValueError) as error:
        raise struct.error(f"no icon set, {type(error).__name__}") from None


@contextmanager
def _mapped(file: Path) -> Iterator[mmap.mmap]:
    """An archive of any size, of which only what is looked at is in memory."""
    if not file.stat().st_size:
        raise struct.error("it is empty")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _from_sound_set(file: Path, member: str) -> bytes:
    """OpenTTD's format: 32-bit pairs of offset and size, then at each offset a name with its length, and a WAV file."""
    with _mapped(file) as data:
        return _sound_of(data, member)


def _sound_of(data: mmap.mmap, member: str) -> bytes:
    count = (struct.unpack_from("<I", data)[0] & 0x7FFF_FFFF) // 8
    if not member.isdecimal() or int(member) >= count:
        raise KeyError(member)
    start, size = struct.unpack_from("<II", data, 8 * int(member))
    _check_size(size, member)
    start = (start & 0x7FFF_FFFF) + 1 + struct.unpack_from("<B", data, start & 0x7FFF_FFFF)[0]
    return data[start : start + size]


def _from_resources(file: Path, member: str) -> bytes:
    """Qt's format, versions 1 to 3: a tree of nodes, names in UTF-16, and data with their lengths; all big-endian."""
    with _mapped(file) as data:
        return _resource_of(data, member)


def _resource_of(data: mmap.mmap, member: str) -> bytes:
    magic, version, tree, contents, names = struct.unpack_from(">4s4I", data)
    if magic != b"qres":
        raise struct.error("no Qt resources")
    node_size = 14 if version == 1 else 22

    def is_called(child: int, name: bytes) -> bool:
        at = names + struct.unpack_from(">I", data, child)[0]
        length = 2 * struct.unpack_from(">H", data, at)[0]
        return length == len(name) and data[at + 6 : at + 6 + length] == name

    node = tree
    for part in member.split("/"):
        _, flags, count, first = struct.unpack_from(">IHII", data, node)
        if not flags & DIRECTORY:
            raise KeyError(member)
        children = (tree + node_size * (first + n) for n in range(count))
        found = (child for child in children if is_called(child, part.encode("utf-16-be", "surrogatepass")))
        node = next(found, 0)
        if not node:
            raise KeyError(member)
    _, flags, _, offset = struct.unpack_from(">IHII", data, node)
    if flags & ~COMPRESSED:  # a folder, or compressed by Zstandard
        raise KeyError(member)
    size = struct.unpack_from(">I", data, contents + offset)[0]
    _check_size(size, member)
    found_bytes = data[contents + offset + 4 : contents + offset + 4 + size]
    if flags & COMPRESSED:
        _check_size(struct.unpack_from(">I", found_bytes)[0], member)
        return zlib.decompressobj().decompress(found_bytes[4:], MOST_MEMBER)
    return found_bytes
