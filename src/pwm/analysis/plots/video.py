"""Film a policy: one whole held-out episode, drawn offscreen, as MP4 or GIF."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pwm import packages
from pwm.algorithm.agent import Agent
from pwm.checkpoints.policies import load_policy
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED, check_episodes, check_task
from pwm.checkpoints.policy_files import find_policy
from pwm.configuration.building import build_env, pick_device
from pwm.envs.base import Renderable, StepResult
from pwm.errors import ConfigError, EnvError
from pwm.files import write_atomically
from pwm.numbers import readable
from pwm.training.evaluation import EVAL_ENVS, evaluate

SUFFIXES = (".mp4", ".gif")
MAX_FPS = 50.0
# Pictures per second of a task whose steps have no duration.
DEFAULT_FPS = 30.0
# A GIF counts time in hundredths of a second and compresses badly, so its pictures are made smaller.
GIF_TICK = 0.01
GIF_WIDTH = 400

Append = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class Film:
    """Files that ``film_run`` has written.

    Attributes:
        path: the file.
        frames: number of pictures.
        fps: pictures per second.
        length: control steps of the episode.
        episode_return: its undiscounted return.
    """

    path: Path
    frames: int
    fps: float
    length: int
    episode_return: float

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.frames} frames at {self.fps:.4g} per second; "
            f"episode of {self.length} steps, return {readable(self.episode_return)}"
        )


def check_film(output: Path, runs: int) -> None:
    """Raise ConfigError unless one run is to be filmed into a kind of file that can be written here."""
    if runs != 1:
        raise ConfigError(f"--video films one run; {runs} were given")
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--video {output}: the name must end in {' or '.join(SUFFIXES)}")
    if output.is_dir():
        raise ConfigError(f"--video {output} is a folder; name a file")
    if output.suffix.lower() == ".mp4":
        packages.require(("imageio", "imageio_ffmpeg"), f"--video {output}, unlike a .gif,", "video")


def frame_rate(control_dt: float) -> tuple[int, float]:
    """Which control steps to draw, every how many, and the pictures per second that make it real time."""
    if control_dt <= 0.0:
        return 1, DEFAULT_FPS
    stride = max(1, math.ceil(1.0 / (MAX_FPS * control_dt) - 1e-9))
    return stride, 1.0 / (control_dt * stride)


def film_run(
    runs: Sequence[Path],
    which: str,
    output: Path,
    episodes: int,
    seed: int | None,
    device_name: str,
    task: str | None,
) -> Film:
    """Film the first of the episodes that ``evaluate_policies`` with the same arguments evaluates.

    Raises:
        ConfigError: several runs, no episode, or a file that cannot be written.
        CheckpointError: no such policy, or one of another task than ``task``.
        EnvError: the task cannot be drawn, or not on this machine.
    """
    check_film(output, len(runs))
    check_episodes(episodes)
    path = find_policy(runs[0], which)
    device = pick_device(device_name)
    agent, config, spec, _ = load_policy(path, device)
    check_task(path, spec, task)
    seed = HELD_OUT_SEED if seed is None else seed
    # As many copies as the evaluation has: the size of a batch changes the last bits of an action.
    env = build_env(config, min(EVAL_ENVS, episodes), seed, device)
    try:
        if not isinstance(env, Renderable):
            raise EnvError(f"{spec.name} cannot be drawn: this environment has no pictures")
        env.start_rendering()
        stride, fps = frame_rate(spec.control_dt)
        recorder = FilmRecorder(agent, env, stride)

        def shoot(file: IO[bytes]) -> None:
            with encoder(file, output.suffix.lower(), fps) as recorder.append:
                evaluate(env, recorder.act, env.num_envs, seed, recorder)

        write_atomically(output, shoot)
    finally:
        env.close()
    return Film(output, recorder.frames, fps, recorder.length, recorder.total)


class FilmRecorder:
    """Acts with the deterministic policy and passes on pictures of copy 0 until its first episode ends.

    Args:
        agent: acts; every observation is encoded afresh.
        env: what is acted in and drawn, ready for rendering.
        stride: draw every ``stride``-th control step.

    Attributes:
        append: takes the next picture [height, width, 3] uint8; set it before acting.
        frames, length, total: pictures, steps and summed reward so far.
    """

    def __init__(self, agent: Agent, env: Renderable, stride: int) -> None:
        self.agent = agent
        self.env = env
        self.stride = stride
        self.append: Append | None = None
        self.frames, self.length, self.total = 0, 0, 0.0
        self._picture: np.ndarray | None = None
        self._over = False

    def act(self, obs: Tensor) -> Tensor:
        """Deterministic actions [N, act_dim]; takes the picture that belongs to them."""
        if not self._over and self.length % self.stride == 0:
            self._picture = self.env.render(0)
        return self.agent.act(obs, deterministic=True)

    def add(self, obs: Tensor, action: Tensor, result: StepResult, running: Tensor) -> None:
        """Caption the picture taken before this step and pass it on; see ``Recorder``."""
        if self._over:
            return
        reward = float(result.reward[0])
        self.total += reward
        if self._picture is not None and self.append is not None:
            lines = [
                f"step   {self.length:8d}",
                f"reward {readable(reward, 2):>8}",
                f"return {readable(self.total):>8}",
            ]
            self.append(captioned(self._picture, lines))
            self.frames += 1
        self.length += 1
        self._picture = None
        self._over = bool(result.terminated[0] | result.truncated[0])


def captioned(picture: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """Copy of ``picture`` [height, width, 3] uint8 with ``lines`` small in its upper left corner."""
    image = Image.fromarray(picture)
    size = max(8, len(picture) // 34)
    draw = ImageDraw.Draw(image, "RGBA")
    text, corner = "\n".join(lines), (size, size * 0.8)
    left, top, right, bottom = draw.multiline_textbbox(corner, text, font=font(size))
    margin = size * 0.5
    box = (left - margin, top - margin, right + margin, bottom + margin)
    draw.rounded_rectangle(box, radius=margin, fill=(20, 24, 32, 180))
    draw.multiline_text(corner, text, font=font(size), fill=(255, 255, 255, 255))
    return np.asarray(image)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Font of ``size`` pixels whose digits all have one width, so that numbers do not jump."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf"), size)


@contextlib.contextmanager
def encoder(file: IO[bytes], suffix: str, fps: float) -> Iterator[Append]:
    """Yield what takes the pictures one by one; the film is in ``file`` when the block ends without error."""
    if suffix == ".gif":
        pictures: list[Image.Image] = []
        yield lambda picture: pictures.append(_small(picture, pictures))
        _save_gif(file, pictures, fps)
        return
    import imageio.v2 as imageio  # an optional package

    get_writer: Any = imageio.get_writer  # its annotations lack files that are open, and ``append_data``
    with get_writer(
        file,
        format=suffix,
        mode="I",
        fps=fps,
        codec="libx264",
        quality=7,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-movflags", "+faststart"],
    ) as writer:
        yield writer.append_data


def _small(picture: np.ndarray, earlier: Sequence[Image.Image]) -> Image.Image:
    """Picture in at most 256 colours, those of the first one, and at most ``GIF_WIDTH`` wide."""
    image = Image.fromarray(picture)
    image.thumbnail((GIF_WIDTH, GIF_WIDTH))
    if earlier:
        return image.quantize(palette=earlier[0], dither=Image.Dither.NONE)
    return image.quantize(256)


def _save_gif(file: IO[bytes], pictures: Sequence[Image.Image], fps: float) -> None:
    # Rounding the moments, not the durations, keeps real time over the whole film.
    ticks = np.round(np.arange(len(pictures) + 1) / fps / GIF_TICK).astype(int)
    durations = (np.diff(ticks) * round(GIF_TICK * 1000)).tolist()
    pictures[0].save(
        file, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
    )
