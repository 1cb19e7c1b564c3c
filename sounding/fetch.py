"""Downloads of published weights: resumed by range, checked by SHA-256, never half a file under the final name.

Mirrors: `HF_ENDPOINT` takes the place of https://huggingface.co (as in huggingface_hub); `SOUNDING_MIRROR` stands
before everything: with it, https://host/path is asked for as SOUNDING_MIRROR/host/path.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from .files import is_full

OnBytes = Callable[[int, int], None]
HUB = "https://huggingface.co"
TRIES = 5
CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte


class FetchError(ValueError):
    """A download that did not succeed; the message says what to do."""


@dataclass(frozen=True)
class File:
    """One file: where from, under what name in the folder, and its SHA-256 where its publisher states one.

    `instead` is an address to try where the first does not exist (older uploads have .bin, newer .safetensors).
    """

    url: str
    path: str
    sha256: str = ""
    instead: tuple[str, str] | None = None  # (url, path)

    def address(self) -> str:
        """The URL with the mirrors of the environment."""
        return mirrored(self.url)


@dataclass(frozen=True)
class Entry:
    """One thing to fetch. `size` is about, in bytes."""

    name: str
    what: str
    licence: str
    size: int
    files: tuple[File, ...]


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
_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_SAM = "https://dl.fbaipublicfiles.com/segment_anything"


def _openai(sha256: str, name: str) -> tuple[File, ...]:
    return (File(f"{_OPENAI}/{sha256}/{name}", name, sha256),)


NC = "CC-BY-NC-SA-4.0"
CATALOGUE = (
    Entry("audioldm-s", "AudioLDM small, full, v2", NC, 1_700_000_000, _hub("cvssp/audioldm-s-full-v2", *_AUDIOLDM)),
    Entry("audioldm-m", "AudioLDM medium, full", NC, 2_600_000_000, _hub("cvssp/audioldm-m-full", *_AUDIOLDM)),
    Entry("audioldm-l", "AudioLDM large, full", NC, 3_900_000_000, _hub("cvssp/audioldm-l-full", *_AUDIOLDM)),
    Entry(
        "clip-b32",
        "CLIP ViT-B/32 by OpenAI",
        "MIT",
        354_000_000,
        _openai("40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", "ViT-B-32.pt"),
    ),
    Entry(
        "clip-b16",
        "CLIP ViT-B/16 by OpenAI",
        "MIT",
        351_000_000,
        _openai("5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", "ViT-B-16.pt"),
    ),
    Entry(
        "clip-l14",
        "CLIP ViT-L/14 by OpenAI",
        "MIT",
        933_000_000,
        _openai("b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", "ViT-L-14.pt"),
    ),
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
        _hub("lukewys/laion_clap", "music_audioset_epoch_15_esc_90.14.pt"),
    ),
    *(
        Entry(f"sam-{size}", f"Segment Anything ViT-{size.upper()}", "Apache-2.0", about, (File(f"{_SAM}/{f}", f),))
        for size, about, f in (
            ("b", 375_000_000, "sam_vit_b_01ec64.pth"),
            ("l", 1_250_000_000, "sam_vit_l_0b3195.pth"),
            ("h", 2_560_000_000, "sam_vit_h_4b8939.pth"),
        )
    ),
)


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        FetchError: there is none; lists what there is.
    """
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    raise FetchError(f"name is {name!r}, but one of {', '.join(entry.name for entry in CATALOGUE)} is expected.")


class _Remembering(urllib.request.HTTPRedirectHandler):
    """Follows redirects, keeping the checksum that hubs state before they send a client to their storage."""

    stated = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        self.stated = self.stated or _stated(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _stated(headers: Any) -> str:
    """A SHA-256 in the headers by which Hugging Face states one, or ""."""
    tag = str(headers.get("X-Linked-ETag") or "").strip('W/"')
    return tag if re.fullmatch(r"[0-9a-f]{64}", tag) else ""


def download(file: File, folder: Path, on_bytes: OnBytes | None = None) -> Path:
    """Bring one file into `folder`; a part left by an earlier try is continued, a whole file is left alone.

    Args:
        file: what to fetch.
        folder: made if it is not there.
        on_bytes: progress, `on_bytes(have, total)`; may raise to cancel, what is there stays for the next try.

    Raises:
        FetchError: no connection after several tries, no such file, a wrong checksum, a full disk.
    """
    choices = [(file.url, file.path), *([file.instead] if file.instead else [])]
    for _, path in choices:
        target = folder / path
        if target.is_file() and (not file.sha256 or _digest(target) == file.sha256):
            return target
    for position, (url, path) in enumerate(choices):
        target = folder / path
        try:
            return _try_all(mirrored(url), target, file.sha256, on_bytes)
        except urllib.error.HTTPError as error:
            if error.code == 404 and position + 1 < len(choices):
                continue
            raise FetchError(
                f"{mirrored(url)} answers {error.code} ({error.reason}); check the address, or set a mirror "
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


def _try_all(url: str, target: Path, sha256: str, on_bytes: OnBytes | None) -> Path:
    """Several tries, each going on where the last stopped."""
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    failure: Exception | None = None
    for _ in range(TRIES):
        try:
            stated = _go_on(url, part, on_bytes)
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise
            failure = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failure = error
        else:
            _check(part, url, sha256 or stated)
            part.replace(target)
            return target
    raise FetchError(
        f"{url} broke off {TRIES} times ({getattr(failure, 'reason', failure)}); check the connection and say the same "
        "again, it goes on where it stopped."
    )


def _go_on(url: str, part: Path, on_bytes: OnBytes | None) -> str:
    """Append what is missing of `url` to `part`; returns the checksum that the server states, or ""."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "sounding-objects"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    remember = _Remembering()
    try:
        response = urllib.request.build_opener(remember).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the part is whole already, or longer than the file: the checksum tells
            if str(error.headers.get("Content-Range", "")).rpartition("/")[2] == str(have):
                return _stated(error.headers)
            part.unlink()
            raise ConnectionError("the part did not fit") from None
        raise
    with response:
        if have and response.status != 206:  # the server does not resume: from the beginning
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else 0
        with part.open("ab" if have else "wb") as file:
            while data := response.read(CHUNK):
                file.write(data)
                have += len(data)
                if on_bytes is not None:
                    on_bytes(have, max(total, have))
        if have < total:
            raise ConnectionError(f"{have} of {total} bytes came")
        return remember.stated or _stated(response.headers)


def _check(part: Path, url: str, sha256: str) -> None:
    if sha256 and (found := _digest(part)) != sha256:
        part.unlink()
        raise FetchError(
            f"{url} has SHA-256 {found}, but {sha256} is expected; it was damaged on the way or replaced, so it was "
            "deleted: try again, or another mirror."
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()
