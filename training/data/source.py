"""Where samples of shards come from: by number, so that any process can make any of them."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from sounding.utils.messages import printable

from .shard_format import Kind, Sample, Skipped, reason
from .storage import StorageError

log = logging.getLogger("training")


class Source(ABC):
    """Where samples come from, by number. Sources are pickled into processes, so they load heavy data late."""

    kind: Kind = "raw"
    model: str | None = None
    former: str | None = None  # what an earlier version called the same model

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides the bytes of the result, as JSON; an existing folder is only added to if it is equal."""

    @abstractmethod
    def name(self, position: int) -> str:
        """The id of a sample, made or not."""

    @abstractmethod
    def make(self, position: int) -> Sample:
        """One sample.

        Raises:
            Exception: it cannot be made; it is skipped and listed with this reason.
        """

    def left_out(self) -> list[Skipped]:
        """Files and rows that belong to no sample, and why; listed beside samples that cannot be made."""
        return []

    def samples(self, first: int, last: int) -> Iterator[Sample | Skipped]:
        """Samples `first` to `last - 1` in order; sources that work on several at once have their own."""
        for position in range(first, last):
            try:
                yield self.make(position)
            except StorageError:
                raise  # nothing is wrong with the sample
            except Exception as error:  # decoders raise almost every kind for broken files
                log.debug("%s is skipped", self.name(position), exc_info=True)
                yield Skipped(printable(self.name(position)), reason(error))


def hash_json(values: Iterable[Any]) -> str:
    """SHA-256 of JSON values in order: stands for a list of inputs in a source's settings."""
    total = hashlib.sha256()
    for value in values:
        total.update(json.dumps(value).encode() + b"\n")
    return total.hexdigest()
