"""``pwm evaluate``: ``evaluate_policy.py --checkpoint 'outputs/*/best_policy.pt' --episodes 100``."""

import sys

from pwm.launch.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
