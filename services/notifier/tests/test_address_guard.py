"""The SSRF guard: what is refused before a byte is sent, in the URL, in the answer of the resolver, at the socket."""

import asyncio

import pytest

from defray_notifier.delivery.address_guard import AddressRefused, Guard, is_public
from defray_notifier.delivery.client import WebhookClient

REFUSED_URLS = [
    "http://shop.example/hook",
    "https://shop.example:8443/hook",
    "https://shop.example:25/",
    "https://user@shop.example/",
    "https://user:pass@shop.example/",
    "https://@shop.example/",
    "https://shop.example/#fragment",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f.1/",
    "https://0x7f000001/",
    "https://0177.0.0.1/",
    "https://1.1.1.1/",
    "https://[::1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2606:4700::1111]/",
    "https://localhost/",
    "https://shop.example./",
    "https://Shop.Example/",
    "https://shop..example/",
    "https://-shop.example/",
    "https://shop_1.example/",
    "https://shop.example\\@127.0.0.1/",
    "https://shop.example%2f@127.0.0.1/",
    "https://shop.example /",
    "https://shop.example/\u00e9",
    "https://\u2460.\u2461.\u2462.\u2463/",
    "https://shop.example:99999/",
    "https://",
    "//shop.example/",
    "ftp://shop.example/",
    "file:///etc/passwd",
    "gopher://shop.example/",
    "javascript:alert(1)",
    "https://shop.example/" + "a" * 2048,
    "https://[::1",
]
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254",  # noqa: S104 - refused, not bound to
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::8.8.8.8", "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1",
    "2002:7f00:1::", "2002:808:808::", "5f00::1", "fc00::1", "fd00::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    "", "localhost", "127.1", "2130706433",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "192.0.1.1", "100.128.0.1", "2606:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_of_another_shape_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        Guard().check_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://shop.example/hook?a=1", "https://shop.example:443/", "https://xn--fiqs8s.xn--fiqs8s/", "https://a.b.co/"],
)
def test_a_plain_url_passes(url: str) -> None:
    Guard().check_url(url)
    assert url


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_passes(address: str) -> None:
    assert is_public(address)


async def test_one_address_that_is_not_public_spoils_the_host() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["8.8.8.8", "127.0.0.1"]

    with pytest.raises(AddressRefused, match="not public"):
        await Guard(resolve=resolve).check("https://shop.example/")


async def test_a_host_without_an_address_is_refused() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        raise OSError

    with pytest.raises(AddressRefused, match="resolve"):
        await Guard(resolve=resolve).check("https://shop.example/")


async def test_a_resolver_that_changes_its_mind_reaches_nothing() -> None:
    """Registered with a public address, then rebound to loopback: no connection is even opened."""
    connections = 0

    async def on_connection(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    answers = iter([["8.8.8.8"], ["127.0.0.1"], ["::ffff:127.0.0.1"], ["8.8.8.8", "::1"]])

    async def resolve(_host: str, _port: int) -> list[str]:
        return next(answers)

    guard = Guard(resolve=resolve)
    await guard.check("https://shop.example/")
    async with server, WebhookClient.open(guard) as client:
        for _ in range(3):
            answer = await client.post("https://shop.example/", {}, b"{}")
            assert (answer.status, answer.error) == (None, "address_refused")
    assert connections == 0


def test_the_socket_itself_is_not_made_for_an_address_that_is_not_public() -> None:
    with pytest.raises(AddressRefused):
        Guard().open_socket((2, 1, 6, "", ("127.0.0.1", 443)))
