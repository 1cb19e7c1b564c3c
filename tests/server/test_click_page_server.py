"""The click node's page and route where the server goes away, or lets pages of other origins in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import requests

from .browser import wait_until
from .click_page import DOG, WORKFLOW, Page

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def own_server(start_server: Callable[..., Any]) -> Iterator[Any]:
    """A server that may be stopped, and that was told to let pages from elsewhere in."""
    server = start_server("--cpu", "--enable-cors-header", "*")
    yield server
    server.stop()


def test_other_origins_are_let_in_where_the_host_lets_them(own_server: Any):
    (state,) = (node["widgets_values"][1] for node in WORKFLOW["nodes"] if node["type"] == "SoundingClick")
    body = json.dumps({"picture": {"name": "farm.png"}, "state": json.loads(state)})
    for kind, site, status in (("application/json", "cross-site", 200), ("text/plain", "same-origin", 415)):
        headers = {"Content-Type": kind, "Sec-Fetch-Site": site}
        answer = requests.post(own_server.url + "/sounding/click", data=body, headers=headers, timeout=600)
        assert answer.status_code == status, answer.text


def test_a_server_that_comes_back_is_used_again(context: Any, own_server: Any):
    page = Page(context, own_server)
    page.load()
    page.button("Remove all objects").click()
    own_server.stop()
    page.click((DOG[0] + 9, DOG[1] + 9))  # not where the example was clicked: that mask is known
    page.page.locator(".sounding-click-panel .sounding-click-status.error").wait_for()
    assert "does not answer" in page.status()
    own_server.launch()
    own_server.wait_until_up()
    page.drawn()
    wait_until(page.page, "() => !document.querySelector('.sounding-click-panel .sounding-click-status.error')")
    page.rename(1, "Rex")
    page.hear("Rex")
    assert np.abs(page.heard()).max() > 0.01
    page.page.close()
