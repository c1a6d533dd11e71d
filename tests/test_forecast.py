"""How long a training will take, by what its first iterations took."""

import pytest

from nca_fast.systems.growing_settings import GrowingConfig
from nca_fast.systems.vae.settings import VAEConfig
from nca_fast.training.forecast import cost, expected, time_in_words


def test_what_does_not_hang_on_the_steps_is_told_from_what_does():
    assert cost([(steps, 0.5 + 0.25 * steps) for steps in (2, 4, 4, 9)]) == pytest.approx((0.5, 0.25))
    assert cost([(3, 0.6), (3, 0.9)]) == pytest.approx((0.0, 0.25))  # no telling
    assert cost([(2, 3.0), (4, 1.0)]) == pytest.approx((2.0, 0.0))  # nothing costs less than nothing
    assert cost([(2, 0.1), (4, 0.9)]) == pytest.approx((0.0, 0.5 / 3))


def test_later_rollouts_take_their_time():
    """Seven tenths of a run of growing at 40 steps in the mean, the rest at 80."""
    config = GrowingConfig(image_size=32, early_size=32).resolved()  # a picture that does not grow
    readings = [(steps, 0.1 + steps / 400) for steps in (32, 40, 48)]
    iterations, seconds = expected(readings, config.steps_at, 3000)
    assert iterations == 3000 and seconds == pytest.approx(3000 * (0.7 * 0.2 + 0.3 * 0.3))
    assert expected(readings, config.steps_at, 3000, slower=2.0)[1] == pytest.approx(2 * seconds)
    iterations, seconds = expected(readings, config.steps_at, 3000, limit=60.0)
    assert seconds == 60 and iterations == round(60 * (0.7 / 0.2 + 0.3 / 0.3))
    assert expected([(1, 5.0)], lambda iteration: (1, 1), 7) == (7, pytest.approx(35.0))
    assert expected([(1, 5.0)], lambda iteration: (1, 1), 7, limit=1.0)[0] == 1


def test_rollouts_of_one_length_are_told_in_full():
    """A VAE's are all of its preset's length, by which its iterations take what they take."""
    config = VAEConfig().resolved()
    assert expected([(64, 0.4)] * 9, config.steps_at, 2000, limit=60.0) == (150, 60.0)


def test_times_in_words():
    assert [time_in_words(t) for t in (0.4, 99, 130, 5990, 9000)] == [
        "0 s",
        "99 s",
        "2 minutes",
        "100 minutes",
        "2.5 hours",
    ]
