"""SAM 3 (Carion et al. 2025) from transformers folders: its tracker takes points and boxes, its detector words.

Meta's folder (model type "sam3_video") has both over one backbone, which then runs once per image. Folders of the
detector ("sam3") or the tracker ("sam3_tracker") alone serve their own kind of prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..utils.libraries import importing
from ..utils.threads import spins_adaptively
from ..weights.reading import laid_out
from .base import Prepared, Segmentation, device_of, one_image
from .prompt import Prompt
from .sam2 import MEMORY, Sam2Segmenter, embed, load_pretrained, select

FOUND = 0.3  # what scores less is not there; the processor's own threshold


class Sam3Segmenter:
    """Points and a box by the tracker; words, with or without a box as an example, by the detector.

    Words select everything they name. With words, points choose among what was found.
    """

    def __init__(self, tracker: Any, detector: Any, tracker_processor: Any, processor: Any, name: str = "SAM 3"):
        """Take a `Sam3TrackerModel` and a `Sam3Model` with their processors; either pair may be None."""
        self.name, self.processor = name, processor
        self.tracker = None if tracker is None else Sam2Segmenter(tracker, tracker_processor, name)
        self.detector = detector
        if tracker is not None and detector is not None:
            share_backbone(detector, tracker)
        modules = {key: part for key, part in (("tracker", tracker), ("detector", detector)) if part is not None}
        self.module: nn.Module = nn.ModuleDict(modules).eval().requires_grad_(False)

    @property
    def memory(self) -> int:
        """See `Segmenter.memory`."""
        return MEMORY

    @torch.inference_mode()
    @spins_adaptively
    def prepare(self, image: Tensor) -> Prepared:
        """See `Segmenter.prepare`. The detector's own maps are made from the backbone's when words ask for them."""
        image = one_image(image)
        size = (image.shape[1], image.shape[2])
        if self.tracker is None:
            pixels = self._pixels(image)
            return Prepared(size, {"backbone": self.detector.vision_encoder.backbone(pixels).last_hidden_state.cpu()})
        seen: list[Tensor] = []
        backbone = self.tracker.module.get_submodule("vision_encoder.backbone")
        hook = backbone.register_forward_hook(lambda module, given, made: seen.append(made.last_hidden_state))
        try:
            tensors = embed(self.tracker.module, self.tracker.pixels(image))
        finally:
            hook.remove()
        return Prepared(size, tensors | ({} if self.detector is None else {"backbone": seen[0].cpu()}))

    def _pixels(self, image: Tensor) -> Tensor:
        whole = (image[0] * 255).round().to(torch.uint8).cpu().numpy()
        encoded = self.processor(images=whole, return_tensors="pt")
        return cast(Tensor, encoded["pixel_values"]).to(device_of(self.detector))

    @torch.inference_mode()
    @spins_adaptively
    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        """See `Segmenter.segment`.

        Raises:
            ValueError: also if the words name nothing in the image, or the folder lacks that kind of prompt.
        """
        prompt.check(prepared.size, self.name, words=self.detector is not None)
        if prompt.text:
            return self._by_words(prepared, prompt)
        if self.tracker is None:
            raise ValueError(
                f"{self.name} has the detector alone, which understands text, but points or a box came; give a text "
                "or the whole SAM 3 folder."
            )
        return select(self.tracker.module, self.tracker.processor, prepared, prompt)

    def _by_words(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        device = device_of(self.detector)
        asked = self.processor(
            text=prompt.text,
            input_boxes=None if prompt.box is None else [[list(prompt.box)]],
            original_sizes=[list(prepared.size)],
            return_tensors="pt",
        )
        asked = {name: value.to(device) for name, value in asked.items() if name != "original_sizes"}
        answer = self.detector(vision_embeds=self._maps(prepared, device), **asked)
        scores = answer.pred_logits[0].sigmoid() * answer.presence_logits[0].sigmoid()  # [queries]
        masks = functional.interpolate(answer.pred_masks, prepared.size, mode="bilinear", align_corners=False)[0]
        kept = scores > FOUND
        height, width = prepared.size
        for points, wanted in ((prompt.positive, True), (prompt.negative, False)):
            for x, y in points:
                there = masks[:, min(int(y), height - 1), min(int(x), width - 1)] > 0
                kept = kept & (there if wanted else ~there)
        if not kept.any():
            best = float(scores.max())
            where = " at the points" if prompt.positive or prompt.negative else ""
            raise ValueError(
                f"{self.name} found no {prompt.text!r}{where} in the image (the best scored {best:.2f}, "
                f"{FOUND} is expected); try other words, or click."
            )
        return Segmentation.of(masks[kept].amax(dim=0), float(scores[kept].max()))

    def _maps(self, prepared: Prepared, device: torch.device) -> Any:
        """The detector's feature maps, from the backbone's tokens [1, h * w, C]; as `Sam3VisionModel.forward`."""
        with importing("transformers"):
            from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

        encoder = self.detector.vision_encoder
        tokens = prepared.tensors["backbone"].to(device)
        side = round(tokens.shape[1] ** 0.5)  # the processor makes squares
        maps, positions = encoder.neck(tokens.view(1, side, side, -1).permute(0, 3, 1, 2))
        return Sam3VisionEncoderOutput(
            last_hidden_state=tokens, fpn_hidden_states=maps, fpn_position_encoding=positions
        )


def share_backbone(detector: Any, tracker: Any) -> None:
    """Let both use the one backbone that Meta's folder has, so that it is in memory once.

    Raises:
        ValueError: they are not the same: parts of different models.
    """
    mine, other = (part.vision_encoder.backbone.state_dict() for part in (detector, tracker))
    if mine.keys() != other.keys() or not all(torch.equal(mine[name], other[name]) for name in mine):
        raise ValueError("the detector's backbone is not the tracker's")
    detector.vision_encoder.backbone = tracker.vision_encoder.backbone


def load_sam3(path: Path, kind: str) -> Sam3Segmenter:
    """A folder of transformers, of the model type `kind`.

    Raises:
        WeightsError: not complete, not safetensors, or transformers is too old.
    """
    tracker = tracker_processor = detector = processor = None
    if kind != "sam3":
        tracker, tracker_processor = load_pretrained(path, "Sam3TrackerModel", "Sam3TrackerProcessor")
    if kind != "sam3_tracker":
        detector, processor = load_pretrained(path, "Sam3Model", "Sam3Processor")
    with laid_out(path):
        return Sam3Segmenter(tracker, detector, tracker_processor, processor, path.name)
