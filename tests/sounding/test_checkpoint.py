"""Checkpoints: exact round trips, and one sentence for each way that a file can be broken."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sounding
from sounding.checkpoint import CONFIG_KEY, CheckpointError, describe, read_header, resolve, starter_path
from sounding.config import PARTS, PatchConfig, SegmenterConfig, SoundingConfig
from sounding.model import SoundingModel
from sounding.segment.network import ClickNetwork


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_names_come_from_a_file_beside_weights_that_it_was_made_for(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path, beside = tmp_path / "old.safetensors", tmp_path / "old.json"
    shutil.copyfile(tiny_checkpoint, path)
    header = read_header(path)
    said = {"modelspec.hash_sha256": header.metadata["modelspec.hash_sha256"], "vocabulary": ["a dog", "a cow"]}
    beside.write_text(json.dumps(said | {"generation": {"familiar": 0.7, "patch_cosine": [0.7, 0.5]}}))
    found = read_header(path).config
    assert found.vocabulary == ("a dog", "a cow")
    assert found.generation == dataclasses.replace(
        header.config.generation, name_cosine=(0.84, 0.7), patch_cosine=(0.7, 0.5)
    )
    assert sounding.load(path, device="cpu").config == found
    copy = tmp_path / "copy.safetensors"
    sounding.load(path, device="cpu").save_pretrained(copy)
    assert read_header(copy).config.vocabulary == ("a dog", "a cow")  # from now on in its own header
    others = [said | {"modelspec.hash_sha256": "0x12", "generation": {}}, said, [], "text", said | {"generation": 5}]
    others += [said | {"generation": {"familiar": 7.0}}, said | {"generation": {}, "vocabulary": [5]}]
    for other in (*map(json.dumps, others), "{", "[" * 100_000, "\0"):
        beside.write_text(other)
        assert read_header(path).config == header.config


def test_round_trip_is_bit_exact(tiny_model: SoundingModel, tiny_checkpoint: Path) -> None:
    loaded = SoundingModel.from_pretrained(tiny_checkpoint)
    assert loaded.config == tiny_model.config
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())
    before, after = tiny_model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_a_loaded_model_makes_the_same_sound(tiny_model: SoundingModel, tiny_checkpoint: Path) -> None:
    loaded = sounding.load(tiny_checkpoint, device="cpu")
    inputs = {"image": torch.rand(1, 40, 40, 3), "mask": torch.ones(1, 40, 40), "seconds": 0.3, "steps": 2}
    sound = loaded.generate(**inputs).waveform
    assert torch.equal(sound, sounding.load(tiny_checkpoint, device="cpu").generate(**inputs).waveform)
    # Weights are used where they lie in the file, and how far from 64 bytes that is decides how products are summed.
    other = tiny_model.generate(**inputs).waveform
    assert float((sound - other).abs().max()) < 1e-3 * float(other.abs().max())


def test_half_precision_halves_the_file(tiny_model: SoundingModel, tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    tiny_model.save_pretrained(path)
    weights = sum(value.numel() * value.element_size() for value in load_file(path).values())
    full = sum(value.numel() * value.element_size() for value in load_file(tiny_checkpoint).values())
    assert weights == pytest.approx(full / 2, rel=0.01)
    loaded = SoundingModel.from_pretrained(path)
    for name, value in tiny_model.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], expected), name
    assert SoundingModel.from_pretrained(path, dtype=torch.float16).grounding.null.dtype == torch.float16


def test_header_has_what_tools_show(tiny_model: SoundingModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tiny_model.save_pretrained(path, title="A title", description="What it is", licence="CC0")
    metadata = metadata_of(path)
    assert SoundingConfig.from_json(metadata[CONFIG_KEY]) == tiny_model.config
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"] == "sounding-objects"
    assert metadata["modelspec.title"] == "A title"
    assert metadata["modelspec.description"] == "What it is"
    assert metadata["modelspec.license"] == "CC0"
    assert {name.split(".")[0] for name in load_file(path)} == set(PARTS)


def test_hash_follows_the_weights(tiny_model: SoundingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = []
    for value in (0.5, 0.5, 0.25):
        monkeypatch.setattr(tiny_model.grounding.weight_std, "data", torch.tensor(value))
        tiny_model.save_pretrained(tmp_path / "model.safetensors", title=str(len(hashes)))
        hashes.append(metadata_of(tmp_path / "model.safetensors")["modelspec.hash_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_describe_counts_each_part(tiny_model: SoundingModel, tiny_checkpoint: Path) -> None:
    described = describe(tiny_checkpoint)
    json.dumps(described)  # what `--json` prints
    for part in PARTS:
        expected = sum(value.numel() for value in getattr(tiny_model, part).state_dict().values())
        assert described["parameters"][part] == expected  # type: ignore[index]
    assert described["bytes"] == os.path.getsize(tiny_checkpoint)


# Ways to break a file: each gets a good checkpoint's path and the path to write to.


def rewrite(good: Path, bad: Path, config: str | None = None, **tensors: torch.Tensor | None) -> None:
    """Copy `good` with its configuration or tensors changed; None takes a tensor out."""
    weights, metadata = load_file(good), metadata_of(good)
    for name, value in tensors.items():
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    save_file(weights, bad, {**metadata, CONFIG_KEY: metadata[CONFIG_KEY] if config is None else config})


def edited(good: Path, **changes: object) -> str:
    return json.dumps({**json.loads(metadata_of(good)[CONFIG_KEY]), **changes})


def truncated(share: float) -> Callable[[Path, Path], None]:
    def cut(good: Path, bad: Path) -> None:
        data = good.read_bytes()
        bad.write_bytes(data[: int(len(data) * share)])

    return cut


def without_part(good: Path, bad: Path) -> None:
    names = [name for name in load_file(good) if name.startswith("query.")]
    rewrite(good, bad, edited(good, absent={"query": "from example.org"}), **dict.fromkeys(names))


def with_section(name: str, **changes: object) -> Callable[[Path, Path], None]:
    def change(good: Path, bad: Path) -> None:
        section = json.loads(metadata_of(good)[CONFIG_KEY])[name]
        rewrite(good, bad, edited(good, **{name: {**section, **changes}}))

    return change


NULL = "grounding.null"
BROKEN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "empty": (truncated(0), "not a readable .safetensors file"),
    "cut in the header": (truncated(0.001), "not a readable .safetensors file"),
    "cut in the weights": (truncated(0.9), "not a readable .safetensors file"),
    "text": (lambda good, bad: bad.write_text("version https://git-lfs.github.com/spec/v1\n"), "not a readable"),
    "pickle": (lambda good, bad: torch.save({"a": torch.zeros(3)}, bad), "not a readable"),
    "other model": (lambda good, bad: save_file({"w": torch.zeros(3)}, bad), "of another kind of model"),
    "other model with metadata": (
        lambda good, bad: save_file({"w": torch.zeros(3)}, bad, {"modelspec.title": "SDXL"}),
        "of another kind of model",
    ),
    "missing part": (without_part, "no weights for query.*query: from example.org"),
    "missing tensor": (lambda good, bad: rewrite(good, bad, **{NULL: None}), f"lacks 1 tensors.*'{NULL}'"),
    "foreign tensor": (lambda good, bad: rewrite(good, bad, extra=torch.zeros(1)), "1 tensors.*'extra'"),
    "wrong shape": (lambda good, bad: rewrite(good, bad, **{NULL: torch.zeros(1, 3)}), rf"'{NULL}' has shape \(1, 3\)"),
    "not finite": (
        lambda good, bad: rewrite(good, bad, **{NULL: torch.full((1, 16), torch.nan)}),
        f"'{NULL}' is not finite",
    ),
    "newer version": (lambda good, bad: rewrite(good, bad, edited(good, version=99)), "version 99.*update"),
    "unknown key": (lambda good, bad: rewrite(good, bad, edited(good, colour=1)), "Unknown key 'colour'"),
    "no JSON": (lambda good, bad: rewrite(good, bad, "{nonsense"), "not JSON"),
    "ill-typed": (lambda good, bad: rewrite(good, bad, edited(good, name=7)), "name is 7"),
    "other width": (with_section("patches", width=8), "has shape"),
    "FiLM of another width": (with_section("unet", film_width=8), "film_width is 8"),
    "heads for other levels": (with_section("unet", heads=[1]), "heads has 1 values"),
    "heads that do not divide": (with_section("grounding", heads=3), "key_width is 16"),
    "norm that does not divide": (with_section("unet", norm_groups=7), "cannot be built"),
    "layers without end": (with_section("query", layers=10**9), "query.layers is 1000000000, but 1 to 64 is expected"),
    "levels without end": (with_section("query", depths=[2, 10**9]), "query.depths is 1000000000, but 1 to 64"),
    "more layers than tensors": (
        with_section("vocoder", kernels=[3] * 10, dilations=[1] * 10),
        "1011 layers, but has only",
    ),
    "unknown tower": (with_section("patches", model="no_such_tower"), "no_such_tower"),
    "tower from a network": (
        with_section("patches", model="hf-hub:timm/resnet18"),
        "'hf-hub:timm/resnet18', but a timm",
    ),
    "other size": (with_section("unet", channels=[16, 48]), "has shape"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_gets_one_sentence(kind: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    damage, words = BROKEN[kind]
    bad = tmp_path / "bad.safetensors"
    damage(tiny_checkpoint, bad)
    with pytest.raises(CheckpointError, match=words) as error:
        sounding.load(bad, device="cpu")
    message = str(error.value)
    assert str(bad) in message
    assert "\n" not in message
    assert len(message) < 600
    assert error.value.__cause__ is None or error.value.__suppress_context__


NAMES = ("hf-hub:timm/resnet18", "hf_hub:timm/resnet18", "local-dir:/tmp", "resnet18.hf-hub:x/y", "ViT-B-32/../x",
         "https://example.org/model", "/etc", "..", "timm/resnet18", "hf-hub:laion/CLIP-ViT-B-32-laion2B")  # fmt: skip


@pytest.mark.parametrize("tower", ["vit", "timm"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("section", "field"), [("patches", "model"), ("query", "tokenizer"), ("", "name")])
def test_no_name_in_a_configuration_reaches_out(
    section: str,
    field: str,
    name: str,
    tower: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No socket is opened and nothing outside of the packages is read, whether the file is refused or not."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a network was asked for: {arguments}")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    data = json.loads(metadata_of(tiny_checkpoint)[CONFIG_KEY])
    data["absent"] = {"query": name}
    place = data[section] if section else data
    place[field] = name
    if section == "patches":
        place["tower"] = tower
    bad = tmp_path / "bad.safetensors"
    rewrite(tiny_checkpoint, bad, json.dumps(data))
    if section == "patches":
        with pytest.raises(CheckpointError, match=r"patches\.model is .* is expected") as error:
            sounding.load(bad, device="cpu")
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=r"patches\.model is|The patch tower is"):
            ClickNetwork(SegmenterConfig(), PatchConfig(tower=tower, model=name))  # type: ignore[arg-type]
    else:
        model = sounding.load(bad, device="cpu")
        assert model.query.encode(["a dog"]).isfinite().all()


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="is not a file; give 'starter' or the path"):
            sounding.load(path)
        with pytest.raises(CheckpointError):
            read_header(path)


def test_starter_is_looked_for_in_the_box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sounding.checkpoint as checkpoint

    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "sounding" / "checkpoint.py"))
    with pytest.raises(CheckpointError, match="starter is missing"):
        resolve("starter")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "starter.safetensors").touch()
    assert resolve("starter") == starter_path() == tmp_path / "models" / "starter.safetensors"


def test_a_crash_leaves_the_old_file(
    tiny_model: SoundingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    tiny_model.save_pretrained(path)
    before = path.read_bytes()

    def half(tensors: dict, filename: Path, metadata: dict) -> None:
        Path(filename).write_bytes(before[:1000])
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(OSError, match="No space"):
        tiny_model.save_pretrained(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_half_cannot_hold_are_not_written(
    tiny_model: SoundingModel, tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model.grounding.null, "data", torch.full((1, 16), value))
    with pytest.raises(CheckpointError, match=r"'grounding.null' is not finite as torch.float16"):
        tiny_model.save_pretrained(tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == []


def test_permissions_are_those_of_any_new_file(tiny_model: SoundingModel, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    tiny_model.save_pretrained(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def unpickling(source: str) -> list[str]:
    """Calls and imports in `source` that could run code from a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            safe = any(
                keyword.arg == "weights_only"
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value is True
                for keyword in node.keywords
            )
            if isinstance(node.func.value, ast.Name) and node.func.value.id in ("torch", "pickle") and not safe:
                found.append(f"line {node.lineno}: {node.func.value.id}.load")
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        module = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        found += [name for name in names + module if name.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib")]
    return found


def test_nothing_is_unpickled() -> None:
    assert unpickling("import torch\ntorch.load('x')")
    assert unpickling("torch.load('x', weights_only=False)")
    assert unpickling("from pickle import loads")
    assert not unpickling("torch.load('x', weights_only=True)")
    package = Path(sounding.__file__).parent
    sources = sorted(package.rglob("*.py"))
    assert len(sources) > 5
    for path in sources:
        assert unpickling(path.read_text()) == [], path
