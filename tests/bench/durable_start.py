"""P2's ours: the payment service's http role as shipped, but that `POST /v1/payments` ends where the channel would be called.

`python -m tests.bench.durable_start http`. Everything else (token, strict body, idempotency key, group commit, payable,
payment, attempt, event) is the service's own; the answer is 202 with the payment as it was committed.
"""

import dataclasses
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from defray_kernel.crypto import Envelope
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.problems import registry
from defray_kernel.roles import Wiring, main
from defray_payment import __version__, wiring
from defray_payment.__main__ import SERVICE
from defray_payment.channels.build import Builder
from defray_payment.channels.registry import Channels
from defray_payment.commands.start_payment import Send
from defray_payment.entrypoints.account_refresh import AccountRefresh
from defray_payment.entrypoints.answers import PROBLEMS, Answers
from defray_payment.entrypoints.http import PaymentRequest, PaymentsApi
from defray_payment.entrypoints.tokens import PaymentTokens
from defray_payment.entrypoints.write_edges import Edges
from defray_payment.settings import Settings


class UntilDurable(PaymentsApi):
    """The merchant API whose start of a payment stops before the channel."""

    async def start(self, call: Call[PaymentRequest]) -> Reply:
        """The first of the two transactions."""
        line = self._line(call)
        order_id, terms = await self._order(call)
        outcome = await self.starting.submit(self._command(call, line, order_id, terms))
        assert isinstance(outcome, Send), outcome
        return Reply(status=202, content=self.answers.show(outcome.payment, outcome.attempt))


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    """The service's own graph with another public port in front of its write edges."""
    async with wiring.wire(settings) as wired, wiring.channel_session() as session:
        envelope = Envelope.from_file(settings.encryption_keys_file)
        channels = Channels()
        builder = Builder(
            session=session,
            notify_base_url=settings.notify_base_url,
            clock=wired.clock,
            timeout_s=settings.channel_timeout_s,
            tls_only=False,
        )
        await AccountRefresh(database=wired.database, envelope=envelope, builder=builder, channels=channels).refresh()
        names = (each.name for each in dataclasses.fields(Edges))
        edges = Edges(**dict(zip(names, wired.group_commits, strict=True)))
        problems = registry(*PROBLEMS)
        answers = Answers(envelope, problems, wired.clock)
        api = wiring.doors_of(
            wired.database, channels, edges, envelope, answers, wired.clock, settings.channel_timeout_s
        ).api
        edge = Edge(
            title="P2",
            version=__version__,
            problems=problems,
            merchants=wired.directory,
            tokens=PaymentTokens.from_file(settings.order_token_jwks_file, wired.clock),
        )
        UntilDurable(**{each.name: getattr(api, each.name) for each in dataclasses.fields(api)}).declare(edge)
        yield dataclasses.replace(wired, public=edge)


if __name__ == "__main__":
    sys.exit(main(dataclasses.replace(SERVICE, wire=wire), sys.argv[1:]))
