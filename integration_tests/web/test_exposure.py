"""Who reaches NNI's manager, and what can be done to it without the secret part of its address."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
from nni.experiment import ExperimentConfig
from nni.experiment.launcher import NniManagerArgs

from balenas_plugin.adapters.nni.web import guard
from balenas_plugin.adapters.nni.web.manager import free_port
from balenas_plugin.errors import OptionError

from .programs import environment, until

PREFIX = "a-long-secret"
OTHER = "127.0.0.3"
"""An address of this machine that is neither the one that NNI itself asks nor all of them."""
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@dataclass(frozen=True)
class Manager:
    """NNI's manager, before it is given an experiment."""

    process: subprocess.Popen[bytes]
    hosts: list[str]
    port: int
    home: Path

    def alive(self) -> bool:
        try:
            return requests.get(f"http://localhost:{self.port}/{PREFIX}/api/v1/nni/check-status", timeout=10).ok
        except requests.ConnectionError:
            assert self.process.poll() is None, (self.home / "nni/it/log/nnictl_stderr.log").read_text()
            return False

    def answer(self, request: str, *headers: str) -> str:
        """Send a request as it stands; return the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall("\r\n".join([f"{request} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())
            return connection.makefile().readline().strip()


@pytest.fixture(scope="module", params=[guard.LOOPBACK, OTHER])
def manager(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    home = tmp_path_factory.mktemp("home")
    (home / "nni/it/log").mkdir(parents=True)
    hosts = guard.hosts(request.param)
    port = free_port(0, hosts)
    config = ExperimentConfig("local", experiment_working_directory=home / "nni", log_level="warning")
    channel = f"ws://localhost:{port}/{PREFIX}/tuner"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "NNI_HOME_DIR", str(home / "nni-experiments"))
        patch.setattr(os, "environ", environment(home))
        arguments = NniManagerArgs("create", "it", config, port, False, False, PREFIX, channel)
        manager = Manager(guard.start_guarded(arguments, hosts), hosts, port, home)
    until(manager.alive, what="the start")
    yield manager
    manager.process.kill()
    manager.process.wait()


def test_it_is_reached_where_it_was_asked_for_only(manager: Manager) -> None:
    interfaces = [interface for several in psutil.net_if_addrs().values() for interface in several]
    own = {interface.address for interface in interfaces if interface.family == socket.AF_INET}
    for address in {"127.0.0.1", "127.0.0.2", OTHER, *own}:
        with socket.socket() as client:
            reached = client.connect_ex((address, manager.port)) == 0
        assert reached == (address in manager.hosts), address


@pytest.mark.parametrize("path", ["/", "/tuner", f"/{PREFIX}x/tuner", f"//{PREFIX}/tuner", f"/x?/{PREFIX}/tuner"])
@pytest.mark.parametrize("headers", [(), UPGRADE], ids=["request", "upgrade"])
def test_without_the_secret_nothing_is_reached(manager: Manager, path: str, headers: tuple[str, ...]) -> None:
    assert manager.answer(f"GET {path}", *headers) == "HTTP/1.1 404 Not Found"
    assert manager.alive()


def test_without_the_secret_it_is_not_ended(manager: Manager) -> None:
    for request in ("DELETE /api/v1/nni/experiment", "DELETE /", "PUT /api/v1/nni/experiment"):
        assert manager.answer(request) == "HTTP/1.1 404 Not Found"
    with socket.create_connection(("127.0.0.1", manager.port)) as connection:  # gone before the refusal arrives
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall("\r\n".join(["GET /tuner HTTP/1.1", *UPGRADE, "", ""]).encode())
    assert manager.alive()


def test_with_the_secret_the_strategy_has_its_line(manager: Manager) -> None:
    assert manager.answer(f"GET /{PREFIX}/tuner", *UPGRADE) == "HTTP/1.1 101 Switching Protocols"


def test_others_cannot_read_the_secret(manager: Manager) -> None:
    assert not any(PREFIX in word for word in psutil.Process(manager.process.pid).cmdline())
    assert stat.S_IMODE((manager.home / "nni-experiments/.experiment").stat().st_mode) == 0o600


def test_an_address_of_another_machine() -> None:
    with pytest.raises(OptionError, match=r"--host 192\.0\.2\.77: Cannot assign requested address\. Give an address"):
        guard.hosts("192.0.2.77")
    with pytest.raises(OptionError, match=r"--host no\.such\.name\.invalid: "):
        guard.hosts("no.such.name.invalid")
    assert guard.hosts("0.0.0.0") == ["0.0.0.0"]
