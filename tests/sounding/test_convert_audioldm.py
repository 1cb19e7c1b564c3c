"""AudioLDM's weights in our form sound as they do in diffusers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import AudioLDMPipeline, DDIMScheduler
from safetensors.torch import load_file

import sounding
from sounding.checkpoint import read_header
from sounding.convert.assemble import convert
from sounding.convert.audioldm import read_audioldm
from sounding.naming.names import Named
from training.initialization import initialize
from training.recipe import RECIPES, read_recipe
from training.tasks.grounded import GroundedObjective

from .published_weights import FILM, SIZES, audioldm_pipeline, bare_package, ldm_checkpoint, ldm_unet_name, tiny_clip

__all__ = ["tiny_clip"]

SENTENCE = "a dog barks twice"


@pytest.fixture(scope="module")
def pipelines() -> dict[str, AudioLDMPipeline]:
    torch.manual_seed(1)
    return {size: audioldm_pipeline(channels) for size, channels in SIZES.items()}


def theirs(
    pipeline: AudioLDMPipeline,
    noise: torch.Tensor,
    seconds: float,
    sentence: str = SENTENCE,
    negative: str | None = None,
) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    # Its own spacing would begin at step 751 of 1000; ours begins where all is noise.
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    made = pipeline(
        sentence,
        audio_length_in_s=seconds,
        num_inference_steps=4,
        guidance_scale=2.5,
        negative_prompt=negative,
        latents=noise,
        output_type="pt",
    )
    return made.audios


def ours(model: sounding.SoundingModel, noise: torch.Tensor, seconds: float) -> torch.Tensor:
    condition = model.condition_by_text(SENTENCE)
    latents = model.sample(condition, noise, steps=4, cfg=2.5, sampler="ddim")
    return model.vocode(model.decode(latents), seconds)[:, 0]


@pytest.mark.parametrize("size", SIZES)
def test_same_waveform_as_the_pipeline(
    size: str, pipelines: dict[str, AudioLDMPipeline], tiny_clip: Path, tmp_path: Path
) -> None:
    pipeline = pipelines[size]
    pipeline.save_pretrained(tmp_path / size, safe_serialization=size != "m")  # .bin for one of them
    out = tmp_path / "out.safetensors"
    convert(out, audioldm=tmp_path / size, clip=tiny_clip, condition="film", dtype=torch.float32)
    model = sounding.load(out, device="cpu")
    for seconds, frames in ((1.28, 32), (2.52, 63)):  # 63 frames do not divide by the U-Net's levels
        noise = torch.randn(1, 8, frames, 16)
        expected = theirs(pipeline, noise, seconds)
        made = ours(model, noise, seconds)
        assert made.shape == expected.shape
        assert expected.abs().max() > 1e-3
        assert (made - expected).abs().max() <= 1e-4 * expected.abs().max()
    other = model.condition_by_text("rain")
    assert not torch.allclose(other.tokens, model.condition_by_text(SENTENCE).tokens, atol=1e-3)


def test_a_named_mask_sounds_as_in_the_pipeline(
    pipelines: dict[str, AudioLDMPipeline], tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From image and mask by way of the object's name, with a text and a negative text."""
    pipeline = pipelines["s"]
    pipeline.save_pretrained(tmp_path / "s")
    out = tmp_path / "out.safetensors"
    convert(out, audioldm=tmp_path / "s", clip=tiny_clip, condition="film", dtype=torch.float32)
    model = sounding.load(out, device="cpu")
    dog = Named("dog", 0.8, (("dog", 0.8), ("wolf", 0.1)))
    monkeypatch.setattr(model, "name", lambda image, mask, top: [dog] * len(mask))
    mask = torch.zeros(1, 48, 48)
    mask[:, 8:30, 8:30] = 1
    settings = {"image": torch.rand(1, 48, 48, 3), "mask": mask, "seconds": 1.28, "steps": 4, "cfg": 2.5, "seed": 7}
    noise = model.noise(1.28, [7])
    for text, negative, sentence in (
        (None, None, "a dog"),
        ("barking twice", "music, voices", "a dog barking twice"),
        ("two dogs howl", None, "two dogs howl"),
    ):
        expected = theirs(pipeline, noise, 1.28, sentence, negative)
        sound = model.generate(**settings, text=text, negative_text=negative, sampler="ddim", level=False)  # type: ignore[arg-type]
        assert sound.condition.sentences == (sentence,)
        made = sound.waveform[:, 0]
        assert made.shape == expected.shape
        assert (made - expected).abs().max() <= 1e-4 * expected.abs().max()
    unguided = theirs(pipeline, noise, 1.28, "a dog barking twice")
    guided = theirs(pipeline, noise, 1.28, "a dog barking twice", "music, voices")
    assert (guided - unguided).abs().max() > 1e-3 * guided.abs().max()  # the negative text is heard


