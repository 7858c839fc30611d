"""The one error tree. Raised where the fault is known; turned into an exit code by ``cli`` and into an HTTP
status by ``service``, once each, by class.

Every message says what happened, to which input, and what to do about it.
"""

from __future__ import annotations

from typing import Self


class EmbedsvcError(Exception):
    """Base of every error that embedsvc raises on purpose."""

    @classmethod
    def retold(cls, message: str) -> Self:
        """The error as another process told of it: its message, and none of its other attributes."""
        return cls.__new__(cls, message)


# -- the caller asked for something that cannot be done ------------------------------------------------------------


class UsageError(EmbedsvcError):
    """A wrong argument, setting or request. Of an option of a search, ``option`` is its name over REST and in Python,
    and ``fault`` the message from there on: a face that calls it otherwise tells it by that name."""

    option: str | None = None
    fault = ""

    @classmethod
    def of(cls, option: str, fault: str) -> Self:
        error = cls(f"{option} {fault}")
        error.option, error.fault = option, fault
        return error


class BadFilter(UsageError):
    """A filter that is not valid SQL over the collection's fields."""


class QueryTooLong(UsageError):
    """A text with more tokens than the model's window, while ``on_overflow`` is ``error``. ``remedy`` says what to do
    besides shortening it, in the caller's own words (:meth:`with_remedy`); None: nothing helps."""

    def __init__(self, fact: str, remedy: str | None) -> None:
        self.fact, self.remedy = fact, remedy
        super().__init__(f"{fact} Shorten it{f', or {remedy}' if remedy else ''}.")

    def with_remedy(self, remedy: str) -> str:
        """The message, where on_overflow goes by another name."""
        return str(QueryTooLong(self.fact, self.remedy and remedy))


class Closed(UsageError):
    """A library that was closed was asked for something. ``place``: what it was of."""

    def __init__(self, place: object) -> None:
        super().__init__(f"The library of {place} was closed. Open it anew, or close it after the last call.")


class NotFound(EmbedsvcError):
    """Something was named that is not there."""


class Conflict(EmbedsvcError):
    """The thing is there, but its state forbids what was asked (it exists already, another process writes to it)."""


class Locked(Conflict):
    """Another process writes to the collection or builds its index: it may be tried again."""


class ContractMismatch(EmbedsvcError):
    """The encoder at hand is not the one that made the collection's vectors."""


class Overloaded(EmbedsvcError):
    """More work is waiting than is taken: ``waiting`` says how much. ``retry_after``: seconds after which there should
    be room."""

    def __init__(self, waiting: str, seconds: float) -> None:
        self.retry_after = max(1, round(seconds))
        super().__init__(f"{waiting} are waiting already. Ask again in {self.retry_after} s, or send less at once.")


class Busy(EmbedsvcError):
    """The service has as much work waiting as it takes."""


class NotReady(EmbedsvcError):
    """The service cannot answer yet, or not any more."""


# -- between a client and the service ------------------------------------------------------------------------------


class Unreachable(EmbedsvcError):
    """The service gave no answer, or another program did in its place."""


class AccessDenied(EmbedsvcError):
    """The service, or what stands before it, does not let this key in."""


class VersionMismatch(EmbedsvcError):
    """Client and service are of versions that do not understand each other."""


class JobFailed(EmbedsvcError):
    """A job of the service ended before it was done. What it committed stays."""


# -- one input could not be read: it is quarantined, the rest goes on -----------------------------------------------


class ReadError(EmbedsvcError):
    """An input that gives no document. ``reason`` is the short code that reports carry."""

    reason = "unreadable"


class UnsupportedFormat(ReadError):
    reason = "unsupported"


class NeedsOcr(ReadError):
    """A picture of text, and the program that would recognise it, or its data of a language, is not there."""

    reason = "needs_ocr"


class BinaryJunk(ReadError):
    reason = "binary"


class LockedFile(ReadError):
    reason = "locked"


class DamagedFile(ReadError):
    reason = "damaged"


class FileTooLarge(ReadError):
    reason = "too_large"


class WrongEncoding(ReadError):
    reason = "encoding"


class MissingField(ReadError):
    """A record without the text field that was asked for."""

    reason = "missing_field"


class FetchFailed(ReadError):
    """A page that the web does not give."""

    reason = "not_fetched"


class PrivateAddress(ReadError):
    """A page at an address that is not one of the open internet."""

    reason = "private_address"


class NotAllowed(ReadError):
    """A page that a sitemap lists, but on another host, or against its robots.txt."""

    reason = "not_allowed"


class ReaderCrashed(ReadError):
    """The process that read it ended, or gave an answer that is none."""

    reason = "crashed"


class ReaderTimeout(ReadError):
    reason = "timeout"


class ReaderOutOfMemory(ReadError):
    reason = "out_of_memory"


# -- the machine or the stored data is at fault ----------------------------------------------------------------------


class ModelError(EmbedsvcError):
    """A model that is missing, damaged, not the pinned one, or that could not be prepared."""


class ParityError(ModelError):
    """A runtime whose vectors are not those of sentence-transformers: it is not used."""


class DamagedCollection(EmbedsvcError):
    """A collection whose store cannot be read. ``fact``: the message without what to do about it."""

    def __init__(self, fact: str, remedy: str = "") -> None:
        self.fact = fact
        super().__init__(f"{fact} {remedy}".rstrip())


class StorageFailure(EmbedsvcError):
    """The data directory cannot be written, or not be read: full disk, read-only, no permission."""

    @classmethod
    def of_reading(cls, data_dir: object, error: OSError) -> Self:
        return cls(
            f"The data directory {data_dir} cannot be read ({error.strerror or error}). Check the permissions, or "
            "choose another place with --data-dir."
        )


class MissingDependency(EmbedsvcError):
    """An optional package is not installed; the message names the extra that brings it."""
