"""What a transformers folder of SAM may say: parts of SAM, in sizes that its weights have, and nothing about what runs.

Its JSON files name classes, other models, places on the network and, in some versions of transformers, code to load.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..utils.messages import shown
from ..weights import WeightsError
from ..weights.reading import read_json, read_shapes

NAMING = ("auto_map", "backbone", "use_timm_backbone", "use_pretrained_backbone", "custom_pipelines")
CLASSES = ("image_processor_type", "feature_extractor_type", "video_processor_type", "tokenizer_class")
OURS = ("Sam2", "Sam3", "CLIP", "PreTrainedTokenizer", "TokenizersBackend")
PROCESSING = ("processor_config", "preprocessor_config", "video_preprocessor_config", "tokenizer_config")
SIDES = ("height", "width", "longest_edge", "shortest_edge", "image_size", "pretrain_image_size")
MOST = 2**20  # of any number of the configuration; SAM 3 has 200,000 places at most
MOST_SIDE = 4096  # pixels; SAM 3 takes 1008


def check_folder(path: Path, config: dict[str, Any]) -> None:
    """Look at what a folder would make transformers build: no other models by name, no numbers without end.

    Raises:
        WeightsError: it names other things than parts of SAM, or layers that its weights do not have.
    """
    if (path / "adapter_config.json").exists():
        raise WeightsError(f"{path} has an adapter_config.json, which names another model; get the model's own folder.")
    tensors = 0
    for file in path.glob("*.safetensors"):
        tensors += len(read_shapes(file))
    layers = 0
    for name, value in _fields("config.json", config):
        _check_field(path, "config.json", name, value)
        if isinstance(value, (int, float)) and not abs(value) <= MOST:
            raise WeightsError(f"{path} has {name} {shown(value)} in its config.json, but at most {MOST} is expected.")
        if isinstance(value, int) and any(word in name for word in ("layers", "blocks", "depth")):
            layers += value
        if name == "model_type" and not str(value).startswith(("sam2", "sam3", "clip")):
            raise _foreign(path, "config.json", name, value)
    if layers > max(tensors, 100):
        raise WeightsError(f"{path} describes {layers} layers, but has only {tensors} tensors; get the folder again.")
    for stem in PROCESSING:
        if (path / f"{stem}.json").exists():
            for name, value in _fields(stem, read_json(path / f"{stem}.json")):
                _check_field(path, f"{stem}.json", name, value)


def _check_field(path: Path, file: str, name: str, value: Any) -> None:
    if name in SIDES and isinstance(value, (int, float)) and not 0 < value <= MOST_SIDE:
        raise WeightsError(
            f"{path} has {name} {shown(value)} in its {file}, but 1 to {MOST_SIDE} pixels are expected; get the folder "
            "again."
        )
    foreign = name in CLASSES and value is not None and not str(value).startswith(OURS)
    if foreign or (name in NAMING and value not in (None, False)):
        raise _foreign(path, file, name, value)


def _foreign(path: Path, file: str, name: str, value: Any) -> WeightsError:
    return WeightsError(
        f"{path} names {name} {shown(value)} in its {file}, but parts of SAM alone are expected; get the folder as its "
        "publisher has it."
    )


def _fields(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value of dictionaries and lists in each other, under the name of the nearest field."""
    waiting = [(name, value)]
    while waiting:
        name, value = waiting.pop()
        yield name, value
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, item) for item in value]


CONFIGS = ("Sam2", "Sam2Video", "Sam3", "Sam3Tracker", "Sam3TrackerVideo", "Sam3Video")
# What of every configuration's fields describes a model. Others choose what runs: kernels, attention, quantisation.
KEPT = {"model_type", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"}


def configuration(path: Path, kind: Any) -> Any:
    """A folder's configuration of transformers' class `kind`, with the fields alone that models of SAM have."""
    import transformers

    found = (getattr(transformers, f"{name}Config", None) for name in CONFIGS)
    known: set[str] = set()
    for each in found:
        if each is not None:
            known |= _names(each().to_dict())
    known = (known - transformers.PretrainedConfig().to_dict().keys()) | KEPT
    # transformers picks the part of a folder's configuration that a class needs as it reads files.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_only(read_json(path / "config.json"), known)))
        return kind.from_pretrained(folder, local_files_only=True)


def _names(data: Any) -> set[str]:
    """Keys of dictionaries in dictionaries."""
    if not isinstance(data, dict):
        return set()
    return {key for key in data if isinstance(key, str) and not key.startswith("_")}.union(*map(_names, data.values()))


def _only(data: Any, known: set[str]) -> Any:
    """Dictionaries in dictionaries and lists, without other keys than the known ones."""
    if isinstance(data, dict):
        return {key: _only(value, known) for key, value in data.items() if key in known}
    return [_only(value, known) for value in data] if isinstance(data, list) else data