def test_original_checkpoint_is_the_folder(
    pipelines: dict[str, AudioLDMPipeline], tiny_clip: Path, tmp_path: Path
) -> None:
    pipeline = audioldm_pipeline(SIZES["l"], groups=32, heads=[2, 4, 6, 10])
    pipeline.save_pretrained(tmp_path / "folder")
    torch.save({"state_dict": ldm_checkpoint(pipeline), "global_step": 7}, tmp_path / "audioldm.ckpt")
    folder, checkpoint = read_audioldm(tmp_path / "folder"), read_audioldm(tmp_path / "audioldm.ckpt")
    assert checkpoint.vae.config.scale == pytest.approx(0.9)
    for part in ("unet", "vae", "vocoder", "text"):
        expected, got = getattr(folder, part).tensors, getattr(checkpoint, part).tensors
        assert got.keys() == expected.keys()
        for name in expected:
            assert torch.equal(got[name], expected[name]), name
    assert checkpoint.unet.config == folder.unet.config
    assert checkpoint.vocoder.config == folder.vocoder.config
    assert checkpoint.text.config == folder.text.config


def test_original_checkpoint_gives_its_average(tmp_path: Path) -> None:
    pipeline = audioldm_pipeline(SIZES["l"], groups=32)
    state = ldm_checkpoint(pipeline)
    for name in [name for name in state if name.startswith("model.diffusion_model.")]:
        state["model_ema." + "".join(name.split(".")[1:])] = state[name] + 1
    torch.save({"state_dict": state}, tmp_path / "audioldm.ckpt")
    plain = read_audioldm(tmp_path / "audioldm.ckpt", ema=False).unet.tensors
    averaged = read_audioldm(tmp_path / "audioldm.ckpt").unet.tensors
    assert plain.keys() == averaged.keys() == pipeline.unet.state_dict().keys()
    for name, value in plain.items():
        assert torch.equal(averaged[name], value + 1), name


@pytest.mark.parametrize(("channels", "head"), [(128, 32), (192, 32), (256, 64)])
def test_original_checkpoint_has_the_published_heads(channels: int, head: int, tmp_path: Path) -> None:
    state = {}
    with torch.device("meta"):
        unet = audioldm_pipeline(tuple(channels * m for m in (1, 2, 3, 5)), groups=32).unet
    for name, value in unet.state_dict().items():
        state[ldm_unet_name(name, 4, 2)] = value
    from sounding.convert.audioldm import _checkpoint_unet

    config = _checkpoint_unet(state, tmp_path)
    assert config.channels == tuple(channels * m for m in (1, 2, 3, 5))
    assert (config.layers, config.head_width, config.film_width) == (2, head, FILM)


