"""All that docs/reproduce.md says a reader has, made up and small: lists, ontology, videos, and random weights.

Every file lies where the page has it, in its publisher's form, so that the page's commands run as they are.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from training.data.debug import Shape, draw, sing
from training.data.video_scenes import write_video
from training.evaluate.models.panns import FRONT_ENDS, WINDOW, Cnn14
from training.evaluate.models.vggish import VGGish

from ..sounding.hub import publish_audioldm
from ..sounding.published_weights import FILM, TINY_CLIP, audioldm_pipeline
from ..training.evaluate.tiny_openl3 import write_openl3
from ..training.refine.tiny_models import write_blip, write_whisper
from ..training.tiny_beats import beats_weights, write_beats

SECONDS, FRAME_RATE = 10, 4
CLIP_MODEL = "tiny-vit"
HUMAN, HUBBUB, CHATTER, MUSIC, BELL = "/m/09l8g", "/m/07qfr4h", "/m/07rkbfh", "/m/04rlf", "/m/0395lw"


@dataclass(frozen=True)
class Kind:
    """A class that is seen and heard, in a category of its own."""

    code: str
    name: str
    category: str
    shape: Shape


KINDS = tuple(
    Kind(f"/m/kind{number}", name, category, Shape(drawn, "", colour, tone))
    for number, (name, category, drawn, colour, tone) in enumerate(
        [
            ("Dog", "Domestic animals, pets", "disc", (200, 40, 40), 330.0),
            ("Owl", "Wild animals", "square", (40, 160, 60), 880.0),
            ("Car", "Vehicle", "bar", (50, 70, 200), 1760.0),
            ("Hammer", "Tools", "disc", (60, 60, 60), 2400.0),
            ("Rain", "Water", "square", (40, 90, 200), 3500.0),
            ("Rustling leaves", "Wind", "bar", (30, 120, 30), 5000.0),
            ("Idling", "Engine", "disc", (150, 100, 30), 150.0),
            ("Church bell", "Bell", "square", (220, 190, 30), 1200.0),
        ]
    )
)
SPEECH, GUITAR = "/m/09x0r", "/m/0342h"
PER_KIND = 3  # clips that come through all filters
BENCHMARK = 6  # clips of AudioCaps
Entry = tuple[str, int, str]  # video, start, code


def entries() -> dict[str, list[Entry]]:
    """The clips of each list; those of AudioCaps are in AudioSet's, too, as they really are."""
    kept = [(f"kept-{kind.name[:3]}{number}", 0, kind.code) for number in range(PER_KIND) for kind in KINDS]
    captioned = [(f"caps-{number}", 30, KINDS[number].code) for number in range(BENCHMARK)]
    dropped = [("talk", 0, SPEECH), ("song", 0, GUITAR), ("gone", 0, KINDS[0].code), ("broken", 0, KINDS[0].code)]
    return {
        "unbalanced_train_segments": [*kept, *dropped, *captioned[:4]],
        "balanced_train_segments": [(f"balanced-{kind.name[:3]}", 0, kind.code) for kind in KINDS],
        "eval_segments": [*((f"eval-{kind.name[:3]}", 0, kind.code) for kind in KINDS[:4]), *captioned[4:]],
    }


def ontology() -> list[dict[str, object]]:
    """In the form of AudioSet's, with its ids of what is dropped by default; a few classes of it."""
    categories = {kind.category: f"/m/category{number}" for number, kind in enumerate(KINDS)}
    categories["Bell"] = BELL
    below = {
        ("/m/human", "Human sounds"): [HUMAN, HUBBUB, CHATTER],
        (HUMAN, "Human voice"): [SPEECH],
        (SPEECH, "Speech"): [],
        (HUBBUB, "Hubbub, speech noise, speech babble"): [],
        (CHATTER, "Chatter"): [],
        ("/m/things", "Sounds of things"): list(categories.values()),
        **{(code, name): [kind.code for kind in KINDS if kind.category == name] for name, code in categories.items()},
        **{(kind.code, kind.name): [] for kind in KINDS},
        (MUSIC, "Music"): [GUITAR, BELL],
        (GUITAR, "Guitar"): [],
    }
    return [{"id": code, "name": name, "child_ids": children} for (code, name), children in below.items()]


def write_world(folder: Path, root: Path) -> None:
    """Write everything into a new folder that is to be worked in.

    Args:
        folder: gets `data/`, `weights/` and `tiny-vit.json`, the architecture of its CLIP.
        root: of the repository, of which recipes and example images are linked.
    """
    torch.manual_seed(0)
    for name in ("training", "example_workflows"):
        (folder / name).symlink_to(root / name)
    write_lists(folder / "data")
    write_videos(folder / "data" / "audioset" / "videos")
    write_weights(folder / "weights")
    vision = {key: TINY_CLIP[key] for key in ("width", "layers", "patch_size", "image_size")}
    text = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
    described = {"embed_dim": FILM, "vision_cfg": vision, "text_cfg": text}
    (folder / f"{CLIP_MODEL}.json").write_text(json.dumps(described))


