"""SAM, SAM 2 and SAM 3 through our interface against their own code, on random weights of small true shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sounding.segment import Prompt, load_segmenter

from ..tiny_sams import DECODER, randomise, tiny_sam1
from .small_sam2 import PROMPTS, picture, sam2_folder

__all__ = ["picture", "sam2_folder"]


def points_of(prompt: Prompt) -> tuple[list[list[float]], list[int]]:
    points = [list(point) for point in (*prompt.positive, *prompt.negative)]
    return points, [1] * len(prompt.positive) + [0] * len(prompt.negative)


@pytest.fixture(scope="module")
def sam1() -> Any:
    return tiny_sam1()


@pytest.mark.parametrize("form", ["sam.pth", "sam.safetensors"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_sam1_answers_as_its_predictor(sam1, picture, tmp_path, form, kind) -> None:
    from safetensors.torch import save_file
    from segment_anything import SamPredictor

    path, prompt = tmp_path / form, PROMPTS[kind]
    (torch.save if path.suffix == ".pth" else save_file)(sam1.state_dict(), path)
    segmenter = load_segmenter(path)
    found = segmenter.segment(segmenter.prepare(picture), prompt)

    predictor = SamPredictor(sam1)
    predictor.set_image((picture[0] * 255).round().numpy().astype(np.uint8))
    points, labels = points_of(prompt)
    expected, scores, _ = predictor.predict(
        point_coords=np.array(points) if points else None,
        point_labels=np.array(labels) if points else None,
        box=None if prompt.box is None else np.array(prompt.box),
        multimask_output=kind == "one click",
        return_logits=True,
    )
    assert len(scores) == (3 if kind == "one click" else 1)
    best = scores.argmax()
    assert found.score == pytest.approx(float(scores[best]), abs=1e-6)
    torch.testing.assert_close(found.logits, torch.from_numpy(expected[best]), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.mask, found.logits.sigmoid())
    assert found.logits.std() > 0.01


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_published_sam1_sizes_are_told_from_the_tensors(size) -> None:
    """On the meta device: the builder makes what `segment-anything` itself would."""
    from segment_anything import sam_model_registry

    from sounding.segment.sam1 import build_sam1

    with torch.device("meta"):
        expected = sam_model_registry[size]()
        built: Any = build_sam1(expected.state_dict(), Path("sam.pth"))
    assert repr(built) == repr(expected)
    blocks = zip(built.image_encoder.blocks, expected.image_encoder.blocks, strict=True)
    assert all((a.window_size, a.attn.num_heads) == (b.window_size, b.attn.num_heads) for a, b in blocks)
    assert built.image_encoder.img_size == expected.image_encoder.img_size


def peer_answer(model: Any, processor: Any, picture: Tensor, prompt: Prompt, several: bool) -> tuple[Tensor, Tensor]:
    """Scores [C] and logits [C, H, W] as the library's own example has it."""
    points, labels = points_of(prompt)
    inputs = processor(
        images=(picture[0] * 255).round().numpy().astype(np.uint8),
        input_points=[[points]] if points else None,
        input_labels=[[labels]] if points else None,
        input_boxes=None if prompt.box is None else [[list(prompt.box)]],
        return_tensors="pt",
    )
    sizes = inputs.pop("original_sizes")
    with torch.no_grad():
        outputs = model(**inputs, multimask_output=several)
    return outputs.iou_scores[0, 0], processor.post_process_masks(outputs.pred_masks, sizes, binarize=False)[0][0]


