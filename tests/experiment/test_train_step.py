"""The compiled update: it reaches exact targets, on any mesh, however the batch is cut."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import TableReward, TinyWorld, target_distribution, total_variation
from helpers import config

from gfn_jax.experiment import train_step
from gfn_jax.experiment.batches import Replayed
from gfn_jax.experiment.optimizer import at_step, make_optimizer, make_schedule
from gfn_jax.experiment.train_step import StepFunctions, within_prompt_variance
from gfn_jax.models import language_model
from gfn_jax.models.layout import WHEREVER
from gfn_jax.models.mesh import make_mesh, replicated, weight_shardings
from gfn_jax.policy import sampler, scorer
from gfn_jax.rewards.likelihood import LikelihoodReward
from gfn_jax.rewards.protocol import RewardContext
from gfn_jax.rewards.tempering import Temperature
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.runtime.rows import Rows
from gfn_jax.runtime.stopwatch import Stopwatch


@pytest.mark.accelerator
def test_training_reaches_the_exact_target_under_all_masks():
    """Minimum length 2, maximum length 3, a banned item: total variation from R / Z below 0.01."""
    world = TinyWorld(words=4, min_len=2, max_len=3, width=64, heads=4, rank=16, embedding_std=0.5)
    log_r = np.random.default_rng(0).normal(0, 1, (2, len(world.strings())))
    settings = config(
        data__path="-",
        model__name_or_path="-",
        sampling__samples_per_prompt=64,
        sampling__min_len=2,
        sampling__max_len=3,
        reward__temperature_start=1.0,
        reward__temperature_end=1.0,
        train__prompts_per_step=2,
        train__microbatch_prompts=2,
        train__steps=400,
        train__decay_steps=400,
        train__learning_rate=3e-3,
        train__final_learning_rate=0.01,
        eval__prompts_per_batch=2,
    )
    reward = TableReward(world, log_r)
    functions = StepFunctions(settings, world.structure, reward, world.rules, make_mesh(1, 1))
    state = functions.init(world.fresh_adapter())
    for step in range(settings.train.steps):
        trajectories = functions.sample(state.adapter, world.frozen, world.prompts, step)
        components = reward.components(world.frozen, (), world.prompts, trajectories)
        state, metrics = functions.update(state, world.frozen, world.prompts, trajectories, components, None)

    target, _ = target_distribution(world, log_r)
    assert total_variation(np.exp(world.exact_log_probs(world.fresh_adapter())), target).min() > 0.2
    assert total_variation(np.exp(world.exact_log_probs(state.adapter)), target).max() < 0.01
    assert float(metrics["log_ratio_var"]) < 0.01


@pytest.mark.parametrize(
    ("sampling", "objective", "is_rounded"),
    [(True, "subtb", True), (False, "subtb", False), (True, "reinforce", False)],
)
def test_an_adapter_may_be_rounded_off_to_draw_and_for_nothing_else(monkeypatch, sampling, objective, is_rounded):
    def as_on_a_gpu(mesh, *, rounds_adapter=False, **_):
        return dataclasses.replace(WHEREVER, has_few_kernels=True, rounds_adapter=rounds_adapter)

    monkeypatch.setattr(train_step, "model_layout", as_on_a_gpu)
    world = TinyWorld(words=5, min_len=1, max_len=6, dtype=jnp.bfloat16)
    settings = config(
        data__path="-",
        model__name_or_path="-",
        sampling__samples_per_prompt=53,
        sampling__max_len=6,
        sampling__rounds_adapter=sampling,
        objective__name=objective,
        train__prompts_per_step=2,
        train__microbatch_prompts=2,
    )
    mesh = make_mesh(1, 1)
    reward = TableReward(world, np.zeros((2, len(world.strings()))))
    functions = StepFunctions(settings, world.structure, reward, world.rules, mesh)
    drawn = functions.sample(world.adapter, world.frozen, world.prompts, 3)

    def drawn_by(rounds_adapter):
        structure = world.structure.with_layout(as_on_a_gpu(mesh, rounds_adapter=rounds_adapter))
        models = structure.policy_and_frozen(world.adapter, world.frozen)
        key = key_for(settings.seed, Purpose.TRAINING, 3)
        return jax.jit(lambda: sampler.sample(*models, world.rules, world.prompts, key, samples_per_prompt=53)[0])()

    np.testing.assert_array_equal(drawn.tokens_NxL, drawn_by(is_rounded).tokens_NxL)
    assert (drawn.tokens_NxL != drawn_by(not is_rounded).tokens_NxL).any()


def run_steps(world, mesh_shape, steps=3, microbatch=4, dtype_config="float32"):
    """Some training steps on a mesh: trajectories, metrics, and the adapter they end with."""
    settings = config(
        seed=2,  # with which some texts of each device end early
        data__path="-",
        model__name_or_path="-",
        model__dtype=dtype_config,
        sampling__samples_per_prompt=5,
        sampling__min_len=1,
        sampling__max_len=world.max_len,
        sampling__temperature_prob=1.0,
        sampling__temperature_low=6.0,
        sampling__temperature_high=9.0,
        train__prompts_per_step=4,
        train__microbatch_prompts=microbatch,
        train__learning_rate=1e-2,
    )
    mesh = make_mesh(*mesh_shape)
    rows = Rows(mesh)
    reward = LikelihoodReward(
        RewardContext(
            settings.reward,
            settings.sampling.max_len,
            settings.data.prompt_buckets,
            world.structure,
            world.structure,
            None,
            world.rules.terminator,
            rows,
            Stopwatch(),
        )
    )
    functions = StepFunctions(settings, world.structure, reward, world.rules, mesh)
    frozen = jax.device_put(world.frozen, weight_shardings(mesh, world.structure, fsdp=settings.mesh.fsdp))
    prompts = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1]]), world.prompts)
    prompts = rows.place(prompts)
    state = functions.init(jax.device_put(world.fresh_adapter(), replicated(mesh)))
    seen = []
    for step in range(steps):
        trajectories = functions.sample(state.adapter, frozen, prompts, step)
        components = reward.components(frozen, (), prompts, trajectories)
        state, metrics = functions.update(state, frozen, prompts, trajectories, components, None)
        seen.append(jax.device_get((trajectories, metrics)))
    return seen, jax.device_get(state.adapter)


@pytest.fixture(scope="module")
def one_device(grouped_architecture):
    with jax.enable_x64(True):
        sizes = {"words": 5, "banned": 0, "min_len": 1, "max_len": 5}
        world = TinyWorld(**sizes, dtype=jnp.float64, embedding_std=0.3, architecture=grouped_architecture)
        return world, run_steps(world, (1, 1), dtype_config="float64")


def assert_same(got, expected):
    (seen, adapter), (expected_seen, expected_adapter) = got, expected
    for (trajectories, metrics), (expected_trajectories, expected_metrics) in zip(seen, expected_seen, strict=True):
        jax.tree.map(np.testing.assert_array_equal, trajectories, expected_trajectories)
        for name, value in expected_metrics.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), adapter, expected_adapter)


@pytest.mark.parametrize("mesh_shape", [(2, 2), (1, 4)])
def test_meshes_give_the_same_trajectories_metrics_and_adapters(one_device, mesh_shape, monkeypatch):
    """With whole rows and one loop on one device, and on several with packed ones and a second, narrower loop."""
    world, expected = one_device
    shares = [seen.length_N.reshape(mesh_shape[0], -1) for seen, _ in expected[0]]
    assert all(share.sum(1).max() < share.shape[1] * world.max_len for share in shares)
    for module in (train_step, scorer, language_model):
        monkeypatch.setattr(module, "rooms", lambda weights, layout, whole: (whole.places - 1, whole.places))
    monkeypatch.setattr(sampler, "WORTH_NARROWING", 0)
    with jax.enable_x64(True):
        assert_same(run_steps(world, mesh_shape, dtype_config="float64"), expected)


@pytest.mark.accelerator
def test_accumulated_microbatches_equal_the_whole_batch(one_device):
    world, expected = one_device
    with jax.enable_x64(True):
        assert_same(run_steps(world, (1, 1), microbatch=2, dtype_config="float64"), expected)


@pytest.fixture(scope="module")
def updated():
    """Updates with the same five trajectories for each of two prompts; the last `replayed` come from a buffer."""
    world = TinyWorld(words=5, min_len=1, max_len=3)
    reward = TableReward(world, np.random.default_rng(0).normal(0, 1, (2, len(world.strings()))))
    everything = world.all_continuations()
    some = np.array([[9, 40, 77, 101, 150], [3, 31, 60, 99, 120]]) + np.array([[0], [len(world.strings())]])

    def rows(columns):
        return jax.tree.map(lambda x: x[some[:, columns].reshape(-1)], everything)

    def update(samples, replayed, absent=(), objective="subtb", microbatch=1, emptied=True, steps=2):
        settings = config(
            data__path="-",
            model__name_or_path="-",
            sampling__samples_per_prompt=samples,
            sampling__min_len=1,
            sampling__max_len=3,
            objective__name=objective,
            replay__fraction=replayed / samples,
            train__prompts_per_step=2,
            train__microbatch_prompts=microbatch,
            train__learning_rate=1e-2,
        )
        functions = StepFunctions(settings, world.structure, reward, world.rules, make_mesh(1, 1))
        fresh, again = rows(slice(0, samples - replayed)), rows(slice(samples - replayed, samples))
        components, of_replay = (reward.components(None, (), world.prompts, part) for part in (fresh, again))
        is_absent = np.tile(np.isin(np.arange(replayed), absent), 2)
        if emptied:  # as a row is where nothing is remembered
            is_kept = ~is_absent
            again = jax.tree.map(lambda x: x * is_kept.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype), again)
        nonsense = {"log_r": jnp.where(is_absent[:, None], jnp.nan, of_replay["log_r"])}
        of_buffer = Replayed(again, nonsense, jnp.asarray(is_absent)) if replayed else None
        state = functions.init(world.adapter)
        for _ in range(steps):
            state, metrics = functions.update(state, world.frozen, world.prompts, fresh, components, of_buffer)
        return state, metrics

    return update


@pytest.mark.parametrize("objective", ["subtb", "tb"])
def test_a_replayed_row_trains_like_a_fresh_one_but_is_not_measured(updated, objective):
    (expected, all_fresh), (state, metrics) = updated(5, 0, objective=objective), updated(5, 2, objective=objective)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), state.adapter, expected.adapter)
    assert float(metrics["loss"]) == pytest.approx(float(all_fresh["loss"]), rel=1e-5)
    first_three = np.arange(10).reshape(2, 5)[:, :3].reshape(-1)
    for name in ("log_r", "length"):
        assert float(metrics[name]) != pytest.approx(float(all_fresh[name]), rel=1e-3)
    assert not metrics["is_bad_N"][first_three].any()


@pytest.mark.parametrize(("objective", "emptied"), [("subtb", True), ("subtb", False), ("tb", True)])
def test_an_absent_row_takes_no_part_in_anything_whatever_it_holds(updated, objective, emptied):
    expected, wanted = updated(3, 0, objective=objective)
    state, metrics = updated(5, 2, absent=(0, 1), objective=objective, emptied=emptied)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), state.adapter, expected.adapter)
    assert not metrics.pop("is_bad_N").any()
    for name, value in metrics.items():
        assert float(value) == pytest.approx(float(wanted[name]), rel=1e-4), name


def test_a_prompt_of_one_good_sample_has_no_variance():
    g_N = jnp.array([1.0, 9.0, 5.0, 7.0, 2.0, 4.0])
    of_both = within_prompt_variance(g_N, jnp.array([True, False, False, True, False, True]), 3)
    assert float(of_both) == pytest.approx((7 - 4) ** 2 / 2)
    of_none = within_prompt_variance(g_N, jnp.array([True, False, False, False, False, True]), 3)
    assert np.isnan(float(of_none))


def test_the_learned_log_z_starts_at_the_batchs_mean_however_it_is_cut(updated):
    """The first update of `tb` is nothing else; the second one is the first that trains, and at its own rate."""
    (state, metrics), (expected, _) = (updated(5, 0, objective="tb", microbatch=size) for size in (1, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), state.adapter, expected.adapter)
    first, _ = updated(5, 0, objective="tb", steps=1)
    changes = jax.tree.map(lambda after, before: float(jnp.abs(after - before).max()), state.adapter, first.adapter)
    assert max(jax.tree.leaves(changes)) == pytest.approx(float(metrics["learning_rate"]), rel=1e-3)
    assert int(state.updates) == 2
    assert abs(float(state.log_z["bias"])) > 1
    np.testing.assert_allclose(state.log_z["bias"], expected.log_z["bias"], rtol=1e-5)


def test_the_rate_is_that_of_the_step_however_many_steps_changed_anything():
    """Adam's first change is as large as the rate."""
    train = config(data__path="-", model__name_or_path="-", train__warmup_steps=9, train__weight_decay=0.0).train
    optimizer = make_optimizer(train, 3 * train.learning_rate)
    parameters = {"adapter": {"a": jnp.ones(5)}, "log_z": {"bias": jnp.ones(())}}
    state = optimizer.init(parameters)
    for step in (0, 7):
        rate = float(make_schedule(train)(step))
        changes, _ = optimizer.update(parameters, at_step(state, jnp.asarray(step)), parameters)
        np.testing.assert_allclose(changes["adapter"]["a"], -rate, rtol=1e-5)
        np.testing.assert_allclose(changes["log_z"]["bias"], -3 * rate, rtol=1e-5)


def test_the_learning_rate_warms_up_from_above_zero_and_decays():
    train = config(data__path="-", model__name_or_path="-", train__decay_steps=100, train__warmup_steps=9).train
    rates = np.array([make_schedule(train)(step) for step in range(101)])
    assert rates[0] == pytest.approx(train.learning_rate / 10)
    assert (np.diff(rates[:10]) > 0).all()
    assert rates.max() == pytest.approx(train.learning_rate)
    assert rates[100] == pytest.approx(train.learning_rate * train.final_learning_rate)


def test_the_temperature_runs_linearly_to_its_end():
    temperature = Temperature(1.0, 0.6, 4)
    assert [round(float(temperature.at(jnp.asarray(step))), 5) for step in (0, 1, 4, 9)] == [1.0, 0.9, 0.6, 0.6]
    assert float(Temperature(1.0, 0.6, 0).at(jnp.asarray(0))) == pytest.approx(0.6)
