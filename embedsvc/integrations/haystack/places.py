"""Where collections are, in values that can be written to YAML."""

from __future__ import annotations

import weakref
from functools import cached_property
from typing import Any

from haystack import default_to_dict
from haystack.utils import Secret

import embedsvc
from embedsvc.api.libraries import Library
from embedsvc.errors import UsageError


class Place:
    """A service at ``url``, with its ``api_key``; without ``url`` the data directory of this process's ``settings``
    (of :func:`embedsvc.library`). Nothing is opened before it is used."""

    def __init__(self, url: str | None, api_key: Secret | None, settings: dict[str, Any] | None) -> None:
        if url is not None and settings:
            raise UsageError("Settings are of this process, url is of a service: give one of the two.")
        if url is None and api_key is not None:
            raise UsageError("api_key is for a service: give its url too, or leave the key out.")
        if api_key is not None and not isinstance(api_key, Secret):
            raise UsageError(
                f"api_key is a {type(api_key).__name__}; it must be a Secret, which pipelines can be written with: "
                'Secret.from_env_var("EMBEDSVC_API_KEY").'
            )
        self.url, self.api_key, self.settings = url, api_key, settings

    @cached_property
    def library(self) -> Library:
        if self.url is None:
            return embedsvc.library(**(self.settings or {}))
        library = embedsvc.connect(self.url, api_key=None if self.api_key is None else self.api_key.resolve_value())
        weakref.finalize(self, library.close)  # Haystack tells no component that it is done with
        return library

    def to_dict(self, of: object, **parameters: Any) -> dict[str, Any]:
        """A component or store at this place, with its own ``parameters``."""
        settings = None if self.settings is None else {name: _plain(value) for name, value in self.settings.items()}
        key = None if self.api_key is None else self.api_key.to_dict()
        return default_to_dict(of, **parameters, url=self.url, api_key=key, settings=settings)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else str(value)


def with_secret(data: dict[str, Any]) -> dict[str, Any]:
    """What :meth:`Place.to_dict` gave, with the key as a Secret again."""
    parameters = dict(data["init_parameters"])
    if isinstance(key := parameters.get("api_key"), dict):
        parameters["api_key"] = Secret.from_dict(key)
    return {**data, "init_parameters": parameters}
