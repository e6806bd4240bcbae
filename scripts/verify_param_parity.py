"""``pwm parity`` of the 48M pair: ``verify_param_parity.py --obs-dim 55 --act-dim 8 --latent-dim 768``."""

import sys

from pwm.launch.cli import main

PAIR = ["--baseline", "pwm_48M", "--candidate", "pwm_48M_flow"]

if __name__ == "__main__":
    sys.exit(main(["parity", *PAIR, *sys.argv[1:]]))
