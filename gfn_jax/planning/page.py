"""A plan as a table, and in words."""

from rich import box
from rich.table import Table

from gfn_jax.config.schema import Config
from gfn_jax.planning.compiling import Compiled, Plan
from gfn_jax.planning.targets import Target

_GB = 1e9


def plan_table(plan: Plan) -> Table:
    """A row for each program: what a device holds while it runs, and what it does."""
    is_gpu = plan.target.kind == "gpu"
    mesh = " x ".join(f"{size} {axis}" for axis, size in plan.mesh.items())
    table = Table(
        title=f"{plan.target.description}, mesh {mesh}: figures of one device",
        caption="tokens: of a prompt; s: to compile; given, beside: GB of arguments and of all else; exch.: messages "
        "between devices, and their GB; a turn: of the longest loop, which in sampling is a token"
        + ("" if is_gpu else "; padding: GB of a loop's state that hold nothing"),
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("program", no_wrap=True)
    headings = ["tokens", "s", "given", "beside", "TFLOP", *(["exch.", "GB"] if len(plan.target.devices) > 1 else [])]
    headings += ["kernels", "a turn"] if is_gpu else ["Mcycles", "a turn", "padding"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for each in plan.programs:
        table.add_row(each.name, *_cells(each, plan.target))
    return table


def _cells(each: Compiled, target: Target) -> list[str]:
    begin = [str(each.length), f"{each.seconds:.0f}"]
    if each.refused:
        return [*begin, "too large"]
    count, exchanged = (sum(made[part] for made in each.collectives.values()) for part in (0, 1))
    cells = [
        *begin,
        f"{each.arguments / _GB:.2f}",
        f"{each.temporaries / _GB:.2f}",
        f"{each.flops / 1e12:.2f}",
    ]
    if len(target.devices) > 1:
        cells += [f"{count:,}", f"{exchanged / _GB:.2f}"]
    if target.kind == "gpu":
        return [*cells, f"{each.kernels:,}", f"{each.kernels_of_a_turn:,}"]
    return [*cells, f"{each.cycles / 1e6:.1f}", f"{each.cycles_of_a_turn / 1e6:.2f}", f"{each.padding / _GB:.2f}"]


def verdict(plan: Plan, config: Config) -> list[str]:
    """Whether the run fits, and what to change where it does not."""
    target = plan.target
    said = [f"each device trains {plan.prompts_of_a_device} prompts a step, {plan.microbatch} at once"]
    said += [f"{each.name}: {each.refused}" for each in plan.programs if each.refused]
    held = f"{plan.resident / _GB:.1f} GB of weights and optimiser stay on a device"
    if any(each.refused for each in plan.programs):
        fits = f"does not fit: {held}, and the compiler refuses a program"
    else:
        fits = f"{'fits' if plan.fits else 'does not fit'}: {plan.peak / _GB:.1f} GB at most ({held})"
    beside = f" beside {target.memory_bytes / _GB:.1f} GB that it has"
    if target.usable_bytes < target.memory_bytes:
        beside += (
            f", of which JAX takes {target.usable_bytes / _GB:.1f} GB unless XLA_PYTHON_CLIENT_MEM_FRACTION says more"
        )
    said.append(fits + beside)
    if not plan.fits and (advice := plan.advice(config)):
        said.append(f"what makes it smaller, the cheapest first: {', '.join(f'--config.{each}' for each in advice)}")
    return said
