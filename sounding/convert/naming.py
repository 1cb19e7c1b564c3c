"""A vocabulary's names embedded by CLIP's text tower, once, so that naming needs the image tower alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..naming.config import NamingConfig
from ..naming.vocabulary import Vocabulary
from ..networks.meta import filled
from ..utils.libraries import importing
from .clip import TextTower

BATCH = 16  # phrases that are embedded at once, each in all templates
OnNames = Callable[[int, int], None]


def naming_config(vocabulary: Vocabulary, tower: TextTower) -> NamingConfig:
    """The configuration of the part `naming` for a vocabulary.

    Raises:
        ValueError: more names than a checkpoint may have.
    """
    return NamingConfig(
        names=vocabulary.names,
        rows=tuple(row for row, _ in vocabulary.phrases),
        parents=vocabulary.parents,
        scale=round(tower.scale, 4),
    )


def lacks(tower: TextTower | None) -> str | None:
    """Why names cannot be embedded with a text tower, or None."""
    if tower is None:
        return "CLIP came without its text tower"
    tokens, known = len(tower.tensors["token_embedding.weight"]), _tokenizer().vocab_size
    return None if tokens == known else f"CLIP's text tower takes {tokens} tokens, but its tokenizer has {known}"


@torch.inference_mode()
def embed_names(vocabulary: Vocabulary, tower: TextTower, model: str, on_names: OnNames | None = None) -> Tensor:
    """Embeddings of all phrases, each the mean over several sentences, at unit length: [phrases, L].

    The sentences are the seven templates that CLIP's authors selected from their 80 for ImageNet ("a photo of the large
    {}.", "a bad photo of the {}.", ...).

    Args:
        vocabulary: whose phrases are embedded.
        tower: CLIP's text tower.
        model: open_clip's name of the whole model.
        on_names: progress, `on_names(done, phrases)`; may raise to cancel.

    Raises:
        ValueError: a tower of other sizes than the model's.
    """
    with importing("open_clip"):
        import open_clip
        from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES

    encoder, tokenizer = TextEncoder(tower, model), _tokenizer()
    context_length = len(tower.tensors["positional_embedding"])

    def tokens(texts: list[str]) -> Tensor:
        """[texts, longest]: the tower is causal and reads the last token, so padding after it changes nothing."""
        padded = tokenizer(texts, context_length)
        return padded[:, : int(padded.argmax(dim=-1).max()) + 1]

    phrases = [phrase for _, phrase in vocabulary.phrases]
    columns = []
    for first in range(0, len(phrases), BATCH):
        some = phrases[first : first + BATCH]
        columns.append(
            open_clip.build_zero_shot_classifier(
                encoder, tokens, some, SIMPLE_IMAGENET_TEMPLATES, num_classes_per_batch=None
            )
        )
        if on_names is not None:
            on_names(first + len(some), len(phrases))
    return torch.cat(columns, dim=1).T.contiguous()


class TextEncoder:
    """CLIP's text tower with the method that open_clip's zero-shot classifier calls."""

    def __init__(self, tower: TextTower, model: str):
        with importing("open_clip"):
            import open_clip
            from open_clip.transformer import QuickGELU, TextTransformer

        described = open_clip.get_model_config(model)
        sizes = {
            key: described["text_cfg"][key] for key in ("context_length", "vocab_size", "width", "heads", "layers")
        }
        activation: Any = QuickGELU if tower.quick_gelu else torch.nn.GELU
        self.tower = filled(
            lambda: TextTransformer(**sizes, output_dim=described["embed_dim"], act_layer=activation), tower.tensors
        ).eval()
        self.mask: Tensor = self.tower.attn_mask

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """[texts, tokens] -> [texts, L]; the texts may be shorter than the tower's context."""
        length = tokens.shape[1]
        self.tower.attn_mask = self.mask[:length, :length]  # open_clip cuts positions to length, but not its mask
        embedded: Tensor = self.tower(tokens)
        return functional.normalize(embedded, dim=-1) if normalize else embedded


def _tokenizer() -> Any:
    with importing("open_clip"):
        from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
