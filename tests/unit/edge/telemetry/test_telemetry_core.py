"""Samples leave in order, each once, and a full store forgets the oldest and says how many."""

from hypothesis import given
from hypothesis import strategies as st

from edge.telemetry.core import ReadSample, SampleRead, Telemetry
from shared.core import Failed, LinkDown, LinkUp, Publish, Tick
from shared.messages import Sample
from tests.transcript import Transcript


def sample(number: int) -> SampleRead:
    return SampleRead(Sample(float(number), {"x": float(number)}))


def test_samples_wait_for_the_link_and_leave_as_batches():
    core = Telemetry("n1", 7, interval_s=10.0, batch_max=3, linger_s=30.0)
    story = Transcript("telemetry/waits-for-the-link", core).at(0.0, Tick())
    for number in range(4):
        story.at(number + 1.0, sample(number))
    story.at(10.0, Tick()).at(11.0, LinkUp(resumed=False)).until(45.0).at(46.0, LinkDown()).matches()


def test_a_reading_that_fails_is_counted_and_the_next_one_comes():
    core = Telemetry("n1", 7, interval_s=1.0)
    assert core.step(Tick(), 0.0) == [ReadSample()]
    core.step(Failed(ReadSample(), "no /proc"), 0.0)
    assert core.failures == 1
    assert core.step(Tick(), 1.0) == [ReadSample()]


@given(
    st.lists(st.sampled_from(["sample", "tick", "up", "down"]), max_size=80),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_what_is_sent_and_what_was_dropped_is_everything(history, batch_max, kept_max):
    core = Telemetry("n1", 7, batch_max=batch_max, kept_max=kept_max, linger_s=1.0)
    made, sent, now = 0, [], 0.0
    for what in history:
        now += 0.4
        event = {"tick": Tick(), "up": LinkUp(False), "down": LinkDown()}.get(what)
        if event is None:
            event, made = sample(made), made + 1
        for effect in core.step(event, now):
            if isinstance(effect, Publish):
                batch = effect.message
                sent += range(batch.first, batch.first + len(batch.samples))
                assert [one.at_unix_s for one in batch.samples] == [
                    float(number) for number in range(batch.first, batch.first + len(batch.samples))
                ]
        core.check()
    assert sent == sorted(set(sent))
    assert len(sent) + core.dropped + len(core.samples) == made
