"""``pwm train``: ``train_dflex.py general=dflex_ant alg=pwm_5M general.epochs=100 seed=42``."""

import sys

from pwm.launch.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
