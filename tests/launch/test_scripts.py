"""The other scripts: what they would run, by golden.txt; what they do where the cluster is played by stubs."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nca_gen import ranges
from nca_gen.verbs.tables_rows import systems

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
WORDS = ["--config=configs/geca.py", "--workdir=/runs/a b"]
GOLDEN = Path(__file__).with_name("golden.txt")
DRY = {
    "local.sh --dry-run 2": {"PORT": "8476", "CORES": "4"},
    "local.sh --dry-run --gpu 2": {"PORT": "8476"},
    "slurm.sbatch --dry-run": {},
    "tpu_vm.sh --dry-run": {},
    "gke.sh --dry-run": {},
    "gke.sh --dry-run ": {"KIND": "tpu", "HOSTS": "4", "CHIPS": "4", "NAME": "it's"},
}
OURS = (
    "PORT",
    "CORES",
    "PYTHON",
    "TPU",
    "ZONE",
    "TYPE",
    "VERSION",
    "SPOT",
    "KIND",
    "HOSTS",
    "CHIPS",
    "NAME",
    "IMAGE",
    "ACCELERATOR",
    "FORM",
    "SIZE",
)


def bash(*words, **environment):
    """A script with none of the variables that it reads but ``environment``."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS and not name.startswith("SLURM")}
    return subprocess.run(
        ["bash", *map(str, words)], env=clean | environment, capture_output=True, text=True, timeout=60
    )


