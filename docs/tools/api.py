"""The API pages from docstrings, by pdoc: `uv run --group test python docs/tools/api.py` writes docs/api/index.html.

Every warning is an error: a module that cannot be imported, a name or an annotation that does not resolve. Neither a
network nor a GPU is needed. `--serve` shows the pages on this machine and reads the docstrings again on each visit.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "api"
# Left out is what nothing else builds on: command lines, helpers, and what serves one model alone.
INTERNAL = {"__main__", "cli", "utils"}


def public() -> list[str]:
    """What pdoc is to document. By itself it does not enter a package that has `__all__`, as `sounding` has."""
    modules = sorted(module.name for module in pkgutil.iter_modules([str(ROOT / "sounding")]))
    return [
        "sounding",
        *(f"sounding.{name}" for name in modules if name not in INTERNAL),
        "training",
        "!training.starter",
    ]


def main() -> None:
    """Write the pages, or serve them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the pages")
    parser.add_argument("--serve", action="store_true", help="show the pages at http://localhost:8080 instead")
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.pop("VIRTUAL_ENV_PROMPT", None)  # of an activated environment; pdoc warns of constants with its value

    import pdoc
    import pdoc.web

    import sounding

    for name in sounding.__all__:  # pdoc reads a module's dictionary, which these names enter when they are first used
        vars(sounding)[name] = getattr(sounding, name)
    pdoc.render.configure(docformat="google", footer_text=f"Sounding Objects {sounding.__version__}")
    if asked.serve:
        pdoc.web.DocServer(("localhost", 8080), public()).serve_forever()
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module=r"pdoc\.")
        # A dataclass's own __init__ repeats annotations of its base, whose names another module has.
        warnings.filterwarnings("ignore", message=r"Error parsing type annotation .* for [\w.]+\.__init__")
        pdoc.pdoc(*public(), output_directory=asked.out)


if __name__ == "__main__":
    main()
