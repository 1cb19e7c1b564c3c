"""Writes the starter's stand-in for AVC's encoders, which `python -m training evaluate folders --model FILE` takes.

It has the judge for the sounds, and the starter's own patch and text encoders for the images and the objects'
captions. They are the very encoders that the generator grounds its sounds by, so a high figure says that a sound is
that of the object in the starter's own eyes, not in those of a model that nobody here trained.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sounding.encoders.audio import ClapAudioQuery
from sounding.model import SoundingModel

from ...data.object_set import ObjectSet
from ...evaluate.features import open_features
from ...evaluate.models.captioned import Captioned, write_captioned
from ...evaluate.models.classifier import ClassifierFeatures
from .judge import open_judge


@torch.inference_mode()
def embed_captions(model: SoundingModel, data: ObjectSet) -> Tensor:
    """Embeddings of the captions of all kinds in the patches' space: [kinds, L].

    Raises:
        ValueError: the model is queried by sound, so it embeds no captions, or in another space than patches.
    """
    if isinstance(model.query, ClapAudioQuery):
        raise ValueError("This checkpoint is queried by sound, but captions are embedded here; take one with text.")
    captions = model.query.encode([kind.caption for kind, _ in data.visible]).float().cpu()
    if captions.shape[1] != model.config.patches.width:
        raise ValueError(
            f"This checkpoint's captions have {captions.shape[1]} dimensions and its patches "
            f"{model.config.patches.width}, but they are compared here; take one with a shared space."
        )
    return captions


def write_stand_in(
    model: SoundingModel, called: str, data: ObjectSet, folder: Path, judge: Path | None, out: Path
) -> Path:
    """Write the file.

    Args:
        model: whose encoders are taken.
        called: its name or path, for the file's description.
        data: kinds with their captions, of which the visible ones are the judge's classes.
        folder: of the judge, which is trained into it the first time.
        judge: file of a judge instead.
        out: the new file.

    Raises:
        ValueError: the judge in the file has other classes, and see `embed_captions`.
    """
    captions = embed_captions(model, data)
    kinds = [kind for kind, _ in data.visible]
    names = tuple(kind.name for kind in kinds)
    if judge is None:
        classifier = open_judge(data, folder).classifier
    else:
        opened = open_features(judge)
        if not isinstance(opened, ClassifierFeatures) or opened.classes != names:
            raise ValueError(f"{judge} has other classes than the objects of the data set; write it with `judge`.")
        classifier = opened.classifier
    about = Captioned(tuple(kind.caption for kind in kinds), model.config.patches, Path(called).name)
    write_captioned(out, about, classifier, model.patches, captions)
    return out
