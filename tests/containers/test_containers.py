"""The compose file and the Dockerfiles, read by other people's tools and by our own settings, since no Docker runs here."""

import importlib
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import yaml

from defray_kernel import settings
from defray_sandbox import containers
from defray_sandbox.simulators.alipay import __main__ as alipay
from defray_sandbox.simulators.alipay import keys as alipay_keys
from defray_sandbox.simulators.wechat import __main__ as simulator
from defray_sandbox.simulators.wechat import keys
from defray_sandbox.stack.provision import drop_database, provision, stored_passwords
from tests.architecture.sources import ROOT
from tests.judges import run as judges

SERVICES = ("order", "payment", "settlement", "notifier")
DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), ROOT / "deploy/sandbox/Dockerfile"])
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tools() -> Path:
    """The judges' programs, in an environment of their own that is made when it is absent."""
    return Path(judges.environment("containers")).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of secrets as `make-secrets` leaves it."""
    folder = tmp_path_factory.mktemp("secrets")
    containers.make_secrets(folder)
    return folder


def test_compose_file_fits_the_compose_schema(tools: Path, tmp_path: Path) -> None:
    check = [str(tools / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text("services:\n  order:\n    imagine: x\n", encoding="utf-8")
    assert subprocess.run([*check, str(wrong)], capture_output=True, check=False).returncode != 0


def test_dockerfiles_have_no_finding(tools: Path, tmp_path: Path) -> None:
    assert len(DOCKERFILES) == len(SERVICES) + 1
    done = subprocess.run([tools / "hadolint", *DOCKERFILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM python\nRUN pip install flask\n", encoding="utf-8")
    assert subprocess.run([tools / "hadolint", wrong], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_image_runs_as_a_number_that_is_not_root_and_needs_no_writing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "\nUSER 10001:10001\n" in text
    assert text.count("\nFROM ") == 2
    assert "PYTHONDONTWRITEBYTECODE=1" in text
    assert "--require-hashes" in text
    assert not any(word in text for word in ("apt-get", "curl", "wget", "ADD "))


@pytest.mark.parametrize("service", SERVICES)
def test_service_understands_the_environment_it_is_given(service: str, made: Path) -> None:
    settings_class = importlib.import_module(f"defray_{service}.settings").Settings
    for name in (service, f"{service}-migrate"):
        environment = environment_of(name, service, made)
        loaded = settings.load(settings_class, f"DEFRAY_{service.upper()}_", environment)
        files = {field: value for field, value in loaded if isinstance(value, Path)}
        assert [field for field, value in files.items() if not value.exists()] == []
        assert bool(loaded.database_owner_dsn) == name.endswith("-migrate")


def test_only_a_migration_and_the_jobs_see_the_owner_s_password() -> None:
    for service in SERVICES:
        seen = {name for name, entry in COMPOSE["services"].items() if f"{service}-owner" in mounted(entry)}
        assert seen == {f"{service}-migrate", "make-secrets", "make-roles"}
        seen = {name for name, entry in COMPOSE["services"].items() if f"{service}-secrets" in mounted(entry)}
        assert seen == {service, f"{service}-migrate", "make-secrets", "make-roles"}


def test_everything_starts_in_order_and_is_known_to_be_healthy() -> None:
    entries = COMPOSE["services"]
    for name, entry in entries.items():
        for other, how in entry.get("depends_on", {}).items():
            assert other in entries
            once = entries[other].get("restart") == "no"
            assert how["condition"] == ("service_completed_successfully" if once else "service_healthy"), (name, other)
        assert entry.get("restart") == "no" or "test" in entry["healthcheck"], name
        assert "mem_limit" in entry, name
    for service in SERVICES:
        assert set(entries[service]["depends_on"]) == {"postgres", "kafka", f"{service}-migrate"}


def test_ports_are_on_loopback_and_each_is_published_once() -> None:
    published = [port for entry in COMPOSE["services"].values() for port in entry.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1:3][-1] for port in published}) == len(published)


def test_broker_has_all_that_the_sandbox_s_broker_has() -> None:
    lines = (ROOT / "deploy/kafka/server.properties").read_text(encoding="utf-8").splitlines()
    names = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    # Quick sessions and small segments are for tests that kill brokers.
    names -= {
        "log.segment.bytes",
        "broker.session.timeout.ms",
        "broker.heartbeat.interval.ms",
        "group.min.session.timeout.ms",
    }
    given = COMPOSE["services"]["kafka"]["environment"]
    assert sorted({f"KAFKA_{name.upper().replace('.', '_')}" for name in names} - set(given)) == []


def test_simulator_understands_its_arguments_and_finds_its_keys(made: Path) -> None:
    module, *arguments = COMPOSE["services"]["channel"]["command"]
    assert module == "defray_sandbox.simulators.wechat"
    read = simulator.read_settings(arguments)
    environment = COMPOSE["services"]["payment"]["environment"]
    assert (read.mchid, read.appid) == (
        environment["DEFRAY_PAYMENT_WECHAT_MCHID"],
        environment["DEFRAY_PAYMENT_WECHAT_APPID"],
    )
    assert urlsplit(environment["DEFRAY_PAYMENT_WECHAT_BASE_URL"]).netloc == f"channel:{read.port}"
    assert keys.load(made / read.keys_dir.relative_to("/secrets")).merchant_serial


def test_the_second_simulator_understands_its_arguments_and_finds_its_keys(made: Path) -> None:
    module, *arguments = COMPOSE["services"]["alipay"]["command"]
    assert module == "defray_sandbox.simulators.alipay"
    read = alipay.read_settings(arguments)
    assert alipay_keys.load(made / read.keys_dir.relative_to("/secrets")).root_sn.count("_") == 1


def test_secrets_are_made_once_and_readable_by_their_owner_only(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    containers.make_secrets(made)
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    assert {oct(path.stat().st_mode & 0o777) for path in before} == {"0o600"}
    assert len(before) > 20


async def test_password_files_open_the_database(made: Path, postgres_server: str) -> None:
    """As in the containers: the DSN names a role and a file, the file holds the password."""
    database = f"containers_{os.getpid()}"
    own = await provision(postgres_server, stored_passwords(made / "database.json"), database=database)
    try:
        address = urlsplit(own.admin_dsn)
        for service in SERVICES:
            for folder, role in ((service, f"defray_{service}"), (f"{service}-owner", f"defray_{service}_owner")):
                passfile = passfile_for(made / folder / "pgpass", database)
                dsn = f"postgresql://{role}@{address.hostname}:{address.port}/{database}?passfile={passfile}"
                connection = await asyncpg.connect(dsn)
                assert await connection.fetchval("SELECT current_user") == role
                await connection.close()
    finally:
        await drop_database(postgres_server, database)


def environment_of(name: str, service: str, made: Path) -> dict[str, str]:
    """The environment of one container, its secrets where this test made them."""
    entry = COMPOSE["services"][name]
    given = dict(entry["environment"])
    if "ids.env" in str(entry.get("entrypoint", "")):
        lines = (made / service / "ids.env").read_text(encoding="utf-8").splitlines()
        given |= dict(line.split("=", 1) for line in lines)
    given[f"DEFRAY_{service.upper()}_TOPICS_FILE"] = str(ROOT / "deploy/topics.yaml")
    return {key: value.replace("/run/secrets/defray", str(made / service)) for key, value in given.items()}


def mounted(entry: dict[str, Any]) -> set[str]:
    """Names of the volumes of a container."""
    return {volume.split(":")[0] for volume in entry.get("volumes", [])}


def passfile_for(pgpass: Path, database: str) -> Path:
    """The same line for this test's own database."""
    copy = pgpass.with_name("pgpass.test")
    copy.touch(mode=0o600)
    copy.write_text(pgpass.read_text(encoding="utf-8").replace(":defray:", f":{database}:", 1), encoding="utf-8")
    return copy


def test_what_the_images_copy_reaches_the_builder_and_nothing_of_ours_is_secret() -> None:
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    copied = {
        line.split()[1]
        for path in DOCKERFILES
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
    }
    assert copied == shown
