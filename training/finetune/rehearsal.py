"""Rehearsal objects: a small copy of what the starter was trained on, so that it can be taught more without forgetting.

    python -m training starter rehearsal-items --data data/starter/train --out models/starter-objects.zip

writes a zip of a folder of objects with one smaller image (WebP) and the first seconds of one recording (Ogg Vorbis) of
each. It depends on the data alone, not on a checkpoint. Licences are those of the data, in the manifest.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from PIL import Image

from sounding.audio.files import read_audio
from sounding.checkpoint import boxed_path
from sounding.images.decoding import open_image
from sounding.utils.files import FullDiskError, replacing, write_atomic

from ..data.object_set import ObjectSet, read_manifest
from ..data.shard_format import SAMPLE_RATE
from .objects import Picture, TaughtObject

FILE = "starter-objects.zip"  # beside the starter
SIDE = 160  # of images; in scenes they have 64 to 270
SECONDS = 4.0
MOST_ALL = 500_000_000  # bytes, of all of them together
MOST_BYTES = 20_000_000  # of an unpacked member: a zip from elsewhere may pretend to be small


def pack(data: Path, out: Path) -> int:
    """Write the small copy of a folder of objects and return its size in bytes."""
    import soundfile

    stamps = read_manifest(data)
    rows = []
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for stamp in stamps:
            picture, sound = io.BytesIO(), io.BytesIO()
            image = open_image(data / stamp.image).convert("RGBA")
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            image.save(picture, "WEBP", quality=55, alpha_quality=60, method=6)
            waveform = read_audio(data / stamp.audio, SAMPLE_RATE)[: round(SECONDS * SAMPLE_RATE)].numpy()
            soundfile.write(sound, waveform, SAMPLE_RATE, format="OGG", subtype="VORBIS", compression_level=0.75)
            row = vars(stamp) | {"image": f"image/{stamp.label:03}.webp", "audio": f"audio/{stamp.label:03}.ogg"}
            alone: dict[str, object] = {"mask": "", "images": (), "recordings": ()}
            rows.append(row | alone | {"seconds": round(len(waveform) / SAMPLE_RATE, 3)})
            archive.writestr(rows[-1]["image"], picture.getvalue())
            archive.writestr(rows[-1]["audio"], sound.getvalue())
        archive.writestr("manifest.json", json.dumps(rows, separators=(",", ":")))
    return out.stat().st_size


def unpack(archive: Path, folder: Path) -> None:
    """The stamps folder out of `pack`'s zip; its manifest comes last, so that half of it is never taken for the whole.

    Raises:
        ValueError: another kind of file.
        OSError: the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
            wanted = [*(name for name in names if name.startswith(("image/", "audio/"))), "manifest.json"]
            sizes = [opened.getinfo(name).file_size for name in wanted]
            foreign = set(names) - set(wanted) or any(".." in Path(name).parts for name in names)
            if foreign or max(sizes) > MOST_BYTES or sum(sizes) > MOST_ALL:
                raise ValueError("it has files of another kind")
            for name in wanted:
                data = opened.read(name)
                try:
                    write_atomic(folder / name, data)
                except OSError as error:
                    why = "the disk is full" if isinstance(error, FullDiskError) else error.strerror or error
                    raise _Unwritable(error.errno, f"{folder} cannot be written ({why}); free some space or "
                                      "mend the folder, then run the same command again.") from None  # fmt: skip
    except _Unwritable as error:
        raise OSError(error.strerror) from None
    except Exception as error:  # broken archives raise many kinds
        raise ValueError(
            f"{archive} is no file of known objects ({error}); get it again with the pack, or give --rehearse none."
        ) from None


class _Unwritable(OSError):
    """The folder's fault, not the archive's."""


def starter_objects() -> Path:
    """The file beside the starter.

    Raises:
        ValueError: it is not there.
    """
    path = boxed_path().with_name(FILE)
    if not path.is_file():
        raise ValueError(
            f"{path} is missing, but what the starter knows is kept by it; get it with the pack, give --rehearse a "
            "stamps folder, or --rehearse none to let the model forget."
        )
    return path


def as_objects(stamps: ObjectSet) -> list[TaughtObject]:
    """An object set's objects, with all images and recordings."""
    return [
        TaughtObject(
            entry.name,
            entry.all_captions,
            tuple(Picture(image, cut=True, masked=True) for image in images),
            tuple(sounds),
            entry.licence,
        )
        for entry, images, sounds in zip(stamps.entries, stamps.images, stamps.sounds, strict=True)
    ]
