"""What is asked of any Android phone beside its screen: how it is made, found and restored."""

from __future__ import annotations

from typing import Protocol


class AndroidPhone(Protocol):
    """How a phone is made, found and restored."""

    @property
    def udid(self) -> str:
        """Its serial; known after ``ensure``."""
        ...

    @property
    def adb_port(self) -> int:
        """The adb server that knows it; known after ``ensure``."""
        ...

    def ensure(self) -> None:
        """Makes sure that it is up; raises a ``DeviceError`` if it is not."""
        ...

    def restore(self) -> None:
        """Back to its prepared state, as far as that can be done without a reboot."""
        ...

    def reboot(self) -> None:
        """Starts it anew."""
        ...
