"""Names that CLIP's text tower embeds while weights are converted, against open_clip and transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel
from typer.testing import CliRunner

import sounding
from sounding.checkpoint import describe
from sounding.cli.app import app
from sounding.convert import assemble, clip
from sounding.convert.assemble import convert
from sounding.convert.clip import read_clip_text
from sounding.convert.naming import embed_names
from sounding.naming.vocabulary import BUILT_IN, Vocabulary, read_vocabulary
from sounding.weights import WeightsError

from .hub import publish_audioldm, publish_clip, serving
from .published_weights import FILM, TINY_CLIP, audioldm_pipeline, tiny_clip

__all__ = ["tiny_clip"]

TREE = "animal:\n  dog: dog, Beagle\n  cat\ncar\nunknown: wall\n"


@pytest.fixture(scope="module")
def audioldm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("audioldm") / "audioldm-tiny"
    publish_audioldm(folder, audioldm_pipeline((32, 64)))
    return folder


@pytest.fixture
def few_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vocabulary:
    """A vocabulary of five phrases in the place of the library's."""
    path = tmp_path / "few.txt"
    path.write_text(TREE, "utf-8")
    monkeypatch.setattr(assemble, "BUILT_IN", path)
    return read_vocabulary(path)


@pytest.fixture
def small_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """open_clip's class with both towers, of a size that is known for the test."""
    vision = {key: TINY_CLIP[key] for key in ("width", "layers", "patch_size", "image_size")}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    path = tmp_path / "tiny-vit-names.json"
    path.write_text(json.dumps({"embed_dim": FILM, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    size = (TINY_CLIP["width"], TINY_CLIP["layers"], TINY_CLIP["patch_size"], FILM, TINY_CLIP["image_size"])
    monkeypatch.setitem(clip.MODELS, size, "tiny-vit-names")
    torch.manual_seed(7)
    peer = open_clip.create_model("tiny-vit-names", force_quick_gelu=True).eval().requires_grad_(False)
    peer.logit_scale.fill_(3.0)
    return peer


def written(peer: Any, folder: Path, quick_gelu: bool = True) -> Path:
    folder.mkdir()
    state = {name: value.half() for name, value in peer.state_dict().items()}  # as OpenAI's files are
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": quick_gelu}}))
    return folder


def zero_shot(peer: Any, vocabulary: Vocabulary) -> torch.Tensor:
    """open_clip's own class embeddings, with texts of the full length."""
    phrases = [phrase for _, phrase in vocabulary.phrases]
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return open_clip.build_zero_shot_classifier(peer, tokenizer, phrases, SIMPLE_IMAGENET_TEMPLATES).T


def test_text_towers_of_every_form_embed_alike(small_clip: Any, few_names: Vocabulary, tmp_path: Path) -> None:
    small_clip.half().float()
    expected = zero_shot(small_clip, few_names)
    prefixed = {
        name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": value
        for name, value in small_clip.state_dict().items()
    }
    newer, openai = tmp_path / "newer.safetensors", tmp_path / "openai.safetensors"
    save_file(prefixed, newer)
    save_file({**small_clip.state_dict(), "context_length": torch.tensor(77)}, openai)
    for path in (written(small_clip, tmp_path / "folder"), newer, openai):
        tower = read_clip_text(path, quick_gelu=True)
        assert tower is not None
        assert tower.scale == pytest.approx(2.718281828**3, rel=1e-5)
        found = embed_names(few_names, tower, "tiny-vit-names")
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    plain = read_clip_text(tmp_path / "folder", quick_gelu=False)
    assert plain is not None
    assert (embed_names(few_names, plain, "tiny-vit-names") - expected).abs().max() > 1e-4


def test_transformers_text_tower(small_clip: Any, tmp_path: Path) -> None:
    peer: CLIPModel = publish_clip(tmp_path / "clip")
    tower = read_clip_text(tmp_path / "clip", quick_gelu=True)
    assert tower is not None
    vocabulary = Vocabulary(("dog",), (-1,), ((0, "dog"),))
    tokens = open_clip.get_tokenizer("ViT-B-32")([template("dog") for template in SIMPLE_IMAGENET_TEMPLATES])
    with torch.no_grad():
        pooled = peer.text_model(tokens).last_hidden_state[range(len(tokens)), tokens.argmax(dim=-1)]
        each = torch.nn.functional.normalize(peer.text_projection(pooled), dim=-1)
    expected = torch.nn.functional.normalize(each.mean(dim=0), dim=0)
    torch.testing.assert_close(embed_names(vocabulary, tower, "tiny-vit-names")[0], expected, atol=1e-6, rtol=1e-5)


def test_probabilities_are_open_clips_at_the_true_size(
    audioldm_folder: Path, few_names: Vocabulary, tmp_path: Path
) -> None:
    """ViT-B/32 with random weights, through the file: embeddings of names, and probabilities over a whole image."""
    torch.manual_seed(11)
    peer = open_clip.create_model("ViT-B-32", force_quick_gelu=True).eval().requires_grad_(False)
    peer.logit_scale.fill_(4.6052)
    peer.half().float()
    source, out = written(peer, tmp_path / "b32"), tmp_path / "out.safetensors"
    convert(out, audioldm=audioldm_folder, clip=source, condition="film", dtype=torch.float32)
    model = sounding.load(out, device="cpu", parts=("patches", "naming"))
    assert model.naming is not None
    expected = zero_shot(peer, few_names)
    torch.testing.assert_close(model.naming.embeddings.data, expected, atol=1e-5, rtol=0)

    image = torch.rand(1, 60, 90, 3)
    embedded = peer.encode_image(model.patches.preprocess(image), normalize=True)
    shares = (peer.logit_scale.exp() * embedded @ expected.T).softmax(dim=-1)
    ours = model.naming.probabilities(model.naming.embed(model.patches, image, None))
    assert shares.max() > 0.25
    torch.testing.assert_close(ours[0, 1], shares[0, :2].sum(), atol=1e-5, rtol=0)  # "dog"
    torch.testing.assert_close(ours[0, 2:], shares[0, 2:4], atol=1e-5, rtol=0)


def test_a_clip_without_its_text_tower_converts_without_names(
    small_clip: Any, audioldm_folder: Path, few_names: Vocabulary, tiny_clip: Path, tmp_path: Path
) -> None:
    publish_clip(tmp_path / "clip")
    weights = tmp_path / "clip" / "model.safetensors"
    image_tower = {name: value.clone() for name, value in load_file(weights).items() if name.startswith("vis")}
    save_file(image_tower, weights)
    report = convert(tmp_path / "out.safetensors", audioldm=audioldm_folder, clip=tmp_path / "clip", condition="film")
    assert any("CLIP came without its text tower" in note for note in report.notes)
    model = sounding.load(tmp_path / "out.safetensors", device="cpu")
    assert model.naming is None
    assert model.config.generation.masks == "names"
    report = convert(tmp_path / "out.safetensors", audioldm=audioldm_folder, clip=tiny_clip)
    assert any("takes 64 tokens, but its tokenizer has 49408" in note for note in report.notes)
    assert describe(tmp_path / "out.safetensors")["config"]["generation"]["masks"] == "grounding"


@pytest.mark.parametrize("change", ["missing", "shape", "scale"])
def test_a_damaged_text_tower_is_said(
    change: str, small_clip: Any, audioldm_folder: Path, few_names: Vocabulary, tmp_path: Path
) -> None:
    folder = written(small_clip, tmp_path / "clip")
    state = load_file(folder / "open_clip_model.safetensors")
    if change == "missing":
        del state["ln_final.weight"]
    elif change == "shape":
        state["positional_embedding"] = state["positional_embedding"][:5].clone()
    else:
        state["logit_scale"] = torch.tensor(float("nan"))
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(WeightsError, match="is not laid out as its publisher's weights are"):
        convert(tmp_path / "out.safetensors", audioldm=audioldm_folder, clip=folder, condition="film")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.fixture
def hub(small_clip: Any, audioldm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub with the recommended weights, and an empty folder to work in."""
    for name in ("SOUNDING_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    root, work = tmp_path / "hub", tmp_path / "work"
    for repository in ("cvssp/audioldm-s-full-v2", "openai/clip-vit-base-patch32"):
        (root / repository / "resolve").mkdir(parents=True)
    (root / "cvssp/audioldm-s-full-v2/resolve/main").symlink_to(audioldm_folder)
    publish_clip(root / "openai/clip-vit-base-patch32/resolve/main")
    work.mkdir()
    monkeypatch.chdir(work)
    with serving(root) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield asked


def command(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def test_recommended_from_a_hub_to_a_model_that_names(hub: list[str], few_names: Vocabulary) -> None:
    early = command("convert", "recommended")
    assert early.exit_code == 1
    assert "run `sounding fetch recommended` first" in early.output

    planned = command("fetch", "recommended", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert not hub
    fetched = command("fetch", "recommended")
    assert fetched.exit_code == 0, fetched.output
    lines = fetched.output.splitlines()
    assert "AudioLDM small" in lines[0]
    assert "CC-BY-NC-SA-4.0" in lines[0]
    assert "CLIP ViT-B/32 by OpenAI; MIT" in lines[1]
    assert "no commercial use" in lines[2]
    assert Path("weights/audioldm-s/vae/diffusion_pytorch_model.bin").is_file()  # there is no .safetensors of it

    Path("mine.txt").write_text("kettle\nbird\n  owl\n", "utf-8")
    made = command("convert", "recommended", "--vocabulary", "mine.txt")
    assert made.exit_code == 0, made.output
    assert "ComfyUI/models/sounding" in made.output
    out = Path("weights/recommended.safetensors")
    described = describe(out)
    assert "CC-BY-NC-SA-4.0" in described["modelspec"]["modelspec.license"]
    assert described["config"]["generation"]["masks"] == "names"
    unet = described["config"]["unet"]
    assert (unet["film_width"], unet["head_width"], unet["heads"]) == (FILM, 32, [])  # heads as in the authors' code
    assert described["config"]["naming"]["names"] == ["animal", "dog", "cat", "car", "kettle", "bird", "owl"]
    told = command("info", out)
    assert "names 7 kinds of objects" in told.output
    assert len(told.output.splitlines()) < 200

    model = sounding.load(out, device="cpu")
    assert model.naming is not None
    mask = torch.zeros(2, 48, 64)
    mask[0, 10:30, 10:30], mask[1, 5:45, 30:60] = 1, 1
    image = (torch.rand(1, 48, 64, 3) * 255).round() / 255
    first, second = model.name(image, mask, top=3)
    assert len(first.top) == len(second.top) == 3
    assert all(name in model.config.naming.names for name, _ in first.top)  # type: ignore[union-attr]
    assert first.known

    Image.fromarray((255 * image[0]).byte().numpy()).save("image.png")
    Image.fromarray((255 * mask[0]).byte().numpy()).save("mask.png")
    common = ("--model", out, "--image", "image.png", "--mask", "mask.png")
    (named,) = json.loads(command("name", *common, "--json").stdout)["objects"]
    assert named["name"] == first.name
    sounded = command("generate", *common, "--seconds", 0.5, "--steps", 2, "--out", "sound.wav", "--json")
    assert sounded.exit_code == 0, sounded.output
    assert first.name in json.dumps(json.loads(sounded.stdout))
    assert Path("sound.wav").is_file()


def test_places_that_are_needed_are_said(tmp_path: Path) -> None:
    refused = command("convert", "--clip", tmp_path)
    assert refused.exit_code == 1
    assert "convert got no --out and no --audioldm" in refused.output


def test_a_bad_vocabulary_is_found_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        convert(tmp_path / "o.safetensors", audioldm="none", clip="none", vocabulary=tmp_path / "names.txt")
    with pytest.raises(WeightsError, match="none"):
        convert(tmp_path / "o.safetensors", audioldm="none", clip="none", vocabulary=BUILT_IN)