def test_heads_of_a_published_folder(tiny_clip: Path, tmp_path: Path) -> None:
    """As l-full: 256 channels first, so heads of 64 in the authors' code, while its folder says 8 at every level."""
    pipeline = audioldm_pipeline((256, 192), groups=32, heads=8)
    pipeline.save_pretrained(tmp_path / "folder")
    torch.save({"state_dict": ldm_checkpoint(pipeline)}, tmp_path / "audioldm.ckpt")
    latents, step, condition = torch.randn(2, 8, 8, 16), torch.tensor(300), torch.randn(2, 1, FILM)
    made, notes = {}, {}
    for name, source, heads in (
        ("config", "folder", "config"),
        ("authors", "folder", "authors"),
        ("checkpoint", "audioldm.ckpt", "config"),
    ):
        out = tmp_path / f"{name}.safetensors"
        report = convert(
            out, audioldm=tmp_path / source, clip=tiny_clip, condition="film", heads=heads, dtype=torch.float32
        )  # type: ignore[arg-type]
        made[name] = sounding.load(out, device="cpu", parts=("unet",)).unet(latents, step, condition).sample
        notes[name] = "\n".join(report.notes)
    expected = pipeline.unet(latents, step, None, class_labels=condition[:, 0]).sample
    torch.testing.assert_close(made["config"], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made["authors"], made["checkpoint"], atol=0, rtol=0)
    assert not torch.allclose(made["authors"], expected, atol=1e-3)
    assert (
        "attention has 8 heads, as its config.json says and diffusers runs it; AudioLDM's own code has 3"
        in notes["config"]
    )
    assert "heads" not in notes["authors"] + notes["checkpoint"]


def test_folded_unet_is_audioldms_without_a_sentence(tiny_clip: Path, tmp_path: Path) -> None:
    """What attention starts from: AudioLDM at its unconditional vector, its second attention silenced."""
    pipeline = audioldm_pipeline(SIZES["s"])
    pipeline.save_pretrained(tmp_path / "folder")
    out = tmp_path / "out.safetensors"
    report = convert(out, audioldm=tmp_path / "folder", clip=tiny_clip, dtype=torch.float32)
    model = sounding.load(out, device="cpu")
    assert model.config.unet.film_width == 0
    assert set(report.anew) == {"grounding", "unet cross-attention"}
    null = torch.nn.functional.normalize(
        pipeline.text_encoder(input_ids=torch.tensor([[0, 2]])).text_embeds, dim=-1
    )  # "" is <s></s>
    for name, weight in pipeline.unet.named_parameters():
        if ".attn2.to_out." in name:
            weight.zero_()
    latents, step = torch.randn(2, 8, 16, 16), torch.tensor(500)
    expected = pipeline.unet(latents, step, None, class_labels=null.expand(2, -1)).sample
    got = model.unet(latents, step, torch.randn(2, 1, FILM)).sample
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_what_is_new_follows_the_seed(tiny_clip: Path, tmp_path: Path) -> None:
    audioldm_pipeline(SIZES["s"]).save_pretrained(tmp_path / "folder")
    made = []
    before = torch.get_rng_state()
    for seed in (1, 1, 2):
        convert(tmp_path / "out.safetensors", audioldm=tmp_path / "folder", clip=tiny_clip, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)  # the caller's own numbers do not move on
        made.append(load_file(tmp_path / "out.safetensors"))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    different = {name for name in made[0] if not torch.equal(made[0][name], made[2][name])}
    assert different
    assert all(name.startswith("grounding.") or ".attn2." in name for name in different)


def test_mask_and_text_work_on_the_result(tiny_clip: Path, tmp_path: Path) -> None:
    audioldm_pipeline(SIZES["s"]).save_pretrained(tmp_path / "folder")
    for condition in ("attention", "film"):
        out = tmp_path / f"{condition}.safetensors"
        convert(out, audioldm=tmp_path / "folder", clip=tiny_clip, condition=condition)  # type: ignore[arg-type]
        model = sounding.load(out, device="cpu")
        image, mask = torch.rand(1, 40, 60, 3), torch.zeros(1, 40, 60)
        mask[:, :20] = 1
        for selection in ({"mask": mask}, {"text": "a dog"}):
            sound = model.generate(image=image, seconds=0.4, steps=1, by="grounding", **selection).waveform  # type: ignore[arg-type]
            assert sound.shape == (1, 1, 6400)
            assert torch.isfinite(sound).all()
    assert read_header(out).metadata["modelspec.architecture"] == "sounding-objects"


