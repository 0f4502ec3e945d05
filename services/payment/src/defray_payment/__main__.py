"""The one entry of the payment service's image: http | consume | relay | timers | migrate | all, and operators' verbs."""

import sys

from defray_kernel.roles import ServiceDefinition, main
from defray_payment import __version__, wiring
from defray_payment.settings import Settings

SERVICE = ServiceDefinition(
    name="payment",
    schema="payments",
    version=__version__,
    settings_class=Settings,
    wire=wiring.wire,
    migrations=wiring.MIGRATIONS,
    verbs=wiring.VERBS,
)

if __name__ == "__main__":
    sys.exit(main(SERVICE, sys.argv[1:]))
