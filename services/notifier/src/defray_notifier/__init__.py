"""The notifier service: what happened, told to merchants' endpoints."""

from typing import Final

__version__: Final = "0.1.0"
