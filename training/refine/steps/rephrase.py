"""One sentence of what is both seen and heard, by a language model whose answers are checked (appendix B.1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from ...cluster.rows import Column, Row
from ...cluster.stage import StopRun
from ..answers import BadAnswer, check
from ..chat import Endpoint, Failed
from ..model_files import digest
from ..prompt import VERSION, label_caption, messages_for
from ..settings import RephraseSettings
from ..step import Step

if TYPE_CHECKING:
    from ..language_model import Local

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
    takes_memory = "rephrase.resources.batch"

    def __init__(self, settings: RephraseSettings, sleep: Callable[[float], None] = time.sleep):
        super().__init__(settings.resources)
        self.chosen, self.sleep = settings, sleep
        self.digest = digest(settings.folder) if settings.by == "transformers" else ""
        self.endpoint: Endpoint | None = None
        self.local: Local | None = None
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
        made = {"endpoint": None, "local": None}
        return {key: value for key, value in self.__dict__.items() if key != "lock"} | made

    def open(self) -> None:
        """See Step."""
        self.lock = Lock()
        if self.chosen.by == "endpoint":
            self.endpoint = Endpoint(self.chosen)
        elif self.chosen.by == "transformers":
            from ..language_model import Local  # which brings torch

            self.local = Local(self.chosen)

    def measure(self, rows: Sequence[Row]) -> list[Row]:
        """See Step."""
        if self.local is not None:
            answers = self.local.answers([messages_for(row) for row in rows])
            return [self._judge(row, answer) for row, answer in zip(rows, answers, strict=True)]
        if self.endpoint is None:
            return [_by_labels(row, "", 0) for row in rows]
        # Each clip waits for its own answers alone, up to `parallel` of them at a time.
        pool = ThreadPoolExecutor(self.chosen.parallel)
        try:
            return list(pool.map(self._ask, rows))
        finally:
            pool.shutdown(cancel_futures=True)

    def verdict(self, row: Row) -> str:
        """See Step."""
        return "" if row["caption"] else "It has neither a caption nor labels."

    def _judge(self, row: Row, answer: str) -> Row:
        """By one answer; a model in this process would say the same again."""
        try:
            return _by_model(check(answer, given_for(row), self.chosen.most_words), "", 1)
        except BadAnswer as error:
            return _by_labels(row, str(error), 1)

    def _ask(self, row: Row) -> Row:
        """By the first answer of the endpoint that is a caption."""
        assert self.endpoint is not None
        messages, given = messages_for(row), given_for(row)
        problem, wait, asked, answered = "", self.chosen.wait, 0.0, False
        for number in range(self.chosen.tries):
            if number and (wait or asked):
                self.sleep(min(max(wait, asked), LONGEST_WAIT))
                wait *= 2
            try:
                said = self.endpoint.answer(messages)
                answered = True
                caption = check(said, given, self.chosen.most_words)
            except (BadAnswer, Failed) as error:
                problem, asked = str(error), error.wait if isinstance(error, Failed) else 0.0
                continue
            self._count(answered)
            return _by_model(caption, problem, number + 1)
        self._count(answered)
        return _by_labels(row, problem, self.chosen.tries)

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


def given_for(row: Row) -> list[str]:
    """The texts of a clip that a model is given."""
    return [row["audio_caption"], *(row.get("tags") or row["labels"]), *row["frame_captions"]]


def _by_model(caption: str, problem: str, tries: int) -> Row:
    return {"caption": caption, "caption_by": MODEL, "caption_problem": problem, "caption_tries": tries}


def _by_labels(row: Row, problem: str, tries: int) -> Row:
    return {
        "caption": label_caption(row),
        "caption_by": LABELS,
        "caption_problem": problem,
        "caption_tries": tries,
    }
