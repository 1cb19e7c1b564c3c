"""The report's page: hostile names, files of its own, figures per class and the worst items against values by hand."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sounding.audio.files import read_audio, write_audio
from sounding.images.files import read_image, write_image
from training.evaluate import run
from training.evaluate.folders import Side
from training.evaluate.page.items import by_class, choose_shown, score_items
from training.evaluate.page.media import OUTLINE, outlined
from training.evaluate.page.scatter import embedding_map
from training.evaluate.run import Folders, evaluate_folders
from training.evaluate.store import Finding, Store

from ...pages import browser, opened

RATE = 16_000
EVIL = '"><script>alert(1)<⁄script><img src=x onerror=alert(2)>'
TURNING = "a\u202egnp.exe{{7*7}}%2e"
CLASSES = ("dog", '<b onclick="x">', "owl")


class Bands:
    name, rate, seconds, width, classes = "bands <i>&", RATE, 0.5, 6, CLASSES

    def embed(self, waveform: Tensor, rate: int) -> Tensor:
        return torch.stack([x.mean(dim=1) for x in torch.fft.rfft(waveform).abs().chunk(6, dim=1)], dim=1)

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, :3]


class Page(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def attributes(self, tag: str, name: str) -> list[str]:
        return [found[name] or "" for one, found in self.tags if one == tag and name in found]


def no_progress(label: str) -> AbstractContextManager[None]:
    return nullcontext()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A report of one system with items of hostile names, one of which has a broken image, and one a silent sound."""
    root = tmp_path_factory.mktemp("page")
    generator = torch.Generator().manual_seed(0)
    names = [EVIL, TURNING, *(f"{item:02}" for item in range(24))]
    system = root / "sys<script>tem"
    for name in names:
        for folder in (root / "real", system):
            write_audio(folder / f"{name}.wav", 0.1 * torch.randn(RATE // 2, generator=generator), RATE)
        write_image(root / "images" / f"{name}.png", torch.rand(20, 30, 3, generator=generator))
        mask = torch.zeros(20, 30)
        mask[5:15, 5:15] = 1
        write_image(root / "masks" / f"{name}.png", mask)
    (root / "images" / "01.png").write_bytes(b"<svg onload=alert(3)>")
    write_audio(system / "02.wav", torch.zeros(40), RATE)
    (root / "labels.csv").write_text("name,labels\n" + "".join(f"{item:02},dog;<u>\n" for item in range(24)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "open_model", lambda path: Bands())
        asked = Folders(
            [system],
            root / "real",
            [Path("model")],
            root / "report",
            labels=root / "labels.csv",
            images=root / "images",
            masks=root / "masks",
            resamples=5,
        )
        (root / "report" / "media").mkdir(parents=True)
        (root / "report" / "media" / "9999-sound.flac").write_text("of an earlier page")
        (root / "report" / "media" / "mine.txt").write_text("not of a page")
        report = evaluate_folders(asked, no_progress)
        report = evaluate_folders(asked, no_progress)  # again, over what is there
    return root / "report", report


def test_names_from_outside_stay_text(written: tuple[Path, dict[str, Any]]) -> None:
    text = (written[0] / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "u", "i", "iframe"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, found in page.tags for name in found)
    assert len([tag for tag, _ in page.tags if tag == "b"]) == len(page.attributes("article", "class")) + 20  # guesses
    assert "&lt;script&gt;alert(1)" in text
    assert "\u202e" not in text
    assert "49" not in re.findall(r"exe(\d*)", text)  # a template in a name is not evaluated
    assert "{{7*7}}" in text
    assert "bands &lt;i&gt;&amp;" in text


def test_the_folder_works_by_itself(written: tuple[Path, dict[str, Any]]) -> None:
    """All that the page refers to lies beside it, under names of its own, and nothing else is left there."""
    folder, _ = written
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    referred = set(page.attributes("img", "src") + page.attributes("audio", "src"))
    assert referred
    assert all(re.fullmatch(r"media/\d{4}-(sound\.flac|mel\.jpg|image\.jpg)", one) for one in referred)
    found = {f"media/{path.name}" for path in (folder / "media").iterdir()}
    assert found == referred | {"media/mine.txt"}
    assert not page.attributes("link", "href")
    assert all(target.startswith("#") for target in page.attributes("a", "href"))
    assert all(one for one in page.attributes("img", "alt"))
    assert len(page.attributes("audio", "aria-label")) == len(page.attributes("audio", "src"))
    assert "controls" in dict(next(found for tag, found in page.tags if tag == "audio"))


def test_a_browser_shows_and_plays_all_of_it(written: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = written
    with browser() as chromium, opened(chromium, folder / "index.html") as page:
        assert page.troubles() == []
        assert page.count("script, i, u, iframe, object, [onerror], [onclick]") == 0
        assert len(page.images()) > 50
        assert all(page.images().values())
        assert all(0 < seconds <= 0.51 for seconds in page.sounds().values())  # one has 40 samples
        assert page.addresses() == {*page.images(), *page.sounds()}
        for width in (1280, 600, 320):
            assert page.overflow(width) <= 0


def test_sounds_are_as_they_were_measured(written: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = written
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    sources = {found["aria-label"]: found["src"] for tag, found in page.tags if tag == "audio"}
    shown = read_audio(folder / str(sources["03 by reference"]), RATE)
    torch.testing.assert_close(shown, read_audio(folder.parent / "real" / "03.wav", RATE))


def test_findings_are_listed(written: tuple[Path, dict[str, Any]]) -> None:
    folder, report = written
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert report["systems"][0]["sounds"]["silent"] == ["02"]
    assert "1 silent" in text
    assert "1 padded" in text
    assert "Labels that bands &lt;i&gt;&amp; has no class for: &lt;u&gt;" in text
    assert "FoleyCrafter (quoted)" in text


def made_side(name: str, folder: Path, logits: np.ndarray) -> Side:
    items = [f"{item:03}" for item in range(len(logits))]
    store = Store.open(folder / name, items, {}, 4, logits.shape[1])
    embeddings = np.random.default_rng(len(name)).normal(size=(len(logits), 4)).astype(np.float32)
    store.put(list(range(len(logits))), embeddings, logits.astype(np.float32), [Finding(0)] * len(logits))
    return Side(name, folder, store)


def test_classes_and_worst_items(tmp_path: Path) -> None:
    log = np.log
    logits = np.array([[log(3), 0, 0], [0, log(8), 0], [0, log(8), 0], [0, 0, log(2)]])
    side, real = made_side("ours", tmp_path, logits), made_side("reference", tmp_path, 0 * logits)
    labels = {"000": [0], "001": [1], "002": [0], "003": [0, 2]}
    found = by_class(side, real, ("dog", "cat", "owl"), labels)
    assert list(found) == ["dog", "cat", "owl"]
    assert found["dog"].count == 3
    assert found["dog"].confidence == pytest.approx((0.6 + 0.1 + (0.25 + 0.5) / 2) / 3)
    assert found["dog"].top1 == pytest.approx(2 / 3)
    assert (found["cat"].count, found["cat"].confidence, found["cat"].top1) == (1, pytest.approx(0.8), 1.0)
    scored = score_items(side, real, ("dog", "cat", "owl"), labels)
    assert [name for name, _ in scored.worst(2)] == ["002", "003"]
    assert [value for _, value in scored.worst(2)] == pytest.approx([0.1, 0.375])
    assert by_class(side, real, ("Speech", "cat", "owl"), {"000": [0]}) == {}
    by_divergence = score_items(side, real, ("dog", "cat", "owl"), None)
    # KL of the uniform from (0.1, 0.8, 0.1): mean of log(1/3) - log(q)
    assert by_divergence.worst(1)[0][1] == pytest.approx(-(log(1 / 3) - (2 * log(0.1) + log(0.8)) / 3))
    assert "cosine" in score_items(side, real, (), None).title
    assert choose_shown([side], real, 3) == choose_shown([side], real, 3)


def test_the_map_shows_all_pairs_once(tmp_path: Path) -> None:
    logits = np.zeros((50, 2))
    side, real = made_side("ours", tmp_path, logits), made_side("reference", tmp_path, logits)
    found = embedding_map([side], real)
    assert found is not None
    ((name, others, own),) = found.panels
    assert (name, own.count("M"), others.count("M"), found.points) == ("ours", 50, 50, 50)
    places = np.array(re.findall(r"M(\d+) (\d+)", own + others), int)
    assert places.min() >= 7
    assert places.max() <= 313
    few = made_side("few", tmp_path, logits[:1])
    assert embedding_map([few], real) is None


def test_the_outline_follows_the_mask(tmp_path: Path) -> None:
    mask = torch.zeros(64, 64)
    mask[16:48, 16:48] = 1
    drawn = np.asarray(outlined(torch.full((3, 64, 64), 0.5), mask)).astype(int)
    assert tuple(drawn[16, 30]) == OUTLINE[1]
    assert tuple(drawn[14, 30]) == OUTLINE[0]
    assert tuple(drawn[30, 30]) == tuple(drawn[2, 2]) == (128, 128, 128)
    write_image(tmp_path / "x.png", torch.rand(40, 900, 3))
    assert max(outlined(read_image(tmp_path / "x.png")[0].movedim(-1, 0), None).size) == 256
