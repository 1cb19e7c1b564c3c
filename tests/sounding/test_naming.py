"""Names by an image tower alone: crops, probabilities, the part in a checkpoint, and lists of names in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

import sounding
from sounding.checkpoint import describe
from sounding.config import PatchConfig, SoundingConfig
from sounding.encoders.patches import PatchEncoder
from sounding.model import SoundingModel
from sounding.naming.classes import ClassNames
from sounding.naming.config import NamingConfig
from sounding.naming.names import UNKNOWN
from sounding.naming.objects import crops, pool_patches
from sounding.naming.vocabulary import BUILT_IN, read_vocabulary
from sounding.naming.zero_shot import ZeroShotNames, class_embedding

NAMES = NamingConfig(names=("animal", "dog", "cat", "car"), rows=(1, 1, 2, 3, -1), parents=(-1, 0, 0, -1), scale=20)


@pytest.fixture(scope="module")
def naming_model(tiny_config: SoundingConfig) -> SoundingModel:
    torch.manual_seed(1)
    model = SoundingModel(replace(tiny_config, naming=NAMES)).requires_grad_(False)
    assert model.naming is not None
    model.naming.embeddings.copy_(torch.nn.functional.normalize(torch.randn(5, 16), dim=-1))
    return model


def at(rows: slice, columns: slice, size: tuple[int, int] = (100, 200)) -> torch.Tensor:
    mask = torch.zeros(1, *size)
    mask[:, rows, columns] = 1
    return mask


def test_crops_are_square_with_a_margin_and_stay_inside() -> None:
    y, x = torch.meshgrid(torch.arange(100.0), torch.arange(200.0), indexing="ij")
    image = torch.stack([y, x, x], dim=-1)[None]  # each pixel tells its place

    def part(mask: torch.Tensor, margin: float) -> tuple[int, ...]:
        ((made, cover),) = crops(image, mask, margin)
        assert cover.shape == made.shape[:3]
        return tuple(int(made[0, i, i, c]) for c in (0, 1) for i in (0, -1))  # first and last row, column

    assert part(at(slice(40, 60), slice(90, 100)), 0.0) == (40, 59, 85, 104)
    assert part(at(slice(40, 60), slice(90, 100)), 0.5) == (30, 69, 75, 114)
    assert part(at(slice(0, 20), slice(180, 200)), 0.5) == (0, 39, 160, 199)  # moved inside
    assert part(at(slice(10, 90), slice(0, 200)), 0.5) == (0, 99, 0, 199)  # larger than the image
    assert part(at(slice(20, 30), slice(45, 50), (50, 100)), 0.0) == (40, 59, 85, 104)  # a mask of half the size
    half = 0.2 * at(slice(0, 100), slice(0, 200)) + 0.5 * at(slice(40, 60), slice(90, 100))
    assert part(half, 0.0) == (40, 59, 85, 104)  # a soft mask's core


def test_one_name_has_the_probability_of_all_its_embeddings(naming_model: SoundingModel) -> None:
    naming = naming_model.naming
    assert naming is not None
    embedded = torch.randn(3, 16)
    shares = (20 * torch.nn.functional.normalize(embedded, dim=-1) @ naming.embeddings.T).softmax(dim=-1)
    found = naming.probabilities(embedded)
    torch.testing.assert_close(found[:, 1], shares[:, 0] + shares[:, 1])
    torch.testing.assert_close(found[:, 2:], shares[:, 2:4])
    torch.testing.assert_close(found.sum(dim=-1), 1 - shares[:, 4])  # the last one is no object
    assert (found[:, 0] == 0).all()


def test_objects_are_named_by_their_crops_or_by_patches(naming_model: SoundingModel, tmp_path: Path) -> None:
    naming, encoder = naming_model.naming, naming_model.patches
    assert naming is not None
    torch.manual_seed(2)
    image = torch.rand(1, 100, 200, 3)
    masks = torch.cat([at(slice(10, 50), slice(10, 60)), at(slice(40, 90), slice(120, 170))])
    close = ZeroShotNames(replace(NAMES, margin=0.0), 16)
    embedded = close.embed(encoder, image, masks)
    alone = class_embedding(encoder, encoder.preprocess(image[:, 40:90, 120:170]))
    assert torch.equal(embedded[1:], alone)  # whatever else is named
    # Give the second object's embedding to "cat".
    naming.embeddings[2] = torch.nn.functional.normalize(alone[0], dim=-1)
    naming = SoundingModel(replace(naming_model.config, naming=replace(NAMES, scale=1000, margin=0.0))).naming
    assert naming is not None
    naming.load_state_dict(naming_model.naming.state_dict())  # type: ignore[union-attr]
    first, second = naming.name(encoder, image, masks, top=2)
    assert (second.name, len(second.top), second.known) == ("cat", 2, True)
    assert second.probability > 0.99
    (by_itself,) = naming.name(encoder, image, masks[1:])
    assert by_itself.top[:2] == second.top

    patches = encoder(image)
    pooled = pool_patches(patches, masks, encoder.config)
    coverage = torch.nn.functional.adaptive_avg_pool2d(masks, 5).flatten(1)
    expected = torch.stack([(c[:, None] * patches[0]).sum(0) / c.sum() for c in coverage])
    torch.testing.assert_close(pooled, expected, atol=1e-6, rtol=1e-5)
    assert len(naming.name(encoder, patches=patches, mask=masks)) == 2
    assert len(naming.name(encoder, image)) == 1  # the whole image
    assert first.name in (*NAMES.names, UNKNOWN)


def test_classes_are_named_by_the_mean_of_an_objects_patches() -> None:
    """Against the classifier as it is: features pooled over the object, then the head with its bias."""
    torch.manual_seed(3)
    size = {"width": 6, "grid": 3, "image_size": 96}
    encoder = PatchEncoder(PatchConfig(tower="timm", model="resnet18", **size)).eval()
    config = NamingConfig(
        names=("dog", "cat", "car"), rows=(0, 0, 1, 2, 2, 2), kind="classes", scale=0.5, none_logit=0.25, margin=0.0
    )
    part = ClassNames(config, 6)
    part.bias.copy_(torch.randn(6))
    image, mask = torch.rand(1, 96, 96, 3), torch.zeros(1, 96, 96)
    mask[:, :96, :40] = 1
    mask[:, 0, 95] = 0.6  # so that the crop is the whole image
    with torch.inference_mode():
        features = encoder.features(encoder.preprocess(image))[0]
        covers = torch.nn.functional.adaptive_avg_pool2d(mask, 3).flatten()
        pooled = (features * covers[:, None]).sum(0) / covers.sum()
        logits = 0.5 * (pooled @ encoder.tower.head.proj.weight.T + part.bias)
        shares = torch.cat([logits, torch.tensor([0.25])]).softmax(0)
        (found,) = part.probabilities(part.embed(encoder, image, mask))
    torch.testing.assert_close(found, torch.stack([shares[:2].sum(), shares[2], shares[3:6].sum()]))
    assert found.sum() < 0.95  # the rest is the probability of none of them
    with pytest.raises(ValueError, match="rows has 6 values, but one per class of the image tower \\(7\\)"):
        ClassNames(config, 7)


def test_what_cannot_be_named_is_said(naming_model: SoundingModel) -> None:
    naming, encoder = naming_model.naming, naming_model.patches
    assert naming is not None
    image = torch.rand(1, 100, 200, 3)
    with pytest.raises(ValueError, match="mask is empty"):
        naming.name(encoder, image, torch.zeros(1, 100, 200))
    with pytest.raises(ValueError, match="mask is empty"):
        naming.name(encoder, patches=torch.rand(1, 25, 16), mask=torch.zeros(1, 100, 200))
    with pytest.raises(ValueError, match="turned by 90 degrees"):
        naming.name(encoder, image, torch.ones(1, 200, 100))
    with pytest.raises(ValueError, match="both or neither of image and patches"):
        naming.name(encoder)
    with pytest.raises(ValueError, match="2 images and 3 masks"):
        naming.name(encoder, image.expand(2, -1, -1, -1), torch.ones(3, 100, 200))


def test_names_travel_in_the_checkpoint(naming_model: SoundingModel, tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "names.safetensors"
    naming_model.save_pretrained(path, dtype=torch.float32)
    assert describe(path)["parameters"]["naming"] == 5 * 16
    loaded = sounding.load(path, device="cpu")
    assert loaded.config.naming == NAMES
    assert torch.equal(loaded.naming.embeddings, naming_model.naming.embeddings)  # type: ignore[union-attr]
    assert sounding.load(tiny_checkpoint, device="cpu").naming is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": (4,)}, "refer to name 4, but 0 to 3"),
        ({"parents": (1, 0, -1, -1)}, "'animal' over more than 16 names or in a circle"),
        ({"parents": (0,)}, "has 1 values, but 4"),
        ({"names": ("a", "b", "b", "c")}, "has a name twice"),
    ],
)
def test_names_that_contradict_each_other_are_refused(
    changes: dict[str, object], words: str, tiny_config: SoundingConfig
) -> None:
    with pytest.raises(ValueError, match=words):
        replace(tiny_config, naming=replace(NAMES, **changes))  # type: ignore[arg-type]


def test_the_vocabulary_in_the_library_has_all_of_imagenet() -> None:
    vocabulary = read_vocabulary(BUILT_IN)
    phrases = {phrase: index for index, phrase in vocabulary.phrases}
    assert {name.casefold() for name in IMAGENET_CLASSNAMES} <= {phrase.casefold() for phrase in phrases}
    assert {vocabulary.names[phrases[name]] for name in ("Beagle", "Golden Retriever", "barking dog")} == {"dog"}
    owl = vocabulary.names.index("owl")
    bird = vocabulary.parents[owl]
    assert [vocabulary.names[i] for i in (bird, vocabulary.parents[bird])] == ["bird", "animal"]
    assert phrases["plain wall"] == -1
    assert all(name in vocabulary.names for name in ("man", "car", "train", "sea", "violin", "thunderstorm"))


def test_a_vocabulary_is_a_text_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("# pets\nanimal:\n  dog: dog, Beagle\n    puppy\n  cat\ncar  # red\n\nunknown: wall\n", "utf-8")
    second.write_text("\ufeffDOG: Pug\nvehicle\n\tcar: beagle, taxi\n", "utf-8")
    read = read_vocabulary(first, second)
    assert read.names == ("animal", "dog", "puppy", "cat", "car", "vehicle")
    assert read.parents == (-1, 0, 1, 0, 5, -1)
    expected = ["1dog", "4Beagle", "2puppy", "3cat", "4car", "-1wall", "1Pug", "5vehicle", "4taxi"]
    assert [f"{index}{phrase}" for index, phrase in read.phrases] == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no names"),
        (b"# nothing\nanimal:\n", "has no names"),
        (b"dog\n" + b"x" * 101, r"Line 2 of .*1 to 100 printable"),
        (b"dog\n: cat", r"Line 2 of .*1 to 100 printable"),
        (b"a\x07b", r"Line 1 of .*printable"),
        (b"cat\ndog: cat", "Line 2 of .*gives the phrase 'cat' to a second name"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"a" * (2**18 + 1), "more than 262144 bytes"),
        ("\n".join(f"n{i}" for i in range(5001)).encode(), r"more than 5000 names .*line 5001"),
        ("\n".join(" " * i + f"n{i}" for i in range(18)).encode(), "'n17' below 17 more general names"),
    ],
)
def test_other_files_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_vocabulary(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_vocabulary(tmp_path / "none.txt")


def test_names_in_a_circle_stay_a_forest(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("dog\n  puppy\npuppy\n  dog\n", "utf-8")
    assert read_vocabulary(path).parents == (-1, 0)
