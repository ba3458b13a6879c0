"""The units of runs that are shown together, paired at the last checkpoint of each."""

from functools import lru_cache

from cmon.errors import ConfigError
from cmon.matching import matched, paired
from cmon.recipes import Plan
from cmon.records import FloatArray, Match, Study
from cmon.stores import read_activations


def match_runs(plan: Plan, study: Study) -> list[Match]:
    """Pair the units of every two runs that are compared, see Study.pairs_of_runs, in every layer that both have.

    Raises:
        StaleInputError: where the activations of a run's last checkpoint are missing or stale.
        ConfigError: where runs of one start have layers of different sizes.
    """

    @lru_cache(maxsize=2)  # of the run that others are compared with, and one other
    def layers_of(run: int) -> tuple[int, dict[str, FloatArray]]:
        last = max(k for k, name in enumerate(study.checkpoints) if name.run == run)
        table = plan.study.run[run]
        (unit,) = (u for u in plan.units if u.run is table and u.checkpoint.name == study.checkpoints[last].name)
        target = plan.activations(unit)
        target.require("activations", plan.workspace.root)
        recorded = read_activations(target.path, plan.study.activations.pooling)
        return last, {table.layer_names.get(layer.name, layer.name): layer.values for layer in recorded.layers}

    found = []
    for run, other in plan.study.pairs_of_runs:
        (last, layers), (other_last, other_layers) = layers_of(run), layers_of(other)
        for index, name in enumerate(study.layers):
            if name not in layers or name not in other_layers:
                continue
            values, others = layers[name], other_layers[name]
            same_start = plan.study.same_start(run, other)
            if same_start and values.shape != others.shape:
                sizes = f"{values.shape[1]} and {others.shape[1]} units in {name}"
                what = f"is that of {study.runs[run]}, but they have {sizes}"
                raise ConfigError(f"run {study.runs[other]}: start", what, "give each a start of its own, or none")
            pairs = paired(values, others) if same_start else matched(values, others, plan.study.statistics.seed)
            found.append(Match(run, other, index, last, other_last, *pairs, same_start=same_start))
    return found
