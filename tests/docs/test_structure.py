"""The rules of the code base: layers, sizes, forbidden constructs, start-up time, documentation.

Words that a rule forbids are put together from parts here, so that this file obeys its own rules.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
PACKAGE = SRC / "pwm"

# Rooms, each a folder of the package with one purpose. A module imports from its own room and those above it.
ROOMS = [
    "envs",
    "data",
    "models",
    "algorithm",
    "training",
    "logging",
    "configuration",
    "checkpoints",
    "runs",
    "interop",
    "datasets",
    "analysis/statistics",
    "analysis/tables",
    "analysis/cost",
    "analysis/plots",
    "analysis/model_quality",
    "study/comparison",
    "study/report",
    "study",
    "cluster",
    "board",
    "launch",
]
# Files of the package root that belong to no room; `configs` holds YAML only.
ROOT_MODULES = {"__init__", "components", "configs", "errors", "files", "numbers", "packages"}
ROOT_MODULES |= {"checks", "parts"}
# Places that belong to the last room: nothing imports from them.
FRONT_DOORS = {"__main__", "utils"}
MAX_ROOM_FILES = 14
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
IMPORT_SECONDS = 0.3
HELP_SECONDS = 1.0

CODE_FOLDERS = ["src", "scripts", "examples", "benchmarks", "tests"]
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below ``folders`` of the repository."""
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


@functools.cache
def parse(path: Path) -> ast.Module:
    """Syntax tree of a file; not to be changed."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def where(path: Path, node: ast.AST | int | None = None) -> str:
    """Return ``path:line`` relative to the repository."""
    line = node if isinstance(node, int) else getattr(node, "lineno", None)
    relative = path.relative_to(ROOT).as_posix()
    return relative if line is None else f"{relative}:{line}"


def report(rule: str, problems: list[str]) -> None:
    """Fail with the rule and every place that breaks it."""
    if problems:
        pytest.fail(f"{rule}\n  " + "\n  ".join(problems), pytrace=False)


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for a chain of names and attributes, '' for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        prefix = dotted(node.value)
        return f"{prefix}.{node.attr}" if prefix else ""
    return ""


# --- layers ---------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = list(path.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield the absolute name of everything ``path`` imports, wherever in the file it does so."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield ".".join([*base, alias.name]), node
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(("import_module", "__import__")):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node


def room_of(name: str) -> str:
    """Return the room of a module or of a name in it; of what is in none, the first part of its name."""
    parts = name.split(".")[1:]
    inner = "/".join(parts[:2])
    if inner in ROOMS:
        return inner
    return parts[0] if parts else "__init__"


def test_every_module_belongs_to_a_room() -> None:
    # `python -m pwm` is a front door of the launch room, `utils` one for code written for the original.
    known = {*ROOMS, *ROOT_MODULES, *FRONT_DOORS}
    # A folder of rooms holds nothing but them.
    halls = {PACKAGE / room.split("/")[0] / "__init__.py" for room in ROOMS if "/" in room}
    modules = [p for p in python_files("src/pwm") if p not in halls]
    strangers = [where(p) for p in modules if room_of(module_name(p)) not in known]
    report(f"a module lies in one of the folders {', '.join(ROOMS)}; these do not:", strangers)


def test_rooms_hold_about_a_dozen_files() -> None:
    # Components are one file each, and there may be any number.
    counts = {room: len(list((PACKAGE / room).glob("*.py"))) - 1 for room in ROOMS}
    problems = [f"{room} holds {n}" for room, n in counts.items() if n > MAX_ROOM_FILES]
    report(f"a room holds at most {MAX_ROOM_FILES} files; divide it by purpose:", problems)


def test_imports_follow_the_order_of_the_rooms() -> None:
    problems = []
    for path in python_files("src/pwm"):
        own = room_of(module_name(path))
        own = "launch" if own in FRONT_DOORS else own
        for name, node in imported_modules(path, parse(path)):
            if name.split(".")[0] != "pwm":
                continue
            other = room_of(name)
            if other in ROOT_MODULES or other in {"__version__", own}:
                continue
            if other not in ROOMS:
                problems.append(f"{where(path, node)} imports {name}; name the module that defines it")
            elif own not in ROOMS:
                problems.append(f"{where(path, node)} belongs to no room, yet imports {name}")
            elif ROOMS.index(other) > ROOMS.index(own):
                problems.append(f"{where(path, node)} is in {own}, yet imports {name}")
    report(f"a module imports only from its own room or those to its left: {' -> '.join(ROOMS)}", problems)


# --- sizes and names ------------------------------------------------------------------------------


def test_source_files_are_short() -> None:
    counts = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in python_files("src/pwm")}
    problems = [f"{where(p)} has {n}" for p, n in counts.items() if n > MAX_FILE_LINES]
    report(f"a source file has at most {MAX_FILE_LINES} lines; split by purpose:", problems)


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of source lines of a function without its docstring."""
    total = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        total -= node.body[0].end_lineno - node.body[0].lineno + 1
    return total


