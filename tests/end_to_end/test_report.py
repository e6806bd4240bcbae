"""Reports of runs with known numbers, as files and in a real browser."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.unit.run_folders import MANIFEST, write_run

from pwm.analysis.cost.parameter_parity import Parity
from pwm.analysis.statistics import estimates as statistics
from pwm.analysis.statistics.estimates import holm, welch_test
from pwm.configuration.config import ExperimentConfig
from pwm.errors import DataError, StorageError
from pwm.study.comparison.arms import load_arms
from pwm.study.report.assembly import Findings, write_report

pytest.importorskip("rliable")
pytest.importorskip("jinja2")

COUNTING, LQR = TASKS = ("analytic_counting", "analytic_lqr")
SEEDS = (1, 2, 3)
# Everything that means something in HTML or Markdown.
HOSTILE = "short <b>&amp;</b> | *8* `x` _y_ [z](w) ~~"
LABELS = {"mlp": "MLP", "flow": "flow", "short": HOSTILE}
# Final returns of the seeds, by algorithm and task; held out the same.
FINAL = {
    "mlp": {COUNTING: (100.0, 110.0, 90.0), LQR: (-50.0, -52.0, -48.0)},
    "flow": {COUNTING: (160.0, 170.0, 150.0), LQR: (-39.0, -40.0, -38.0)},
    "short": {COUNTING: (40.0, 30.0, 50.0), LQR: (-90.0, -91.0, -89.0)},
}
REFERENCE = {COUNTING: {"zero_action": 10.0, "random_action": 0.0}, LQR: {"zero_action": -100.0}}
SECONDS = {"mlp": 60.0, "flow": 90.0, "short": 30.0}
PARAMETERS = {"mlp": 1000, "flow": 1010, "short": 1100}
EPOCHS = 12
COMMAND = "pwm experiment experiment=flow_vs_mlp seeds=[1,2,3] > '<log>' && echo \"done\""
TITLE = "Flow <script>alert(1)</script> & MLP"


def write_runs(logdir: Path) -> None:
    """Three arms on two tasks; ``short`` has another horizon, a seed that collapses and one that fails."""
    for algorithm, tasks in FINAL.items():
        for task, finals in tasks.items():
            for seed, final in zip(SEEDS, finals):
                returns = [REFERENCE[task]["zero_action"], *[final] * EPOCHS]
                if algorithm == "short" and task == COUNTING and seed == 3:
                    returns[3] = 300.0
                _write_run(logdir, task, algorithm, seed, returns)
    failed = _write_run(logdir, LQR, "short", 4, [-100.0, -99.0])
    (failed / "status.json").write_text(
        json.dumps({"state": "failed", "epoch": 1, "reason": f"OSError: {logdir}/x: no space"})
    )


def _write_run(logdir: Path, task: str, algorithm: str, seed: int, returns: list[float]) -> Path:
    skipped = [2.0 if algorithm == "short" else 0.0] * EPOCHS
    more = {"skipped_updates": skipped, "fps": [500.0] * EPOCHS, "wm/dynamics_loss": [0.1 * seed] * EPOCHS}
    folder = write_run(logdir, task, algorithm, seed, returns, seconds=SECONDS[algorithm], more=more)
    values = ExperimentConfig.load(folder / "config.yaml").to_dict()
    if algorithm == "flow":
        values["alg"]["dynamics"] = {"name": "flow", "units": values["alg"]["dynamics"]["units"]}
    if algorithm == "short":
        values["alg"]["horizon"] = 8
    (folder / "config.yaml").write_text(ExperimentConfig.from_dict(values).to_yaml())
    (folder / "reference.json").write_text(json.dumps(REFERENCE[task]))
    manifest = MANIFEST | {
        "parameters": {"world_model": PARAMETERS[algorithm], "dynamics": 500, "actor": 10, "critic": 20}
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def held_out(logdir: Path) -> dict[tuple[str, str, int], dict[str, list[float]]]:
    """Two episodes per policy whose mean is the final return, or 5 more for the best policy."""
    return {
        (task, algorithm, seed): {"final": [final - 1, final + 1], "best": [final + 4, final + 6]}
        for algorithm, tasks in FINAL.items()
        for task, finals in tasks.items()
        for seed, final in zip(SEEDS, finals)
    }


def make_findings(logdir: Path) -> Findings:
    arms = load_arms({label: [logdir / task / name for task in TASKS] for name, label in LABELS.items()})
    parity = Parity({"encoder": 500, "dynamics": 500}, {"encoder": 500, "dynamics": 510}, [], None)
    return Findings(
        title=TITLE,
        arms=arms,
        declared=["dynamics"],
        commands=[COMMAND],
        held_out=held_out(logdir),
        parity={label: dict.fromkeys(TASKS, parity) for label in ("flow", HOSTILE)},
        thresholds={COUNTING: 120.0},
        compute_matched={"MLP": "flow"},
    )


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders; not to be changed."""
    folder = tmp_path_factory.mktemp("machine") / "logs"
    write_runs(folder)
    return folder


