"""Parts of a guider's configuration: aliases, and settings with their current values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.configuration_utils import FrozenDict


def alias(name: str) -> Any:
    """An attribute under another name."""
    return property(lambda self: getattr(self, name), lambda self, value: setattr(self, name, value))


def item(name: str, index: int) -> Any:
    """One item of an attribute that is a list, as an attribute of its own."""

    def put(self: Any, value: Any) -> None:
        values = list(getattr(self, name))
        values[index] = value
        setattr(self, name, values)

    return property(lambda self: getattr(self, name)[index], put)


class LiveConfig:
    """A guider's configuration with the current values of its attributes, not those that it was made with.

    So a guider is saved, copied (`new`) and shown with the values in use, even if an attribute was set later.
    """

    _internal_dict: Any = FrozenDict({})  # until settings are registered
    unsaid: Mapping[str, Any] = {}  # settings that came later, and are left out where they have these values
    start = alias("_start")
    stop = alias("_stop")
    enabled = alias("_enabled")

    def stated(self, name: str) -> Any:
        """A setting as the configuration holds it."""
        return getattr(self, name)

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that were changed since the guider was made."""
        there = [
            n for n in self._internal_dict if not n.startswith("_") and (n in vars(self) or hasattr(type(self), n))
        ]
        return {name: now for name in there if (now := self.stated(name)) != self._internal_dict[name]}

    @property
    def config(self) -> Any:
        """The settings, as they are now."""
        settings = {**self._internal_dict, **self.changed}
        return FrozenDict({k: v for k, v in settings.items() if k not in self.unsaid or v != self.unsaid[k]})

    def to_json_string(self) -> str:
        """The settings as they are now, in JSON."""
        first = self._internal_dict
        self._internal_dict = self.config
        try:
            return super().to_json_string()  # type: ignore[misc]
        finally:
            self._internal_dict = first
