"""Folders of SAM that are incomplete, or that name other things than SAM: refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sounding.segment import Prompt, load_segmenter
from sounding.weights import WeightsError

from .small_sam2 import PROMPTS, picture, sam2_folder

__all__ = ["picture", "sam2_folder"]


def test_sam2_refuses_words_and_incomplete_folders(sam2_folder, picture, tmp_path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    segmenter = load_segmenter(sam2_folder)
    with pytest.raises(ValueError, match="understands points and boxes only; use SAM 3"):
        segmenter.segment(segmenter.prepare(picture), Prompt(text="a dog"))
    broken = tmp_path / "broken"
    shutil.copytree(sam2_folder, broken)
    state = load_file(broken / "model.safetensors")
    state.pop("mask_decoder.iou_token.weight")
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 tensors, the first is 'mask_decoder\.iou_token\.weight'"):
        load_segmenter(broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no \.safetensors"):
        load_segmenter(broken)


def _with(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DISPATCHED = {
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "_attn_implementation_internal": "someone/kernel",
    "_experts_implementation_internal": "someone/kernel",
    "use_kernels": True,
    "kernel_config": {"RMSNorm": "someone/kernel:RMSNorm"},
    "quantization_config": {"quant_method": "fp8"},
    "base_model_tp_plan": {"*": "colwise"},
    "transformers_weights": "/dev/zero",
    "output_attentions": True,
    "return_dict": False,
    "dtype": "float16",
    "name_or_path": "someone/model",
}


@pytest.mark.parametrize("where", ["", "vision_config", "mask_decoder_config"])
def test_a_folder_does_not_choose_what_runs(sam2_folder, picture, tmp_path, monkeypatch, where) -> None:
    """transformers 4.56 to 5.2 take the place of code to load from a configuration (CVE-2026-4372)."""
    from transformers import Sam2Model

    folder = Path(shutil.copytree(sam2_folder, tmp_path / "sam2"))
    config = json.loads((folder / "config.json").read_text())
    _with(folder / "config.json", {where: config[where] | DISPATCHED} if where else DISPATCHED)
    seen: list[dict[str, Any]] = []
    read = Sam2Model.from_pretrained.__func__

    def watched(cls: Any, path: Any, **options: Any) -> Any:
        seen.append(options["config"].to_dict())
        return read(cls, path, **options)

    monkeypatch.setattr(Sam2Model, "from_pretrained", classmethod(watched))
    segmenter, plain = load_segmenter(folder), load_segmenter(sam2_folder)
    prompt = PROMPTS["one click"]
    answers = [each.segment(each.prepare(picture), prompt).mask for each in (segmenter, plain)]
    assert torch.equal(*answers)
    assert seen[0] == seen[1]
    assert "someone" not in json.dumps(seen[0], default=str)


HOSTILE: dict[str, tuple[str, dict[str, Any], str]] = {
    "code": ("config.json", {"auto_map": {"AutoModel": "someone/code--model.Model"}}, "names auto_map"),
    "a foreign part": ("config.json", {"vision_config": {"model_type": "timm_wrapper"}}, "names model_type 'timm_"),
    "a backbone": ("config.json", {"vision_config": {"backbone": "someone/model"}}, "names backbone"),
    "a side": ("config.json", {"vision_config": {"image_size": 10**6}}, "1 to 4096 pixels"),
    "a processor's code": ("processor_config.json", {"auto_map": {"AutoProcessor": "x--y.Z"}}, "names auto_map"),
    "a processor's part": (
        "processor_config.json", {"image_processor": {"image_processor_type": "OneFormerImageProcessor"}}, "OneFormer",
    ),
    "a foreign processor": ("preprocessor_config.json", {"image_processor_type": "OneFormerImageProcessor"}, "OneForm"),
    "a processor's side": ("preprocessor_config.json", {"size": {"height": 10**6, "width": 64}}, "1 to 4096 pixels"),
    "a tokenizer": ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapanese"),
    "an adapter": ("adapter_config.json", {"base_model_name_or_path": "someone/model"}, "names another model"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_folder_with_other_things_than_sam_is_refused(sam2_folder, tmp_path, case) -> None:
    name, changes, words = HOSTILE[case]
    folder = Path(shutil.copytree(sam2_folder, tmp_path / "sam2"))
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    _with(folder / name, changes)
    with pytest.raises(WeightsError, match=words) as caught:
        load_segmenter(folder)
    assert "\n" not in str(caught.value)
