"""Which weights a step uses: named by a digest in its fingerprint, and looked for before a run begins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

ADVICE = "one that `save_pretrained` wrote"  # what to give as a folder of transformers
ENDS = 2**20  # bytes at each end of a file that count; weights that differ do so in their last tensor


def digest(*paths: str) -> str:
    """Names files and folders by their sizes and the first and last MiB of each file, so that it takes no minutes.

    Raises:
        ValueError: one is missing.
    """
    total = hashlib.sha256()
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path} is missing, but the settings name it as a model; check the path.")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            size = file.stat().st_size
            total.update(f"{file.relative_to(path) if path.is_dir() else ''} {size}\n".encode())
            with file.open("rb") as opened:
                total.update(opened.read(ENDS))
                if size > ENDS:
                    opened.seek(max(ENDS, size - ENDS))
                    total.update(opened.read(ENDS))
    return total.hexdigest()[:16]


def likeliest(model: Any, tokens: int, **more: Any) -> Any:
    """Settings of transformers' `generate`: the likeliest token each time, until the end of a text or `tokens`.

    The folder's own settings (drawing, beams, penalties for repetition, which would see the padding) are left out, but
    for the tokens at which texts begin and end: an answer must not depend on what is answered together with it.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    ends = own.eos_token_id
    padding = own.pad_token_id
    if padding is None:
        padding = ends[0] if isinstance(ends, list) else ends
    settings = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        bos_token_id=own.bos_token_id,
        eos_token_id=ends,
        pad_token_id=padding,
        decoder_start_token_id=own.decoder_start_token_id,
        **more,
    )
    model.generation_config = settings  # else `generate` takes from there what is left to defaults here
    return settings


def decoded(tokenizer: Any, tokens: Any, settings: Any, kept: Callable[[int], bool] = lambda token: True) -> list[str]:
    """The texts of rows of new tokens, each up to its end: what pads a row after it need be no special token.

    Tokens that are not to be `kept` are left out.
    """
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    rows = [list(filter(kept, takewhile(lambda token: token not in ends, row))) for row in tokens.tolist()]
    return [str(text) for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]
