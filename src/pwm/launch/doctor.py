"""``pwm doctor``: what works on this machine, what does not, and how to get the rest."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwm import __version__
from pwm.launch.arguments import Commands, add_json, add_parser, print_json, typed_path

DOCTOR_HELP = """\
Say what works on this machine and what it takes to get the rest: processor, compiled kernels, MuJoCo,
drawing, GPU, extras, W&B, SLURM, data sets, and how long the presets
take to train under the present load.

  pwm doctor
  pwm doctor --presets pwm_small_flow pwm_5M_flow --env dflex_ant
  pwm doctor --json > machine.json

Exit code 0: training works here; 1: it does not; 2: an error.
"""
PRESETS = ("pwm_small", "pwm_small_residual", "pwm_small_flow")
# Package that an extra brings -> extra, what it is for.
EXTRAS = {
    "dm_control": ("dmc", "the tasks of MT30, env=dmc"),
    "metaworld": ("metaworld", "the tasks of Meta-World, env=metaworld"),
    "mujoco_warp": ("warp", "physics on a GPU, env.engine=mujoco_warp"),
    "rliable": ("report", "statistics and reports, pwm experiment"),
    "imageio": ("video", "films of policies"),
    "tensorboard": ("tensorboard", "general.tensorboard=true"),
    "minari": ("minari", "data sets of Minari, pwm data convert"),
    "sbx": ("baselines", "model-free agents to compare with"),
}
WIDTH = 24


@dataclass(frozen=True)
class Finding:
    """One line of the answer.

    Attributes:
        name: what was looked at.
        works: whether it can be used here.
        text: what was found.
        remedy: how to get it where it does not work.
    """

    name: str
    works: bool
    text: str
    remedy: str = ""

    def line(self) -> str:
        """Return it as one line of the table."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{'ok' if self.works else '--':<4}{self.name:<{WIDTH}}{self.text}{remedy}"


def add_commands(commands: Commands) -> None:
    """Add ``doctor`` to the parser's subcommands."""
    doctor = add_parser(commands, "doctor", run_doctor, "say what works on this machine", DOCTOR_HELP)
    add_json(doctor)
    doctor.add_argument(
        "--presets",
        nargs="*",
        default=PRESETS,
        metavar="ALG",
        help="presets to time (default: the small ones)",
    )
    doctor.add_argument("--env", default="dflex_hopper", help="task to time them on (default dflex_hopper)")
    doctor.add_argument(
        "--data", type=typed_path, default=Path("data"), help="folder to look for data sets in (default data)"
    )


