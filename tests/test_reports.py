"""Tests whose words are no text: their reports and warnings reach the terminal from other processes all the same."""

import warnings

import execnet
import pytest
from xdist.remote import serialize_warning_message

ODD, ESCAPED = "a\udcff \u00e9", "a\\udcff \u00e9"


def test_a_report_can_be_sent(pytestconfig):
    report = pytest.TestReport("x", ("x", 1, ODD), {ODD: 1}, "failed", ODD, "call", [("stdout", ODD)])
    with pytest.raises(execnet.DumpError):
        execnet.dumps(ODD)
    sent = pytestconfig.hook.pytest_report_to_serializable(config=pytestconfig, report=report)
    got = pytestconfig.hook.pytest_report_from_serializable(
        config=pytestconfig, data=execnet.loads(execnet.dumps(sent))
    )
    assert (got.longrepr, got.sections, got.outcome) == (ESCAPED, [("stdout", ESCAPED)], "failed")


@pytest.mark.filterwarnings("always")
def test_a_warning_can_be_sent(pytestconfig):
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn(ODD, stacklevel=1)
    (hook,) = (
        hook.function
        for hook in pytestconfig.hook.pytest_warning_recorded.get_hookimpls()
        if hook.plugin_name.endswith("conftest.py")
    )
    hook(caught[0])
    sent = execnet.loads(execnet.dumps(serialize_warning_message(caught[0])))
    assert sent["message_args"] == (ESCAPED,) and sent["message_str"] == ESCAPED
