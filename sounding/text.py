"""Query encoders: a sentence to one embedding in the patches' space (section 3.1, "Textual representation")."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from .config import QueryConfig
from .libraries import importing

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer
    from tokenizers import Tokenizer

    from .listen import ClapAudioQuery


def build_query_encoder(config: QueryConfig) -> ClapQuery | OpenClipQuery | ClapAudioQuery:
    """The configured query encoder: `encode(texts) -> [B, L]`, for "clap_audio" `encode(waveform, rate)`."""
    if config.tower == "clap_audio":
        from .listen import ClapAudioQuery

        return ClapAudioQuery(config)
    return ClapQuery(config) if config.tower == "clap" else OpenClipQuery(config)


TEXT_TOKENS = 512  # RoBERTa's 514 positions less the two that padding takes


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
    with importing("open_clip"):
        from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=context_length)


@lru_cache(maxsize=2)
def _clap_tokenizer(data: bytes) -> Tokenizer:
    """The tokenizer out of a checkpoint: RoBERTa's byte-level BPE in the form of the `tokenizers` library."""
    with importing("tokenizers"):
        from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises bare exceptions
        raise ValueError(f"The checkpoint's tokenizer is damaged ({error}); export or convert it again.") from None
    tokenizer.enable_truncation(TEXT_TOKENS)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("<pad>") or 1, pad_token="<pad>")
    return tokenizer


class OpenClipQuery(nn.Module):
    """open_clip's text tower; its tokenizer comes with the package, so no file is needed."""

    def __init__(self, config: QueryConfig):
        super().__init__()
        with importing("open_clip"):
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

    tokenizer: Tensor | None

    def __init__(self, config: QueryConfig):
        super().__init__()
        with importing("transformers"):
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

        # The tokenizer's own JSON as bytes, so that text needs no other file and no network.
        self.register_buffer("tokenizer", None)
        if config.tokenizer_bytes:
            self.tokenizer = torch.zeros(config.tokenizer_bytes, dtype=torch.uint8)

    def encode(self, texts: list[str]) -> Tensor:
        """Sentences -> queries [B, L].

        Raises:
            FileNotFoundError: no tokenizer in the checkpoint nor on this machine (nothing is downloaded here).
            ValueError: the checkpoint's tokenizer is damaged.
        """
        ids, mask = self._tokens(check_texts(texts))
        device = next(self.parameters()).device
        return self(ids.to(device), mask.to(device))

    def _tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask [B, N], padded to the longest."""
        if self.tokenizer is not None:
            encoded = _clap_tokenizer(self.tokenizer.cpu().numpy().tobytes()).encode_batch(texts)
            return torch.tensor([one.ids for one in encoded]), torch.tensor([one.attention_mask for one in encoded])
        with importing("transformers"):
            from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.config.tokenizer, local_files_only=True)
        except (OSError, ValueError):
            raise FileNotFoundError(
                f"CLAP's tokenizer {self.config.tokenizer!r} is not on this machine; get its files tokenizer.json, "
                "vocab.json and merges.txt (`sounding fetch clap-tokenizer`, from huggingface.co/laion/"
                "clap-htsat-unfused), and convert with --tokenizer FOLDER or name that folder in the checkpoint's "
                "query.tokenizer; grounding by a mask needs no text."
            ) from None
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return tokens["input_ids"], tokens["attention_mask"]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [B, N] -> queries [B, L]."""
        embeddings = self.tower(input_ids=input_ids, attention_mask=attention_mask).text_embeds
        return torch.nn.functional.normalize(cast(Tensor, embeddings), dim=-1)
