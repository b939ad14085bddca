"""The report of a run: what it says, from whichever files there are, and how a browser shows it."""

import functools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, run, short_config
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright
from run_files import json_lines

from gfn_jax.evaluation.before_after import changes
from gfn_jax.reporting.frontier_plot import Estimate, Point, draw_frontier, points
from gfn_jax.reporting.imbalance import imbalance, token_shares
from gfn_jax.reporting.page import write_report
from gfn_jax.reporting.palette import PRINTED
from gfn_jax.reporting.svg import new_axes
from gfn_jax.runs.record import read_run
from gfn_jax.runtime.errors import UserError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PLOTS = [
    "Log-ratio variance, mixture",
    "Elbo",
    "Log-likelihood",
    "Diversity",
    "Distinct share",
    "log R",
    "Loss",
    "Gradient norm",
]
PLOTS += ["log R", "Length", "Throughput", "Time of a step", "Replayed", "Offered", "Age", "Size"]
PLOTS = ["Before training", "After 4 steps", *PLOTS, "Before training", "After 4 steps"]  # distributions, and samples
EVIL = '<script>document.title = "taken"</script>&lt;<img src="http://localhost/x" onerror="x()">'


def figure(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "per_prompt": [mean] * 5}


def method(name, family, setting, diversity, log_likelihood):
    figures = {"log_likelihood": figure(log_likelihood), "diversity": figure(diversity), "grammar": figure(0.5)}
    return {"name": name, "family": family, "setting": setting, "seconds": 1.0, "figures": figures, "texts": []}


METHODS = [
    method("GFlowNet", "GFlowNet", 0.8, 0.8, -5.0),
    method("temperature 0.5", "temperature", 0.5, 0.6, -5.5),
    method("sampling", "temperature", 1.0, 0.9, -8.0),
    method("temperature 0.8", "temperature", 0.8, 0.8, -6.5),
    method("greedy", "greedy", None, 0.0, -4.0),
    method("nucleus 0.9", "nucleus", 0.9, 0.7, float("nan")),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short training's directory, with a comparison and what training printed, as `printed`."""
    workdir = tmp_path_factory.mktemp("runs") / "short"
    printed = run(short_config(), workdir)
    (workdir / "printed").write_text(printed)
    evaluation = {"step": 4, "prompts": 5, "samples_per_prompt": 8, "methods": METHODS}
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
    rows = [distribution(step, spread) for step, spread in ((0, 9.0), (4, 30.0))]
    (workdir / "distribution.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


def distribution(step, spread):
    """A hundred numbers, of which one in five is off the target, and a name that is long."""
    weights = np.exp(-np.arange(100) / spread)
    policy, outcomes = 0.8 * weights / weights.sum(), [*map(str, range(99)), "ninety-nine"]
    figures = {"kl": 0.5, "total_variation": 0.25, "invalid_mass": 0.2}
    about = {"step": step, "prompt": "A random number: ", "outcomes": outcomes}
    return about | figures | {"policy": policy.tolist(), "target": [0.01] * 100}


@pytest.fixture(scope="module")
def report(finished):
    return write_report(finished)


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(
        finished, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints", "report.html", "distribution.jsonl")
    )


METHOD = {"name": "GFlowNet", "family": "GFlowNet", "setting": None, "figures": {}}


def change_rows(file, change):
    file.write_text("".join(json.dumps(row) + "\n" for row in map(change, json_lines(file)) if row is not None))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("metrics.jsonl", {"val/elbo": "high"}, "val/elbo: Input should be a valid number"),
        ("validation.jsonl", {"per_prompt": [1]}, "per_prompt: Input should be a valid dictionary"),
        ("samples.jsonl", {"log_r": [1]}, "log_r: Input should be a valid number"),
        ("samples.jsonl", {"step": "0"}, "at step '0': step: Input should be a valid integer"),
        ("samples.jsonl", {"p_contradiction": {}}, "p_contradiction: Input should be a valid number"),
        ("evaluation.json", {"methods": {}}, "methods: Input should be a valid list"),
        ("evaluation.json", {"methods": [METHOD | {"seconds": {}}]}, "methods.0.seconds: Input should be a valid num"),
    ],
)
def test_what_no_run_writes_is_named(copied, name, change, message):
    change_rows(copied / name, lambda row: row | change)
    with pytest.raises(UserError, match=rf"^{copied}/{name} holds what no run of this version writes, .*{message}"):
        write_report(copied)


