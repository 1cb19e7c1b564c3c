"""Write locales/en/nodeDefs.json from the nodes' schemas: `uv run --group test python docs/tools/locales.py`.

The other languages are written by hand; the command says which of their keys are missing or left over. ComfyUI merges
all files of `locales/` and its page looks texts up by these keys (https://docs.comfy.org/custom-nodes/i18n).
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from harness import ROOT, harness

from sounding.utils.files import write_atomic

LOCALES = ROOT / "locales"


def escaped(text: str | None) -> str | None:
    """A text in the page's message format (vue-i18n's), where these letters have a meaning."""
    return None if text is None else re.sub(r"[{}@|]", lambda letter: "{'" + letter[0] + "'}", text)


def english(schemas: list[Any]) -> dict[str, Any]:
    """All texts of the nodes' schemas, by ComfyUI's keys."""
    found: dict[str, Any] = {}
    for schema in schemas:
        inputs: dict[str, Any] = {}
        for entry in schema.inputs:
            inputs[entry.id] = {"name": entry.display_name or entry.id, "tooltip": escaped(entry.tooltip)}
            if getattr(entry, "control_after_generate", None):
                inputs["control_after_generate"] = {"name": "control after generate"}  # a widget that the page adds
        found[schema.node_id] = {
            "display_name": schema.display_name,
            "description": escaped(schema.description),
            "inputs": inputs,
            "outputs": {
                str(place): {"name": output.display_name or output.id, "tooltip": escaped(output.tooltip)}
                for place, output in enumerate(schema.outputs)
            },
        }
    return found


def keys(texts: dict[str, Any], before: str = "") -> Iterator[str]:
    """Dotted names of all texts."""
    for name, value in texts.items():
        if isinstance(value, dict):
            yield from keys(value, f"{before}{name}.")
        else:
            yield before + name


def schemas_of_pack() -> list[Any]:
    """The schemas, from the pack as ComfyUI imports it, without a server."""
    sys.path.insert(0, str(harness.find_comfyui()))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    spec = importlib.util.spec_from_file_location(
        "sounding_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["sounding_pack"] = pack
    spec.loader.exec_module(pack)
    nodes = importlib.import_module("sounding_pack.nodes")
    nodes.register_folder()
    return [node.GET_SCHEMA() for node in nodes.NODES]


def main() -> None:
    """Write English, report on the rest."""
    texts = english(schemas_of_pack())
    write_atomic(LOCALES / "en" / "nodeDefs.json", (json.dumps(texts, indent=2, ensure_ascii=False) + "\n").encode())
    for path in sorted(LOCALES.glob("*/nodeDefs.json")):
        there, wanted = set(keys(json.loads(path.read_text(encoding="utf-8")))), set(keys(texts))
        for what, names in (("missing", wanted - there), ("left over", there - wanted)):
            for name in sorted(names):
                print(f"{path.relative_to(ROOT)}: {what}: {name}")


if __name__ == "__main__":
    main()
