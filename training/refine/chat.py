"""A language model behind OpenAI's chat interface, asked for captions; `language_model` is one in this process."""

from __future__ import annotations

import json
import os

from sounding.client.http import ErrorStatus, NoAnswer, Overlong, Wire
from sounding.utils.fields import parse_json
from sounding.utils.messages import printable

from ..cluster.stage import StopRun
from .settings import RephraseSettings

MOST_BYTES = 2**20  # of an answer; a caption has some hundred
TOKENS = 200  # that a model may write
REFUSED = (401, 403, 404)  # a wrong key, model or address: wrong for every clip

Messages = list[dict[str, str]]


class Failed(Exception):
    """No answer this time; the message has neither the key nor what the server wrote.

    `wait` are the seconds that the server asks for before it is asked again.
    """

    def __init__(self, message: str, wait: float = 0.0):
        super().__init__(message)
        self.wait = wait


class Endpoint:
    """A server with OpenAI's chat interface (vLLM, llama.cpp, Ollama, hosted ones).

    It is not trusted: its answers have an end in bytes and time, redirects are not followed, and what it writes into
    errors is not repeated.
    """

    def __init__(self, settings: RephraseSettings):
        self.chosen = settings
        self.url = f"{settings.url.rstrip('/')}/chat/completions"
        self.headers = {"Content-Type": "application/json", **_authorization(settings.key)}
        self.wire = Wire(proxies=True)

    def answer(self, messages: Messages) -> str:
        """What the model says to one clip; may be called from several threads at a time.

        Raises:
            Failed: nothing that could be read, this time.
            StopRun: what is wrong is wrong for every clip.
        """
        body = {
            "model": self.chosen.model,
            "messages": messages,
            "temperature": self.chosen.temperature,
            "max_tokens": TOKENS,
            "stream": False,
        }
        try:
            pieces = self.wire.exchange(
                self.url, json.dumps(body).encode(), self.headers, seconds=self.chosen.seconds, limit=MOST_BYTES
            )
            answer = b"".join(pieces)
        except ErrorStatus as error:
            if error.status in REFUSED:
                raise StopRun(
                    f"The endpoint of rephrase refuses all requests (status {error.status}); check url, model and the "
                    f"variable named by key ({self.chosen.key or 'none'})."
                ) from None
            raise Failed(f"status {error.status}", error.wait) from None
        except Overlong:
            raise Failed(f"an answer of more than {MOST_BYTES:,} bytes") from None
        except NoAnswer as error:
            raise Failed(printable(error, 120)) from None
        try:
            choice = parse_json(answer.decode(), most=MOST_BYTES)["choices"][0]
            said, ended = choice["message"]["content"], choice.get("finish_reason")
        except (UnicodeDecodeError, ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise Failed("an answer of another form than OpenAI's") from None
        if ended == "length":
            raise Failed("an answer that is cut off")
        if not isinstance(said, str):
            raise Failed("an answer without text")
        return said


def _authorization(variable: str) -> dict[str, str]:
    """The header with the key.

    Raises:
        StopRun: the variable is not set, or has what no header may have; the key itself is not shown.
    """
    if not variable:
        return {}
    key = os.environ.get(variable, "")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        state = "is not set" if not key else "has spaces or characters that no key has"
        raise StopRun(
            f"The environment variable {printable(variable, 60)} {state}, but rephrase.key names it; set it on every "
            "machine that asks."
        )
    return {"Authorization": f"Bearer {key}"}