def test_a_file_that_holds_no_object_is_named(copied):
    (copied / "machine.json").write_text("[]")
    with pytest.raises(UserError, match=r"machine\.json does not hold a JSON object"):
        write_report(copied)


def test_a_step_that_is_no_number_is_damage(copied):
    before = read_run(copied).validations
    with (copied / "metrics.jsonl").open("a") as file:
        file.write('{"step": [], "val/elbo": 1.0}\n{"step": 1' + 400 * "0" + ', "val/elbo": 1.0}\n')
    assert read_run(copied).validations == before


log_ratios = st.lists(st.none() | st.floats(-50, 50), max_size=12)


@given(log_ratios, st.floats(-50, 50), st.floats(-50, 50))
def test_the_tokens_shares_sum_to_the_imbalance(earlier, last, log_z):
    log_ratio = [*earlier, last]
    shares = token_shares(log_ratio, log_z)
    assert len(shares) == len(log_ratio)
    assert sum(shares) == pytest.approx(imbalance(last, log_z), abs=1e-9)


@pytest.mark.parametrize(
    ("log_ratio", "shares"),
    [
        ([None, None, 3.0, 4.0], [1.0, 1.0, -1.0, 0.0]),  # log Z is 5: the imbalance is 2 at s_2, and 1 at s_3
        ([None, 5.0, None, 2.0], [0.0, 1.5, 1.5, 0.0]),
        ([4.0, 4.0, 1.0], [0.0, 3.0, 1.0]),  # what the empty text has is the terminator's
        ([7.0], [-2.0]),
    ],
)
def test_a_change_in_the_imbalance_is_of_the_tokens_since_the_last_terminable_state(log_ratio, shares):
    assert token_shares(log_ratio, 5.0) == shares


def test_the_table_has_the_interval_of_the_paired_change_and_leaves_out_what_the_task_has_not():
    paired = np.array([1.0, 1.1, 0.9, 1.0])
    own, elbo, variance = changes(
        {"mixture_log_ratio_var": 4.0, "elbo": -3.0, "strange": 1.0},
        {"elbo": -2.0, "mixture_log_ratio_var": 2.0, "strange": 1.0},
        {"elbo": paired},
    )[::-1]
    assert (own.name, own.label, own.interval) == ("strange", "strange", None)  # a reward's own term has a row too
    assert (elbo.difference, variance.interval, variance.times_lower) == (1.0, None, 2.0)
    assert paired.min() <= elbo.interval.low < 1 < elbo.interval.high <= paired.max()


def test_the_terminal_and_the_report_say_the_same(finished, report):
    printed, html = (finished / "printed").read_text(), report.read_text().replace("−", "-")
    rows = read_run(finished).changes()
    assert {"elbo", "log_r", "diversity", "mixture_log_ratio_var_median"} <= {row.name for row in rows}
    for row in rows:
        places = row.decimals
        for value in (row.before, row.after):
            assert f"{value:.{places}f}" in printed
            assert f"<td>{value:.{places}f}</td>" in html
        if row.interval:
            assert f"[{row.interval.low:+.{places}f}, {row.interval.high:+.{places}f}]" in printed
            assert f"[{row.interval.low:+.{places}f}, {row.interval.high:+.{places}f}]" in html


def test_the_report_says_as_training_does_which_checkpoint_is_used(finished, copied):
    record = read_run(finished)
    assert record.use in " ".join((finished / "printed").read_text().split())
    assert read_run(copied).use == ""  # where there is none
    for step in (2, 4):
        (copied / "checkpoints" / str(step)).mkdir(parents=True)
    change_rows(copied / "metrics.jsonl", lambda row: row | {"val/elbo": 9.0} if row["step"] == 2 else row)
    html = " ".join(write_report(copied).read_text().split())
    assert "figures are of step 4; sample, evaluate and export use the checkpoint of step 2, the best by elbo." in html


