"""Previews: what the model makes of a recipe's items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from sounding.audio.files import write_audio
from sounding.audio.mel import MelSpectrogram, normalize
from sounding.config import from_dict
from sounding.images.files import read_image, read_mask
from sounding.model import SoundingModel
from training.engine.previews import Preview, PreviewItem, make_previews


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a street.png")
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 5:20] = 255
    Image.fromarray(mask).save(folder / "dog.png")
    write_audio(folder / "bark.wav", 0.3 * torch.sin(torch.arange(9000) * 0.2), 16000)
    return folder


def test_previews_are_what_the_model_generates(tiny_model: SoundingModel, pictures: Path) -> None:
    street, dog = str(pictures / "a street.png"), str(pictures / "dog.png")
    preview = Preview(
        items=(PreviewItem(street, mask=dog, seed=5), PreviewItem(street, text="a dog!", seed=6), PreviewItem(street)),
        seconds=0.5,
        steps=2,
        cfg=1.5,
    )
    tiny_model.train()
    tiny_model.vae.eval()
    state = torch.random.get_rng_state()
    sounds = make_previews(tiny_model, preview)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert tiny_model.training
    assert tiny_model.unet.mid_block.training
    assert not any(module.training for module in tiny_model.vae.modules())
    tiny_model.eval()

    image = read_image(street)
    for sound, expected in zip(
        sounds,
        (
            {"mask": read_mask(dog), "seed": 5},
            {"text": "a dog!", "seed": 6},
            {"mask": torch.ones(1, 60, 80), "seed": 0},
        ),
        strict=True,
    ):
        made = tiny_model.generate(image=image, seconds=0.5, steps=2, cfg=1.5, **expected).waveform  # type: ignore[arg-type]
        assert torch.equal(sound.waveform, made[0, 0])
        assert torch.equal(sound.mel, MelSpectrogram(tiny_model.config.audio)(made[0])[0])
    assert [sound.name for sound in sounds] == ["1-a_street-dog", "2-a_street-a_dog", "3-a_street"]
    assert not torch.equal(sounds[0].waveform, sounds[2].waveform)


def test_recordings_come_back_as_copies(tiny_model: SoundingModel, pictures: Path) -> None:
    preview = Preview(items=(PreviewItem(audio=str(pictures / "bark.wav")),), seconds=0.3)
    recording, rate = soundfile.read(pictures / "bark.wav", dtype="float32")
    given = torch.from_numpy(recording[:4800])[None]

    (whole,) = make_previews(tiny_model, preview)
    mel = tiny_model.decode(tiny_model.encode(given))
    assert torch.equal(whole.waveform, tiny_model.vocode(mel, 0.3)[0, 0])
    assert torch.equal(whole.mel, mel[0, :30])
    assert (whole.name, whole.sample_rate, len(whole.waveform)) == ("1-bark", rate, 4800)

    (vocoded,) = make_previews(tiny_model, preview, vae=False)
    mel = MelSpectrogram(tiny_model.config.audio)(normalize(given))
    assert torch.equal(vocoded.waveform, tiny_model.vocode(mel)[0, 0])
    assert torch.equal(vocoded.mel, mel[0])


def test_preview_settings_come_from_a_recipe_and_are_checked() -> None:
    preview = from_dict(Preview, {"every": 50, "items": [{"image": "a.png", "mask": "m.png"}, {"audio": "a.wav"}]})
    assert preview.items == (PreviewItem("a.png", "m.png"), PreviewItem(audio="a.wav"))
    assert [step for step in range(0, 160, 10) if preview.due(step)] == [0, 50, 100, 150]
    assert not Preview(items=preview.items).due(100)
    with pytest.raises(ValueError, match="one is expected"):
        PreviewItem()
    with pytest.raises(ValueError, match="one is expected"):
        PreviewItem("a.png", audio="a.wav")
    with pytest.raises(ValueError, match="leave one out"):
        PreviewItem("a.png", mask="m.png", text="a dog")
