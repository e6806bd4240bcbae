"""``pwm compare``: ``compare_runs.py --run-dirs A B --labels baseline flow --output-dir analysis``."""

import sys

from pwm.launch.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
