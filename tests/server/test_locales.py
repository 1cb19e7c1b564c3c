"""The page's texts: complete in every language, of the schemas as they are, and served."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .browser import open_page, wait_until

pytestmark = pytest.mark.server

LOCALES = Path(__file__).parent.parent.parent / "locales"
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())
FILES = ("main", "nodeDefs", "settings")
CHINESE = re.compile("[\u4e00-\u9fff]")
PROPER = {"Latent"}  # ComfyUI's own Chinese leaves this word
# vue-i18n reads these as links to messages, plurals and places for values, unless they are quoted as {'@'}.
FORMAT = re.compile(r"[{}@|]")
QUOTED = re.compile(r"\{'([{}@|])'\}")


def read(language: str, name: str) -> dict[str, Any]:
    return dict(json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8")))


def flat(texts: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in texts.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def in_schemas(object_info: dict[str, Any]) -> dict[str, Any]:
    """What the server says of our nodes, by the keys that the page asks for."""
    found: dict[str, Any] = {}
    for name, info in object_info.items():
        if info["python_module"] != "custom_nodes.sounding-objects":
            continue
        found[f"{name}.display_name"] = info["display_name"]
        found[f"{name}.description"] = info["description"]
        for group in ("required", "optional"):
            for key, spec in info["input"].get(group, {}).items():
                found[f"{name}.inputs.{key}.name"] = spec[1].get("display_name") or key
                found[f"{name}.inputs.{key}.tooltip"] = spec[1].get("tooltip")
                if spec[1].get("control_after_generate"):
                    found[f"{name}.inputs.control_after_generate.name"] = "control after generate"
        for place, output in enumerate(info["output_name"]):
            found[f"{name}.outputs.{place}.name"] = output
            found[f"{name}.outputs.{place}.tooltip"] = info["output_tooltips"][place]
    return found


def test_english_is_the_schemas_own(object_info):
    """`python docs/tools/locales.py` writes it anew."""
    found = in_schemas(object_info)
    assert len({key.partition(".")[0] for key in found}) >= 10
    assert all(found.values()), [key for key, text in found.items() if not text]
    assert {key: QUOTED.sub(r"\1", text) for key, text in flat(read("en", "nodeDefs"))} == found


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_other_languages_are_complete(language, name):
    english, other = dict(flat(read("en", name))), dict(flat(read(language, name)))
    assert set(other) - set(english) == set(), "left over"
    assert set(english) - set(other) == set(), "missing"
    assert all(isinstance(text, str) and text.strip() for text in other.values())


@pytest.mark.parametrize("name", FILES)
def test_chinese_is_chinese(name):
    english = dict(flat(read("en", name)))
    for key, text in flat(read("zh", name)):
        assert text != english[key], key
        assert CHINESE.search(text) or text in PROPER, key


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_say_nothing_to_the_message_format(language):
    for name in FILES:
        assert [key for key, text in flat(read(language, name)) if FORMAT.search(QUOTED.sub("", text))] == []


def test_types_and_categories_are_those_of_the_nodes(object_info):
    ours = [info for name, info in object_info.items() if name.startswith("Sounding")]
    kinds = {kind for info in ours for kind in info["output"] if kind.startswith("SOUNDING")}
    english = read("en", "main")
    assert set(english["dataTypes"]) == kinds
    # The page splits "audio/Sounding"; it has words of its own for "audio".
    assert {part for info in ours for part in info["category"].split("/")} - {"audio"} == set(english["nodeCategories"])


def test_the_english_setting_is_the_pages_own():
    texts = read("en", "settings")["Sounding_Study_Record"]
    page = (LOCALES.parent / "web" / "sounding_study.js").read_text(encoding="utf-8")
    joined = re.sub(r'" \+\s+"', "", page)
    assert '"Sounding.Study.Record"' in page
    assert all(f'"{text}"' in joined for text in texts.values())


@pytest.mark.parametrize("route", ["/i18n", "/api/i18n"])
def test_the_server_hands_them_out(server, route):
    served = server.get(route).json()
    for language in LANGUAGES:
        files = {name: read(language, name) for name in FILES[1:]}
        assert served[language] == {**read(language, "main"), **files}


# A page of the tested version forgets packs' texts as it fetches its own ones of a language: they come again here, as
# in later versions (Comfy-Org/ComfyUI_frontend#7214).
AGAIN = """async () => {
  const vue = document.getElementById("vue-app").__vue_app__;
  const { global } = vue._context.provides[vue.__VUE_I18N_SYMBOL__];
  const all = await (await fetch("api/i18n")).json();
  for (const [language, texts] of Object.entries(all)) global.mergeLocaleMessage(language, texts);
  await app.extensionManager.command.execute("Comfy.RefreshNodeDefinitions");
}"""
SPEAKS = """(language) => {
  const vue = document.getElementById("vue-app")?.__vue_app__;
  const { global } = vue?._context.provides[vue.__VUE_I18N_SYMBOL__] ?? {};
  return window.app?.graph && LiteGraph.registered_node_types.SoundingSampler && global.locale.value === language;
}"""
SHOWN = """(names) => Object.fromEntries(names.map((name) => {
  const node = window.LiteGraph.createNode(name);
  return [name, {title: node.title, outputs: node.outputs.map((o) => o.localized_name),
    inputs: Object.fromEntries([...node.inputs.map((i) => [i.name, i.localized_name]),
      ...(node.widgets ?? []).map((w) => [w.name, w.label])])}];
}))"""


def test_the_page_speaks_chinese(server, chromium):
    server.post("/settings/Comfy.Locale", "zh")
    texts = read("zh", "nodeDefs")
    try:
        page = open_page(chromium, server.url)
        wait_until(page, SPEAKS, arg="zh")
        page.evaluate(AGAIN)
        shown = page.evaluate(SHOWN, list(texts))
        page.close()
    finally:
        server.post("/settings/Comfy.Locale", "en")
    for name, text in texts.items():
        assert shown[name]["title"] == text["display_name"]
        for key, what in text["inputs"].items():
            assert shown[name]["inputs"][key] == what["name"], f"{name}.{key}"
        # A name that is also its type (LATENT) is shown in the page's word for the type.
        assert shown[name]["outputs"] == [output["name"] for output in text["outputs"].values()], name