@pytest.mark.parametrize("kind", PROMPTS)
def test_sam2_answers_as_transformers(sam2_folder, picture, kind) -> None:
    from transformers import Sam2Model, Sam2Processor

    segmenter = load_segmenter(sam2_folder)
    found = segmenter.segment(segmenter.prepare(picture), PROMPTS[kind])
    model, processor = Sam2Model.from_pretrained(sam2_folder).eval(), Sam2Processor.from_pretrained(sam2_folder)
    scores, logits = peer_answer(model, processor, picture, PROMPTS[kind], kind == "one click")
    assert len(scores) == (3 if kind == "one click" else 1)
    best = int(scores.argmax())
    assert found.score == pytest.approx(float(scores[best]), abs=1e-6)
    torch.testing.assert_close(found.logits, logits[best], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def sam3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Meta's: detector and tracker over one backbone, a tokenizer, the model type sam3_video."""
    from safetensors.torch import save_file
    from transformers import CLIPTokenizer, Sam3ImageProcessor, Sam3VideoConfig, Sam3VideoModel
    from transformers.models.sam3.processing_sam3 import Sam3Processor

    torch.manual_seed(5)
    grid = [[16, 16], [8, 8], [4, 4]]
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
            "window_size": 2,
            "global_attn_indexes": [1],
            "pretrain_image_size": 28,
        },
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": grid,
    }
    small = {"hidden_size": 32, "num_attention_heads": 4}
    config = Sam3VideoConfig(
        detector_config={
            "model_type": "sam3",
            "vision_config": vision,
            "text_config": {
                "vocab_size": 64,
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "max_position_embeddings": 32,
                "projection_dim": 32,
            },
            "geometry_encoder_config": {**small, "num_layers": 1, "intermediate_size": 32},
            "detr_encoder_config": {**small, "num_layers": 1, "intermediate_size": 32},
            "detr_decoder_config": {**small, "num_layers": 2, "intermediate_size": 32, "num_queries": 6},
            "mask_decoder_config": small,
        },
        tracker_config={
            "model_type": "sam3_tracker_video",
            "vision_config": vision,
            "prompt_encoder_config": {"hidden_size": 32, "image_size": 56, "patch_size": 14},
            "mask_decoder_config": DECODER,
            "memory_encoder_hidden_size": 32,
            "memory_attention_hidden_size": 32,
            "image_size": 56,
        },
    )
    folder = tmp_path_factory.mktemp("sam3-tiny")
    # The published file has the modules' own names; this version's `save_pretrained` repeats a prefix.
    tensors = {name: value.contiguous() for name, value in randomise(Sam3VideoModel(config)).state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    letters = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in "abcdefghijklmnopqrstuvwxyz":
        letters |= {letter: len(letters), f"{letter}</w>": len(letters) + 1}
    tokenizer = CLIPTokenizer(vocab=letters, merges=[])
    Sam3Processor(Sam3ImageProcessor(size={"height": 56, "width": 56}), tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", PROMPTS)
def test_sam3_answers_clicks_as_transformers(sam3_folder, picture, kind) -> None:
    from transformers import Sam3TrackerModel, Sam3TrackerProcessor

    segmenter = load_segmenter(sam3_folder)
    found = segmenter.segment(segmenter.prepare(picture), PROMPTS[kind])
    model = Sam3TrackerModel.from_pretrained(sam3_folder).eval()
    processor = Sam3TrackerProcessor.from_pretrained(sam3_folder)
    scores, logits = peer_answer(model, processor, picture, PROMPTS[kind], kind == "one click")
    best = int(scores.argmax())
    assert found.score == pytest.approx(float(scores[best]), abs=1e-6)
    torch.testing.assert_close(found.logits, logits[best], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("box", [None, (10.0, 8.0, 50.0, 40.0)])
def test_sam3_answers_words_as_transformers(sam3_folder, picture, box, monkeypatch) -> None:
    from transformers import Sam3Model, Sam3Processor

    from sounding.segment import sam3

    model, processor = Sam3Model.from_pretrained(sam3_folder).eval(), Sam3Processor.from_pretrained(sam3_folder)
    whole = (picture[0] * 255).round().numpy().astype(np.uint8)
    inputs = processor(images=whole, text="a dog", input_boxes=[[list(box)]] if box else None, return_tensors="pt")
    inputs.pop("original_sizes")
    with torch.no_grad():
        outputs = model(**inputs)
    scores = outputs.pred_logits[0].sigmoid() * outputs.presence_logits[0].sigmoid()
    # Random weights score everything alike: put the threshold amid the scores, so that some are found.
    threshold = float(scores.sort().values[2:4].mean())
    monkeypatch.setattr(sam3, "FOUND", threshold)
    expected = processor.post_process_instance_segmentation(outputs, threshold, target_sizes=[(48, 72)])[0]
    kept = scores > threshold
    assert 0 < len(expected["scores"]) == int(kept.sum()) < len(scores)

    segmenter = load_segmenter(sam3_folder)
    prepared = segmenter.prepare(picture)
    found = segmenter.segment(prepared, Prompt(text="a dog", box=box))
    logits = torch.nn.functional.interpolate(outputs.pred_masks, (48, 72), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found.logits, logits[kept].amax(dim=0), rtol=1e-4, atol=1e-4)
    assert found.score == pytest.approx(float(expected["scores"].max()), abs=1e-6)
    # The processor resizes after the sigmoid, so edges may differ by a pixel.
    union = expected["masks"].amax(dim=0).bool()
    assert ((found.mask > 0.5) == union).float().mean() > 0.97

    monkeypatch.setattr(sam3, "FOUND", 2.0)
    with pytest.raises(ValueError, match="found no 'a dog' in the image"):
        segmenter.segment(prepared, Prompt(text="a dog"))


def test_sam3_keeps_one_backbone(sam3_folder) -> None:
    module: Any = load_segmenter(sam3_folder).module
    assert module["detector"].vision_encoder.backbone is module["tracker"].vision_encoder.backbone


def test_sam3_parts_alone_say_what_they_understand(sam3_folder, picture, tmp_path) -> None:
    from transformers import Sam3Model, Sam3Processor, Sam3TrackerModel, Sam3TrackerProcessor

    for kind, model, processor, prompt, words in (
        ("sam3", Sam3Model, Sam3Processor, PROMPTS["one click"], "understands text, but points or a box came"),
        ("sam3_tracker", Sam3TrackerModel, Sam3TrackerProcessor, Prompt(text="dog"), "understands points and boxes"),
    ):
        loaded = model.from_pretrained(sam3_folder)
        loaded.config.model_type = kind
        loaded.save_pretrained(tmp_path / kind)
        processor.from_pretrained(sam3_folder).save_pretrained(tmp_path / kind)
        segmenter = load_segmenter(tmp_path / kind)
        prepared = segmenter.prepare(picture)
        with pytest.raises(ValueError, match=words):
            segmenter.segment(prepared, prompt)
