"""From what came off the network to items for the store: checked, timed and packed."""

from dataclasses import replace

import msgspec

from cloud.telemetry.store import LETTER_BYTES_MAX, BatchItem, Item, Letter, ReportItem, StreamKey
from shared.ids import is_id
from shared.messages import Sample, StreamsReport, TelemetryBatch
from shared.ranges import union
from shared.samples import unfit

SAMPLES_MAX = 1000  # of one batch
NUMBER_MAX = 1 << 62  # what a database's integer holds, with room
STREAMS_MAX = 1000  # of one report
_encoder = msgspec.msgpack.Encoder()


def batch_items(node: str, stream: str, batch: TelemetryBatch, at_unix_s: float) -> tuple[Item, ...]:
    """A batch, and a dead letter for the samples of it that do not fit."""
    samples = batch.samples
    if not samples:
        return ()
    if not _numbers_fit(batch) or len(samples) > SAMPLES_MAX:
        reason = f"epoch {batch.epoch}, first {batch.first}, {len(samples)} samples; {SAMPLES_MAX} fit"
        return (letter(node, stream, reason, _encoder.encode(batch), at_unix_s),)
    reasons = {place: why for place, sample in enumerate(samples) if (why := unfit(sample))}
    timed = [_timed(sample, at_unix_s) for sample in samples]
    times = [sample.at_unix_s for place, sample in enumerate(timed) if place not in reasons] or [at_unix_s]
    item = BatchItem(
        key=StreamKey(node, batch.epoch, stream),
        first=batch.first,
        count=len(samples),
        at_min_unix_s=min(times),
        at_max_unix_s=max(times),
        samples=_encoder.encode(timed),
        at_unix_s=at_unix_s,
        dead=tuple(reasons),
    )
    if not reasons:
        return (item,)
    place, reason = next(iter(reasons.items()))
    more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    said = _encoder.encode([samples[one] for one in reasons])
    dead = letter(node, stream, f"sample {batch.first + place}: {reason}{more}", said, at_unix_s)
    return (item, replace(dead, epoch=batch.epoch, first=batch.first + place, end=batch.first + place + 1))


def report_items(node: str, report: StreamsReport, at_unix_s: float) -> tuple[Item, ...]:
    """What a device says of its streams; what it can't mean is left out."""
    items: list[Item] = []
    for one in report.streams[:STREAMS_MAX]:
        ranges = (*one.dropped, *one.lost)
        ends = (one.epoch, one.produced, *(end for _, end in ranges))
        sound = all(0 <= number <= NUMBER_MAX for number in ends) and all(first >= 0 for first, _ in ranges)
        if sound and one.epoch > 0 and is_id(one.stream):
            items.append(
                ReportItem(
                    key=StreamKey(node, one.epoch, one.stream),
                    produced=one.produced,
                    at_unix_s=at_unix_s,
                    dropped=union((), one.dropped),
                    lost=union((), one.lost),
                    grade=one.grade,
                )
            )
    return tuple(items)


def letter(node: str, stream: str, reason: str, payload: bytes, at_unix_s: float) -> Letter:
    """A dead letter of readable form, within its bounds."""
    shown = "".join(char if char.isprintable() else "?" for char in reason[:500])
    return Letter(node, stream, shown, payload[:LETTER_BYTES_MAX], at_unix_s)


def _numbers_fit(batch: TelemetryBatch) -> bool:
    return 0 <= batch.epoch <= NUMBER_MAX and 0 <= batch.first <= NUMBER_MAX


def _timed(sample: Sample, at_unix_s: float) -> Sample:
    """A device without a clock is taken at ours."""
    return sample if sample.at_unix_s else Sample(at_unix_s, sample.values)