def test_functions_are_short() -> None:
    problems = []
    for path in python_files("src/pwm"):
        for node in ast.walk(parse(path)):
            if isinstance(node, Function) and function_lines(node) > MAX_FUNCTION_LINES:
                problems.append(f"{where(path, node)} {node.name} has {function_lines(node)}")
    report(f"a function has at most {MAX_FUNCTION_LINES} lines besides its docstring:", problems)


def test_no_module_is_a_drawer() -> None:
    parts = [(p, set(p.relative_to(SRC).with_suffix("").parts)) for p in python_files("src/pwm")]
    named = [p for p, names in parts if names & {"utils", "util", "misc"}]
    problems = [where(p) for p in named if p.parent != PACKAGE / "utils"]
    report("a module is named after its purpose:", problems)


def test_the_originals_module_names_hold_nothing_of_their_own() -> None:
    problems = []
    for path in python_files("src/pwm/utils"):
        for node in parse(path).body:
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            names = isinstance(node, ast.Assign) and [dotted(t) for t in node.targets] == ["__all__"]
            if not (text or names or isinstance(node, ast.ImportFrom)):
                problems.append(where(path, node))
    report("pwm/utils hands names on and defines none:", problems)


# --- constructs -----------------------------------------------------------------------------------


def code_nodes() -> Iterator[tuple[Path, ast.AST]]:
    """Yield every syntax node of all Python code of the repository."""
    for path in python_files(*CODE_FOLDERS):
        for node in ast.walk(parse(path)):
            yield path, node


def catches_everything(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(dotted(kind) in {"Exception", "BaseException"} for kind in kinds if kind is not None)


def does_nothing(body: list[ast.stmt]) -> bool:
    """Return whether a block holds nothing but pass, continue, ... and strings."""
    for s in body:
        constant = isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)
        if not (constant or isinstance(s, (ast.Pass, ast.Continue))):
            return False
    return True


def test_no_error_is_swallowed() -> None:
    problems = []
    for path, node in code_nodes():
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                problems.append(f"{where(path, node)} bare except")
            elif catches_everything(node) and does_nothing(node.body):
                problems.append(f"{where(path, node)} catches every exception and ignores it")
        elif isinstance(node, ast.Call) and dotted(node.func) in {"suppress", "contextlib.suppress"}:
            blind = [arg for arg in node.args if dotted(arg) in {"Exception", "BaseException"}]
            problems += [f"{where(path, arg)} suppresses every exception" for arg in blind]
    report("name the exceptions that can be handled and handle them:", problems)


def test_no_text_is_run_as_code() -> None:
    calls = ((path, node) for path, node in code_nodes() if isinstance(node, ast.Call))
    builtins = {"eval", "exec", "builtins.eval", "builtins.exec"}
    problems = [f"{where(p, n)} calls {dotted(n.func)}" for p, n in calls if dotted(n.func) in builtins]
    report("text is parsed, never run:", problems)