def test_text_alone_needs_the_film_slot(tiny_model: sounding.SoundingModel) -> None:
    with pytest.raises(ValueError, match=r"text alone cannot condition it.*--condition film"):
        tiny_model.condition_by_text("a dog")


def test_several_tokens_are_refused_by_film(tiny_clip: Path, tmp_path: Path) -> None:
    audioldm_pipeline(SIZES["s"]).save_pretrained(tmp_path / "folder")
    convert(tmp_path / "out.safetensors", audioldm=tmp_path / "folder", clip=tiny_clip, condition="film")
    unet = sounding.load(tmp_path / "out.safetensors", device="cpu").unet
    with pytest.raises(ValueError, match="has 2 tokens, but a U-Net with FiLM takes 1"):
        unet(torch.zeros(1, 8, 8, 16), 1, torch.zeros(1, 2, FILM))


@pytest.mark.skipif(not importlib.util.find_spec("audioldm"), reason="the audioldm package is not installed")
@pytest.mark.parametrize(("base", "head"), [(32, 32), (64, 32), (256, 64)])
def test_unet_is_the_authors_own(base: int, head: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original code's U-Net, with its own number of heads, and ours from its checkpoint."""
    bare_package("audioldm", monkeypatch)
    monkeypatch.setitem(sys.modules, "progressbar", ModuleType("progressbar"))  # for its downloads
    from audioldm.latent_diffusion.openaimodel import UNetModel

    from sounding.config import GroundingConfig, SoundingConfig
    from sounding.convert.audioldm import _checkpoint_unet
    from sounding.networks.build import build_unet

    peer = UNetModel(
        image_size=64,
        extra_film_condition_dim=FILM,
        extra_film_use_concat=True,
        in_channels=8,
        out_channels=8,
        model_channels=base,
        attention_resolutions=[2],
        num_res_blocks=1,
        channel_mult=[1, 2],
        num_head_channels=head,
        use_spatial_transformer=True,
    ).eval()
    for weight in peer.parameters():  # the authors' zero starts would hide what follows them
        torch.nn.init.normal_(weight, std=0.05)
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    state = {f"model.diffusion_model.{name}": value for name, value in peer.state_dict().items()}
    config = _checkpoint_unet(peer.state_dict(), Path("peer"))
    tensors = convert_ldm_unet_checkpoint(state, {"layers_per_block": 1})
    tensors |= {f"class_embedding.{end}": peer.state_dict()[f"film_emb.{end}"] for end in ("weight", "bias")}
    whole = SoundingConfig(unet=config, grounding=GroundingConfig(condition_width=FILM))
    unet = build_unet(whole)
    unet.load_state_dict(tensors)
    latents, condition = torch.randn(2, 8, 8, 16), torch.randn(2, FILM)
    with torch.no_grad():
        expected = peer(latents, timesteps=torch.tensor([300, 300]), y=condition)
        got = unet(latents, torch.tensor(300), condition[:, None]).sample
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_papers_recipe_begins_with_what_was_converted(
    pipelines: dict[str, AudioLDMPipeline], tiny_clip: Path, tmp_path: Path
) -> None:
    """One training step: grounding and U-Net move, all else stays as it was published."""
    out = tmp_path / "converted.safetensors"
    pipelines["s"].save_pretrained(tmp_path / "folder")
    convert(out, audioldm=tmp_path / "folder", clip=tiny_clip, dtype=torch.float32)
    recipe = read_recipe(
        RECIPES / "paper.yaml",
        overrides=[f"start.all={out}", f"model.grounding.condition_width={FILM}", "model.train_seconds=0.64"],
    )
    model = initialize(recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = GroundedObjective(model, recipe.settings)
    batch = objective.example(torch.device("cpu"))
    batch["noise"] = torch.randn(batch["noise"].shape)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], 1e-3)
    for _ in range(2):  # silent attention passes no gradient to what comes before it until it has moved itself
        optimizer.zero_grad()
        objective(batch)["loss"].backward()
        optimizer.step()
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"grounding", "unet"}
    assert not torch.equal(model.grounding.to_value.weight, before["grounding.to_value.weight"])
