"""The delays before restarts."""

from entrypoints.restarts import Restarts


def test_the_first_restart_is_immediate_and_later_ones_back_off_to_a_limit() -> None:
    restarts = Restarts()
    assert [restarts.delay_after(ran=1) for _ in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]


def test_the_backoff_begins_anew_after_a_long_run() -> None:
    restarts = Restarts(healthy_time=60)
    for _ in range(5):
        restarts.delay_after(ran=59)
    assert [restarts.delay_after(ran=60), restarts.delay_after(ran=1)] == [0, 0.5]
