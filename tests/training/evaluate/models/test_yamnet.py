"""YAMNet against its formulas in float64, with random weights of the published structure in an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from training.evaluate.features import open_features
from training.evaluate.models.yamnet import PAIRS, Yamnet

from .test_vggish import log_mel as log_mel_of_vggish

CLASSES = 5


@pytest.fixture(scope="module")
def weights() -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each layer, in the order of the file."""
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [(32, 1, 3, 3)]
    before = 32
    for channels, _ in PAIRS:
        shapes += [(before, 1, 3, 3), (channels, before, 1, 1)]
        before = channels
    shapes.append((CLASSES, before))
    scaled = [(shape, (2 / np.prod(shape[1:])) ** 0.5) for shape in shapes]
    return [
        (
            (scale * rng.standard_normal(shape)).astype(np.float32),
            (0.1 * rng.standard_normal(shape[0])).astype(np.float32),
        )
        for shape, scale in scaled
    ]


@pytest.fixture(scope="module")
def file(weights: list[tuple[np.ndarray, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the package has it: tensors beside the graph, their quantised forms named by it."""
    import onnx
    from onnx import helper, numpy_helper

    path = tmp_path_factory.mktemp("yamnet") / "model.onnx"
    tensors, nodes = [], []
    for number, (weight, bias) in enumerate(weights):
        tensors += [numpy_helper.from_array(weight, f"w{number}"), numpy_helper.from_array(bias, f"b{number}")]
        kind = "Gemm" if weight.ndim == 2 else "Conv"
        nodes.append(helper.make_node(kind, [f"x{number}", f"w{number}_qdq", f"b{number}"], [f"x{number + 1}"]))
    graph = helper.make_graph(nodes, "yamnet", [], [], tensors)
    onnx.save_model(
        helper.make_model(graph), str(path), save_as_external_data=True, location="model.data", size_threshold=0
    )
    assert path.with_name("model.data").is_file()
    lines = ["index,mid,display_name", *(f"{n},/m/{n},class {n}" for n in range(CLASSES))]
    path.with_name("yamnet_class_map.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def by_hand(weights: list[tuple[np.ndarray, np.ndarray]], windows: np.ndarray) -> torch.Tensor:
    """Mean embedding of windows [N, 96, 64] in float64, with TensorFlow's padding written out."""
    x = torch.from_numpy(windows)[:, None]
    strides = [2, *(stride for _, pair in PAIRS for stride in (pair, 1))]
    for (weight, bias), stride in zip(weights[:-1], strides, strict=True):
        size = weight.shape[-1]
        wanted = [max(0, (-(-side // stride) - 1) * stride + size - side) for side in x.shape[2:]]
        left = [side // 2 for side in wanted]
        x = functional.pad(x, (left[1], wanted[1] - left[1], left[0], wanted[0] - left[0]))
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = functional.conv2d(
            x, torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), stride, groups=groups
        )
        x = x.relu()
    return x.mean(dim=(0, 2, 3))


def test_embeddings_and_logits(weights: list[tuple[np.ndarray, np.ndarray]], file: Path) -> None:
    model = open_features(file.parent)
    assert model.classes == tuple(f"class {n}" for n in range(CLASSES))
    sound = 0.3 * np.random.default_rng(1).standard_normal(15_600 + 7_680)  # two windows, half of them shared
    both = [log_mel_of_vggish(sound[start : start + 15_600])[0] for start in (0, 7_680)]
    windows = np.log(np.exp(np.stack(both)) - 0.01 + 0.001)
    expected = by_hand(weights, windows)
    found = model.embed(torch.from_numpy(sound).float()[None], 16_000)
    torch.testing.assert_close(found[0].double(), expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))
    logits = expected @ torch.from_numpy(weights[-1][0]).double().T + torch.from_numpy(weights[-1][1])
    torch.testing.assert_close(
        model.logits(found)[0].double(), logits, rtol=5e-3, atol=5e-3 * float(logits.abs().max())
    )


@pytest.mark.parametrize(("samples", "windows"), [(8_000, 1), (15_600, 1), (15_601, 2), (40_960, 5)])
def test_every_sample_is_in_a_window(samples: int, windows: int) -> None:
    assert Yamnet(CLASSES).spectrogram(torch.zeros(1, samples)).shape == (1, windows, 96, 64)


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(ValueError, match="ONNX"):
        open_features(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"model\.onnx"):  # its tensors are not beside it
        open_features(tmp_path / "model.onnx")
