"""Every error that privfl raises on purpose, as one tree.

::

    PrivflError                 exit code 1
    ├── UserError               exit code 2: something that the user can mend
    │   ├── ConfigError         a configuration that is wrong or contradicts itself
    │   ├── ItemError           an item of the user's own that raised, or does not keep its shelf's contract
    │   ├── DataError           data that is missing, damaged or unfit for the run
    │   ├── ModelError          a model that cannot be trained as the plan asks
    │   ├── RunFolderError      a run folder that is absent, foreign or of another version
    │   └── ViewError           an attack asked for more than its adversary could have seen
    ├── PrivacyError            a step that would have broken the promised privacy
    ├── ProtocolError           secure aggregation: a message was refused, or a round cannot go on
    │   └── ThresholdError      too few clients are left, so that no sum was made
    ├── ProcessError            a run of several processes lost one of them
    ├── TrackerError            an experiment tracker that failed or cannot be reached
    └── StorageError            the disk is full or refuses to be written

A message is one line: the value, the allowed ones, and the next thing to do.
"""

from __future__ import annotations

from typing import ClassVar


class PrivflError(Exception):
    """Base of all; catch it to catch everything that privfl raises on purpose."""

    exit_code: ClassVar[int] = 1


class UserError(PrivflError):
    """Something that the user can mend."""

    exit_code: ClassVar[int] = 2


class ConfigError(UserError):
    """A configuration that is wrong or contradicts itself."""


class ItemError(UserError):
    """An item of the user's own that raised, or does not keep its shelf's contract."""


class DataError(UserError):
    """Data that is missing, damaged or unfit for the run."""


class ModelError(UserError):
    """A model that cannot be trained as the plan asks."""


class RunFolderError(UserError):
    """A run folder that is absent, foreign or of another version."""


class ViewError(UserError):
    """An attack asked for more than its adversary could have seen."""


class PrivacyError(PrivflError):
    """A step that would have broken the promised privacy."""


class ProtocolError(PrivflError):
    """Secure aggregation: a message was refused, or a round cannot go on.

    Args:
        reason: the value that was found, the allowed ones, the way out.
        stage: the stage of the protocol, if there is one.
        peer: who is at fault, as far as the one who raises can tell: ``"server"`` or ``"client 7"``.
    """

    def __init__(self, reason: str, *, stage: str | None = None, peer: str | None = None) -> None:
        where = ", ".join(part for part in (stage, peer) if part is not None)
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason, self.stage, self.peer = reason, stage, peer


class ThresholdError(ProtocolError):
    """Too few clients are left, so that no sum was made.

    The round may be repeated with fresh keys as long as nobody was asked to reveal a share. From then on too few may have
    answered in time and still enough in the end: a second sum could be compared with the first.
    """


class ProcessError(PrivflError):
    """A run of several processes lost one of them."""


class TrackerError(PrivflError):
    """An experiment tracker that failed or cannot be reached."""


class StorageError(PrivflError):
    """The disk is full or refuses to be written."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or the name of its class if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
