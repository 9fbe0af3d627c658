"""`snakemake --profile slurm --cores all`, typed in a clone, on a real one-machine SLURM."""

import os
import shutil
import subprocess

import pytest
import yaml
from workflow_run import ROOT, data_files, environment, make_run, snakemake

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("slurmctld") or os.path.exists("/usr/sbin/slurmctld")),
        reason="SLURM is not installed (scripts/mini_slurm.sh install)",
    ),
]

# Less than `simulate` needs on the first attempt, enough on the third.
TOO_LITTLE = "220 * 3 ** (attempt - 1)"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A running cluster; gives the environment in which its clients work."""
    folder = tmp_path_factory.mktemp("slurm")
    script = str(ROOT / "scripts" / "mini_slurm.sh")
    started = subprocess.run([script, "start", str(folder)], capture_output=True, text=True, timeout=120, check=False)
    try:
        assert started.returncode == 0, started.stderr
        inherited = environment()
        yield {
            **inherited,
            "SLURM_CONF": f"{folder}/slurm.conf",
            "PATH": f"{folder}/bin{os.pathsep}{inherited['PATH']}",
        }
    finally:
        subprocess.run([script, "stop", str(folder)], capture_output=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of the repository whose config asks for one small slide, with faster polling."""
    folder = tmp_path_factory.mktemp("clone") / "spatia"
    cloned = subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], capture_output=True, text=True, check=False)
    if cloned.returncode:
        pytest.skip(f"not a git checkout: {cloned.stderr}")
    small = make_run(folder.parent / "small", ["one"])
    shutil.copytree(small / "config", folder / "config", dirs_exist_ok=True)
    profile = folder / "slurm" / "config.yaml"
    settings = yaml.safe_load(profile.read_text())
    settings["seconds-between-status-checks"] = 3
    settings["slurm-init-seconds-before-status-checks"] = 3
    settings["set-resources"] = {"simulate": {"mem_mb": TOO_LITTLE}}
    profile.write_text(yaml.safe_dump(settings))
    return folder


@pytest.mark.timeout(1500)
def test_a_cluster_run_equals_a_local_one_and_survives_a_memory_kill(cluster, clone, tmp_path):
    typed = ["timeout", "-s", "KILL", "900", "snakemake", "--profile", "slurm", "--cores", "all"]
    done = subprocess.run(typed, cwd=clone, env=cluster, capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-6000:]
    assert "Trying to restart job" in printed
    logs = "\n".join(path.read_text(errors="replace") for path in (clone / "logs" / "slurm").rglob("*.log"))
    assert "memory" in logs.lower()

    local = make_run(tmp_path / "local", ["one"])
    snakemake(local)
    assert data_files(clone) == data_files(local)
