"""Comments of any names in FLAC and Ogg Vorbis files, where libsndfile writes a few certain ones alone.

The forms are those of RFC 9639 (FLAC), RFC 3533 (Ogg) and the Vorbis I specification. The sound is copied as it is.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

COMMENT = 4  # kind of a FLAC metadata block
LAST = 0x80  # its flag
MAX_BLOCK = 2**24 - 1  # bytes
PAGE = struct.Struct("<4sBBqIIIB")  # of Ogg, before the lengths of its segments
SEGMENTS, SEGMENT = 255, 255  # of a page at most, and bytes of one that goes on
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def with_comments(data: bytes, comments: Mapping[str, str]) -> bytes:
    """A FLAC or Ogg Vorbis file with these comments in place of those that it has.

    Raises:
        ValueError: the file is of another kind, or see `check_comments`.
    """
    if data[:4] == b"fLaC":
        check_comments(comments)
        return _with_block(data, _packed(comments))
    if data[:4] == b"OggS" and data[PAGE.size + 1 :].startswith(b"\x01vorbis"):
        return _with_packet(data, b"\x03vorbis" + _packed(comments) + b"\x01")
    raise ValueError(f"The file begins with {data[:4]!r}, but fLaC or OggS with Vorbis in it is expected.")


def check_comments(comments: Mapping[str, str]) -> None:
    """Whether a FLAC file takes these comments, to be asked before long work.

    Raises:
        ValueError: they are too long.
    """
    if (size := len(_packed(comments))) > MAX_BLOCK:
        raise ValueError(
            f"The comments, such as the workflow, take {size} bytes, but a FLAC file takes at most {MAX_BLOCK}; save "
            "as WAV or OGG."
        )


def _packed(comments: Mapping[str, str]) -> bytes:
    packed = [_string("Sounding Objects"), struct.pack("<I", len(comments))]
    for name, text in comments.items():
        line = _string(f"{name}={text}")
        # ComfyUI's page takes the last brace before a zero byte for the end of the JSON that came before this length.
        packed.append(_string(f"{name}={text} ") if ord("}") in line[:4] else line)
    return b"".join(packed)


def _string(text: str) -> bytes:
    data = text.encode(errors="replace")  # of lone surrogates, which are no UTF-8
    return struct.pack("<I", len(data)) + data


def _with_block(data: bytes, comments: bytes) -> bytes:
    """A FLAC file with another block of comments, right after its description of the stream."""
    blocks, place, last = [], 4, False
    while not last:
        kind, size = data[place], int.from_bytes(data[place + 1 : place + 4], "big")
        last = bool(kind & LAST)
        blocks.append((kind & ~LAST, data[place + 4 : place + 4 + size]))
        place += 4 + size
    blocks = [each for each in blocks if each[0] != COMMENT]
    blocks.insert(1, (COMMENT, comments))
    heads = [kind | (LAST if n == len(blocks) else 0) for n, (kind, _) in enumerate(blocks, start=1)]
    written = [
        bytes([head]) + len(block).to_bytes(3, "big") + block for head, (_, block) in zip(heads, blocks, strict=True)
    ]
    return data[:4] + b"".join(written) + data[place:]


def _with_packet(data: bytes, comments: bytes) -> bytes:
    """An Ogg Vorbis file with another second packet; its third, the decoder's set-up, ends a page as well."""
    pages = _pages(data)
    packets: list[bytes] = []
    part, used = b"", 1
    while len(packets) < 2:
        _, lengths, body = pages[used]
        place = 0
        for length in lengths:
            part += body[place : place + length]
            place += length
            if length < SEGMENT:
                packets.append(part)
                part = b""
        used += 1
    serial = pages[0][0][4]
    segments = [
        packet[start : start + SEGMENT]
        for packet in (comments, packets[1])
        for start in range(0, len(packet) + 1, SEGMENT)
    ]
    rows = [segments[start : start + SEGMENTS] for start in range(0, len(segments), SEGMENTS)]
    written = [_page(pages[0][0], pages[0][1], pages[0][2], 0)]
    for number, row in enumerate(rows, start=1):
        goes_on = number > 1 and len(rows[number - 2][-1]) == SEGMENT
        ends = any(len(each) < SEGMENT for each in row)
        head = (b"OggS", 0, int(goes_on), 0 if ends else -1, serial)
        written.append(_page(head, bytes(map(len, row)), b"".join(row), number))
    for number, (head, lengths, body) in enumerate(pages[used:], start=len(written)):
        written.append(_page(head, lengths, body, number))
    return b"".join(written)


def _pages(data: bytes) -> list[tuple[tuple, bytes, bytes]]:
    """Head, lengths of segments and body of each page."""
    pages, place = [], 0
    while place < len(data):
        head = PAGE.unpack_from(data, place)
        start = place + PAGE.size
        lengths = data[start : start + head[7]]
        place = start + len(lengths) + sum(lengths)
        pages.append((head, lengths, data[start + len(lengths) : place]))
    return pages


def _page(head: tuple, lengths: bytes, body: bytes, number: int) -> bytes:
    unchecked = PAGE.pack(*head[:5], number, 0, len(lengths)) + lengths + body
    return unchecked[:22] + struct.pack("<I", _checksum(unchecked)) + unchecked[26:]


def _checksum(data: bytes) -> int:
    """RFC 3533's, which is zlib's with all bits mirrored, and neither begun nor ended with ones."""
    mirrored = zlib.crc32(data.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
