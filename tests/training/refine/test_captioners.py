"""Captioners say of many clips at a time what transformers, called directly, says of each alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training.refine import captioners, language_model
from training.refine.captioners import Blip, NameCaptioner, QwenCaptioner, WhisperCaptioner, open_audio_captioner
from training.refine.manifest import read_manifest
from training.refine.pipeline import refine

from .material import settings_of
from .tiny_models import CHATML, as_published, write_blip, write_language_model, write_qwen_audio, write_whisper

EXAMPLES = Path(__file__).parents[3] / "example_workflows" / "input"
TOKENS = 100


@pytest.fixture(scope="module")
def sounds() -> list[np.ndarray]:
    """Of several lengths and kinds."""
    draw = np.random.default_rng(0)
    times = np.arange(32_000, dtype=np.float32) / 16_000
    tones = [np.sin(2 * np.pi * pitch * times[:length]) for pitch, length in ((440, 32_000), (90, 20_000))]
    return [sound.astype(np.float32) for sound in [*tones, 0.3 * draw.standard_normal(16_000)]]


def test_the_namer_in_the_box_captions_frames() -> None:
    yard = np.array(Image.open(EXAMPLES / "yard.png").convert("RGB").resize((288, 288)))
    captions = NameCaptioner("cpu").caption([yard, np.full((64, 96, 3), 128, np.uint8)])
    assert captions[1] == ""  # nothing is named in a grey image
    assert len(captions) == 2


def test_blip_captions_frames_of_several_clips_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessor

    write_blip(tmp_path)
    draw = np.random.default_rng(0)
    frames = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 40), (40, 40), (48, 64), (64, 36))]
    blip = Blip(tmp_path, "cpu")
    found = blip.caption(frames)
    model = BlipForConditionalGeneration.from_pretrained(tmp_path).eval()
    images, tokenizer = BlipImageProcessor.from_pretrained(tmp_path), BertTokenizer.from_pretrained(tmp_path)
    wanted = []
    for frame in frames:
        pixels = images(Image.fromarray(frame), return_tensors="pt").pixel_values
        with torch.inference_mode():
            tokens = model.generate(pixel_values=pixels, max_new_tokens=30, do_sample=False)
        wanted += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert found == wanted
    assert len(set(found)) > 1
    monkeypatch.setattr(captioners, "IMAGES", 3)
    assert blip.caption(frames) == wanted
    assert blip.caption([]) == []


def greedy(model: Any, start: Sequence[int], banned: Sequence[int], end: int, **given: Any) -> list[int]:
    """The likeliest tokens one by one, without a cache."""
    tokens = list(start)
    while len(tokens) < len(start) + TOKENS:
        with torch.inference_mode():
            logits = model(decoder_input_ids=torch.tensor([tokens]), use_cache=False, **given).logits[0, -1]
            logits[list(banned)] = -torch.inf
        tokens.append(int(logits.argmax()))
        if tokens[-1] == end:
            break
    return tokens[len(start) :]


def test_a_whisper_of_captions_is_asked_as_it_was_trained(sounds: list[np.ndarray], tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    write_whisper(tmp_path)
    captioner = open_audio_captioner(tmp_path, "", "cpu")
    assert isinstance(captioner, WhisperCaptioner)
    found = captioner.caption(sounds)
    tokenizer = WhisperTokenizer.from_pretrained(tmp_path)
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    start = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"])
    start += tokenizer("audiocaps > caption: ", add_special_tokens=False).input_ids
    banned = tokenizer("#", add_special_tokens=False).input_ids
    for sound, caption in zip(sounds, found, strict=True):
        features = WhisperFeatureExtractor()(sound, sampling_rate=16_000, return_tensors="pt").input_features
        with torch.inference_mode():
            encoded = model.get_encoder()(features)
        tokens = greedy(model, start, banned, tokenizer.eos_token_id, encoder_outputs=encoded)
        assert caption == tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(set(found)) > 1
    assert WhisperCaptioner(tmp_path, "clotho > caption: ", "cpu").caption(sounds) != found
    as_published(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    assert open_audio_captioner(tmp_path, "", "cpu").caption(sounds) == found


def test_weights_that_are_a_program_are_not_run(tmp_path: Path) -> None:
    write_whisper(tmp_path)
    as_published(tmp_path)
    mark = tmp_path / "ran"

    class Program:
        def __reduce__(self) -> Any:
            return open, (str(mark), "w")

    torch.save({"a": Program()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin names .*open, which weights do not need"):
        open_audio_captioner(tmp_path, "", "cpu")
    assert not mark.exists()
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"neither model.safetensors nor pytorch_model.bin"):
        open_audio_captioner(tmp_path, "", "cpu")


def test_qwen_audio_is_asked_in_a_chat(sounds: list[np.ndarray], tmp_path: Path) -> None:
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    write_qwen_audio(tmp_path)
    captioner = open_audio_captioner(tmp_path, "", "cpu")
    assert isinstance(captioner, QwenCaptioner)
    found = captioner.caption(sounds)
    processor = Qwen2AudioProcessor.from_pretrained(tmp_path)
    model = Qwen2AudioForConditionalGeneration.from_pretrained(tmp_path).eval()
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n{QwenCaptioner.prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    for sound, caption in zip(sounds, found, strict=True):
        given = processor(text=text, audio=[sound], sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**given, max_new_tokens=TOKENS, do_sample=False)[0, given.input_ids.shape[1] :]
        assert caption == processor.tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(set(found)) > 1


def test_a_folder_without_a_captioner_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is no folder of a BLIP model"):
        Blip(tmp_path, "cpu")
    write_language_model(tmp_path / "llama")
    for folder in (tmp_path, tmp_path / "llama", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is no folder of an audio captioner"):
            open_audio_captioner(folder, "", "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ValueError, match="is no folder of a Whisper model"):
        open_audio_captioner(tmp_path, "", "cpu")


def test_a_run_has_the_same_captions_whatever_is_captioned_together(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioners, "AUDIO_WORDS", 12)
    monkeypatch.setattr(language_model, "TOKENS", 12)
    write_blip(tmp_path / "blip")
    write_whisper(tmp_path / "whisper")
    write_language_model(tmp_path / "llama", CHATML)
    runs = []
    for batch in (1, 5):
        captions = f"{{frames: blip, blip: {tmp_path}/blip, audio_model: {tmp_path}/whisper, size: 64, device: cpu"
        rephrase = f"{{by: transformers, folder: {tmp_path}/llama, device: cpu"
        settings = settings_of(
            material,
            tmp_path / str(batch),
            captions=f"{captions}, resources: {{batch: {batch}}}}}",
            rephrase=f"{rephrase}, resources: {{batch: {batch}}}}}",
        )
        refine(settings)
        runs.append(read_manifest(tmp_path / str(batch)))
    assert runs[0] == runs[1]
    kept = [row for row in runs[0] if not row["dropped_by"]]
    assert len(kept) == 6
    assert all(row["audio_caption"] and row["frame_captions"] and row["caption_tries"] == 1 for row in kept)
    assert len({tuple(row["frame_captions"]) for row in kept}) > 1