@pytest.fixture(scope="module")
def findings(logdir: Path) -> Findings:
    return make_findings(logdir)


@pytest.fixture(scope="module")
def report(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the report; not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "figures").mkdir()
    (folder / "figures" / "losses.png").write_bytes(b"of an earlier report")
    resample = statistics.percentile_interval
    with pytest.MonkeyPatch.context() as patch:
        # No test here looks at the ends of these intervals, which take most of the time.
        patch.setattr(
            statistics,
            "percentile_interval",
            lambda scores, of, seed, _, units=None: resample(scores, of, seed, 50, units),
        )
        assert write_report(findings, folder) == (folder / "report.html", folder / "report.md")
    return folder


class Page(HTMLParser):
    """What a page says, and how it is built."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in ("h1", "h2", "p", "li", "figcaption", "code", "title"):
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            if tag in self.texts:
                self.texts[tag][-1] += data
        if self.open and ("td" in self.open or "th" in self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, *columns: str) -> list[dict[str, str]]:
        """Rows of the first table that has these columns."""
        for header, *rows in self.tables:
            if set(columns) <= set(header):
                return [dict(zip(header, row, strict=True)) for row in rows]
        raise AssertionError(f"no table has the columns {columns}: {[t[0] for t in self.tables]}")


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text())


# --- the numbers ----------------------------------------------------------------------------------


def welch_p(algorithm: str) -> list[float]:
    """Corrected p-values of the tasks, in their order."""
    return holm([welch_test(FINAL[algorithm][t], FINAL["mlp"][t]).p_value for t in TASKS])


def test_the_table_of_results_holds_the_known_numbers(page: Page) -> None:
    counting, lqr = page.table("MLP", "flow", "Δ %")
    p = [f"{value:.3f}" for value in welch_p("flow")]
    assert counting == {
        "Task": COUNTING,
        "MLP": "100.0 ± 10.0 (3)",
        "flow": "160.0 ± 10.0 (3)",
        "Δ %": "+60.0 %",
        "p (Welch)": p[0],
        "p (perm.)": "0.20",
        "Time MLP / flow (min)": "12.0 / 18.0",
        "Time ratio": "1.50",
        "Δ return [95 %]": "+60.0 [37.3, 82.7]",
        "Floor": "10.0",
    }
    # A percentage of a negative return is marked.
    assert (lqr["Δ %"], lqr["Δ return [95 %]"]) == ("+22.0 %†", "+11.0 [6.8, 15.2]")
    assert lqr["p (Welch)"] == p[1]


def test_the_best_policies_have_their_own_table(page: Page) -> None:
    final, best = [t for t in page.tables if t[0][1:3] == ["MLP", "flow"]]
    assert (final[1][1], best[1][1]) == ("100.0 ± 10.0 (3)", "105.0 ± 10.0 (3)")


def test_the_verdicts(page: Page, report: Path) -> None:
    better, unfair = page.texts["p"][:2]
    # Gains of 60 and 11 on scales of 150 and 61.
    mean = (60 / 150 + 11 / 61) / 2
    assert better.startswith(f"flow is better than MLP: +{mean:.2f} (95 % interval ")
    assert "with 3 seeds per arm on 2 tasks" in better
    assert better.endswith("it is significantly better on analytic_counting and analytic_lqr, worse on none.")
    assert unfair.startswith(
        f"{HOSTILE} and MLP are NOT COMPARABLE, because more differs than was declared: "
    )
    assert "alg.horizon (16 against 8, all runs)" in unfair
    data = json.loads((report / "results.json").read_text())
    assert data["verdicts"] == {"flow": better, HOSTILE: unfair}


def test_criteria_are_judged_by_the_numbers(page: Page) -> None:
    judged = {(r["Arm"], r["Criterion"]): (r["Result"], r["Numbers"]) for r in page.table("Criterion")}
    flow = {name: found for (arm, name), found in judged.items() if arm == "flow"}
    assert {result for result, _ in flow.values()} == {"PASS"}
    assert flow["at least as good as MLP on 50 % of the tasks"][1].startswith("2 of 2")
    assert flow["world models of equal size, within 2 %"][1] == (
        "analytic_counting +1.00 %, analytic_lqr +1.00 %; 2 of 2 checked pairs pass"
    )
    short = {name: found for (arm, name), found in judged.items() if arm == HOSTILE}
    assert [result for result, _ in short.values()] == ["FAIL"] * 7
    assert "alg.horizon" in short["the comparison is fair"][1]
    assert short["at least as good as MLP on 50 % of the tasks"][1].startswith("0 of 2")
    assert short["no failed run"][1] == "1 failed or damaged beside 6 runs that can be used"
    assert short["no update skipped for a non-finite gradient"][1] == "12 skipped in 6 runs"
    # 40 above a floor of 10, of a peak of 290 above it.
    assert "analytic_counting 0.14" in short["no seed ends below 50 % of its peak"][1]
    # The mean over seeds of 1, 1 and 40 / 290: the last two of ten evaluations.
    retention = short["last evaluations keep 90 % of the peak (mean over seeds, every task)"][1]
    assert retention.startswith("analytic_counting 0.71")


def test_sample_efficiency(page: Page) -> None:
    rows = {(r["Task"], r["Arm"]): r for r in page.table("Threshold")}
    flow = rows[COUNTING, "flow"]
    assert (flow["Threshold"], flow["Seeds that reach it"]) == ("120.0", "3 of 3")
    assert (flow["Steps"], flow["Minutes"]) == ("100.0 ± 0.0", "1.50 ± 0.00")
    assert rows[COUNTING, "MLP"]["Seeds that reach it"] == "0 of 3"
    # Half-way from -100 to -39.
    assert rows[LQR, "flow"]["Threshold"] == "−69.5"


def test_costs(page: Page) -> None:
    rows = {(r["Task"], r["Arm"]): r for r in page.table("Wall clock (min)")}
    assert rows[COUNTING, "flow"]["Wall clock (min)"] == "18.0 ± 0.0"
    assert rows[COUNTING, "flow"]["Time ratio"] == "1.50"
    assert rows[COUNTING, "flow"]["Steps/s"] == "500.0 ± 0.0"
    gains = {(r["Task"], r["Arm"]): r for r in page.table("Gain per GFLOP")}
    assert gains[COUNTING, "flow"]["Gain"] == "+150.0"
    assert gains[COUNTING, "flow"]["Gain per minute"] == "8.33"
    flops = {(r["Task"], r["Arm"]): r for r in page.table("Epoch (GFLOP)")}
    ratio = float(flops[COUNTING, "flow"]["FLOP ratio"])
    assert ratio > 1.0
    # These arms were not matched, so that much is left.
    (left,) = [
        p for p in page.texts["li"] if f"MLP was matched to flow; what whole updates leave on {LQR}" in p
    ]
    per_epoch, per_run = re.findall(r"−([\d.]+) % per", left.partition(LQR)[2])
    assert float(per_epoch) == pytest.approx(100 * (1 - 1 / ratio), abs=1)
    assert 0 < float(per_run) < 100


def test_differences_are_listed_with_their_kind(page: Page) -> None:
    rows = page.table("Key", "Kind")
    kinds = {(r["Arm"], r["Key"]): r["Kind"] for r in rows}
    assert kinds["flow", "alg.dynamics.name"] == "declared"
    assert kinds[HOSTILE, "alg.horizon"] == "UNDECLARED"
    assert {kind for (arm, _), kind in kinds.items() if arm == "flow"} == {"declared"}


def test_problems_of_runs_are_reported(page: Page) -> None:
    (failed,) = [item for item in page.texts["li"] if "failed: analytic_lqr short seed 4" in item]
    assert "OSError" in failed
    assert failed.endswith("not used")


def test_rows_and_data_can_be_read_back(report: Path) -> None:
    with (report / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    first = next(r for r in rows if (r["arm"], r["task"], r["seed"]) == ("flow", COUNTING, "2"))
    assert float(first["held_out_final"]) == 170.0
    assert float(first["held_out_best"]) == 175.0
    text = (report / "results.json").read_text()
    data = json.loads(text)
    assert "NaN" not in text
    comparison = data["comparisons"]["flow"]["final"]["tasks"][0]
    assert comparison["welch_p_holm"] == pytest.approx(welch_p("flow")[0])
    assert data["runs"][0]["configuration"]["alg.horizon"] == 16


# --- the files ------------------------------------------------------------------------------------


def test_markdown_says_the_same(report: Path, page: Page) -> None:
    markdown = pytest.importorskip("markdown").markdown
    text = (report / "report.md").read_text()
    other = Page(f"<main>{markdown(text, extensions=['tables', 'fenced_code'])}</main>")
    assert other.tables == page.tables
    assert other.texts["h1"] == page.texts["h1"] == [TITLE]
    assert other.texts["h2"] == page.texts["h2"]
    captions = [p for p in other.texts["p"] if re.match(r"(Table|Figure) \d+\. ", p)]
    assert captions == page.texts["figcaption"]
    contents = [section for section in page.texts["h2"] if section in page.texts["li"]]
    assert other.texts["li"] == [item for item in page.texts["li"] if item not in contents]
    assert [c.strip() for c in other.texts["code"]] == [c.strip() for c in page.texts["code"]] == [COMMAND]


def test_figures_are_the_same_files(report: Path, page: Page) -> None:
    files = re.findall(r"!\[.*?\]\((figures/[\w.]+)\)", (report / "report.md").read_text())
    sources = [str(image["src"]) for image in page.all("img")]
    assert len(files) == len(sources) == 6
    for name, source in zip(files, sources):
        kind, _, data = source.partition(";base64,")
        assert kind == {"svg": "data:image/svg+xml", "png": "data:image/png"}[name.rpartition(".")[2]]
        assert base64.b64decode(data) == (report / name).read_bytes()
    # Nothing of the earlier report is left.
    assert sorted(str(p.relative_to(report)) for p in report.glob("figures/*")) == sorted(files)


def test_the_page_is_sound(report: Path, page: Page) -> None:
    html = (report / "report.html").read_text()
    assert html.startswith("<!DOCTYPE html>\n")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {str(a["aria-labelledby"]) for _, a in page.elements if "aria-labelledby" in a}
    linked = {str(a["href"]).removeprefix("#") for a in page.all("a")}
    assert named | linked <= set(ids)
    assert all(image["alt"] for image in page.all("img"))
    headings = [tag for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}
    assert page.texts["title"] == [TITLE]
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert not page.all("script")


def test_nothing_of_the_machine_is_told(report: Path, logdir: Path) -> None:
    for name in ("report.html", "report.md", "results.csv", "results.json"):
        text = (report / name).read_text()
        assert str(logdir) not in text, name
        assert str(report) not in text, name
        assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", text), name
    assert "logs/analytic_lqr/short/seed4" in (report / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": 1}, "1 arms; a report compares at least 2"),
        ({"held_out": {}}, "analytic_counting mlp seed 1: no returns of the final policy"),
        ({"held_out": math.nan}, "analytic_counting flow seed 2: 2 returns, not all finite of the best"),
        ({"thresholds": {"hopper": 1.0}}, "thresholds of tasks that no arm has: hopper"),
        ({"arms": "twice"}, "several arms have the label MLP"),
        ({"arms": "relabelled"}, "several arms have the algorithm mlp"),
        ({"arms": "apart"}, "MLP and flow share no task: "),
    ],
)
def test_unusable_findings_are_named_before_anything_is_written(
    findings: Findings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    mlp, flow, _ = findings.arms
    arms = {
        1: [mlp],
        "twice": [mlp, dataclasses.replace(flow, label="MLP")],
        "relabelled": [mlp, dataclasses.replace(mlp, label="other")],
        "apart": [
            dataclasses.replace(a, table=dataclasses.replace(a.table, runs=a.runs(t)))
            for a, t in zip((mlp, flow), TASKS)
        ],
    }
    if "arms" in changes:
        changes = {"arms": arms[changes["arms"]], "thresholds": {}}
    if isinstance(changes.get("held_out"), float):
        key = (COUNTING, "flow", 2)
        spoilt = {**findings.held_out[key], "best": [1.0, math.nan]}
        changes = {"held_out": {**findings.held_out, key: spoilt}}
    with pytest.raises(DataError, match=re.escape(message)):
        write_report(dataclasses.replace(findings, **changes), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_folder_that_cannot_be_written_is_named(findings: Findings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file cannot be written"):
        write_report(findings, tmp_path / "file")


# --- in a browser ---------------------------------------------------------------------------------


SIZES = {"phone": (360, 740), "desktop": (1280, 900)}


@pytest.mark.parametrize("device", list(SIZES))
def test_the_page_is_shown_whole_and_asks_nobody(browser: Any, report: Path, device: str) -> None:
    width, height = SIZES[device]
    context = browser.new_context(
        viewport={"width": width, "height": height}, is_mobile=device == "phone", has_touch=device == "phone"
    )
    shown = context.new_page()
    requests, messages = [], []
    shown.on("request", lambda request: requests.append(request.url))
    shown.on("console", lambda message: messages.append(message.text))
    shown.on("pageerror", lambda error: messages.append(str(error)))
    address = (report / "report.html").as_uri()
    shown.goto(address, wait_until="load")
    images = shown.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])"
    )
    assert len(images) == 6
    assert all(complete and natural > 0 and drawn > 300 for complete, natural, drawn in images), images
    inside = "[...document.querySelectorAll('.picture')].map(b => b.scrollWidth - b.clientWidth)"
    assert shown.evaluate(inside) == [0] * 6
    # Wide tables scroll in their boxes, the page does not.
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    boxes = shown.evaluate(
        "[...document.querySelectorAll('.scroll')].map(b => b.getBoundingClientRect().right)"
    )
    assert max(boxes) <= width
    assert shown.evaluate("parseFloat(getComputedStyle(document.querySelector('p')).fontSize)") >= 16
    shown.get_by_role("link", name="Reproduce", exact=True).click()
    assert shown.evaluate("document.getElementById('reproduce').getBoundingClientRect().top") < height
    assert [url for url in requests if not url.startswith(("data:", address))] == []
    assert messages == []
    context.close()


def test_a_phone_shows_figures_in_full_size_when_asked_and_names_of_rows_always(
    browser: Any, report: Path
) -> None:
    width, height = SIZES["phone"]
    context = browser.new_context(viewport={"width": width, "height": height}, is_mobile=True, has_touch=True)
    shown = context.new_page()
    shown.goto((report / "report.html").as_uri(), wait_until="load")
    place, full = max(
        enumerate(shown.evaluate("[...document.images].map(i => Number(i.getAttribute('width')))")),
        key=lambda found: found[1],
    )
    assert full > width
    shown.locator(".zoom").nth(place).tap()
    assert shown.evaluate(f"document.images[{place}].getBoundingClientRect().width") == full
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    # Every table at the right end of its box: the first column stands where it stood, and hides not all.
    moved = shown.evaluate(
        """[...document.querySelectorAll('.scroll:has(table)')].map(box => {
            box.scrollLeft = box.scrollWidth;
            const first = box.querySelector('tbody th').getBoundingClientRect();
            return [box.scrollLeft, first.left - box.getBoundingClientRect().left, first.width];
        })"""
    )
    assert any(scrolled > 0 for scrolled, _, _ in moved)
    assert all(abs(left) < 1 and wide < width / 2 for _, left, wide in moved), moved
    context.close()


def test_the_page_is_dark_where_the_reader_wants_it_and_cannot_be_made_to_ask(
    browser: Any, report: Path
) -> None:
    context = browser.new_context(color_scheme="dark")
    shown = context.new_page()
    shown.goto((report / "report.html").as_uri())
    colour = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour))) < 64
    answered, refused = [], []
    shown.on("response", lambda response: answered.append(response.url))
    shown.on("requestfailed", lambda request: refused.append(request.failure))
    blocked = shown.evaluate(
        """() => new Promise(done => {
            document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));
            const image = document.createElement('img');
            image.src = 'https://example.invalid/pixel.png';
            document.body.append(image);
        })"""
    )
    assert blocked == "img-src"
    assert (answered, refused) == ([], ["csp"])
    context.close()