def dry():
    """The text of golden.txt: `python -c "import test_scripts; print(test_scripts.dry(), end='')" > golden.txt`."""
    sections = []
    for line, environment in DRY.items():
        script, *flags = line.split()
        done = bash(LAUNCH / script, *flags, *WORDS, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        named = " ".join(f"{name}={value}" for name, value in environment.items())
        sections.append(f"$ {named}{' ' * bool(named)}{line.strip()}\n{done.stdout}")
    return "\n".join(sections)


def test_a_dry_run_prints_what_would_be_run():
    assert dry() == GOLDEN.read_text()


@pytest.mark.parametrize("words", [["0"], ["two"], [], ["--gpu"]])
def test_local_needs_a_number(words):
    done = bash(LAUNCH / "local.sh", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bash launch/local.sh")


def test_the_manifest_is_what_kubernetes_takes():
    """Words of any kind reach the program as they are, and each pod knows its number."""
    for words, environment in ((WORDS, {}), (["--a='b'", "c: d"], {"KIND": "tpu"})):
        text = bash(LAUNCH / "gke.sh", "--dry-run", *words, **environment).stdout
        manifest = yaml.safe_load(text[text.index("\n") + 1 : text.index("\nEND\n")])
        assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
        [container] = job["template"]["spec"]["containers"]
        assert container["args"] == words
        variables = {each["name"]: each for each in container["env"]}
        assert set(variables) == {"JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"}
        assert int(variables["JAX_NUM_PROCESSES"]["value"]) == job["parallelism"] == job["completions"]
        assert ("nodeSelector" in job["template"]["spec"]) == (environment != {})
        mounts, volumes = container["volumeMounts"], job["template"]["spec"]["volumes"]
        assert {mount["name"] for mount in mounts} == {volume["name"] for volume in volumes}


def stub(folder, name, text):
    """A program ``name`` on the PATH that notes how it was called in "calls", and does ``text``."""
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"{folder}/calls"\n{text}\n')
    path.chmod(0o755)


def calls(folder):
    return (folder / "calls").read_text().splitlines()


def slurm(folder, task, **environment):
    """slurm.sbatch as Slurm starts it, from a copy elsewhere; ``task``: what srun does."""
    stub(folder, "srun", f"echo $$ >'{folder}/task'\n{task}")
    stub(folder, "scancel", f"kill -TERM $(cat '{folder}/task')")
    stub(folder, "scontrol", "")
    copy = folder / "slurm_script"
    copy.write_text((LAUNCH / "slurm.sbatch").read_text())
    variables = {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(ROOT), "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.Popen(["bash", str(copy), *WORDS], env=os.environ | variables | environment, text=True)


def test_a_job_near_its_limit_saves_and_is_queued_again(tmp_path):
    job = slurm(tmp_path, "trap 'sleep 0.3; exit 143' TERM\nwhile :; do sleep 0.05; done")
    while not (tmp_path / "task").is_file():
        time.sleep(0.02)
    time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 143
    [srun, scancel, scontrol] = calls(tmp_path)
    assert srun.endswith("-m nca_gen.main --config.mesh.distributed=true --config=configs/geca.py --workdir=/runs/a b")
    assert (scancel, scontrol) == ("scancel --signal=TERM 17", "scontrol requeue 17")


@pytest.mark.parametrize(("code", "restarts", "queued"), [(0, 0, False), (2, 0, False), (75, 0, True), (75, 50, False)])
def test_a_job_is_queued_again_where_a_task_was_lost_and_not_for_its_own_errors(tmp_path, code, restarts, queued):
    assert slurm(tmp_path, f"exit {code}", SLURM_RESTART_COUNT=str(restarts)).wait(20) == code
    assert ("scontrol requeue 17" in calls(tmp_path)) == queued


GCLOUD = """
case "$*" in
*describe*) head -n 1 "$STATES"; sed -i 1d "$STATES" ;;
*nca_gen.main*) code=$(head -n 1 "$CODES"); sed -i 1d "$CODES"; exit "$code" ;;
esac
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("states", "codes", "code", "slices"),
    [
        ("WAITING_FOR_RESOURCES ACTIVE", "0", 0, 1),
        ("ACTIVE SUSPENDED FAILED ACTIVE", "255 0", 0, 3),  # preempted as it ran; one that never came; a whole one
        ("ACTIVE ACTIVE", "2", 2, 1),  # the run's own error
        ("ACTIVE ACTIVE ACTIVE", "75 0", 0, 2),  # a worker was lost
        ("FAILED FAILED", "", 75, 2),
    ],
)
def test_a_preempted_slice_is_replaced(tmp_path, states, codes, code, slices):
    stub(tmp_path, "gcloud", GCLOUD)
    for name, words in (("STATES", states), ("CODES", codes)):
        (tmp_path / name).write_text("".join(f"{word}\n" for word in words.split()))
    files = {name: str(tmp_path / name) for name in ("STATES", "CODES")}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = bash(LAUNCH / "tpu_vm.sh", *WORDS, **files, PATH=path, WAIT="0", TRIES=str(max(slices, 2)))
    assert done.returncode == code, done.stderr
    made = [line for line in calls(tmp_path) if "queued-resources create" in line]
    dropped = [line for line in calls(tmp_path) if "queued-resources delete" in line]
    assert (len(made), len(dropped)) == (slices, slices)


def test_sky_starts_each_machine_as_what_it_is(tmp_path):
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert task["resources"]["use_spot"]
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    accelerator, script = re.fullmatch(r"ACCELERATOR=(\w+) bash (\S+)\n", task["setup"]).groups()
    assert (ROOT / script).is_file()
    assert (LAUNCH / f"{accelerator}.txt").is_file()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(
        '#!/bin/sh\necho "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID"\nprintf "%s\\n" "$@"\n'
    )
    python.chmod(0o755)
    sky = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    environment = os.environ | sky | task["envs"]
    done = subprocess.run(["bash", "-c", task["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True)
    first, *words = done.stdout.splitlines()
    assert first == "10.0.0.1:8476 2 1"
    assert words == ["-u", "-m", "nca_gen.main", *task["envs"]["ARGS"].split()]


def test_the_image_is_made_of_what_is_there():
    text = re.sub(r"#.*", "", (LAUNCH / "Dockerfile").read_text())
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert {line[0] for line in lines} <= {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENTRYPOINT"}
    shown = [
        line.removeprefix("!") for line in (LAUNCH / "Dockerfile.dockerignore").read_text().split() if line[0] == "!"
    ]
    copied = [source for line in lines if line[0] == "COPY" for source in line[1:-1]]
    assert set(copied) == set(shown)
    assert all((ROOT / source).exists() for source in copied)
    [run] = [line[1:] for line in lines if line[0] == "RUN"]
    assert run == ["ACCELERATOR=$ACCELERATOR", "bash", "launch/setup.sh"]
    order = [" ".join(line) for line in lines]
    assert order.index("COPY launch ./launch") < order.index(" ".join(["RUN", *run]))  # which it runs


def test_every_accelerator_has_a_lock_that_goes_with_the_other():
    """The same jax for the same Python, and nothing twice."""
    lock = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if re.match(r"\w", line)}
    versions = dict(re.findall(r"^jax==(\S+) ; python_full_version (\S+) '3\.12'", "\n".join(lock), re.M))
    script = (LAUNCH / "setup.sh").read_text()
    assert "cuda12 | cuda13 | tpu)" in script
    for name in ("cuda12", "cuda13", "tpu"):
        lines = [line for line in (LAUNCH / f"{name}.txt").read_text().splitlines() if line[0] != "#"]
        assert all(re.match(r"[\w-]+==[\w.]+( ;|$)", line) for line in lines)
        names = {line.partition("==")[0] for line in lines}
        assert not names & {line.partition("==")[0] for line in lock}
        for plugin in sorted(each for each in names if each.startswith("jax-")):
            for version, when in versions.items():
                assert f"{plugin}=={version} ; python_full_version {when} '3.12'" in lines


@pytest.mark.parametrize("script", ["slurm.sbatch", "sky.yaml"])
def test_shellcheck_has_nothing_to_say_of_what_is_no_sh_file(script, tmp_path):
    path = LAUNCH / script
    if script == "sky.yaml":
        task, path = yaml.safe_load(path.read_text()), tmp_path / "run.sh"
        path.write_text(f"#!/usr/bin/env bash\n{task['setup']}{task['run']}")
    done = subprocess.run([Path(sys.executable).with_name("shellcheck"), path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_an_installation_is_known_by_its_locks_and_stays_what_it_is(tmp_path):
    """Installed for a TPU, it is up to date as such, and not for CPU or another accelerator."""
    for name in ("requirements.txt", "launch/setup.sh", "launch/tpu.txt", "launch/cuda12.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    stub(venv / "bin", "python", f'exec {sys.executable} "$@"')
    version = subprocess.run([sys.executable, "-VV"], capture_output=True, text=True, check=True).stdout
    locks = [(tmp_path / name).read_text() for name in ("requirements.txt", "launch/tpu.txt")]
    (venv / "installed").write_text("".join([version, *locks]))
    (venv / "accelerator").write_text("tpu\n")
    for environment in ({}, {"ACCELERATOR": "tpu"}):
        done = bash(tmp_path / "launch" / "setup.sh", **environment)
        assert (done.returncode, done.stdout) == (0, "setup: .venv is up to date\n"), done.stderr
    for accelerator in ("cpu", "cuda12"):
        done = bash(tmp_path / "launch" / "setup.sh", ACCELERATOR=accelerator, PYTHON="/nowhere/python")
        assert done.returncode == 2
        assert done.stderr.startswith("error: no Python 3.11 or 3.12")


def test_an_accelerator_that_is_none():
    done = bash(LAUNCH / "setup.sh", ACCELERATOR="cuda11")
    assert (done.returncode, done.stderr) == (2, "error: ACCELERATOR=cuda11 is none of: cpu cuda12 cuda13 tpu\n")


def drawing(folder):
    """A python that notes how it is called, and draws nothing into a file."""
    makes = (
        """for w; do case $w in --out=*) d=${w#*=}/generated/4_a_32x32_b; mkdir -p "$d"; : >"$d/c.tiff" ;; esac; done"""
    )
    stub(folder, "python", makes)


@pytest.mark.parametrize(("folder", "forms"), [("a, b", "brief"), ("w", "brief,smoke")])
def test_the_table_of_slides_takes_any_path(tmp_path, folder, forms):
    """Commas and spaces in it are of the path, also those of several forms: three rows arrive."""
    drawing(tmp_path)
    real, workdir = tmp_path / "my, slides", tmp_path / folder
    done = bash(LAUNCH / "slides_table.sh", real, workdir, PYTHON=str(tmp_path / "python"), SIZE="32", FORM=forms)
    assert done.returncode == 0, done.stderr
    table = calls(tmp_path)[-1]
    assert f"--tables.real={real} " in table
    words = table.partition("--tables.generated=")[2].partition(" --tables.factor")[0]
    names = ("automata", "urcdm", "outpainting")
    drawn = {name: f"{workdir}/pictures/{forms}/{name}/generated/4_a_32x32_b/c.tiff" for name in names}
    assert systems(ranges.read(words, tuple[str, ...])) == drawn


def test_the_table_of_slides_trains_draws_and_scores(tmp_path):
    """All of it in a folder of the user's, seen from where that is; each picture by a process of its own."""
    drawing(tmp_path)
    words = [LAUNCH / "slides_table.sh", tmp_path / "my slides", tmp_path / "w", "--tables.n=3"]
    done = bash(*words, PYTHON=str(tmp_path / "python"), FORM="brief", SIZE="32")
    assert done.returncode == 0, done.stderr
    last = {"automata": "automata_stage3", "urcdm": "urcdm_mag2_stage3", "outpainting": "outpainting_mag2_stage3"}
    chain, *drawn, table = (line.removeprefix("python -m nca_gen.main ") for line in calls(tmp_path))
    page = "--config=configs/slides_table.py:brief --mode=chain"
    assert chain == f"{page} --config.data.path={tmp_path}/my slides --workdir={tmp_path}/w"
    draws, out = "--mode=generate --config.sample.size=32,32", f"{tmp_path}/w/pictures/brief"
    assert drawn == [f"--workdir={tmp_path}/w/{run} {draws} --out={out}/{name}" for name, run in last.items()]
    rows = ",".join(f"{name}={out}/{name}/generated/4_a_32x32_b/c.tiff" for name in last)
    assert f"--tables.real={tmp_path}/my slides" in table
    assert f" --tables.generated={rows} " in table
    assert table.endswith(" --tables.n=3")
    assert bash(LAUNCH / "slides_table.sh").returncode == 2
