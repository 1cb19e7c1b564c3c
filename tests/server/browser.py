"""Chromium, as the tests of the page use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
PATIENCE = 240_000  # milliseconds for anything on a page: slow machines should only be slow

# The front end covers the page while it loads a graph. Covers that fade stay forever where the next one comes while
# the last one fades (PrimeVue removes the newer of the two), so they do not fade here.
NO_FADING = """document.addEventListener("DOMContentLoaded", () => {
  const style = document.createElement("style");
  style.textContent = ".p-overlay-mask-enter, .p-overlay-mask-leave { animation: none !important; }";
  document.head.append(style);
});"""


@contextmanager
def browser() -> Iterator[Any]:
    """A running browser."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS, timeout=PATIENCE)
        try:
            yield opened
        finally:
            opened.close()


def open_page(where: Any, url: str) -> Any:
    """A tab of a browser or a context with the server's page; what it loads comes later."""
    page = where.new_page()
    page.set_default_timeout(PATIENCE)
    page.add_init_script(NO_FADING)
    page.goto(url, wait_until="domcontentloaded")
    return page


def wait_until(page: Any, expression: str, arg: Any = None) -> Any:
    """Wait for a function of JavaScript to say yes, and give a handle of what it said. It is asked by the clock: tabs
    behind others paint no frames, by which Playwright asks if nothing is said.
    """
    return page.wait_for_function(expression, arg=arg, polling=100)
