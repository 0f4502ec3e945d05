"""`defray channel`: pulls the levers of the running sandbox's simulated channels over their control ports."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

import typer

from defray_sandbox.stack.errors import StackError
from defray_sandbox.timeline import Timeline
from defray_sandbox.up import open_site

_TIMEOUT_S = 60


class ChannelName(StrEnum):
    """The simulated channels."""

    WECHAT = "wechat"
    ALIPAY = "alipay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A channel, and where its levers are; None = where the running sandbox says."""

    name: ChannelName
    url: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `alipay`, or `alipay@http://127.0.0.1:8123` for a channel of another sandbox."""
        name, _, url = text.partition("@")
        if name not in tuple(ChannelName) or (url and not url.startswith(("http://", "https://"))):
            raise typer.BadParameter("wechat or alipay, or one of them with @ and the address of its control port")
        return cls(name=ChannelName(name), url=url.rstrip("/") or None)

    def control_url(self) -> str:
        """Where the levers are. Raises StackError when the channel does not run."""
        if self.url is not None:
            return self.url
        ports = open_site().addresses.channels.get(self.name)
        if ports is None:
            message = f"this sandbox runs no channel {self.name}"
            raise StackError(message, "start it anew: make up")
        return ports.internal_url


channel_app = typer.Typer(
    help="Levers of the simulated channels: payers, faults, callbacks, refunds.", no_args_is_help=True
)

_Channel = Annotated[
    Target,
    typer.Argument(
        parser=Target.parse, metavar="CHANNEL", help="wechat or alipay; …@http://host:port outside the sandbox"
    ),
]
_Number = Annotated[str, typer.Argument(help="The channel's name for it: out_trade_no.")]
_Orders = Annotated[str, typer.Option(help="Business numbers that it holds for, such as P1*; of refunds: their own.")]
_Count = Annotated[int | None, typer.Option(help="How often; for ever if not said.")]
_Probability = Annotated[float, typer.Option(help="0 to 1.")]
_Seed = Annotated[int, typer.Option(help="Repeats the same chances.")]
_Link = Annotated[str | None, typer.Option(help="Alipay: the signed address, order string or QR code to open first.")]
_After = Annotated[float, typer.Option(help="Business seconds until then.")]


@channel_app.command()
def pay(
    channel: _Channel,
    number: Annotated[str | None, typer.Argument(help="out_trade_no")] = None,
    link: _Link = None,
    total: Annotated[int | None, typer.Option(help="Another amount than ordered, in minor units.")] = None,
    callbacks: Annotated[int, typer.Option(help="So many callbacks of the payment.")] = 1,
    concurrent: Annotated[bool, typer.Option("--concurrent", help="All of them at once.")] = False,  # noqa: FBT002  A flag.
    late: Annotated[bool, typer.Option("--late", help="Although it was closed, as when a bank was slow.")] = False,  # noqa: FBT002  A flag.
) -> None:
    """Let the payer pay; tells what the merchant answered."""
    wish = {"out_trade_no": number, "link": link, "total": total, "callbacks": callbacks, "concurrent": concurrent}
    _pull(channel, "/control/pay", wish | {"late": late, "wait": True})


@channel_app.command("open")
def open_(
    channel: _Channel,
    number: Annotated[str | None, typer.Argument(help="out_trade_no of a QR code")] = None,
    link: _Link = None,
) -> None:
    """Alipay: let the payer open a link or a QR code, which is when the trade comes to be."""
    _pull(channel, "/control/open", {"out_trade_no": number, "link": link})


@channel_app.command()
def decline(channel: _Channel, number: _Number) -> None:
    """Let the payer's payment fail; only an order paid by code ends with it."""
    _pull(channel, "/control/decline", {"out_trade_no": number})


@channel_app.command()
def expire(channel: _Channel, number: _Number) -> None:
    """Let the time to pay be over."""
    _pull(channel, "/control/expire", {"out_trade_no": number})