def test_no_star_imports() -> None:
    problems = [
        f"{where(path, node)} from {node.module} import *"
        for path, node in code_nodes()
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    report("import names, not everything:", problems)


PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib"}
LOADERS = {"load", "loads", "Unpickler"}


def unpickling(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield every place of a file that can run code hidden in data."""
    aliases = set(PICKLES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname for a in node.names if a.asname and a.name in PICKLES}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in PICKLES:
            found = {alias.name for alias in node.names} & LOADERS
            if found:
                yield node, f"imports {', '.join(sorted(found))} from {node.module}"
        elif isinstance(node, ast.Attribute) and node.attr in LOADERS and dotted(node.value) in aliases:
            yield node, f"uses {dotted(node)}"
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            option = (node.arg, node.value.value)
            if option in {("weights_only", False), ("allow_pickle", True)}:
                yield node, f"passes {node.arg}={node.value.value}"


# The one place that may: its unpickler answers every name itself.
SAFE_READER = PACKAGE / "interop" / "pickles.py"


def test_files_are_read_without_unpickling() -> None:
    problems = [
        f"{where(path, node)} {what}"
        for path in python_files(*CODE_FOLDERS)
        for node, what in unpickling(parse(path))
        if path != SAFE_READER
    ]
    report("a pickle runs whatever its author wants; read tensors, numbers and text only:", problems)


def test_the_safe_reader_of_pickles_looks_up_no_name() -> None:
    tree = parse(SAFE_READER)
    uses = [what for _, what in unpickling(tree)]
    assert uses == ["uses pickle.Unpickler"], uses
    (reader,) = [
        n for n in tree.body if isinstance(n, ast.ClassDef) and "Unpickler" in map(base_name, n.bases)
    ]
    methods = {n.name: n for n in reader.body if isinstance(n, Function)}
    assert {"find_class", "persistent_load"} <= methods.keys()
    names = {dotted(n) for n in ast.walk(methods["find_class"])}
    lookups = {"super", "getattr", "importlib", "sys", "__import__"}
    assert not lookups & {name.split(".")[0] for name in names}
    imported = {name for name, _ in imported_modules(SAFE_READER, tree)}
    assert not {"importlib", "sys", "builtins", "os"} & imported


def base_name(base: ast.expr) -> str:
    """Last part of the name of a base class."""
    return dotted(base).split(".")[-1]


def test_nothing_is_left_unfinished() -> None:
    marks = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX"]) + r")\b")
    unwritten = "NotImplemented" + "Error"
    problems = []
    for path in [*python_files(*CODE_FOLDERS), *PACKAGE.rglob("*.yaml")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if marks.search(line) or unwritten in line:
                problems.append(f"{where(path, number)} {line.strip()[:80]}")
    report("finish it or leave it out:", problems)


# --- the repository -------------------------------------------------------------------------------


def text_files() -> Iterator[tuple[Path, str]]:
    """Yield the text files a commit of this working tree would hold."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in sorted(set(listing.stdout.decode().split("\0")) - {""}):
        path = ROOT / name
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        try:
            yield path, content.decode("utf-8")
        except UnicodeDecodeError:
            continue


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{where(path, number)} {match.group(0)!r}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), start=1)
        for match in pattern.finditer(line)
    ]


def test_no_machine_paths() -> None:
    # The look-behind lets relative paths and web addresses pass, e.g. logs/home/ or example.org/work/.
    pattern = re.compile(r"(?<![\w.~})*>-])/(?:" + "|".join(["home", "root", "work", "Users"]) + r")/[\w.-]*")
    report("paths are relative or come from the user, never from one machine:", lines_with(pattern))


def test_no_package_index_is_named() -> None:
    hosts = ["index" + "-url", "index" + "_url", r"pypi\.org/" + "simple", "files." + "pythonhosted"]
    pattern = re.compile("|".join([*hosts, r"download\." + r"pytorch\.org"]))
    report("where packages come from is the machine's setting, not the repository's:", lines_with(pattern))


def test_no_merge_is_half_done() -> None:
    pattern = re.compile("^(?:" + "|".join(re.escape(sign) * 7 for sign in "<>|") + r")(?: |$)")
    report("a merge leaves one version of every line:", lines_with(pattern))


