"""The outgoing client against a receiver that behaves badly: every case ends, in time, with a stable word."""

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from defray_notifier.delivery.address_guard import Guard
from defray_notifier.delivery.client import Answer, WebhookClient

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOCAL = Guard(allow_private=True)
OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def hostile(behave: Behaviour) -> AsyncIterator[str]:
    """A server that reads one request and then does as told."""
    gone: set[asyncio.StreamWriter] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()
        for writer in gone:
            writer.transport.abort()


async def posted(behave: Behaviour, *, total_s: float = 1.0) -> tuple[Answer, float]:
    async with hostile(behave) as url, WebhookClient.open(LOCAL, total_s=total_s) as client:
        started = time.monotonic()
        answer = await client.post(url, {"webhook-id": "msg_1"}, b"{}")
        return answer, time.monotonic() - started


def says(*parts: bytes, then_hang: bool = False) -> Behaviour:
    async def behave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then_hang:
            await asyncio.sleep(60)

    return behave


async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        await writer.drain()


async def dripping(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    for _ in range(600):
        writer.write(b"X-A: b\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)


BOMB = gzip.compress(b"\0" * 5_000_000)


@pytest.mark.parametrize(
    ("behave", "status", "error"),
    [
        (says(then_hang=True), None, "timeout"),
        (dripping, None, "timeout"),
        (says(), None, "disconnected"),
        (says(b"nonsense\r\n\r\n"), None, "protocol"),
        (says(OK + b"X-Big: " + b"x" * 100_000 + b"\r\n\r\n"), None, "protocol"),
        (says(OK + b"Content-Length: 2\r\n\r\nok"), 200, None),
        (says(b"HTTP/1.1 204 No Content\r\n\r\n"), 204, None),
        (says(OK + b"Content-Length: 100\r\n\r\nhalf"), 200, None),
        (says(OK + b"Content-Length: 100\r\n\r\nhangs", then_hang=True), 200, None),
        (endless, 200, None),
        (says(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB), 200, None),
        (says(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), 500, None),
        (says(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"), 410, None),
    ],
    ids=[
        "never answers", "drips headers", "closes", "not http", "huge header", "ok", "no content", "breaks off", "200 then hangs",
        "endless body", "gzip bomb", "500", "410",
    ],
)  # fmt: skip
async def test_every_misbehaviour_ends_in_time_with_a_defined_answer(
    behave: Behaviour, status: int | None, error: str | None
) -> None:
    answer, took_s = await posted(behave)
    assert (answer.status, answer.error) == (status, error)
    assert took_s < 3
    assert len(answer.reply) <= 2048


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    visited: list[bytes] = []

    async def other(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visited.append(b"x")
        writer.write(OK + b"Content-Length: 0\r\n\r\n")

    async with hostile(other) as target:
        answer, _ = await posted(
            says(f"HTTP/1.1 {status} Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
        )
    assert answer.status == status
    assert visited == []


async def test_a_port_where_nobody_listens_and_a_name_nobody_has() -> None:
    async def nobody(_host: str, _port: int) -> list[str]:
        raise OSError

    async with WebhookClient.open(LOCAL, total_s=2) as client:
        assert (await client.post("http://127.0.0.1:1/", {}, b"{}")).error == "connect"
    async with WebhookClient.open(Guard(allow_private=True, resolve=nobody), total_s=2) as client:
        assert (await client.post("http://shop.example/", {}, b"{}")).error == "dns"


async def test_tls_asks_for_the_host_s_name_at_the_checked_address(tmp_path: Path) -> None:
    """The certificate of shop.example is accepted for shop.example only, whatever the address is."""
    certificate, key = certificate_of("shop.example", tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=certificate)

    async def ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"Content-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def loopback(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    server = await asyncio.start_server(ok, "127.0.0.1", 0, ssl=serving)
    port = server.sockets[0].getsockname()[1]
    guard = Guard(allow_private=True, resolve=loopback)
    async with server:
        async with WebhookClient.open(guard, tls=trusting) as client:
            assert (await client.post(f"https://shop.example:{port}/", {}, b"{}")).status == 200
            assert (await client.post(f"https://evil.example:{port}/", {}, b"{}")).error == "tls"
        async with WebhookClient.open(guard) as client:
            assert (await client.post(f"https://shop.example:{port}/", {}, b"{}")).error == "tls"


def certificate_of(name: str, folder: Path) -> tuple[str, str]:
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")
