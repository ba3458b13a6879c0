import numpy as np
from benchmarks.made_up import make
from conftest import cmon

from cmon.config import read_config
from cmon.recipes import plan_study
from cmon.stores import read_study


def test_a_study_that_is_made_up_is_current_and_like_a_training(tmp_path):
    config = make(tmp_path / "study", 3, projection="pca")
    made = cmon("embed", str(config))
    assert made.code == 0, made.err
    plan = plan_study(read_config(config))
    study = read_study(plan.embedding(plan.study.detector[0]).path)
    units = study.units
    assert len(units.unit) == 3 * 896
    assert units.resampled_concept.shape[1] == 100
    living = units.embedding[units.alive]
    assert len(np.unique(living, axis=0)) > 0.99 * len(living)
    share = [(units.interpretable[units.checkpoint == k]).mean() for k in range(3)]
    assert 0.02 < share[0] < share[2] < 0.95
    first, last = (units.concept[units.checkpoint == k] for k in (0, 2))
    assert (first != last).mean() > 0.5
    assert 0.9 < units.alive.mean() < 1
