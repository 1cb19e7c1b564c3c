"""Pages that lie in folders, opened in a real Chromium: what goes wrong on them, and what they show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .server.browser import PATIENCE, browser

__all__ = ["Opened", "browser", "opened"]


class Opened:
    """A page with all its details open and all its images loaded."""

    def __init__(self, page: Any, file: Path):
        self.page = page
        self._troubles: list[str] = []
        page.on("console", lambda message: self._troubles.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self._troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("requestfailed", self._failed)
        page.on("request", self._requested)
        self.folder = file.parent.as_uri()
        page.goto(file.as_uri())
        page.evaluate(
            """async () => {
              for (const one of document.querySelectorAll("details")) one.open = true;
              for (const one of document.images) one.loading = "eager";
              await Promise.allSettled([...document.images].map((one) => one.decode()));
            }"""
        )
        self._sounds: dict[str, float] = page.evaluate(
            """async () => {
              const found = {};
              for (const one of document.querySelectorAll("audio")) {
                const silent = new Promise((done) => { one.onloadeddata = one.onerror = done; });
                one.preload = "auto";
                one.load();
                await silent;
                found[one.getAttribute("src")] = one.readyState >= 2 ? one.duration : 0;
              }
              return found;
            }"""
        )

    def _requested(self, request: Any) -> None:
        if not request.url.startswith(f"{self.folder}/"):
            self._troubles.append(f"request: {request.url}")

    def _failed(self, request: Any) -> None:
        # A player that has all it needs drops its request; whether it plays is seen by its sound.
        if request.resource_type != "media" or "ERR_ABORTED" not in str(request.failure):
            self._troubles.append(f"failed: {request.url} ({request.failure})")

    def troubles(self) -> list[str]:
        """Messages of the console, errors, dialogs, and requests that failed or went elsewhere than beside the page."""
        return self._troubles

    def images(self) -> dict[str, int]:
        """Width in pixels of each image by its address, 0 for one that could not be shown."""
        found: dict[str, int] = self.page.evaluate(
            "() => Object.fromEntries([...document.images].map((one) => [one.getAttribute('src'), one.naturalWidth]))"
        )
        return found

    def sounds(self) -> dict[str, float]:
        """Seconds of each player's sound by its address, 0 for one that could not be decoded."""
        return self._sounds

    def addresses(self) -> set[str]:
        """All that the page takes from elsewhere, as it is written in the page."""
        return set(
            self.page.evaluate("() => [...document.querySelectorAll('[src]')].map((one) => one.getAttribute('src'))")
        )

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def table(self, selector: str) -> list[list[str]]:
        """The cells of a table's body, by rows."""
        found: list[list[str]] = self.page.evaluate(
            """(selector) => [...document.querySelectorAll(`${selector} tbody tr`)].map(
              (row) => [...row.cells].map((cell) => cell.innerText))""",
            selector,
        )
        return found

    def groups(self) -> list[tuple[str, str, list[str]]]:
        """Of a refinement's report: step, reason and clips of each group of dropped ones."""
        found = self.page.evaluate(
            """() => [...document.querySelectorAll("section[id^=dropped] details")].map((one) => [
              one.closest("section").querySelector("h2 bdi").innerText, one.querySelector("summary bdi").innerText,
              [...one.querySelectorAll("h3")].map((name) => name.innerText)])"""
        )
        return [(step, reason, ids) for step, reason, ids in found]

    def overflow(self, width: int) -> int:
        """Pixels by which the page is wider than a window of that width."""
        self.page.set_viewport_size({"width": width, "height": 900})
        return int(self.page.evaluate("() => document.documentElement.scrollWidth - innerWidth"))


@contextmanager
def opened(chromium: Any, file: Path) -> Iterator[Opened]:
    """A page of a folder, in a browser that has seen nothing else."""
    context = chromium.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        yield Opened(page, file)
    finally:
        context.close()