def run_doctor(args: argparse.Namespace) -> int:
    """``pwm doctor``; returns the exit code."""
    found: list[Finding] = []
    if not args.json:
        print(f"flow-pwm {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for finding in findings(args.presets, args.env, args.data):
        found.append(finding)
        if not args.json:
            print(finding.line(), flush=True)
    works = next(finding.works for finding in found if finding.name == "MuJoCo")
    if args.json:
        print_json([dataclasses.asdict(finding) for finding in found])
    elif not works:
        print("Nothing can be trained here.")
    return 0 if works else 1


def findings(presets: Sequence[str], env: str, data: Path) -> Iterator[Finding]:
    """Yield what is found, in the order of the table.

    Raises:
        ConfigError: a preset or a task does not exist.
    """
    from pwm.configuration.config import compose_config

    configs = {preset: compose_config([f"alg={preset}", f"env={env}"]) for preset in presets}
    yield from (processor(), products(), kernels(), simulator(), drawing(), graphics_card())
    yield from extras()
    yield from (tracking(), cluster())
    yield from data_sets(data)
    for preset, config in configs.items():
        yield training_time(preset, env, config)


def processor() -> Finding:
    """Cores and memory that this process may use, and what else runs."""
    import psutil
    import torch

    from pwm.envs.engines.mujoco_cpu import usable_cores
    from pwm.runs.provenance import cpu_model

    memory = psutil.virtual_memory()
    free, total = memory.available / 2**30, memory.total / 2**30
    return Finding(
        "processor",
        True,
        f"{cpu_model()}: {usable_cores()} cores (load {os.getloadavg()[0]:.1f}), "
        f"{torch.get_num_threads()} threads of PyTorch, {free:.0f} of {total:.0f} GiB free",
    )


def products() -> Finding:
    """Speed of matrix products, which bounds the speed of training."""
    import torch

    from pwm.models.precision import bfloat16_is_fast, products_in
    from pwm.study.calibration import matrix_speed

    threads = torch.get_num_threads()
    text = f"{matrix_speed('cpu', 1) / 1e9:.0f} GFLOP/s on one thread"
    if bfloat16_is_fast():
        matrix_speed.cache_clear()
        with products_in("bfloat16"):
            text += f", {matrix_speed('cpu', 1) / 1e9:.0f} with general.precision=bfloat16"
    matrix_speed.cache_clear()
    torch.set_num_threads(threads)
    return Finding("matrix products", True, text)


def kernels() -> Finding:
    """Whether the compiled kernels of training can be had."""
    from pwm.errors import ConfigError
    from pwm.models import fused

    try:
        with fused.enabled("on"):
            return Finding("compiled kernels", True, "a C compiler is here; general.compile=auto uses them")
    except ConfigError as error:
        remedy = "install a C compiler (Debian, Ubuntu: gcc); training is 1.4 times as fast with them"
        return Finding("compiled kernels", False, str(error), remedy)


def simulator() -> Finding:
    """Version and speed of MuJoCo."""
    import torch

    from pwm.configuration.building import build_env
    from pwm.configuration.config import compose_config
    from pwm.errors import PwmError
    from pwm.study.calibration import step_seconds

    copies = 64
    try:
        import mujoco

        config = compose_config(["env=dflex_hopper", "alg=pwm_small"])
        env = build_env(config, copies, 0, torch.device("cpu"))
    except (ImportError, PwmError) as error:
        return Finding("MuJoCo", False, str(error), "pip install flow-pwm")
    seconds = step_seconds(env, lambda obs: torch.zeros(len(obs), env.spec.act_dim))
    env.close()
    return Finding("MuJoCo", True, f"{mujoco.__version__}: hopper makes {copies / seconds:,.0f} steps/s")


def drawing() -> Finding:
    """Whether MuJoCo can draw."""
    from pwm.envs.engines.opengl import choose_backend
    from pwm.errors import EnvError

    try:
        choose_backend()
    except EnvError as error:
        return Finding("drawing", False, str(error))
    return Finding("drawing", True, f"MuJoCo draws with {os.environ.get('MUJOCO_GL', 'the system')}")


def graphics_card() -> Finding:
    """GPUs that PyTorch can use."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding("GPU", True, f"{', '.join(names)}; general.device=cuda uses it")
    remedy = "a CPU is enough for the small presets"
    return Finding("GPU", False, f"PyTorch {torch.__version__} finds none", remedy)


def extras() -> Iterator[Finding]:
    """Which optional packages are installed."""
    for package, (extra, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        remedy = "" if there else f'pip install "flow-pwm[{extra}]"'
        yield Finding(f"extra {extra}", there, purpose, remedy)


def tracking() -> Finding:
    """Whether runs can be sent to Weights & Biases."""
    if importlib.util.find_spec("wandb") is None:
        return Finding("W&B", False, "wandb is not installed", 'pip install "flow-pwm[wandb]"')
    netrc = Path.home() / ".netrc"
    key = "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8"))
    remedy = "" if key else "wandb login, or wandb.mode=offline"
    return Finding("W&B", True, "logged in" if key else "installed, not logged in", remedy)


def cluster() -> Finding:
    """Whether jobs can be submitted to SLURM from here."""
    from pwm.cluster.slurm import installed

    if installed():
        return Finding("SLURM", True, "sbatch is here: pwm submit, launch=slurm")
    return Finding("SLURM", False, "no sbatch", "launch=local runs the same plan here")


def data_sets(folder: Path) -> Iterator[Finding]:
    """Every data set directly below ``folder``."""
    from pwm.data.offline.manifest import StoreFiles, is_store
    from pwm.errors import DataError

    places = sorted(place for place in folder.glob("*") if is_store(place)) if folder.is_dir() else []
    if not places:
        remedy = "pwm data collect, convert or from-run make one (docs/data.md)"
        yield Finding("data sets", False, f"none in {folder}", remedy)
    for place in places:
        try:
            layout = StoreFiles(place).layout
        except DataError as error:
            yield Finding("data set", False, str(error))
        else:
            yield Finding("data set", True, f"{place}: {layout.task_set}, {len(layout.tasks)} tasks")


def training_time(preset: str, env: str, config: Any) -> Finding:
    """How long a whole run of ``preset`` takes on one thread here."""
    import torch

    from pwm.errors import PwmError
    from pwm.study.calibration import measured_seconds
    from pwm.training.work import in_words

    threads = torch.get_num_threads()
    try:
        seconds = measured_seconds(config, 1)
    except PwmError as error:
        return Finding(f"alg={preset}", False, str(error))
    finally:
        torch.set_num_threads(threads)
    steps, unit = config.alg.steps(config.epochs), in_words(config.alg.progress)
    return Finding(
        f"alg={preset}", True, f"{steps:,} {unit} of {env} in about {duration(seconds)} on one thread"
    )


def duration(seconds: float) -> str:
    """Return a duration to two figures in the unit that suits it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
