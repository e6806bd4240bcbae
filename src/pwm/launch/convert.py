"""``pwm convert``: a world model of another project becomes one of ours."""

from __future__ import annotations

import argparse

from pwm.launch.arguments import Commands, add_parser, typed_path

SOURCES = ("pwm", "flow-mbpo", "tdmpc2", "newt")
HELP = """\
Import a world model of another project. Nothing in its file is run. For example:

  pwm convert final_policy.pt hopper.pt --from pwm
  pwm convert mt30-48M.pt pendulum.pt --from tdmpc2 --task 7
  pwm train env=dflex_hopper alg=pwm general.checkpoint=hopper.pt ...
"""


def add_commands(commands: Commands) -> None:
    """Add ``convert`` to the parser's subcommands."""
    convert = add_parser(commands, "convert", run, "import a world model of another code base", HELP)
    convert.add_argument("src", type=typed_path, metavar="SRC")
    convert.add_argument("dst", type=typed_path, metavar="DST")
    convert.add_argument("--from", dest="source", required=True, choices=SOURCES)
    convert.add_argument(
        "--task", type=int, metavar="INDEX", help="of a multi-task model, keep this task alone"
    )
    convert.add_argument("--key", metavar="NAME", help="where the world model is, in a file with several")
    convert.add_argument(
        "--simnorm-dim", type=int, default=8, help="group size of SimNorm, which no file tells (default: 8)"
    )
    for bound, value in (("vmin", -10.0), ("vmax", 10.0)):
        convert.add_argument(
            f"--{bound}",
            type=float,
            default=value,
            help=f"bound of the reward bins in symlog space, for models with bins (default: {value:g})",
        )


def run(args: argparse.Namespace) -> None:
    """Convert, and say what was carried over and what was left out."""
    from pwm.interop.importers import convert

    imported = convert(
        args.src, args.dst, args.source, args.simnorm_dim, args.vmin, args.vmax, task=args.task, key=args.key
    )
    model = imported.stored.build()
    print(f"{args.dst}: {type(model).__name__} with {model.total_params} parameters\n{imported.report()}")
