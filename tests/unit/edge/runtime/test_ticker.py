import time

from wasmtime import Config, Engine

from edge.runtime import ticker as subject
from edge.runtime.ticker import Ticker


def new_ticker(tick_s: float = 0.002) -> Ticker:
    config = Config()
    config.epoch_interruption = True
    return Ticker(Engine(config), tick_s)


def until(condition: object, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def test_a_deadline_is_rounded_up_and_counted_from_the_tick_that_the_engine_has_seen() -> None:
    ticker = new_ticker(0.005)
    ticker._ticked = 100.0
    deadlines = (99.0, 100.0, 100.001, 100.0051, 101.0)
    assert [ticker.ticks(deadline) for deadline in deadlines] == [1, 1, 1, 2, 200]
    ticker._ticked = 99.9  # twenty ticks late: they will come all at once, and must not end a call early
    assert ticker.ticks(100.0051) == 22


def test_a_call_that_goes_on_keeps_it_awake_for_ever(monkeypatch: object) -> None:
    monkeypatch.setattr(subject, "_LINGER_S", 0.001)  # type: ignore[attr-defined]
    ticker = new_ticker(0.001)
    with ticker:
        ticked = ticker._ticked
        assert until(lambda: ticker._ticked > ticked + 0.05)
        assert ticker.awake
        with ticker:
            pass
        assert ticker.awake
    assert until(lambda: not ticker.awake)
    ticker.close()


def test_it_sleeps_until_a_call_and_again_some_time_after_the_last(monkeypatch: object) -> None:
    monkeypatch.setattr(subject, "_LINGER_S", 0.01)  # type: ignore[attr-defined]
    ticker = new_ticker()
    assert not ticker.awake
    with ticker:
        assert ticker.awake
        time.sleep(0.03)
        assert ticker.awake  # a call is in flight
    assert until(lambda: not ticker.awake)
    with ticker:
        assert ticker.awake
    ticker.close()


def test_a_late_tick_counts_for_all_that_have_passed() -> None:
    class StallingEngine:
        epochs = 0

        def increment_epoch(self) -> None:
            self.epochs += 1
            if self.epochs == 1:
                time.sleep(0.2)  # a hundred ticks late

    engine = StallingEngine()
    ticker = Ticker(engine, 0.002)  # type: ignore[arg-type]
    with ticker:
        assert until(lambda: engine.epochs >= 1)
        assert until(lambda: engine.epochs > 1)
        assert engine.epochs >= 90 or until(lambda: engine.epochs >= 90, seconds=0.05)
    ticker.close()


def test_closing_ends_the_thread() -> None:
    ticker = new_ticker()
    with ticker:
        pass
    ticker.close()
    assert ticker._thread is not None
    assert not ticker._thread.is_alive()
    new_ticker().close()  # one that never woke
