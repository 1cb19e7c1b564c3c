"""Models that say what is seen or heard, of many clips at a time: from folders of transformers, and a stand-in.

All of them take the likeliest words, so that the same clip has the same caption whatever it is captioned together with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..cluster.process import device_for
from ..cluster.stage import StopRun
from ..data.shard_format import SAMPLE_RATE
from ..evaluate.models.loading import read_pretrained
from .model_files import ADVICE, decoded, likeliest

IMAGES = 64  # that BLIP looks at together; long clips have more
WORDS = 30  # tokens of a frame's caption
AUDIO_WORDS = 100  # tokens of an audio caption, as the authors of the Whisper captioners have it


class FrameCaptioner(Protocol):
    """What the captions step asks of a model that sees."""

    def caption(self, frames: Sequence[np.ndarray]) -> list[str]:
        """One caption per frame; "" where there is nothing to say.

        Args:
            frames: [H, W, 3] uint8 each, of any sizes, of several clips.
        """


class AudioCaptioner(Protocol):
    """What the captions step asks of a model that hears."""

    def caption(self, sounds: Sequence[np.ndarray]) -> list[str]:
        """One caption per sound.

        Args:
            sounds: [samples] float32 each, 16 kHz.
        """


class NameCaptioner:
    """The stand-in: "a dog", by the namer in the box."""

    def __init__(self, device: str):
        from sounding.naming.load import load_namer

        self.device = device_for(device)
        self.namer = load_namer(device=self.device)

    def caption(self, frames: Sequence[np.ndarray]) -> list[str]:
        """See FrameCaptioner."""
        from sounding.naming.sentences import with_article

        found = []
        for frame in frames:
            image = torch.tensor(frame)[None].to(self.device).float() / 255
            named = self.namer.name(image, top=1)[0]
            found.append(with_article(named.name) if named.known else "")
        return found


class Blip:
    """BLIP from a folder."""

    def __init__(self, folder: Path, device: str):
        self.device = device_for(device)
        model, self.processor = read_pretrained(
            folder, "BlipForConditionalGeneration", "BlipProcessor", "a BLIP model", ADVICE
        )
        self.model = model.to(self.device)

    @torch.inference_mode()
    def caption(self, frames: Sequence[np.ndarray]) -> list[str]:
        """See FrameCaptioner."""
        found: list[str] = []
        for start in range(0, len(frames), IMAGES):
            images = [torch.tensor(frame).permute(2, 0, 1) for frame in frames[start : start + IMAGES]]
            pixels = self.processor(images=images, return_tensors="pt").pixel_values.to(self.device)
            tokens = self.model.generate(pixel_values=pixels, max_new_tokens=WORDS, do_sample=False)
            found += map(str, self.processor.batch_decode(tokens, skip_special_tokens=True))
        return found


class WhisperCaptioner:
    """A Whisper that was trained to caption sounds, such as MU-NLPC's (Kadlčík et al., 2023); hears 30 s at most.

    The decoder begins with Whisper's own tokens for English transcription without times and goes on with the prompt,
    by which the authors tell styles apart: "audiocaps > caption: " or "clotho > caption: ".
    """

    prompt = "audiocaps > caption: "  # its captions are of AudioSet's clips

    def __init__(self, folder: Path, prompt: str, device: str):
        self.device = device_for(device)
        model, self.processor = read_pretrained(
            folder, "WhisperForConditionalGeneration", "WhisperProcessor", "a Whisper model", ADVICE
        )
        self.model = model.to(self.device)
        tokenizer = self.processor.tokenizer
        tokenizer.set_prefix_tokens(language="english", task="transcribe", predict_timestamps=False)
        words = tokenizer(prompt or self.prompt, add_special_tokens=False).input_ids
        self.start = torch.tensor([[*tokenizer.prefix_tokens, *words]], device=self.device)
        given = self.model.generation_config
        self.settings = likeliest(self.model, AUDIO_WORDS, suppress_tokens=given.suppress_tokens)

    @torch.inference_mode()
    def caption(self, sounds: Sequence[np.ndarray]) -> list[str]:
        """See AudioCaptioner."""
        from transformers import GenerationMixin

        features = self.processor.feature_extractor(list(sounds), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        windows = features.input_features.to(self.device, self.model.dtype)
        start = self.start.expand(len(sounds), -1)
        # Whisper's own `generate` is for transcription; it goes on over windows and tries again at temperatures.
        tokens = GenerationMixin.generate(
            self.model,
            windows,
            generation_config=self.settings,
            attention_mask=torch.ones(len(windows), windows.shape[-1], dtype=torch.long, device=self.device),
            decoder_input_ids=start,
        )
        words = tokens[:, start.shape[1] :]
        # Marks of languages, tasks and times come after the end in Whisper's list; older folders do not call all of
        # them special, so that the tokenizer would write them out.
        end = self.processor.tokenizer.eos_token_id
        return decoded(self.processor.tokenizer, words, self.settings, lambda token: token < end)


class QwenCaptioner:
    """Qwen2-Audio (Chu et al., 2024), the one that follows instructions, asked for a caption."""

    prompt = "Describe the sounds in this recording in one English sentence."

    def __init__(self, folder: Path, prompt: str, device: str):
        self.device = device_for(device)
        model, self.processor = read_pretrained(
            folder, "Qwen2AudioForConditionalGeneration", "Qwen2AudioProcessor", "a Qwen2-Audio model", ADVICE
        )
        self.model = model.to(self.device)
        self.processor.tokenizer.padding_side = "left"
        asked = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": prompt or self.prompt}]
        self.text = self.processor.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
        )
        self.settings = likeliest(self.model, AUDIO_WORDS)

    @torch.inference_mode()
    def caption(self, sounds: Sequence[np.ndarray]) -> list[str]:
        """See AudioCaptioner."""
        given = self.processor(
            text=[self.text] * len(sounds),
            audio=list(sounds),
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            padding=True,
        ).to(self.device, self.model.dtype)
        if "input_features" not in given:  # older ones ignore the argument, and captions would be made up
            raise StopRun(
                "This version of transformers does not take sounds for Qwen2-Audio by `audio`; install a later one."
            )
        tokens = self.model.generate(**given, generation_config=self.settings)
        return decoded(self.processor.tokenizer, tokens[:, given.input_ids.shape[1] :], self.settings)


AUDIO_CAPTIONERS: dict[str, Callable[[Path, str, str], AudioCaptioner]] = {  # by model_type of config.json
    "whisper": WhisperCaptioner,
    "qwen2_audio": QwenCaptioner,
}


def open_audio_captioner(folder: Path, prompt: str, device: str) -> AudioCaptioner:
    """The captioner in a folder that transformers' `save_pretrained` wrote.

    Args:
        prompt: what it is asked; "" takes the model's own.

    Raises:
        ValueError: another model, or a damaged folder.
    """
    try:
        kind = json.loads((folder / "config.json").read_bytes())["model_type"]
        captioner = AUDIO_CAPTIONERS[kind]
    except (OSError, ValueError, KeyError, TypeError):
        kinds = " or ".join(AUDIO_CAPTIONERS)
        raise ValueError(
            f"{folder} is no folder of an audio captioner (model_type {kinds} in its config.json); give {ADVICE}, or "
            "captions.audio, a CSV."
        ) from None
    return captioner(folder, prompt, device)
