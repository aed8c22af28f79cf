"""NNI's manager, started so that only who was given its address reaches it, and that it ends with its parent."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

from nni.experiment.launcher import NniManagerArgs
from nni.tools.nnictl.constants import NNI_HOME_DIR

from balenas_plugin.doctor.checks import Surroundings
from balenas_plugin.errors import OptionError
from balenas_plugin.machine import let_threads_sleep

LOOPBACK = "127.0.0.1"
_HOOK = Path(__file__).with_suffix(".js")
_SECRET = ("--url-prefix", "--tuner-command-channel")
_OPTIONS = ("--max-old-space-size=4096", "--trace-uncaught")
"""Those that NNI gives node."""


def hosts(host: str) -> list[str]:
    """Return the addresses to listen on so that `host` is served; this process itself asks the loopback interface.

    Raises:
        OptionError: it is no address of this machine.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(place)
    except OSError as error:
        raise OptionError(
            f"--host {host}: {error.strerror}. Give an address of this machine, or 0.0.0.0 for all of them."
        ) from error
    address = str(place[0])
    return [address] if address in (LOOPBACK, "0.0.0.0", "::") else [address, LOOPBACK]


def start_guarded(arguments: NniManagerArgs, hosts: list[str]) -> subprocess.Popen[bytes]:
    """Start NNI's manager as its launcher does in the background, with `guard.js` before it.

    The path of the page is a password: it is neither on the command line nor in a file that others can read.

    Args:
        arguments: of the manager.
        hosts: the addresses to listen on.
    """
    folder = Surroundings().node_folder
    log = Path(arguments.experiments_directory, arguments.experiment_id, "log")
    words = arguments.to_command_line_args()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    guard = {
        "hosts": hosts,
        "parent": os.getpid(),
        "prefix": arguments.url_prefix,
        "secret": [word for pair in pairs if pair[0] in _SECRET for word in pair],
    }
    assert folder is not None  # NNI has asked for it before
    command: list[str | Path] = [folder / "node", "--require", _HOOK, *_OPTIONS, folder / "main.js"]
    command += [word for pair in pairs if pair[0] not in _SECRET for word in pair]
    _keep_private(Path(NNI_HOME_DIR, ".experiment"))
    let_threads_sleep()  # in trials
    with (log / "nnictl_stdout.log").open("a") as out, (log / "nnictl_stderr.log").open("a") as err:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=os.environ | {"BALENAS_GUARD": json.dumps(guard)},
            process_group=0,  # Ctrl-C is for this process
        )


def _keep_private(file: Path) -> None:
    """Let nobody else read NNI's list of experiments, which has their addresses."""
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    file.chmod(0o600)
