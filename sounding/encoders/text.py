"""Query encoders: a sentence to one embedding in the patches' space (section 3.1, "Textual representation")."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..config import QueryConfig
from ..utils.fields import parse_json
from ..utils.libraries import importing
from ..utils.messages import shown

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer
    from tokenizers import Tokenizer

    from .audio import ClapAudioQuery


def build_query_encoder(config: QueryConfig) -> ClapQuery | OpenClipQuery | ClapAudioQuery:
    """The configured query encoder: `encode(texts) -> [B, L]`, for "clap_audio" `encode(waveform, rate)`."""
    if config.tower == "clap_audio":
        from .audio import ClapAudioQuery

        return ClapAudioQuery(config)
    return ClapQuery(config) if config.tower == "clap" else OpenClipQuery(config)


# Published CLAPs whose tokenizer may be in Hugging Face's cache. No other name out of a checkpoint is looked up.
KNOWN_TOKENIZERS = ("laion/clap-htsat-unfused", "laion/clap-htsat-fused", "laion/larger_clap_general")
MOST_TOKENIZER = 2**25  # bytes; RoBERTa's has 2 MB
# Accepted types of a tokenizer's model, normaliser, pre-tokenizer and post-processor.
TOKENIZER_KINDS = (
    ("BPE",),
    (None,),
    (None, "ByteLevel"),
    (None, "ByteLevel", "RobertaProcessing", "TemplateProcessing"),
)
TEXT_TOKENS = 512  # RoBERTa's 514 positions, less two for padding


def listed(text: str | Sequence[str]) -> list[str]:
    """One sentence or several as a list."""
    return [text] if isinstance(text, str) else list(text)


def check_texts(texts: list[str]) -> list[str]:
    """Sentences without surrounding white space.

    Raises:
        ValueError: no sentence, or an empty one.
    """
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"text is {texts!r}, but a sentence is expected; name what sounds, such as 'a dog'.")
    return [text.strip() for text in texts]


@lru_cache(maxsize=2)
def _open_clip_tokenizer(context_length: int) -> SimpleTokenizer:
    """Cached: building one reads and sorts its whole vocabulary, which takes longer than encoding a sentence."""
    with importing("open_clip"):
        from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=context_length)


@lru_cache(maxsize=2)
def _clap_tokenizer(data: bytes) -> Tokenizer:
    """CLAP's tokenizer, RoBERTa's byte-level BPE, from the JSON of the `tokenizers` library.

    Raises:
        ValueError: damaged, or of another kind, whose rules could make short texts endlessly long.
    """
    with importing("tokenizers"):
        from tokenizers import Tokenizer

    try:
        described = parse_json(data.decode(), most=MOST_TOKENIZER)
        steps = [described.get("normalizer"), described.get("pre_tokenizer"), described.get("post_processor")]
        kinds = [described["model"].get("type", "BPE"), *(step and step["type"] for step in steps)]
        if any(kind not in known for kind, known in zip(kinds, TOKENIZER_KINDS, strict=True)):
            raise ValueError(f"it works by {shown(kinds)}, but RoBERTa's byte-level BPE is expected")
        if len(str(steps)) > 5000:
            raise ValueError("its rules are too long")
        tokenizer = Tokenizer.from_str(data.decode())
        tokenizer.enable_truncation(TEXT_TOKENS)
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id("<pad>") or 1, pad_token="<pad>")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare exceptions, and its panics do not derive from Exception
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"The checkpoint's tokenizer is damaged ({said}); export or convert it again.") from None
    return tokenizer


def _cached_tokenizer(name: str) -> bytes | None:
    """The JSON of a published CLAP's tokenizer, if it is in Hugging Face's cache; nothing is downloaded."""
    if name not in KNOWN_TOKENIZERS:
        return None
    with importing("huggingface_hub"):
        from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, "tokenizer.json")
    if not isinstance(path, str):
        return None
    with open(path, "rb") as file:
        return file.read(MOST_TOKENIZER)


class OpenClipQuery(nn.Module):
    """open_clip's text tower; its tokenizer comes with the package, so it needs no file."""

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
    """CLAP's text encoder (transformers), L2-normalised as in its own training."""

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

        # The tokenizer's JSON as bytes, so that text queries need no other file and no network.
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
        data = (
            _cached_tokenizer(self.config.tokenizer)
            if self.tokenizer is None
            else self.tokenizer.cpu().numpy().tobytes()
        )
        if data is None:
            raise FileNotFoundError(
                f"CLAP's tokenizer {self.config.tokenizer!r} is neither in the checkpoint nor, as one of "
                f"{', '.join(KNOWN_TOKENIZERS)}, in Hugging Face's cache on this machine; get its files (`sounding "
                "fetch clap-tokenizer`) and convert with --tokenizer FOLDER; grounding by a mask needs no text."
            )
        encoded = _clap_tokenizer(data).encode_batch(texts)
        ids, mask = (torch.tensor([getattr(one, what) for one in encoded]) for what in ("ids", "attention_mask"))
        if ids.min() < 0 or ids.max() >= self.tower.config.vocab_size:
            raise ValueError("The checkpoint's tokenizer has tokens that its model does not know; convert it again.")
        return ids, mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [B, N] -> queries [B, L]."""
        embeddings = self.tower(input_ids=input_ids, attention_mask=attention_mask).text_embeds
        return torch.nn.functional.normalize(cast(Tensor, embeddings), dim=-1)
