"""The settlement service's one entry: `python -m defray_settlement http | consume | relay | timers | migrate | all`."""

import sys
from typing import Final

from defray_kernel.roles import ServiceDefinition, main
from defray_settlement import __version__
from defray_settlement.settings import Settings
from defray_settlement.wiring import MIGRATIONS, wire

SERVICE: Final = ServiceDefinition(
    name="settlement",
    schema="settlement",
    version=__version__,
    settings_class=Settings,
    wire=wire,
    migrations=MIGRATIONS,
)

if __name__ == "__main__":
    sys.exit(main(SERVICE, sys.argv[1:]))
