"""The channels by name; a channel that cannot verify callbacks is not among them, because it cannot be built."""

from collections.abc import Sequence

from defray_payment.channels.spi import PaymentChannel


class Channels:
    """All channels this process speaks with; built once in wiring."""

    def __init__(self, channels: Sequence[PaymentChannel]) -> None:
        self._by_name = {channel.capabilities.channel: channel for channel in channels}
        if len(self._by_name) != len(channels):
            raise ValueError("two channels share a name")

    def find(self, name: str) -> PaymentChannel | None:
        """The channel of this name, None when there is none."""
        return self._by_name.get(name)

    def get(self, name: str) -> PaymentChannel:
        """The channel of a stored payment. Raises KeyError when it was taken out of the settings."""
        return self._by_name[name]
