"""A value that a thread computes in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """Starts `make()` in a thread. A run that is stopped does not wait for it."""

    def __init__(self, make: Callable[[], T], name: str) -> None:
        self._make = make
        self._value: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._make()
        except BaseException as error:  # raised by `result`
            self._error = error

    def wait(self) -> None:
        """Wait until the value is there, or its computation has failed."""
        self._thread.join()

    def result(self) -> T:
        """Wait for the value. Raises what `make` raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]
