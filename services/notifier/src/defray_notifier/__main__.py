"""The notifier service's one entry: `python -m defray_notifier http | consume | relay | timers | migrate | all`."""

import sys
from typing import Final

from defray_kernel.roles import ServiceDefinition, main
from defray_notifier import __version__
from defray_notifier.settings import Settings
from defray_notifier.wiring import MIGRATIONS, wire

SERVICE: Final = ServiceDefinition(
    name="notifier",
    schema="notify",
    version=__version__,
    settings_class=Settings,
    wire=wire,
    migrations=MIGRATIONS,
)

if __name__ == "__main__":
    sys.exit(main(SERVICE, sys.argv[1:]))
