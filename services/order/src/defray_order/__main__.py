"""The one entry of the order service's image: http | consume | relay | timers | migrate | all, and operators' verbs."""

import sys

from defray_kernel.roles import ServiceDefinition, main
from defray_order import __version__, wiring
from defray_order.settings import Settings

SERVICE = ServiceDefinition(
    name="order",
    schema="orders",
    version=__version__,
    settings_class=Settings,
    wire=wiring.wire,
    migrations=wiring.MIGRATIONS,
    verbs=wiring.VERBS,
)

if __name__ == "__main__":
    sys.exit(main(SERVICE, sys.argv[1:]))