# --- start-up -------------------------------------------------------------------------------------


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter that finds this tree's package first."""
    path = os.pathsep.join([str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def pwm_command(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the ``pwm`` command as its entry point does."""
    return run_python(
        "import sys; sys.argv[0] = 'pwm'; from pwm.launch.cli import main; sys.exit(main())",
        *args,
    )


def test_import_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import pwm; print(time.perf_counter() - t)"
    seconds = []
    for _ in range(3):
        done = run_python(code)
        assert done.returncode == 0, f"import pwm fails:\n{done.stderr}"
        seconds.append(float(done.stdout))
    assert min(seconds) < IMPORT_SECONDS, (
        f"import pwm takes {min(seconds):.2f} s, more than {IMPORT_SECONDS} s; "
        "see `python -X importtime -c 'import pwm'`"
    )


def test_import_loads_no_heavy_package() -> None:
    simulators = {"mujoco", "gymnasium", "dm_control", "metaworld", "warp"}
    heavy = simulators | {"torch", "wandb", "tensorboard", "psutil", "hydra", "omegaconf", "matplotlib"}
    done = run_python("import sys, pwm; print(*sys.modules)")
    assert done.returncode == 0, f"import pwm fails:\n{done.stderr}"
    loaded = sorted(heavy & set(done.stdout.split()))
    assert not loaded, f"import pwm loads {', '.join(loaded)}; import these where they are used"


def test_the_originals_module_names_cost_nothing_until_they_are_used() -> None:
    done = run_python("import sys, pwm.utils; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not {"torch", "matplotlib", "hydra"} & set(done.stdout.split())


def test_import_leaves_torch_alone() -> None:
    code = """
import torch

def state():
    return [
        torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype(),
        torch.is_grad_enabled(), torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic, torch.get_rng_state().tolist(),
    ]

before = state()
import pwm
assert state() == before
"""
    done = run_python(code)
    assert done.returncode == 0, f"import pwm changes global settings of torch:\n{done.stderr}"


def test_reading_runs_draws_nothing() -> None:
    modules = "pwm.analysis.tables.runs, pwm.study.comparison.tables, pwm.study.comparison.verdict"
    done = run_python(f"import sys, {modules}; print('matplotlib' in sys.modules)")
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_public_names_exist() -> None:
    code = """
import pwm
for name in pwm.__all__:
    assert getattr(pwm, name).__name__ == name, name
    assert name in dir(pwm), name
try:
    pwm.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError("an unknown name must raise AttributeError")
"""
    done = run_python(code)
    assert done.returncode == 0, f"a name in pwm.__all__ cannot be loaded:\n{done.stderr}"


def test_help_is_quick() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = pwm_command("--help")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, f"`pwm --help` exits with {done.returncode}:\n{done.stderr}"
        assert done.stdout.strip(), "`pwm --help` prints nothing"
    assert min(seconds) < HELP_SECONDS, (
        f"`pwm --help` takes {min(seconds):.2f} s, more than {HELP_SECONDS} s; "
        "import heavy packages inside the subcommands"
    )


# --- documentation --------------------------------------------------------------------------------


def documented_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield (place, words) for every command of the shell blocks of README in each language, and docs/."""
    readmes = sorted(ROOT.glob("README*.md"))
    assert ROOT / "README.md" in readmes, "README.md is missing"
    for path in [*readmes, *sorted((ROOT / "docs").rglob("*.md"))]:
        inside = False
        command = ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            stripped = line.strip()
            if stripped.startswith("```"):
                inside = not inside and stripped[3:].split(" ")[0] in {"sh", "bash", "shell", "console"}
                command = ""
                continue
            if not inside:
                continue
            command += re.sub(r"(^|\s)#.*", "", stripped.removeprefix("$ "))
            if command.endswith("\\"):
                command = command[:-1] + " "
                continue
            for part in re.split(r"&&|\|\||;|\|", command):
                words = part.split()
                while words and re.fullmatch(r"\w+=\S*", words[0]):
                    words = words[1:]
                if words:
                    yield where(path, number), words
            command = ""


def test_documented_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, flags=re.MULTILINE))
    problems = []
    for place, words in documented_commands():
        if words[0] == "make":
            named = [w for w in words[1:] if re.fullmatch(r"[a-z][\w-]*", w)]
            problems += [f"{place} make {target}" for target in named if target not in targets]
    report(f"the Makefile has only the targets {', '.join(sorted(targets))}:", problems)


def test_documented_subcommands_exist() -> None:
    places: dict[str, str] = {}
    for place, words in documented_commands():
        is_pwm = words[0] == "pwm" or words[0].endswith("/pwm")
        if is_pwm and len(words) > 1 and re.fullmatch(r"[a-z][\w-]*", words[1]):
            places.setdefault(words[1], place)
    problems = []
    for subcommand, place in places.items():
        done = pwm_command(subcommand, "--help")
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            problems.append(f"{place} `pwm {subcommand} --help` exits with {done.returncode}: {last}")
    report("a documented command works:", problems)


def test_public_code_is_documented() -> None:
    problems = []
    for path in python_files("src/pwm"):
        tree = parse(path)
        # An empty __init__.py has nothing to explain.
        if tree.body and ast.get_docstring(tree) is None:
            problems.append(f"{where(path)} module")
        for node in tree.body:
            public = isinstance(node, (*Function, ast.ClassDef)) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                problems.append(f"{where(path, node)} {node.name}")
    report("public modules, functions and classes have a docstring:", problems)
