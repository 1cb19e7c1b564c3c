"""Query encoders: a sentence to one embedding in the patches' space (section 3.1, "Textual representation")."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from .config import QueryConfig

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer


def build_query_encoder(config: QueryConfig) -> ClapQuery | OpenClipQuery:
    """The configured query encoder; both kinds have `encode(texts) -> [B, L]`."""
    return ClapQuery(config) if config.tower == "clap" else OpenClipQuery(config)


def check_texts(texts: list[str]) -> list[str]:
    """Non-empty sentences.

    Raises:
        ValueError: no sentence, or an empty one.
    """
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"text is {texts!r}, but a sentence is expected; name what sounds, such as 'a dog'.")
    return [text.strip() for text in texts]


@lru_cache(maxsize=2)
def _open_clip_tokenizer(context_length: int) -> SimpleTokenizer:
    """Building one reads and sorts its whole vocabulary, which takes longer than encoding a sentence."""
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=context_length)


class OpenClipQuery(nn.Module):
    """open_clip's text tower; its tokenizer comes with the package, so no file is needed."""

    def __init__(self, config: QueryConfig):
        super().__init__()
        from open_clip.transformer import TextTransformer

        self.config = config
        self.tower = TextTransformer(
            context_length=config.context_length,
            width=config.hidden,
            heads=config.heads,
            layers=config.layers,
            output_dim=config.width,
        ).eval()

    def encode(self, texts: list[str]) -> Tensor:
        """Sentences -> queries [B, L]. Longer sentences are cut at `context_length` tokens."""
        tokens = _open_clip_tokenizer(self.config.context_length)(check_texts(texts))
        return self(tokens.to(next(self.parameters()).device))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [B, context_length] -> queries [B, L]."""
        return cast(Tensor, self.tower(tokens))


class ClapQuery(nn.Module):
    """CLAP's text encoder (transformers), L2-normalised as its own training had it."""

    def __init__(self, config: QueryConfig):
        super().__init__()
        from transformers import ClapTextConfig, ClapTextModelWithProjection

        self.config = config
        self.tower = ClapTextModelWithProjection(
            ClapTextConfig(
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=4 * config.hidden,
                projection_dim=config.width,
            )
        ).eval()

    def encode(self, texts: list[str]) -> Tensor:
        """Sentences -> queries [B, L].

        Raises:
            FileNotFoundError: the tokenizer's files are not on this machine (nothing is downloaded here).
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.config.tokenizer, local_files_only=True)
        except (OSError, ValueError):
            raise FileNotFoundError(
                f"CLAP's tokenizer {self.config.tokenizer!r} is not on this machine; put its files in a folder and "
                "name that folder in the checkpoint's query.tokenizer, or ground by a mask, which needs no text."
            ) from None
        tokens = tokenizer(check_texts(texts), padding=True, truncation=True, return_tensors="pt")
        tokens = tokens.to(next(self.parameters()).device)
        return self(tokens["input_ids"], tokens["attention_mask"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [B, N] -> queries [B, L]."""
        embeddings = self.tower(input_ids=input_ids, attention_mask=attention_mask).text_embeds
        return torch.nn.functional.normalize(cast(Tensor, embeddings), dim=-1)