def write_lists(data: Path) -> None:
    """AudioSet's lists, classes and ontology, and AudioCaps' test set."""
    audioset, audiocaps = data / "audioset", data / "audiocaps"
    audioset.mkdir(parents=True)
    audiocaps.mkdir()
    (audioset / "ontology.json").write_text(json.dumps(ontology()))
    names = {str(entry["id"]): str(entry["name"]) for entry in ontology()}
    lines = [f'{number},{code},"{name}"' for number, (code, name) in enumerate(names.items())]
    (audioset / "class_labels_indices.csv").write_text("\n".join(["index,mid,display_name", *lines]))
    for name, clips in entries().items():
        lines = [f'{video}, {start}.000, {start + SECONDS}.000, "{code}"' for video, start, code in clips]
        head = ["# Segments csv", "# num_ytids", "# YTID, start_seconds, end_seconds, positive_labels"]
        (audioset / f"{name}.csv").write_text("\n".join([*head, *lines]))
    lines = [
        f'{number},{video},{start},"A {names[code].lower()}, humming"'
        for number, (video, start, code) in enumerate(clip for clips in entries().values() for clip in clips)
        if video.startswith("caps-")
    ]
    (audiocaps / "test.csv").write_text("\n".join(["audiocap_id,youtube_id,start_time,caption", *lines]))


def write_videos(folder: Path) -> None:
    """A clip of ten seconds for every entry but one that is gone: a shape that hums."""
    folder.mkdir(parents=True)
    shapes = {kind.code: kind.shape for kind in KINDS}
    for number, (video, start, code) in enumerate(clip for clips in entries().values() for clip in clips):
        path = folder / f"{video}_{start}.mp4"
        if video == "gone":
            continue
        if video == "broken":
            path.write_bytes(b"no video" * 100)
            continue
        rng = np.random.default_rng(number)
        shape = shapes.get(code, KINDS[0].shape)
        frames = np.repeat(np.asarray(draw(shape, rng)[0])[None], SECONDS * FRAME_RATE, axis=0)
        write_video(path, frames, FRAME_RATE, sing(shape, SECONDS, rng).numpy())


def write_weights(weights: Path) -> None:
    """What the page has downloaded, but SAM 3."""
    for name in ("panns", "vggish", "openl3"):
        (weights / name).mkdir(parents=True)
    publish_audioldm(weights / "audioldm-s", audioldm_pipeline((16, 32)))
    for name in ("clip-b32", "clip-b16"):
        clip_vision().save_pretrained(weights / name)
    write_beats(weights / "BEATs_iter3_plus_AS2M.pt", beats_weights())
    write_blip(weights / "blip")
    write_whisper(weights / "audio-captioner")
    classes = (weights.parent / "data" / "audioset" / "class_labels_indices.csv").read_text()
    (weights / "panns" / "class_labels_indices.csv").write_text(classes)
    torch.save({"model": panns()}, weights / "panns" / "Cnn14_mAP=0.431.pth")
    torch.save(VGGish((2, 3, 4, 5), 6, 7).state_dict(), weights / "vggish" / "vggish-10086976.pth")
    for kind, channels in (("audio", 1), ("image", 3)):
        name = f"openl3_{kind}_linear_env-v0_4_0.h5"
        write_openl3(weights / name, channels)
        with gzip.open(weights / "openl3" / f"{name}.gz", "wb") as file:
            file.write((weights / name).read_bytes())
        (weights / name).unlink()


def clip_vision() -> CLIPVisionModelWithProjection:
    """CLIP's image tower, very small."""
    config = CLIPVisionConfig(
        hidden_size=int(TINY_CLIP["width"]),
        num_hidden_layers=int(TINY_CLIP["layers"]),
        num_attention_heads=1,
        intermediate_size=4 * int(TINY_CLIP["width"]),
        patch_size=TINY_CLIP["patch_size"],
        image_size=TINY_CLIP["image_size"],
        projection_dim=FILM,
    )
    return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)


def panns() -> dict[str, torch.Tensor]:
    """CNN14 as published, narrow; it is sure of no event, so that no clip is dropped at random."""
    network = Cnn14(FRONT_ENDS[1024], len(ontology()), width=2).eval()
    network.fc_audioset.bias.data.fill_(-6)
    state = network.state_dict() | {WINDOW: torch.zeros(513, 1, 1024), "logmel_extractor.melW": torch.zeros(1)}
    return {name: value.detach() for name, value in state.items()}
