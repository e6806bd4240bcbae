"""``pwm evaluate --checkpoint all``: ``evaluate_all_checkpoints.py [ROOT] [--episodes N]``."""

import sys

from pwm.launch.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", "--checkpoint", "all", *sys.argv[1:]]))