@channel_app.command()
def payers(
    channel: _Channel,
    payer: Annotated[str, typer.Argument(help="pays, types_password or is_declined")],
    orders: _Orders = "*",
    count: _Count = None,
) -> None:
    """Say how payers behave whose code is scanned from now on."""
    _pull(channel, "/control/payers", {"payer": payer, "orders": orders, "count": count})


@channel_app.command("refund-plan")
def refund_plan(
    channel: _Channel,
    outcome: Annotated[str, typer.Argument(help="success, abnormal, closed or pending")],
    orders: _Orders = "*",
    count: _Count = None,
    after_s: _After = 0,
) -> None:
    """Say what becomes of refunds that are accepted from now on; pending ones wait for `refund-settle`."""
    _pull(channel, "/control/refunds", {"outcome": outcome, "orders": orders, "count": count, "after_s": after_s})


@channel_app.command("refund-settle")
def refund_settle(
    channel: _Channel,
    refund: Annotated[str, typer.Argument(help="out_refund_no or out_request_no")],
    outcome: Annotated[str, typer.Argument(help="success, abnormal or closed")],
    number: Annotated[str | None, typer.Option("--order", help="Alipay: out_trade_no of the refund's trade.")] = None,
) -> None:
    """End an accepted refund now; an abnormal one of WeChat Pay may end once more."""
    which = {"out_refund_no": refund} if channel.name is ChannelName.WECHAT else {"out_request_no": refund}
    _pull(channel, "/control/refunds/settle", {**which, "out_trade_no": number, "outcome": outcome, "wait": True})


@channel_app.command("refund-abnormal")
def refund_abnormal(channel: _Channel, refund: Annotated[str, typer.Argument(help="out_refund_no")]) -> None:
    """WeChat Pay: let the money of an accepted refund be stuck."""
    _pull(channel, "/control/refunds/settle", {"out_refund_no": refund, "outcome": "abnormal", "wait": True})


@channel_app.command()
def fault(  # noqa: PLR0913, PLR0917  Each is an option of the command line.
    channel: _Channel,
    action: Annotated[str, typer.Argument(help="delay drop 500 502 429 refuse garbage unsigned wrong_key truncated")],
    operation: Annotated[str, typer.Option(help="Such as native, query, refund; * is every one.")] = "*",
    before: Annotated[bool, typer.Option("--before", help="Before the channel did the work.")] = False,  # noqa: FBT002  A flag.
    orders: _Orders = "*",
    count: _Count = None,
    probability: _Probability = 1.0,
    seed: _Seed = 0,
    delay_s: Annotated[float | None, typer.Option(help="For delay.")] = None,
    code: Annotated[str | None, typer.Option(help="For refuse: the channel's code.")] = None,
) -> None:
    """Let requests fail from now on."""
    moment = "before_apply" if before else "after_apply"
    wish = {"action": action, "operation": operation, "moment": moment, "delay_s": delay_s, "code": code}
    _pull(channel, "/control/faults", wish | _chance(orders, count, probability, seed))


@channel_app.command()
def heal(channel: _Channel) -> None:
    """Let everything work again: faults and plans are forgotten, orders are not."""
    _pull(channel, "/control/faults/clear", {})


@channel_app.command()
def callbacks(  # noqa: PLR0913, PLR0917  Each is an option of the command line.
    channel: _Channel,
    orders: _Orders = "*",
    count: _Count = None,
    kind: Annotated[list[str] | None, typer.Option(help="Such as genuine, tampered, forged_key, stale.")] = None,
    duplicates: Annotated[int | None, typer.Option(help="So many of each.")] = None,
    concurrent: Annotated[bool, typer.Option("--concurrent", help="At once.")] = False,  # noqa: FBT002  A flag.
    delay_s: Annotated[float, typer.Option(help="Late by so much.")] = 0,
    never: Annotated[bool, typer.Option("--never", help="None at all.")] = False,  # noqa: FBT002  A flag.
    before_answer: Annotated[bool, typer.Option("--before-answer", help="Ahead of the reply.")] = False,  # noqa: FBT002  A flag.
    reorder: Annotated[int | None, typer.Option(help="Hold back so many, then send them last first.")] = None,
) -> None:
    """Say how callbacks are sent from now on."""
    flags: dict[str, object] = {
        "concurrent": concurrent,
        "never": never,
        "before_answer": before_answer,
        "delay_s": delay_s,
    }
    wish: dict[str, object] = {"orders": orders, "count": count, "kinds": kind, "duplicates": duplicates}
    _pull(channel, "/control/callbacks", wish | flags | {"reorder": reorder})


