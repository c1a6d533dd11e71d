"""A page that shows a training as it goes on, and its losses for TensorBoard."""

import sys
import webbrowser

import pytest

from nca_fast.training import watching
from nca_fast.training.loop import Report


def report(iteration):
    return Report(iteration, iteration, 2.5 / iteration, {"style": 2.0}, 1e-3, 4, 100, 0.5)


def test_a_page_shows_the_picture_beside_it(tmp_path, monkeypatch):
    folder = tmp_path / "a <run>"
    folder.mkdir()
    page = watching.write_page(folder, "preview.png")
    text = page.read_text()
    assert page == folder / "watch.html" and "preview.png" in text and "<title>a &lt;run&gt;</title>" in text
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert watching.open_page(page) and opened == [page.as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda address: (_ for _ in ()).throw(webbrowser.Error("none")))
    assert not watching.open_page(page)


def test_losses_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((0, 3), (2, 4)):  # killed after its third iteration, and resumed from the second
        with watching.TensorBoard(tmp_path, first) as board:
            for iteration in range(first + 1, last + 1):
                board(report(iteration))
    found = EventAccumulator(str(tmp_path)).Reload()
    assert set(found.Tags()["scalars"]) == {"loss", "terms/style", "learning_rate", "cell_steps_per_second"}
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(i, pytest.approx(2.5 / i)) for i in (1, 2, 3, 4)]


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'nca-fast\[tensorboard\]'"):
        watching.TensorBoard(tmp_path)
