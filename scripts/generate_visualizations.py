"""``pwm plot``: ``generate_visualizations.py --log-dir RUN``."""

import sys

from pwm.launch.cli import main

if __name__ == "__main__":
    sys.exit(main(["plot", *sys.argv[1:]]))
