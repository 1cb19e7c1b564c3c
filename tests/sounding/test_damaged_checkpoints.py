"""One sentence for each way that a checkpoint can be damaged or hostile."""

from __future__ import annotations

import ast
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sounding
from sounding.checkpoint import CONFIG_KEY, CheckpointError
from sounding.config import PatchConfig, SegmenterConfig
from sounding.segment.network import ClickNetwork


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


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
