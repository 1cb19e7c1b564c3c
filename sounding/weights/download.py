"""Downloads of published weights: resumed by range, checked, never half a file under the final name.

A publisher's SHA-256 and size are checked where they are known. Otherwise the checksum that the hub sends with a file
is (SHA-256 of large files, Git's hash of small ones); without one, the file must at least be whole and of its kind.

Written by hand, although huggingface_hub is installed: its newer releases delete the part of a file when a run ends
early, it compares lengths rather than checksums after a transfer, and Meta's SAM files are not on the hub.

Mirrors: `HF_ENDPOINT` takes the place of https://huggingface.co (as in huggingface_hub); `SOUNDING_MIRROR` stands
before everything: with it, https://host/path is asked for as SOUNDING_MIRROR/host/path.
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..utils.files import is_full
from .transfer import BROKEN, CHUNK, FetchError, OnBytes, go_on, said

HUB = "https://huggingface.co"
TRIES = 5
MOST_WEIGHTS, MOST_TEXT = 16 * 2**30, 64 * 2**20  # bytes of files whose size nobody states
TEXTS = (".json", ".txt")


@dataclass(frozen=True)
class File:
    """One file: its address, its name in the folder, and its SHA-256 and size where they are known.

    `instead` is an address to try where the first does not exist (older uploads have .bin, newer .safetensors).
    """

    url: str
    path: str
    sha256: str = ""
    instead: tuple[str, str] | None = None  # (url, path)
    size: int = 0  # bytes; 0 is unknown

    def address(self) -> str:
        """The URL with the mirrors of the environment."""
        return mirrored(self.url)


@dataclass(frozen=True)
class Entry:
    """One set of weights to fetch; `size` is approximate, in bytes."""

    name: str
    what: str
    licence: str
    size: int
    files: tuple[File, ...]

    @property
    def checked_by(self) -> str:
        """How the files are verified."""
        return "SHA-256" if all(file.sha256 for file in self.files) else "the hub's word and the format"


def mirrored(url: str) -> str:
    """`url` by way of `HF_ENDPOINT` or `SOUNDING_MIRROR`, if they are set."""
    endpoint, mirror = os.environ.get("HF_ENDPOINT", ""), os.environ.get("SOUNDING_MIRROR", "")
    if endpoint and url.startswith(f"{HUB}/"):
        return endpoint.rstrip("/") + url.removeprefix(HUB)
    return f"{mirror.rstrip('/')}/{url.partition('://')[2]}" if mirror else url


def _hub(repository: str, *paths: str) -> tuple[File, ...]:
    """Files of a hub repository; a path without suffix is weights, as .safetensors or else .bin."""
    files = []
    for path in paths:
        url = f"{HUB}/{repository}/resolve/main/{path}"
        if "." in Path(path).name:
            files.append(File(url, path))
        else:
            legacy = (
                path.removesuffix("model") + "pytorch_model" if path.endswith("/model") or path == "model" else path
            )
            old = f"{HUB}/{repository}/resolve/main/{legacy}.bin"
            files.append(File(f"{url}.safetensors", f"{path}.safetensors", instead=(old, f"{legacy}.bin")))
    return tuple(files)


TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_AUDIOLDM = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER),
    *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder", "vocoder")),
    *(f"{part}/diffusion_pytorch_model" for part in ("unet", "vae")),
    *(f"{part}/model" for part in ("text_encoder", "vocoder")),
)
_CLAP = "laion/clap-htsat-unfused"
_SAM = "https://dl.fbaipublicfiles.com/segment_anything"


def _clip(name: str, size: str, repository: str, length: int) -> Entry:
    return Entry(name, f"CLIP {size} by OpenAI", "MIT", length, _hub(repository, "config.json", "model"))


def _sam(size: str, tag: str, length: int, sha256: str) -> Entry:
    name = f"sam_vit_{size}_{tag}.pth"
    file = File(f"{_SAM}/{name}", name, sha256, size=length)
    return Entry(f"sam-{size}", f"Segment Anything ViT-{size.upper()}", "Apache-2.0", length, (file,))


NC = "CC-BY-NC-SA-4.0"
CATALOGUE = (
    Entry("audioldm-s", "AudioLDM small, full, v2", NC, 1_700_000_000, _hub("cvssp/audioldm-s-full-v2", *_AUDIOLDM)),
    Entry("audioldm-m", "AudioLDM medium, full", NC, 2_600_000_000, _hub("cvssp/audioldm-m-full", *_AUDIOLDM)),
    Entry("audioldm-l", "AudioLDM large, full", NC, 3_900_000_000, _hub("cvssp/audioldm-l-full", *_AUDIOLDM)),
    _clip("clip-b32", "ViT-B/32", "openai/clip-vit-base-patch32", 605_000_000),
    _clip("clip-b16", "ViT-B/16", "openai/clip-vit-base-patch16", 599_000_000),
    _clip("clip-l14", "ViT-L/14", "openai/clip-vit-large-patch14", 1_710_000_000),
    Entry(
        "clap",
        "CLAP by LAION, HTSAT-tiny, not fused",
        "Apache-2.0",
        620_000_000,
        _hub(_CLAP, "config.json", "preprocessor_config.json", "model", *TOKENIZER),
    ),
    Entry("clap-tokenizer", "CLAP's tokenizer (RoBERTa)", "Apache-2.0", 4_000_000, _hub(_CLAP, *TOKENIZER)),
    Entry(
        "clap-630k",
        "CLAP by LAION, 630k + AudioSet",
        "CC0-1.0",
        1_900_000_000,
        _hub("lukewys/laion_clap", "630k-audioset-best.pt"),
    ),
    Entry(
        "clap-music",
        "CLAP by LAION, music + AudioSet, HTSAT-base",
        "CC0-1.0",
        2_400_000_000,
        (
            File(
                f"{HUB}/lukewys/laion_clap/resolve/main/music_audioset_epoch_15_esc_90.14.pt",
                "music_audioset_epoch_15_esc_90.14.pt",
                "fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
            ),
        ),
    ),
    _sam("b", "01ec64", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _sam("l", "0b3195", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _sam("h", "4b8939", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
)


# AudioLDM and CLIP, which together sound a masked object without training, and where they go if no place is named.
RECOMMENDED = ("audioldm-s", "clip-b32")
FOLDER = Path("weights")


def recommended_licence() -> str:
    """The licences of the recommended weights, for the header of what is made from them."""
    return "; ".join(f"{entry.what}: {entry.licence}" for entry in map(find, RECOMMENDED))


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        FetchError: there is none; lists what there is.
    """
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    raise FetchError(f"name is {name!r}, but one of {', '.join(entry.name for entry in CATALOGUE)} is expected.")