def test_curves_connect_a_familys_settings_in_their_order_and_figures_that_are_none_are_left_out():
    those = points(METHODS)
    assert [point.name for point in those] == [method["name"] for method in METHODS[:-1]]
    sweep = [Point(f"GFlowNet {t:g}", "GFlowNet", t, Estimate(t, t, t), Estimate(-t, -t, -t)) for t in (0.9, 0.3, 0.6)]
    _, axes = new_axes((4, 4), PRINTED)
    odd = Point("odd", "odd", None, Estimate(0.5, 1e60, -1e60), Estimate(-1.0, 1e60, -1e60))  # of no interval
    draw_frontier(axes, [*those[1:], *sweep, odd], PRINTED)
    lines = [line.get_xdata().tolist() for line in axes.get_lines()]
    assert [0.6, 0.8, 0.9] in lines  # temperatures 0.5, 0.8, 1
    assert [0.3, 0.6, 0.9] in lines
    labels = [text.get_text() for text in axes.texts]
    assert {"GFlowNet 0.3", "0.6", "0.9", "temperature 0.5", "0.8", "sampling", "greedy", "odd"} == set(labels)


@pytest.mark.parametrize(
    "missing", [["evaluation.json"], ["samples.jsonl"], ["validation.jsonl", "machine.json"], ["data.sha256", "lock"]]
)
def test_files_may_be_missing(copied, missing):
    for name in missing:
        (copied / name).unlink(missing_ok=True)
    html = write_report(copied).read_text()
    assert ("Decoding baselines" in html) == ("evaluation.json" not in missing)
    assert ("After 4 steps" in html) == ("samples.jsonl" not in missing)
    assert ("95% bootstrap intervals are of" in html) == ("validation.jsonl" not in missing)


def test_a_run_that_was_stopped_or_did_not_begin_has_a_report(copied):
    def until(last, row):
        return row if row["step"] <= last else None

    for last in (3, 1, 0):
        for name in ("metrics.jsonl", "samples.jsonl", "validation.jsonl"):
            change_rows(copied / name, functools.partial(until, last))
        html = write_report(copied).read_text()
        assert f"<dd>{last} of 4</dd>" in html
        assert ("After 2 steps" in html) == (last == 3)


def test_what_is_not_compared_yet_has_no_change(copied):
    for name in ("metrics.jsonl", "samples.jsonl", "validation.jsonl"):
        change_rows(copied / name, lambda row: row if row["step"] == 0 else None)
    html = write_report(copied).read_text()
    assert html.count("before training</p>") == 4
    assert "paired change" not in html
    assert "[+0.00" not in html


def test_steps_that_are_not_logged_take_their_time_too(copied):
    change_rows(copied / "metrics.jsonl", lambda row: {name: row[name] for name in row if name != "train/seconds"})
    rows = json_lines(copied / "metrics.jsonl")
    every_second = [row | {"train/seconds": 100.0} for row in rows if "train/loss" in row and row["step"] % 2 == 0]
    (copied / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in every_second))
    assert [row["step"] for row in every_second] == [2, 4]
    assert "<dt>training</dt><dd>6.7 min</dd>" in write_report(copied).read_text()


def test_a_report_that_cannot_be_written_is_one_line(copied):
    (copied / "report.html.new").mkdir()
    with pytest.raises(UserError, match=r"/report\.html cannot be written: Is a directory$"):
        write_report(copied)


def test_old_samples_and_figures_that_are_not_finite_are_shown_as_far_as_they_go(copied):
    def worn(row):
        row = {name: value for name, value in row.items() if name not in ("tokens", "log_ratio")}
        return row | {"log_r": None} if row["continuation"] == first else row

    first = json_lines(copied / "samples.jsonl")[0]["continuation"]
    change_rows(copied / "samples.jsonl", worn)
    change_rows(copied / "metrics.jsonl", lambda row: {name: row[name] if name == "step" else None for name in row})
    html = write_report(copied).read_text()
    assert first.strip() not in re.sub("<[^>]*>", "", html)
    assert 'class="ramp"' not in html


