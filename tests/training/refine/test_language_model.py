"""A language model in this process: several clips at a time get the answers that each of them gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from training.refine.language_model import Local
from training.refine.prompt import SYSTEM, messages_for
from training.refine.settings import RephraseSettings
from training.refine.step import measured
from training.refine.steps.rephrase import RephraseStep

from .tiny_models import CHATML, write_language_model

CLIPS: list[dict[str, Any]] = [
    {"audio_caption": "a bark", "labels": ["Bark"], "frame_captions": ["a dog", "a cat runs"], "label_caption": "Bark"},
    {"audio_caption": "rain and then wind", "labels": ["Rain", "Wind"], "frame_captions": [], "label_caption": "Rain"},
    {"audio_caption": "a train", "labels": [], "frame_captions": ["a train"] * 9, "label_caption": "Train"},
    {"audio_caption": "", "labels": ["Bird"], "frame_captions": ["water"], "label_caption": "Bird"},
]


def settings_for(folder: Path) -> RephraseSettings:
    return RephraseSettings(by="transformers", folder=str(folder), device="cpu")


@pytest.mark.parametrize("template", [None, CHATML])
def test_clips_together_are_answered_as_each_alone(template: str | None, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    write_language_model(tmp_path, template)
    local = Local(settings_for(tmp_path))
    asked = [messages_for(clip) for clip in CLIPS]
    found = local.answers(asked)
    assert found == [local.answers([one])[0] for one in asked]
    assert len(set(found)) == len(found)
    # The likeliest token each time, whatever the folder's own settings are; asked without a cache.
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), LlamaForCausalLM.from_pretrained(tmp_path).eval()
    for messages, answer in zip(asked[:2], found[:2], strict=True):
        if template:
            told = "".join(f"<|im_start|>{one['role']} {one['content']}<|im_end|>" for one in messages)
            told += "<|im_start|>assistant "
        else:
            told = f"{messages[0]['content']}\n\n{messages[1]['content']}\n\n"
        tokens = tokenizer(told, add_special_tokens=False).input_ids
        start = len(tokens)
        while len(tokens) < start + 200 and (len(tokens) == start or tokens[-1] != tokenizer.eos_token_id):
            with torch.inference_mode():
                tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        assert answer == tokenizer.decode(tokens[start:], skip_special_tokens=True)


def test_a_template_without_a_system_has_all_in_one_message(tmp_path: Path) -> None:
    write_language_model(
        tmp_path, "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    local = Local(settings_for(tmp_path))
    text = local._text([{"role": "system", "content": SYSTEM}, {"role": "user", "content": "a dog"}])
    assert text == f"<|im_start|>user {SYSTEM}\n\na dog<|im_end|><|im_start|>assistant "


def test_answers_here_are_checked_as_those_of_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_language_model(tmp_path)
    step = RephraseStep(settings_for(tmp_path))
    step.open()
    assert [found["rephrase_error"] for found in measured(step, CLIPS)] == [""] * len(CLIPS)
    monkeypatch.setattr(Local, "answers", lambda self, asked: ["A dog barks loudly.", "no", "A train runs by.", ""])
    by = [(found["caption"], found["caption_by"]) for found in measured(step, CLIPS)]
    assert by == [
        ("A dog barks loudly.", "model"), ("Rain", "labels"), ("A train runs by.", "model"), ("Bird", "labels"),
    ]  # fmt: skip


def test_a_folder_without_a_language_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is no folder of a language model"):
        Local(settings_for(tmp_path))


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    write_language_model(tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: ...\n")
    config = (
        (tmp_path / "config.json")
        .read_text()
        .replace('"model_type": "llama"', '"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}')
    )
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match="is no folder of a language model"):
        Local(settings_for(tmp_path))
    assert not mark.exists()
