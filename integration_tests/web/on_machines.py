"""Train what a search has found on two machines, of which one is lost: ``python -m integration_tests.web.on_machines``.

The whole of it, by hand: `balenas ui --machines`, NNI's manager, a real sshd for each machine on the loopback
interface, the machines' own Python, real trainings. Takes minutes. Needs sshd and ssh-keygen (Debian: openssh-server).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import yaml

from .conftest import TINY
from .machines import SSHD, two_machines
from .programs import Experiment, balenas_ui, processes_of, until

EPOCHS = 8


def main() -> int:
    """Search, lose a machine, and print what came of it; return the exit code."""
    if SSHD is None:
        print("sshd is missing (Debian: apt-get install openssh-server)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        (folder / "tiny.yml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
        (folder / ".nniignore").write_text("/*\n!/tiny.yml\n", encoding="utf-8")
        with two_machines(folder, path=Path(sys.executable).parent) as (machines, _):
            listed = [{**machine.config, "ssh_key_file": str(folder / "key")} for machine in machines]
            document = {"machine_list": listed, "nni_manager_ip": "127.0.0.1"}
            (folder / "machines.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
            how = ("candidate_recipe=small", f"candidate_epochs={EPOCHS}", "candidate_trials=3")
            words = [word for option in how for word in ("--set", f"strategy.{option}")]
            program = balenas_ui(
                "tiny.yml", "--machines", "machines.yml", "--port", 0, "--close", *words, folder=folder
            )
            experiment = Experiment.of(program)
            identifier = experiment.identifier

            def both_train() -> bool:
                assert program.process.poll() is None, program.errors
                running = [trial for trial in experiment.trials() if trial["status"] == "RUNNING"]
                return len(running) == 2 and all(experiment.curve(trial["trialJobId"]) for trial in running)

            until(both_train, what="two trainings at a time")
            for trial in experiment.trials():
                points = [point["default"] for point in experiment.curve(trial["trialJobId"])]
                print(f"{trial['trialJobId']}: {trial['status']}, so far {points}")
            machines[0].kill()
            print("one machine is lost")
            code = program.ended()
        print(program.output, program.errors, sep="\n")
        assert code == 0
        records = json.loads((folder / "runs/tiny/architectures.json").read_text(encoding="utf-8"))
        assert [record["trained"]["epochs"] for record in records] == [EPOCHS] * 3
        assert "is lost" in program.errors
        assert not list(processes_of(identifier))
    return 0


if __name__ == "__main__":
    sys.exit(main())
