"""Published models as baselines: folders of their true structure, against direct calls of the libraries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AudioLDM2Pipeline, AudioLDMPipeline
from safetensors.torch import load_file
from transformers import BlipForConditionalGeneration, BlipProcessor, ClapModel, ClapProcessor, GPT2LMHeadModel

from sounding.audio.files import write_audio
from training.evaluate.baselines.baseline import Settings
from training.evaluate.baselines.captioning import read_blip
from training.evaluate.baselines.retrieval import ByClap, read_clap
from training.evaluate.baselines.text_to_audio import AudioLdm, read_audioldm

from .tiny_published import save_audioldm, save_audioldm2, save_blip, save_clap

CPU = torch.device("cpu")
SETTINGS = Settings(seconds=1.28, steps=2)
IMAGE = torch.zeros(1, 8, 8, 3)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("published")
    for name, save in (("audioldm", save_audioldm), ("audioldm2", save_audioldm2), ("blip", save_blip)):
        save(root / name)
    save_clap(root / "clap")
    return root


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_audioldm_is_the_pipeline(published: Path) -> None:
    ours = AudioLdm(read_audioldm(published / "audioldm", "AudioLDMPipeline", CPU), SETTINGS)
    theirs = AudioLDMPipeline.from_pretrained(published / "audioldm", local_files_only=True)
    made = ours.sound("a dog", IMAGE, 7)
    expected = theirs("a dog", audio_length_in_s=1.28, num_inference_steps=2, generator=seeded(7), output_type="pt")
    assert (ours.rate, made.shape) == (16_000, (20_480,))
    assert made.abs().max() > 1e-3
    torch.testing.assert_close(made, expected.audios[0])
    assert not torch.equal(ours.sound("a dog", IMAGE, 8), made)
    torch.testing.assert_close(ours.sound("a dog", IMAGE, 7), made)


def test_audioldm2_works_with_the_bare_gpt2_of_published_folders(published: Path) -> None:
    index = json.loads((published / "audioldm2" / "model_index.json").read_text())
    assert index["language_model"] == ["transformers", "GPT2Model"]
    ours = AudioLdm(read_audioldm(published / "audioldm2", "AudioLDM2Pipeline", CPU), SETTINGS)
    theirs = AudioLDM2Pipeline.from_pretrained(published / "audioldm2", local_files_only=True)
    whole = GPT2LMHeadModel(theirs.language_model.config).eval()
    (weights,) = (published / "audioldm2" / "language_model").glob("*.safetensors")
    whole.transformer.load_state_dict(load_file(weights))
    theirs.language_model = whole
    made = ours.sound("a dog", IMAGE, 7)
    expected = theirs("a dog", audio_length_in_s=1.28, num_inference_steps=2, generator=seeded(7), output_type="pt")
    assert made.shape == (20_480,)
    assert made.abs().max() > 1e-3
    torch.testing.assert_close(made, expected.audios[0])


def test_other_folders_are_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no folder of AudioLDM2Pipeline \(it holds 'AudioLDMPipeline'\)"):
        read_audioldm(published / "audioldm", "AudioLDM2Pipeline", CPU)
    with pytest.raises(ValueError, match="is no folder of AudioLDMPipeline"):
        read_audioldm(tmp_path, "AudioLDMPipeline", CPU)
    index = json.loads((published / "audioldm" / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"vae": ["my_module", "Evil"]}))
    with pytest.raises(ValueError, match="parts of it are of 'my_module'"):
        read_audioldm(tmp_path, "AudioLDMPipeline", CPU)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="cannot be read as AudioLDMPipeline"):
        read_audioldm(tmp_path, "AudioLDMPipeline", CPU)
    with pytest.raises(ValueError, match="is no folder of BLIP"):
        read_blip(published / "audioldm", CPU)
    with pytest.raises(ValueError, match="is no folder of CLAP"):
        read_clap(tmp_path, CPU)


def test_blip_captions_as_its_authors_call_it(published: Path) -> None:
    blip = read_blip(published / "blip", CPU)
    image = torch.rand(1, 20, 30, 3, generator=seeded(1))
    caption = blip.caption(image)
    processor = BlipProcessor.from_pretrained(published / "blip")
    model = BlipForConditionalGeneration.from_pretrained(published / "blip").eval()
    pixels = (image[0].numpy() * 255).round().astype(np.uint8)
    inputs = processor(images=pixels, text="a picture of", return_tensors="pt")
    (tokens,) = model.generate(**inputs, num_beams=3, min_length=5, max_length=20)
    assert processor.decode(tokens, skip_special_tokens=True) == f"a picture of {caption}"
    assert set(caption.split()) <= {"a", "picture", "of", "dog", "cat", "frog", "on", "grass"}


def test_clap_finds_the_nearest_sound(published: Path, tmp_path: Path) -> None:
    for number in range(3):
        sound = 0.1 * torch.randn(16_000 * (number + 1), generator=seeded(number))
        write_audio(tmp_path / "library" / f"{number}.wav", sound, 16_000)
    (tmp_path / "library" / "broken.wav").write_text("no sound")
    clap = read_clap(published / "clap", CPU)
    model = ClapModel.from_pretrained(published / "clap").eval()
    processor = ClapProcessor.from_pretrained(published / "clap")
    sound = 0.1 * torch.randn(1, 480_000, generator=seeded(9))
    with torch.no_grad():
        heard = processor.feature_extractor(sound[0].numpy(), sampling_rate=48_000, return_tensors="pt")
        both = model(**heard, **processor.tokenizer(["a dog"], return_tensors="pt"))  # its embeddings have length 1
    torch.testing.assert_close(clap.embed(sound, 48_000), both.audio_embeds)
    torch.testing.assert_close(clap.embed_text("a dog"), both.text_embeds[0])
    found = ByClap(clap, tmp_path / "library", tmp_path / "kept")
    cosines = {
        path.stem: float(row @ clap.embed_text("a dog"))
        for path, row in zip(found.files, found.embeddings, strict=True)
    }
    assert cosines.keys() == {"0", "1", "2"}
    assert found.find("a dog").stem == max(cosines, key=lambda stem: cosines[stem])
