"""Templates of prompts: filled exactly, and refused with one sentence."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("nodes_templates", Path(__file__).parents[2] / "nodes" / "templates.py")
assert SPEC is not None
assert SPEC.loader is not None
module = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(module)


@pytest.mark.parametrize("text", [
    "the sound of {name}",
    "{name}, {names} ({probability}), {name}",
    "{{name}} is {name}",
    "a plain sentence",
    "",
    "100 % {name}",
])  # fmt: skip
def test_fields_are_filled_as_python_would(text):
    filled = module.Template.parse(text, "template").fill("dog", ["dog", "fox"], 0.8765)
    assert filled == text.format(name="dog", names="dog, fox", probability="0.88")


@pytest.mark.parametrize("text", [
    "{nam}",
    "{}",
    "{0}",
    "{name",
    "name}",
    "{name!r}",
    "{probability:.1f}",
    "{name:>999999999}",
    "{name.__class__}",
    "{names[0]}",
    "{name:{names}}",
])  # fmt: skip
def test_anything_else_is_refused_with_one_sentence(text):
    with pytest.raises(ValueError, match=r"if_unknown is .*, but the only fields expected") as caught:
        module.Template.parse(text, "if_unknown")
    assert "{name}, {names} and {probability}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_filled_in_is_no_template():
    assert module.Template.parse("{name}", "template").fill("{names}", ["dog"], 1.0) == "{names}"


def test_a_template_has_an_end():
    with pytest.raises(ValueError, match="template has 5001 characters, but at most 5000"):
        module.Template.parse("x" * 5001, "template")
