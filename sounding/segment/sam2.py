"""SAM 2 and 2.1 (Ravi et al. 2024) from transformers folders; SAM 3's tracker answers the same prompts alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.libraries import importing
from ..utils.threads import spins_adaptively
from ..weights import WeightsError
from ..weights.reading import laid_out
from .base import Prepared, Segmentation, device_of, one_image
from .folder import configuration
from .prompt import Prompt
from .sam1 import is_ambiguous

# Bytes of activations of the largest SAM 2 and SAM 3 that there are; transformers' attention holds no whole matrix.
MEMORY = 2**30


class Sam2Segmenter:
    """Points and a box, by a `Sam2Model` or `Sam3TrackerModel` and its processor."""

    def __init__(self, model: nn.Module, processor: Any, name: str = "SAM 2"):
        self.name, self.processor = name, processor
        self.module: nn.Module = model.eval().requires_grad_(False)

    @property
    def memory(self) -> int:
        """See `Segmenter.memory`."""
        return MEMORY

    @torch.inference_mode()
    @spins_adaptively
    def prepare(self, image: Tensor) -> Prepared:
        """See `Segmenter.prepare`."""
        image = one_image(image)
        return Prepared((image.shape[1], image.shape[2]), embed(self.module, self.pixels(image)))

    def pixels(self, image: Tensor) -> Tensor:
        """[1, H, W, 3] 0..1 -> what the model takes, on its device. Rounded to 8 bits, as files have it."""
        whole = (image[0] * 255).round().to(torch.uint8).cpu().numpy()
        encoded = self.processor(images=whole, return_tensors="pt")
        pixels: Tensor = encoded["pixel_values"]
        return pixels.to(device_of(self.module))

    @torch.inference_mode()
    @spins_adaptively
    def segment(self, prepared: Prepared, prompt: Prompt) -> Segmentation:
        """See `Segmenter.segment`. A single click has three answers, of which the best scored is taken."""
        prompt.check(prepared.size, self.name)
        return select(self.module, self.processor, prepared, prompt)


def embed(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """An image's maps of all levels."""
    return {f"level{i}": level.cpu() for i, level in enumerate(model.get_image_embeddings(pixels))}


def select(model: Any, processor: Any, prepared: Prepared, prompt: Prompt) -> Segmentation:
    """Ask the decoder about an embedded image."""
    device = device_of(model)
    points = [[list(point) for point in (*prompt.positive, *prompt.negative)]]
    labels = [[1] * len(prompt.positive) + [0] * len(prompt.negative)]
    asked = processor(
        input_points=[points] if points[0] else None,
        input_labels=[labels] if points[0] else None,
        input_boxes=None if prompt.box is None else [[list(prompt.box)]],
        original_sizes=[list(prepared.size)],
        return_tensors="pt",
    )
    asked = {name: value.to(device) for name, value in asked.items() if name.startswith("input_")}
    levels = [prepared.tensors[f"level{i}"].to(device) for i in range(sum("level" in key for key in prepared.tensors))]
    answer = model(image_embeddings=levels, multimask_output=is_ambiguous(prompt), **asked)
    best = int(answer.iou_scores[0, 0].argmax())
    masks = processor.post_process_masks(answer.pred_masks, [prepared.size], binarize=False)[0]  # [1, C, H, W]
    return Segmentation.of(masks[0, best], float(answer.iou_scores[0, 0, best]))


def load_sam2(path: Path) -> Sam2Segmenter:
    """A folder of transformers.

    Raises:
        WeightsError: not complete, not safetensors, or transformers is too old.
    """
    model, processor = load_pretrained(path, "Sam2Model", "Sam2Processor")
    return Sam2Segmenter(model, processor, path.name)


def load_pretrained(path: Path, model: str, processor: str) -> tuple[nn.Module, Any]:
    """A model and its processor, by transformers' class names, from a folder alone: nothing is downloaded or
    unpickled, of its configuration only what describes the model is passed on, and a tensor that is missing is an
    error.
    """
    with importing("transformers"):
        import transformers

        known = hasattr(transformers, model) and hasattr(transformers, processor)
    if not known:
        raise WeightsError(
            f"{path} needs {model}, which transformers {transformers.__version__} does not have; update transformers."
        )
    if not any(path.glob("*.safetensors")):
        raise WeightsError(f"{path} has no .safetensors, but the weights are expected there; get the whole folder.")
    with laid_out(path):
        try:
            loaded, report = getattr(transformers, model).from_pretrained(
                path,
                config=configuration(path, getattr(transformers, model).config_class),
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
            # Not even asked for on the terminal, as transformers does where this is left open.
            reader = getattr(transformers, processor).from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
        except OSError as error:
            raise WeightsError(f"{path} is not complete ({error}); get the whole folder again.") from None
        if missing := sorted(report["missing_keys"]):
            raise WeightsError(f"{path} lacks {len(missing)} tensors, the first is {missing[0]!r}; get it again.")
    return loaded.eval(), reader