@channel_app.command("send-callback")
def send_callback(
    channel: _Channel,
    number: _Number,
    refund: Annotated[str | None, typer.Option(help="Of this refund.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Such as genuine, tampered, forged_key, stale.")] = None,
) -> None:
    """Send callbacks of a paid order, or of a settled refund, now; tells what the merchant answered."""
    name = "out_refund_no" if channel.name is ChannelName.WECHAT else "out_request_no"
    _pull(channel, "/control/callbacks/send", {"out_trade_no": number, name: refund, "kinds": kind})


@channel_app.command("keys")
def keys(
    channel: _Channel,
    generation: Annotated[int | None, typer.Option(help="1 or 2: the key that signs from now on.")] = None,
    certificate: Annotated[int | None, typer.Option(help="WeChat Pay: the platform certificate that signs.")] = None,
    published: Annotated[int | None, typer.Option(help="WeChat Pay: how many certificates can be loaded.")] = None,
    public_key_percent: Annotated[
        int | None, typer.Option(help="WeChat Pay: 0 is certificate mode, 100 public-key mode.")
    ] = None,
) -> None:
    """Rotate the channel's keys."""
    if channel.name is ChannelName.ALIPAY:
        wish: dict[str, object] = {"generation": generation}
    else:
        wish = {"callback_generation": generation, "certificate_generation": certificate}
        wish |= {"certificates_published": published, "public_key_percent": public_key_percent}
    _pull(channel, "/control/keys", wish)


def _reader(path: str, text: str) -> Callable[..., None]:
    def read(channel: _Channel) -> None:
        _pull(channel, path, None)

    read.__doc__ = text
    return read


for _name, _path, _text in (
    ("statistics", "/control/statistics", "Tell what the channel really did, in all."),
    ("orders", "/control/orders", "List the channel's orders, at most 1,000."),
    ("refunds", "/control/refunds", "List the channel's refunds, at most 1,000."),
    ("books", "/books", "Tell what the channel took in and gave back, per currency."),
):
    channel_app.command(_name)(_reader(_path, _text))


def _chance(orders: str, count: int | None, probability: float, seed: int) -> dict[str, object]:
    return {"orders": orders, "count": count, "probability": probability, "seed": seed}


def _pull(channel: Target, path: str, wish: Mapping[str, object] | None) -> None:
    """Pull one lever, or read one without a wish, and print the answer; what was not said is left out."""
    try:
        told = pull(channel.control_url(), path, wish)
    except StackError as error:
        Timeline().fail(error)
        raise typer.Exit(1) from error
    typer.echo(json.dumps(told, ensure_ascii=False, indent=1))


def pull(url: str, path: str, wish: Mapping[str, object] | None) -> Any:  # noqa: ANN401  Any JSON.
    """Post a wish to a lever, or read one; raises StackError with the channel's words when it is refused."""
    said = None if wish is None else {name: value for name, value in wish.items() if value is not None}
    body = None if said is None else json.dumps(said).encode()
    # The scheme was checked where the address was read.
    request = urllib.request.Request(url + path, data=body, headers={"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310  As above.
            return json.load(reply)
    except urllib.error.HTTPError as error:
        message = f"the channel refused: {error.code} {error.read().decode(errors='replace')[:500]}"
        raise StackError(message, "see the page of the simulator for its levers") from error
    except OSError as error:
        message = f"the channel does not answer at {url} ({error})"
        raise StackError(message, "is `make up` running?") from error
