"""The exit-code contract: every failure that a user can cause is one of these classes.

0 done · 1 bug · 2 usage · 3 input · 4 weights · 5 environment · 6 out of memory · 7 output · 130 interrupted · 143
terminated. The message is one line that says what is wrong, where, and what to do.
"""


class Lite3RError(Exception):
    """Base of all expected failures; `exit_code` is what the process returns."""

    exit_code = 1


class UsageError(Lite3RError):
    """The command line asks for something impossible."""

    exit_code = 2


class InputError(Lite3RError):
    """Images, videos, masks or scenes are unusable."""

    exit_code = 3


class WeightsError(Lite3RError):
    """A checkpoint is missing, damaged or of another model."""

    exit_code = 4


class BackendError(Lite3RError):
    """This machine lacks a device, a package or an arithmetic."""

    exit_code = 5


class MemoryLimitError(Lite3RError):
    """The device ran out of memory."""

    exit_code = 6


class OutputError(Lite3RError):
    """The result cannot be written: it exists, the disk is full, or the folder is read-only."""

    exit_code = 7
