"""A value that a thread makes while others do something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """`make()`, begun now in a thread of its own, which nobody waits for who is stopped by a signal."""

    def __init__(self, make: Callable[[], T], name: str) -> None:
        self._make = make
        self._value: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._make()
        except BaseException as error:  # raised where the value is asked for
            self._error = error

    def wait(self) -> None:
        """Until it is made, or has failed."""
        self._thread.join()

    def result(self) -> T:
        """Waits for the value. Raises what `make` raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]