def download(file: File, folder: Path, on_bytes: OnBytes | None = None) -> Path:
    """Bring one file into `folder`; a part left by an earlier try is continued, a whole file is left alone.

    Args:
        file: what to fetch.
        folder: made if it is not there.
        on_bytes: progress, `on_bytes(have, total)`; may raise to cancel, what is there stays for the next try.

    Raises:
        FetchError: no connection after several tries, no such file, not the file that is expected, a full disk.
    """
    choices = [(file.url, file.path), *([file.instead] if file.instead else [])]
    for _, path in choices:
        target = folder / path
        if target.is_file() and trouble(target, file.size, file.sha256) is None:
            return target
    for position, (url, path) in enumerate(choices):
        target, address = folder / path, mirrored(url)
        try:
            return _try_all(address, target, file, on_bytes)
        except urllib.error.HTTPError as error:
            if error.code == 404 and position + 1 < len(choices):
                continue
            raise FetchError(
                f"{address} answers {error.code} ({said(error.reason)}); check the address, or set a mirror "
                "(HF_ENDPOINT)."
            ) from None
        except OSError as error:
            if is_full(error):
                raise FetchError(
                    f"The disk of {target.parent} is full; make room and say the same again, it goes on where it "
                    "stopped, or name another folder with --to."
                ) from None
            raise FetchError(f"{target} cannot be written ({error.strerror or error}); name another folder.") from None
    raise AssertionError("every choice returns or raises")


def _try_all(url: str, target: Path, file: File, on_bytes: OnBytes | None) -> Path:
    """Several tries, each going on where the last stopped."""
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    most = file.size or (MOST_TEXT if target.suffix in TEXTS else MOST_WEIGHTS)
    failure: Exception | None = None
    for _ in range(TRIES):
        resumed = part.exists()
        try:
            stated = go_on(url, part, most, on_bytes)
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise
            failure = error
        except BROKEN as error:
            failure = error
        else:
            wrong = trouble(part, file.size, file.sha256 or stated, target.suffix)
            if wrong is None:
                part.replace(target)
                return target
            part.unlink()
            if not resumed:
                raise FetchError(
                    f"{url} {wrong}; it was damaged on the way or replaced, so it was deleted: try again, or another "
                    "mirror."
                )
            failure = ConnectionError("what was there before did not fit")  # from the beginning
    raise FetchError(
        f"{url} broke off {TRIES} times ({said(getattr(failure, 'reason', failure))}); check the connection and say "
        "the same again, it goes on where it stopped."
    )


def trouble(path: Path, size: int = 0, checksum: str = "", suffix: str | None = None) -> str | None:
    """What is wrong with a downloaded file, or None.

    Args:
        size: in bytes, if it is known.
        checksum: SHA-256, or the 40 digits of Git's hash; without it the file must be whole and of its kind.
        suffix: of its name, by which its kind is told.
    """
    have = path.stat().st_size
    if size and have != size:
        return f"has {have} bytes, but {size} are expected"
    if checksum:
        found = _digest(path, git=len(checksum) == 40)
        if found != checksum:
            return f"has {'SHA-256' if len(checksum) == 64 else 'hash'} {found}, but {checksum} is expected"
        return None
    return _ill_formed(path, (suffix or path.suffix).lower(), have)


def _ill_formed(path: Path, suffix: str, size: int) -> str | None:
    """What shows that a file is not a whole one of its kind."""
    with path.open("rb") as file:
        start = file.read(512)
        if not start:
            return "is empty"
        if start.lstrip()[:1] == b"<" or start.startswith(b"version https://git-lfs"):
            return "is a page or a pointer instead of the file itself"
        if suffix in TEXTS:
            try:
                text = (start + file.read(MOST_TEXT)).decode()
                if suffix == ".json":
                    json.loads(text)
            except (ValueError, RecursionError):
                return "is not whole, or not the text that is expected"
        elif suffix == ".safetensors":
            length = int.from_bytes(start[:8], "little")
            try:
                file.seek(8)
                header = json.loads(file.read(min(length, MOST_TEXT)))
                ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            except (ValueError, RecursionError, AttributeError, LookupError, TypeError):
                return "is not a .safetensors file"
            if not ends or not all(isinstance(end, int) for end in ends) or size != 8 + length + max(ends):
                return "is not whole"
        elif suffix in (".bin", ".pt", ".pth", ".ckpt"):
            zipped = start.startswith(b"PK\x03\x04")
            if (zipped and not zipfile.is_zipfile(path)) or not (zipped or start.startswith(b"\x80")):
                return "is not whole, or not a file of PyTorch's"
    return None


def _digest(path: Path, *, git: bool = False) -> str:
    """SHA-256 of a file, or the hash that Git gives it."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False) if git else hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()
