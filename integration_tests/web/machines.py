"""Machines that are reached by ssh: a real sshd each, at a port of the loopback interface, with a home of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nni
import psutil
from nni.experiment.config.training_services import RemoteConfig, RemoteMachineConfig

from .programs import free_port, until

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin")

USER = "root" if os.geteuid() == 0 else os.environ.get("USER", "")


class Machine:
    """An sshd; whatever is started through it has its home.

    Args:
        home: folder of the machine; it is made.
        key: the user's private key, whose public key is beside it.
        path: where programs are looked for first.
    """

    def __init__(self, home: Path, key: Path, *, path: Path) -> None:
        self.home, self.port = home, free_port()
        home.mkdir()
        own = home / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own)], check=True)
        # pip finds nni in its place: nothing is asked of an index, and nothing installed
        environment = {"HOME": home, "PATH": f"{path}:/usr/bin:/bin", "PIP_NO_INDEX": 1, "OMP_NUM_THREADS": 1}
        environment |= {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        lines = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": own,
            "PidFile": "none",
            "AuthorizedKeysFile": f"{key}.pub",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "Subsystem": "sftp internal-sftp",
            "SetEnv": " ".join(f"{name}={value}" for name, value in environment.items()),
        }
        (home / "sshd_config").write_text(
            "".join(f"{name} {value}\n" for name, value in lines.items()), encoding="utf-8"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # it insists
        self.start()

    def start(self) -> None:
        """Start it, anew after `kill`."""
        assert SSHD is not None
        log = self.home / "sshd.log"
        with log.open("wb") as output:
            command = [SSHD, "-D", "-e", "-f", str(self.home / "sshd_config")]
            self.sshd = subprocess.Popen(command, stdout=output, stderr=output)
        until(lambda: b"listening" in log.read_bytes(), what="sshd", patience=30)

    @property
    def config(self) -> dict[str, object]:
        """What NNI has to know of it, but for the key."""
        return {"host": "127.0.0.1", "port": self.port, "user": USER}

    def processes(self) -> Iterator[psutil.Process]:
        """Yield what runs on the machine, sshd included."""
        yield from psutil.Process(self.sshd.pid).children(recursive=True)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == str(self.home):
                    yield process
        yield psutil.Process(self.sshd.pid)

    def kill(self) -> None:
        """Kill everything on it at once, as when it loses its power."""
        if self.sshd.poll() is None:
            self.sshd.send_signal(signal.SIGSTOP)  # no new processes
            for process in list(self.processes()):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self.sshd.wait()


def quick_python(folder: Path) -> Path:
    """Return a folder with a `python` that knows what NNI starts on a machine, without the seconds of importing nni."""
    scripts = Path(nni.__file__).parent / "tools" / "nni_manager_scripts"
    folder.mkdir()
    program = folder / "python"
    program.write_text(
        f"""#!/bin/bash
case "$*" in
    --version) echo Python {sys.version.split()[0]};;
    "-m pip install nni --upgrade") ;;
    *"print(nni.__version__)"*) echo {nni.__version__};;
    "-m nni.tools.nni_manager_scripts."*) exec {sys.executable} "{scripts}/${{2##*.}}.py" "${{@:3}}";;
    *) exec {sys.executable} "$@";;
esac
""",
        encoding="utf-8",
    )
    program.chmod(0o755)
    return folder


@contextlib.contextmanager
def two_machines(folder: Path, *, path: Path) -> Iterator[tuple[list[Machine], RemoteConfig]]:
    """Start two machines; yield them, and NNI's config of them. Nothing of them is left afterwards.

    Args:
        folder: for their files.
        path: where their programs are looked for first.
    """
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    machines: list[Machine] = []
    try:
        for name in ("one", "two"):
            machines.append(Machine(folder / name, key, path=path))
        listed = [RemoteMachineConfig(**machine.config, ssh_key_file=key) for machine in machines]
        yield machines, RemoteConfig(machine_list=listed)
    finally:
        for machine in machines:
            machine.kill()
