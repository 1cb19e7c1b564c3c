"""What a WAV file says beside its samples: a track's name, when it begins, and the graph that made it.

Three chunks, since programs read different ones: `bext` (EBU Tech 3285, the Broadcast Wave Format), `iXML` (names of
tracks, as field recorders write them) and `LIST INFO` (what players and FFmpeg show).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from xml.sax.saxutils import escape

BEXT = struct.Struct("<256s32s32s10s8sQH64s10s180s")  # EBU Tech 3285, version 2; the coding history follows
SOFTWARE = "Sounding Objects"
MAX_BYTES = 2**32 - 1  # of a RIFF file
NO_LOUDNESS = struct.pack("<5h", *[0x7FFF] * 5)  # EBU Tech 3285 supplement: values that say nothing


def with_chunks(wav: bytes, rate: int, channels: int, title: str, comment: str = "", offset: float = 0.0) -> bytes:
    """A RIFF WAV file with chunks that describe it, before its samples.

    Args:
        wav: the file.
        rate: its sampling rate in Hz.
        channels: how many it has.
        title: the track's name.
        comment: any text, such as JSON.
        offset: seconds after which the track begins, noted as the file's time reference.

    Raises:
        ValueError: it is not a RIFF WAV file, or becomes longer than one can be.
    """
    found = list(chunks(wav))
    described = [
        (b"bext", _bext(title, round(offset * rate))),
        (b"iXML", _ixml(title, channels)),
        (b"LIST", _info({b"INAM": title, b"ICMT": comment, b"ISFT": SOFTWARE})),
    ]
    before = [each for each in found if each[0] != b"data"]
    ordered = [*before, *described, *(each for each in found if each[0] == b"data")]
    body = b"WAVE" + b"".join(_chunk(kind, data) for kind, data in ordered)
    if len(body) > MAX_BYTES:
        raise ValueError(
            f"The sound takes {len(body)} bytes as a WAV file, but at most {MAX_BYTES} are possible; cut it, or write "
            ".flac."
        )
    return _chunk(b"RIFF", body)


def chunks(wav: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the data of each chunk of a RIFF WAV file, in order.

    Raises:
        ValueError: it is not one.
    """
    if wav[:4] != b"RIFF" or wav[8:12] != b"WAVE":
        raise ValueError(f"The file begins with {wav[:12]!r}, but RIFF and WAVE are expected; write it again.")
    place = 12
    while place + 8 <= len(wav):
        kind, size = wav[place : place + 4], int.from_bytes(wav[place + 4 : place + 8], "little")
        yield kind, wav[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _bext(title: str, samples: int) -> bytes:
    """Without a date: the same sound makes the same file."""
    name = title.encode("ascii", "replace")[:255]
    return BEXT.pack(name, SOFTWARE.encode(), b"", b"", b"", samples, 2, b"", NO_LOUDNESS, b"")


def _ixml(title: str, channels: int) -> bytes:
    sides = [title] if channels == 1 else [f"{title} {'LR'[n] if channels == 2 else n + 1}" for n in range(channels)]
    tracks = "".join(
        f"<TRACK><CHANNEL_INDEX>{n}</CHANNEL_INDEX><INTERLEAVE_INDEX>{n}</INTERLEAVE_INDEX>"
        f"<NAME>{escape(_plain(side))}</NAME></TRACK>"
        for n, side in enumerate(sides, start=1)
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<BWFXML><IXML_VERSION>1.61</IXML_VERSION><PROJECT>{SOFTWARE}</PROJECT>"
        f"<TRACK_LIST><TRACK_COUNT>{channels}</TRACK_COUNT>{tracks}</TRACK_LIST></BWFXML>"
    )
    return text.encode()


def _info(texts: dict[bytes, str]) -> bytes:
    said = {kind: text.encode(errors="replace") for kind, text in texts.items() if text}  # of lone surrogates
    return b"INFO" + b"".join(_chunk(kind, text + b"\0") for kind, text in said.items())


def _plain(text: str) -> str:
    """Without what XML does not allow."""
    return "".join(letter for letter in text if letter.isprintable())
