"""A run's report: one HTML file that needs no network and no script."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import gfn_jax
from gfn_jax.reporting import sections, tables
from gfn_jax.reporting.palette import LIGHT
from gfn_jax.reporting.probe_tables import scale
from gfn_jax.runs.record import read_run
from gfn_jax.runtime.json_files import replace_file


def write_report(workdir: Path) -> Path:
    """Writes `report.html` from the files of the run's directory; raises `UserError` where they are of no run."""
    record = read_run(workdir)
    environment = Environment(
        loader=PackageLoader("gfn_jax", "reporting"),
        autoescape=True,  # texts are a model's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": tables.signed, "verdict": sections.verdict}
    environment.filters |= {"duration": tables.duration, "value": tables.value}
    prompts = sections.samples(record)
    changes = record.changes()
    content = environment.get_template("page.html.jinja").render(
        version=gfn_jax.__version__,
        light=LIGHT,
        record=record,
        config=record.config.model_dump(mode="json"),
        seconds=record.training_seconds,
        changes=changes,
        tiles=sections.tiles(changes),
        groups=[
            ("On validation prompts", list(sections.validation_plots(record))),
            ("In training", list(sections.training_plots(record))),
        ],
        distributions=list(sections.distributions(record)),
        replay=list(sections.replay_plots(record)),
        comparison=tables.comparison(record.evaluation["methods"]) if record.evaluation else None,
        frontier=sections.comparison_plot(record.evaluation["methods"]) if record.evaluation else None,
        prompts=prompts,
        scale=scale([text for prompt in prompts for text in (*prompt.before, *prompt.after)]),
        balance=list(sections.balance_plots(record)),
        settings=tables.settings(record.config),
    )
    file = workdir / "report.html"
    replace_file(file, content)
    return file
