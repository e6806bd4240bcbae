"""Draw the pictures of the documents again, from runs that are trained where they are missing.

    python docs/pictures.py

takes half an hour on one core, less where the runs of ``--logdir`` are there, and needs an installed
Chromium for the picture of the board. Further overrides, as of ``pwm train``, change the runs on hopper.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pwm.analysis.model_quality.imagination import imagine_run
from pwm.analysis.plots.visualization import plot_comparison
from pwm.board.pages import Board
from pwm.configuration.config import compose_config
from pwm.runs.run import train

IMAGES = Path(__file__).parent / "images"
DEMO = Path(__file__).parents[1] / "examples" / "demo.py"
TASK = ("env=dflex_hopper", "env.num_threads=1", "general.threads=1", "alg.gamma=0.99", "general.seed=1")
# 5000 random environment steps and 20 in each epoch.
EPOCHS = ("general.epochs=1000", "general.eval_every=20", "general.eval_runs=8")
COLOURS = 128
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def photograph(logs: Path, page_of: Path, picture: Path) -> None:
    """Write the board's page of the run ``page_of`` below ``logs`` as a picture."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        sys.exit("no Chromium is installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        index = Board(logs, live=False).write(Path(folder) / "board")
        # Composed on the processor: where there is no display, a browser's stand-in for a GPU may not start.
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        page.goto(index.resolve().as_uri())
        link = page.get_by_role("link", name=str(page_of.relative_to(logs))).get_attribute("href")
        page.goto((index.parent / str(link)).resolve().as_uri(), wait_until="networkidle")
        page.screenshot(path=picture)
        browser.close()


def draw_demo(logs: Path, epochs: int, picture: Path) -> None:
    """Run the demo below ``logs`` and copy its learning curves."""
    command = [sys.executable, str(DEMO), "--output", str(logs), "--epochs", str(epochs)]
    subprocess.run(command, check=True)
    shutil.copy(logs / "learning_curves.png", picture)


def shrink(picture: Path) -> None:
    """Write a picture anew with fewer colours, which halves its file."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


def main() -> None:
    """Train what is missing and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logdir", type=Path, default=Path("logs/pictures"))
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the pictures")
    parser.add_argument("--demo-epochs", type=int, default=150)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    args.images.mkdir(parents=True, exist_ok=True)

    runs = {}
    for label, preset in (("MLP", "pwm_small"), ("flow", "pwm_small_flow")):
        own = [f"alg={preset}", *TASK, *EPOCHS, f"general.logdir={args.logdir}"]
        keys = {override.partition("=")[0] for override in args.overrides}
        own = [override for override in own if override.partition("=")[0] not in keys]
        runs[label] = train(compose_config([*own, *args.overrides])).folder

    plot_comparison(runs, args.images / "hopper.png", "hopper, seed 1")
    print(imagine_run(runs["flow"], "best", 64, 16, runs["flow"] / "imagination.png"))
    shutil.copy(runs["flow"] / "imagination.png", args.images)
    photograph(args.logdir, runs["flow"], args.images / "board.png")
    draw_demo(args.logdir.with_name(args.logdir.name + "_demo"), args.demo_epochs, args.images / "demo.png")
    for name in ("hopper", "imagination", "board", "demo"):
        shrink(args.images / f"{name}.png")
        print(args.images / f"{name}.png")


if __name__ == "__main__":
    main()
