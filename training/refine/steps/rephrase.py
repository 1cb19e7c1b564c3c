"""One sentence of what is both seen and heard, by a language model whose answers are checked (appendix B.1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, ClassVar

from ...cluster.rows import Column, Row
from ...cluster.stage import StopRun
from ..answers import BadAnswer, check
from ..chat import Chat, Failed, chat_of
from ..model_files import digest
from ..prompt import VERSION, label_caption, messages_for
from ..settings import RephraseSettings
from ..step import Step

LABELS, MODEL = "labels", "model"  # values of caption_by
DOWN = 16  # clips in a row without any answer: the endpoint is down, and the run would caption all by labels
LONGEST_WAIT = 60.0  # s between two tries


class RephraseStep(Step):
    """Writes captions, and drops clips that have none."""

    name = "rephrase"
    columns: ClassVar[dict[str, Column]] = {
        "caption": Column("text", "what the model is trained with"),
        "caption_by": Column("text", "model, or labels where no answer of one could be used"),
        "caption_problem": Column("text", "what was wrong with the last answer that was refused, or empty"),
        "caption_tries": Column("count", "how often the model was asked"),
    }
    needs = ("events", "captions")

    def __init__(self, settings: RephraseSettings, sleep: Callable[[float], None] = time.sleep):
        super().__init__(settings.resources)
        self.chosen, self.sleep = settings, sleep
        self.digest = digest(settings.folder) if settings.by == "transformers" else ""
        self.chat: Chat | None = None
        self.silent = 0

    def settings(self) -> dict[str, Any]:
        """See Step; where an endpoint is, and how patient one is with it, changes no caption."""
        if self.chosen.by == "none":
            return {"by": "none"}
        chosen = self.chosen
        return {
            "by": chosen.by,
            "model": self.digest or chosen.model,
            "prompt": VERSION,
            "temperature": chosen.temperature,
            "most_words": chosen.most_words,
        }

    def model(self) -> str:
        """See Step."""
        return {
            "none": "",
            "transformers": self.chosen.folder,
            "endpoint": f"{self.chosen.model} at {self.chosen.url}",
        }[self.chosen.by]

    def missing(self) -> str:
        """See Step."""
        return "no language model; captions are those of the labels" if self.chosen.by == "none" else ""

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled to workers: nothing that `open` makes."""
        return {key: value for key, value in self.__dict__.items() if key not in ("chat", "lock")} | {"chat": None}

    def open(self) -> None:
        """See Step."""
        self.lock = Lock()
        if self.chosen.by != "none":
            self.chat = chat_of(self.chosen)

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        """See Step."""
        if self.chosen.by != "endpoint":
            return [self._caption(row) for row in rows]
        pool = ThreadPoolExecutor(self.chosen.parallel)
        try:
            return list(pool.map(self._caption, rows))
        finally:
            pool.shutdown(cancel_futures=True)

    def verdict(self, row: Row) -> str:
        """See Step."""
        return "" if row["caption"] else "It has neither a caption nor labels."

    def _caption(self, row: Row) -> Row:
        if self.chat is None:
            return _by_labels(row, "", 0)
        messages = messages_for(row)
        given = [row["audio_caption"], *(row.get("tags") or row["labels"]), *row["frame_captions"]]
        problem, wait, answered = "", self.chosen.wait, False
        # What a model in this process says once it says again.
        tries = self.chosen.tries if self.chosen.by == "endpoint" else 1
        for number in range(tries):
            if number and wait:
                self.sleep(min(wait, LONGEST_WAIT))
                wait *= 2
            try:
                said = self.chat.answer(messages)
                answered = True
                caption = check(said, given, self.chosen.most_words)
            except (BadAnswer, Failed) as error:
                problem = str(error)
                continue
            self._count(answered)
            return {"caption": caption, "caption_by": MODEL, "caption_problem": problem, "caption_tries": number + 1}
        self._count(answered)
        return _by_labels(row, problem, tries)

    def _count(self, answered: bool) -> None:
        """How many clips in a row were never answered.

        Raises:
            StopRun: too many.
        """
        with self.lock:
            self.silent = 0 if answered else self.silent + 1
            if self.silent >= DOWN:
                raise StopRun(
                    f"The endpoint of rephrase gave no answer for {self.silent} clips in a row; run the same command "
                    "again when it does, and the rest is captioned."
                )


def _by_labels(row: Row, problem: str, tries: int) -> Row:
    return {
        "caption": label_caption(row),
        "caption_by": LABELS,
        "caption_problem": problem,
        "caption_tries": tries,
    }
