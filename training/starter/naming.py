"""The namer in the box: EfficientNet-Lite0 as it was published, with plain names for ImageNet's classes.

    python -m training starter names --out models/starter-names.safetensors

The starter's own tower has learned to tell 79 objects apart and forgotten half of the others: with the published head
it names 47 % of a thousand photographs, one per class, where the published tower names 86 %. So this is a file of its
own, a checkpoint with the parts `patches` and `naming` alone. Its patches are 1000 logits each; since the head is
linear, their mean over an object is what the head says to the mean of the object's features.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sounding.checkpoint import write
from sounding.config import PatchConfig, SoundingConfig
from sounding.encoders.patches import PatchEncoder
from sounding.naming.classes import ClassNames
from sounding.naming.config import NamingConfig
from sounding.naming.load import Namer

from ..data.object_set import ObjectSet
from .evaluate.naming import calibrate
from .evaluate.naming_cases import NamingCase, drawn_cases
from .imagenet import CLASSES, class_names, load_imagenet, published_head

log = logging.getLogger("training")

PATCHES = PatchConfig(
    tower="timm",
    model="tf_efficientnet_lite0",
    width=CLASSES,
    grid=9,
    image_size=288,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    quick_gelu=False,
)
LICENCE = "Apache-2.0 (EfficientNet-Lite0)"


def imagenet_namer() -> Namer:
    """Published weights and plain names, not calibrated yet."""
    vocabulary = class_names()
    config = NamingConfig(
        kind="classes",
        names=vocabulary.names,
        rows=tuple(name for name, _ in vocabulary.phrases),
        parents=vocabulary.parents,
        scale=1.0,
        margin=0.1,
    )
    encoder, part, head = PatchEncoder(PATCHES), ClassNames(config, CLASSES), published_head()
    load_imagenet(encoder)
    encoder.tower.head.proj.weight.data.copy_(head.weight)
    part.bias.copy_(head.bias)
    return Namer(encoder.eval(), part.eval())


def calibrated(namer: Namer, stamps: ObjectSet, cutouts: Path, cases: int) -> Namer:
    """The same with the scale and the logit of "none of these" that `calibrate` finds on the calibration half."""
    embedded, right = [], []
    with torch.inference_mode():
        for case in drawn_cases(stamps, cutouts, "calibration", cases):
            embedded.append(namer.part.embed(namer.encoder, case.image, case.mask))
            right.append(_right(case, namer))
        scores = namer.part.scores(torch.cat(embedded))
    scale, none = calibrate(scores.clone(), torch.stack(right))
    log.info("calibrated on %d selections: scale %.4f, logit of none %.4f", len(right), scale, none)
    part = ClassNames(replace(namer.part.config, scale=scale, none_logit=none), CLASSES)
    part.load_state_dict(namer.part.state_dict())
    return Namer(namer.encoder, part.eval())


def _right(case: NamingCase, namer: Namer) -> Tensor:
    """[classes] true for those that are one of the case's names or lie below one."""
    wanted = {namer.labels.names.index(name) for name in case.names}
    return torch.tensor([bool(wanted & set(namer.labels.ancestors[row])) for row in namer.part.config.rows])


def write_namer(namer: Namer, out: Path) -> None:
    """One checkpoint of the two parts that name."""
    config = SoundingConfig(name="starter-names", patches=namer.encoder.config, naming=namer.part.config)
    state = {f"patches.{name}": value for name, value in namer.encoder.state_dict().items()}
    state |= {f"naming.{name}": value for name, value in namer.part.state_dict().items()}
    description = "Names what a mask shows: ImageNet's classes in plain words."
    write(out, state, config, dtype=torch.float16, description=description, licence=LICENCE)
