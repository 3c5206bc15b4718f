"""What applications ask of the coordinator, and the replies."""

from cloud.federated.events import Asker
from shared.core import Effect, Publish
from shared.messages import Reply, ReplyStatus
from shared.topics import APP_REPLY
from shared.wire import packed

DETAIL_CHARS_MAX = 500


class Refusal(Exception):
    """Why a request changes nothing. ``code`` travels in the reply."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def reply(asker: Asker, body: object) -> Effect:
    """The one answer."""
    return Publish(APP_REPLY.at(app=asker.app), Reply(correlation=asker.correlation, body=packed(body)))


def refused(asker: Asker, code: str, detail: str) -> Effect:
    """Nothing has happened, and this is why."""
    said = Reply(
        correlation=asker.correlation,
        status=ReplyStatus.REFUSED,
        code=code,
        detail=detail[:DETAIL_CHARS_MAX],
    )
    return Publish(APP_REPLY.at(app=asker.app), said)
