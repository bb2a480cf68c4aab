"""Files for clusters: what they would start, with the commands of the cluster played by stubs."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from distill.config import known_recipes

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "recipes" / "clusters"
STUBS = {
    "srun": 'SLURM_NODEID=1 "$@"',
    "scontrol": 'printf "node7\\nnode8\\n"',
    "ssh": 'bash -c "${@: -1}"',  # a machine whose folders are ours
    # in one write: others may write, too
    **{name: f'words=$(printf "%q " {name} "$@"); echo "$words" >> "$STARTED"; '
             'env > "$STARTED.env"' for name in ("python", "accelerate")},
}


@pytest.fixture
def started(tmp_path):
    """`started(script, arguments, variables)`: the commands that a shell would start, sorted."""
    for name, body in STUBS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def started(script: str, arguments: list[str], **variables: str) -> list[list[str]]:
        log = tmp_path / "started"
        environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "STARTED": str(log)}
        subprocess.run(["bash", "-euc", script, "bash", *arguments], cwd=ROOT, check=True,
                       env=environment | variables, timeout=20)
        return sorted(shlex.split(line) for line in log.read_text().splitlines())

    return started


def launched(words: list[str]) -> tuple:
    """(module, its arguments, machines, this machine, processes, where the first one is), as
    accelerate understands them."""
    from accelerate.commands.launch import launch_command_parser

    assert words[:2] == ["accelerate", "launch"]
    found = launch_command_parser().parse_args(words[2:])
    assert (ROOT / found.config_file).is_file() and found.module
    return (found.training_script, found.training_script_args, found.num_machines or 1,
            found.machine_rank, found.num_processes, found.main_process_ip)


def test_slurm(started, tmp_path):
    slurm = {"SLURM_JOB_ID": "5", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8",
             "SLURM_JOB_NODELIST": "node[7-8]"}
    script = (CLUSTERS / "slurm-train.sh").read_text()
    found = [launched(words) for words in started(script, ["demo", "seed=1 2"], **slurm)]
    assert found == [(module, ["demo", "seed=1 2"], 2, 1, 16, "node7")
                     for module in ("distill.train", "pseudo_label.scores")]
    (tmp_path / "started").unlink()
    (words,) = started((CLUSTERS / "slurm-label.sh").read_text(), ["demo", "seed=1"],
                       SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="32")
    assert words == ["python", "-m", "pseudo_label", "demo", "seed=1"]
    environment = (tmp_path / "started.env").read_text().splitlines()
    assert {"RANK=3", "WORLD_SIZE=32"} <= set(environment)


def job(name: str) -> tuple[dict, dict, dict[str, str]]:
    """A Job, its container, and the variables that its pods get."""
    objects = list(yaml.safe_load_all((CLUSTERS / name).read_text()))
    (found,) = [each for each in objects if each["kind"] == "Job"]
    spec = found["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-euc"]
    mounts = {each["name"] for each in container["volumeMounts"]}
    assert mounts == {each["name"] for each in spec["template"]["spec"]["volumes"]}
    variables = {each["name"]: each["value"] for each in container["env"]}
    return found, container, variables | {"JOB_COMPLETION_INDEX": "1"}


def test_kubernetes_labels(started, tmp_path):
    found, container, variables = job("kubernetes-label.yaml")
    (words,) = started(container["args"][0], [], **variables)
    assert words == ["python", "-m", "pseudo_label", "NAME"]
    environment = (tmp_path / "started.env").read_text().splitlines()
    assert {"RANK=1", f"WORLD_SIZE={found['spec']['completions']}"} <= set(environment)


def test_kubernetes_training(started):
    found, container, variables = job("kubernetes-train.yaml")
    completions = found["spec"]["completions"]
    processes = completions * container["resources"]["limits"]["nvidia.com/gpu"]
    ran = [launched(words) for words in started(container["args"][0], [], **variables)]
    assert ran == [(module, ["NAME"], completions, 1, processes, "train-0.train")
                   for module in ("distill.train", "pseudo_label.scores")]
    service = next(yaml.safe_load_all((CLUSTERS / "kubernetes-train.yaml").read_text()))
    assert service["spec"]["clusterIP"] == "None"
    assert found["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": found["metadata"]["name"]}


def test_skypilot(started):
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    ran = [launched(words) for words in started(
        task["run"], [], SKYPILOT_NUM_GPUS_PER_NODE="8", **task["envs"])]
    name = task["envs"]["NAME"]
    assert name in known_recipes() and task["num_nodes"] == 1
    assert [(each[0], each[1], each[4]) for each in ran] == [
        (module, [name, f"output_dir=/runs/{name}"], 8)
        for module in ("distill.train", "pseudo_label", "pseudo_label.scores")]
    assert "/runs" in task["file_mounts"]


def test_ssh(started):
    ran = started((CLUSTERS / "ssh.sh").read_text(), ["demo", "hub.data_name=a b"],
                  HOSTS="gpu1 gpu2", GPUS="4")
    assert sorted(map(launched, ran)) == [
        (module, ["demo", "hub.data_name=a b"], 2, rank, 8, "gpu1")
        for module in ("distill.train", "pseudo_label", "pseudo_label.scores") for rank in (0, 1)]


def test_ssh_ends_when_one_machine_does(started, tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        started((CLUSTERS / "ssh.sh").read_text().replace("accelerate launch", "false"), ["demo"],
                HOSTS="gpu1 gpu2", GPUS="4")
    assert not (tmp_path / "started").exists()