def test_a_directory_without_a_run_or_without_figures_is_refused(tmp_path, copied):
    with pytest.raises(UserError, match=r"is not a run's directory: it has no config\.json"):
        write_report(tmp_path)
    (copied / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no figures to report: metrics\.jsonl is missing or empty"):
        write_report(copied)


def imported(*modules, by):
    code = f"import sys; import {by}; print([name for name in {modules!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_report_needs_no_jax_and_training_begins_without_matplotlib():
    assert imported("jax", "torch", by="gfn_jax.reporting.page") == "[]\n"
    assert imported("matplotlib", "jinja2", by="gfn_jax.training.loop") == "[]\n"


@pytest.fixture(scope="module")
def chromium():
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Opens a report in a window, and fails where it says, asks for or runs anything."""
    faults = []
    contexts = []

    def open_in(report, width=1280, scheme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url == report.as_uri() or faults.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_in
    for context in contexts:
        context.close()
    assert not faults


def titles(page):
    return page.locator(".plots .plot h3, .pair .plot h3").all_text_contents()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_every_plot_within_the_window(report, opened, width, scheme):
    page = opened(report, width, scheme)
    assert titles(page) == PLOTS
    plots = page.locator(".plot svg").all()
    assert len(plots) == len(PLOTS) + 1  # and the frontier
    for plot in plots:
        box = plot.bounding_box()
        assert box["width"] > 250
        assert box["height"] > 150
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
    page.locator("details").evaluate_all("all => all.forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_no_two_plots_share_a_name_and_every_name_that_they_use_is_there(report, opened):
    page = opened(report)
    ids = page.locator("[id]").evaluate_all("all => all.map(each => each.id)")
    assert len(ids) == len(set(ids))
    html = page.content()
    assert set(re.findall(r"""(?:url\(&quot;#|url\(#|href="#)([^"&)]+)""", html)) <= set(ids)
    assert "#0" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)  # no stand-in colour is left


def test_dark_plots_are_not_drawn_in_the_colours_of_light_ones(report, opened):
    light, dark = (
        opened(report, scheme=scheme).locator("svg text").first.evaluate("each => getComputedStyle(each).fill")
        for scheme in ("light", "dark")
    )
    assert light != dark


def test_every_sample_of_the_scatter_says_which_it_is(report, opened):
    page = opened(report)
    said = page.locator(".pair svg use > title").evaluate_all(
        "all => all.map(e => [e.ownerSVGElement.ariaLabel, +e.parentElement.getAttribute('x'), e.textContent])"
    )
    assert len(said) == 2 * 2 * 4  # before and after, prompts, samples
    for side in {label for label, _, _ in said}:
        drawn = [
            (x, float(re.search("log R (.*),", text)[1].replace("−", "-"))) for label, x, text in said if label == side
        ]
        assert [log_r for _, log_r in sorted(drawn)] == sorted(log_r for _, log_r in drawn)


def test_tokens_have_the_colours_of_their_shares(finished, report, opened):
    page = opened(report)
    samples = json_lines(finished / "samples.jsonl")
    own = [row for row in samples if row["step"] == 4 and row["prompt"] == samples[0]["prompt"]]
    log_z = np.mean([row["log_ratio"][-1] for row in own])
    texts = page.locator("details").first.locator(".side").last.locator(".text")
    shown = texts.evaluate_all(
        "all => all.map(text => [...text.querySelectorAll('[title]')].map(e => [e.textContent, e.title]))"
    )
    for row in own:
        shares = token_shares(row["log_ratio"], log_z)
        expected = [
            [token, f"{share:+.2f}".replace("-", "−")] for token, share in zip(row["tokens"], shares, strict=True)
        ]
        assert expected in shown
    kinds = page.locator(".text .over, .text .under").evaluate_all(
        "all => all.map(each => [each.className, each.title[0]])"
    )
    assert {(kind, sign) for kind, sign in kinds} == {("over", "+"), ("under", "−")}


def test_texts_with_the_signs_of_html_are_shown_as_they_are(copied, opened):
    def evil(row):
        tokens = [EVIL, *row["tokens"][1:]]
        return row | {"prompt": EVIL + row["prompt"], "continuation": "".join(tokens), "tokens": tokens}

    change_rows(copied / "samples.jsonl", evil)
    evaluation = json.loads((copied / "evaluation.json").read_text())
    evaluation["methods"][0]["name"] = f"{EVIL}\a"  # of which XML has nothing
    (copied / "evaluation.json").write_text(json.dumps(evaluation))
    page = opened(write_report(copied))
    assert page.title() == "copy · gfn_jax"
    assert page.locator("script, img").count() == 0
    for place in (".prompt", ".text", "tbody th", ".pair svg use > title", "#baselines svg text"):
        assert any(EVIL in text for text in page.locator(place).all_text_contents()), place
