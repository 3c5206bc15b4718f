"""From what came off the network to items for the store: checked, timed and packed."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec

from cloud.telemetry.store import (
    LETTER_BYTES_MAX,
    BatchItem,
    Item,
    Letter,
    Position,
    ReportItem,
    StreamKey,
)
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
    if len(samples) > SAMPLES_MAX or not (0 <= batch.epoch <= NUMBER_MAX and 0 <= batch.first <= NUMBER_MAX):
        reason = f"epoch {batch.epoch}, first {batch.first}, {len(samples)} samples; {SAMPLES_MAX} fit"
        return (letter(node, stream, reason, _encoder.encode(batch), at_unix_s),)
    if any(not sample.at_unix_s for sample in samples):  # a device without a clock is taken at ours
        samples = tuple(one if one.at_unix_s else Sample(at_unix_s, one.values) for one in samples)
    reasons = [unfit(sample) for sample in samples]
    dead = tuple(place for place, why in enumerate(reasons) if why) if any(reasons) else ()
    times = [sample.at_unix_s for sample, why in zip(samples, reasons, strict=True) if not why]
    item = BatchItem(
        StreamKey(node, batch.epoch, stream),
        batch.first,
        len(samples),
        min(times, default=at_unix_s),
        max(times, default=at_unix_s),
        _encoder.encode(samples),
        at_unix_s,
        dead,
    )
    return (item, _unfit_letter(item, batch, reasons)) if dead else (item,)


def _unfit_letter(item: BatchItem, batch: TelemetryBatch, reasons: list[str]) -> Letter:
    """What does not fit of a batch; the letter names the first of it."""
    place = item.dead[0]
    more = f", and {len(item.dead) - 1} more" if len(item.dead) > 1 else ""
    said = _encoder.encode([batch.samples[one] for one in item.dead])
    number, key = item.first + place, item.key
    reason = f"sample {number}: {reasons[place]}{more}"
    one = letter(key.node, key.stream, reason, said, item.at_unix_s)
    return replace(one, epoch=key.epoch, first=number, end=number + 1)


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


def listed_in(items: Iterable[Item], epoch: int) -> dict[StreamKey, int]:
    """What a node may still send by itself, from its report in boot ``epoch``: up to where of each stream.
    The present boot goes on; earlier ones end where they ended."""
    reports = (item for item in items if isinstance(item, ReportItem))
    return {one.key: NUMBER_MAX if one.key.epoch == epoch else one.produced for one in reports}


def orphans(positions: Iterable[Position], listed: Mapping[StreamKey, int]) -> tuple[Position, ...]:
    """Those with something outstanding that will not come by itself."""
    return tuple(
        one
        for one in positions
        if one.key.epoch and one.settled < one.produced and one.produced > listed.get(one.key, 0)
    )


def letter(node: str, stream: str, reason: str, payload: bytes, at_unix_s: float) -> Letter:
    """A dead letter of readable form, within its bounds."""
    shown = "".join(char if char.isprintable() else "?" for char in reason[:500])
    return Letter(node, stream, shown, payload[:LETTER_BYTES_MAX], at_unix_s)
