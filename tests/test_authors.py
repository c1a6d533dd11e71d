"""The comparison with the authors' recipes: that its settings are theirs, and lie where trainings take them."""

from dataclasses import asdict

import pytest

from bench.authors import PLAN, SYSTEMS
from bench.held_set.jobs import KINDS
from bench.held_set.jobs import SYSTEMS as TRAINED
from nca_fast.systems.clip_settings import RECIPES


@pytest.mark.parametrize("case", SYSTEMS.values(), ids=SYSTEMS)
def test_settings_are_those_of_trainings(case):
    assert case.name in KINDS[case.kind]
    config = TRAINED[case.kind].Config(**case.both, **case.authors, iterations=PLAN).resolved()
    assert all(0 < milestone < PLAN for milestone in config.lr_milestones)
    published = TRAINED[case.kind].Config(**{**case.authors, **case.published})
    assert published.iterations >= 1000 and published.batch_size >= 4


def test_the_recipe_of_sentences_is_that_of_the_command():
    case, recipe = SYSTEMS["clip"], asdict(RECIPES["deb"])
    ours = dict(case.authors) | {"lr_milestones": tuple(m * recipe["iterations"] // PLAN for m in
                                                         case.authors["lr_milestones"])}  # fmt: skip
    assert {name: recipe[name] for name in ours} == ours
    assert case.published["image_size"] == recipe["image_size"] and case.published["iterations"] == recipe["iterations"]
