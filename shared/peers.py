"""One side of the conversation between two replicas, the same on both: who lacks what, and what to send now.

    change ──> lane ──pump──> Push / Offer / Setting ──Ack──> gone from the lane
    Digest ──vector──> what they lack goes into the lane
           └─roots still differ, vectors do not──> Walk ──> ... ──> Pull, and what they lack

Nothing here waits, saves or publishes; the cores do. ``replica`` holds only what is durable on our own side:
what we send or say that we hold must still be so after a power cut.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shared.lanes import Lane
from shared.summaries import Replica, Tree
from shared.sync import (
    ENTRY_BYTES_MAX,
    NAMES_BYTES_MAX,
    ORIGINS_MAX,
    PUSH_BYTES_MAX,
    UNDECIDED,
    Ack,
    Branch,
    Digest,
    Leaf,
    Offer,
    Offered,
    Part,
    Pull,
    Push,
    Setting,
    SyncStrategy,
    Walk,
    fitting,
)
from shared.versions import PRINT_BYTES, Entry, Mark, covers, packed_entry

BRANCHES_MAX = 64
WINDOW_MAX = 256
PRIORITY_REPAIR = 4
DEAD_RETRY_S = 600.0  # a comparison shows that a dead letter is still missing there: try again so often


@dataclass(slots=True)
class Heard:
    """Which numbered messages of one sender were taken in: a contiguous prefix, and a window beyond it.

    A number that is left out for a whole window was given up by its sender, who sends nothing twice under
    the same number after that.
    """

    life: int = 0
    upto: int = 0
    beyond: set[int] = field(default_factory=set)

    @property
    def mark(self) -> Mark:
        """Everything up to here was heard."""
        return self.life, self.upto

    def is_new(self, life: int, number: int) -> bool:
        """True once per message; false also for all of an earlier life."""
        if life < self.life:
            return False
        if life > self.life:
            self.life, self.upto = life, 0
            self.beyond.clear()
        if number <= self.upto or number in self.beyond:
            return False
        self.beyond.add(number)
        if len(self.beyond) > WINDOW_MAX:
            self.upto = min(self.beyond) - 1
        while self.upto + 1 in self.beyond:
            self.upto += 1
            self.beyond.remove(self.upto)
        return True


@dataclass(slots=True)
class Peer:
    """``names``: the entries that both share. ``settings``: prefix of what travels as retained facts.

    ``life``: our term or epoch.
    """

    replica: Replica
    lane: Lane
    names: set[str]
    life: int
    settings: str
    heard: Heard = field(default_factory=Heard)
    pulled: set[str] = field(default_factory=set)
    summary: tuple[int, int, Tree] | None = None

    # What we hold -----------------------------------------------------------------------------------

    def tree(self) -> Tree:
        """The summary of what both share, as we hold it."""
        key = (self.replica.changes, len(self.names))
        if self.summary is None or self.summary[:2] != key:
            self.summary = (*key, self.replica.tree(self.names))
        return self.summary[2]

    def digest(self, *, asking: bool, stamp: int, cleared: int = 0, reset: bool = False) -> Digest:
        """What we hold, for the other to compare."""
        tree = self.tree()
        newest = sorted(tree.vector.items(), key=lambda pair: pair[1], reverse=True)[:ORIGINS_MAX]
        return Digest(
            dict(newest),
            tree.root,
            len(tree.names),
            asking=asking,
            stamp=stamp,
            cleared=cleared,
            reset=reset,
        )

    # What they hold ---------------------------------------------------------------------------------

    def same(self, digest: Digest) -> bool:
        """Whether they hold what we hold, and have seen all that we have seen."""
        tree = self.tree()
        return (digest.root, digest.count) == (tree.root, len(tree.names)) and covers(
            digest.vector, tree.vector
        )

    def compare(self, digest: Digest, now: float) -> list[Part]:
        """What they certainly lack goes into the lane. Where vectors can't tell, the answer is the first step
        of a walk; only whoever asked begins one."""
        entries = self.replica.entries
        lacking = [
            name for name in self.names if name in entries and not covers(digest.vector, entries[name].vector)
        ]
        dead = self.lane.dead
        self.repair((one for one in lacking if one not in dead or now - dead[one].at >= DEAD_RETRY_S), now)
        tree = self.tree()
        differs = (digest.root, digest.count) != (tree.root, len(tree.names))
        if digest.asking or lacking or not differs or not covers(tree.vector, digest.vector):
            return []
        return [self._described(("",))]

    def repair(self, names: Iterable[str], now: float) -> None:
        """They lack these, or asked for them: send them whatever the strategy."""
        wanted = list(names)
        for name in wanted:
            if name in self.replica and name in self.names:
                self.pulled.add(name)
                if name not in self.lane.items:
                    self.lane.add(name, PRIORITY_REPAIR, now)
        self.lane.release(wanted, now)

    def walk(self, walk: Walk, now: float) -> list[Part]:
        """Go on with the comparison of the two trees."""
        tree, below, missing = self.tree(), [], []
        for branch in walk.branches[:BRANCHES_MAX]:
            below += self._differing(tree, branch)
        for leaf in walk.leaves[:BRANCHES_MAX]:
            ours = tree.leaves(leaf.prefix)
            self.repair([name for name, print_ in ours.items() if leaf.prints.get(name) != print_], now)
            missing += [name for name, print_ in leaf.prints.items() if ours.get(name) != print_]
        parts: list[Part] = [self._described(tuple(below[:BRANCHES_MAX]))] if below else []
        wanted = fitting(missing)
        return parts + ([Pull(wanted)] if wanted else [])

    def _differing(self, tree: Tree, branch: Branch) -> list[str]:
        ours = tree.children(branch.prefix) or ()
        if len(ours) != len(branch.children) or len(ours) != 16:
            return [branch.prefix]
        return [
            branch.prefix + f"{digit:x}"
            for digit, (mine, their) in enumerate(zip(ours, branch.children, strict=True))
            if mine != their
        ]

    def _described(self, prefixes: tuple[str, ...]) -> Walk:
        """What does not fit one message, the next round finds."""
        tree, branches, leaves = self.tree(), [], []
        room = NAMES_BYTES_MAX
        for prefix in prefixes:
            children = tree.children(prefix)
            if children is None:
                below = tree.leaves(prefix)
                room -= sum(len(name) + PRINT_BYTES + 8 for name in below)
                if room < 0:
                    break
                leaves.append(Leaf(prefix, below))
            else:
                branches.append(Branch(prefix, children))
        return Walk(tuple(branches), tuple(leaves))

    def consider(self, offer: Offer, stamp: int) -> Ack:
        """What of an offer should be pushed."""
        prints = self.replica.prints
        pull = fitting(one.name for one in offer.entries if prints.get(one.name) != one.print)
        return Ack(offer.number, pull=pull, stamp=stamp)

    def acknowledged(self, ack: Ack, now: float) -> list[str]:
        """Names that they hold in their newest state now."""
        self.pulled.update(name for name in ack.pull if name in self.names)
        final = [one for one in ack.refused if one.code != UNDECIDED]
        refused = [(one.name, f"{one.code}: {one.detail}") for one in final]
        later = [one.name for one in ack.refused if one.code == UNDECIDED]
        done = self.lane.acknowledged(ack.number, refused, ack.pull, now, later)
        self.pulled.difference_update(done)
        return done

    # What to send -----------------------------------------------------------------------------------

    def pump(
        self, now: float, forbids: Callable[[str], str], tag_of: Callable[[str], bytes]
    ) -> list[Push | Offer | Setting]:
        """Everything that may leave now. ``forbids``: why a name must not; empty: it may."""
        sent: list[Push | Offer | Setting] = []
        batch: list[Entry] = []
        offered: list[Entry] = []
        for name in self.lane.due(now):
            entry = self.replica.entries.get(name)
            reason = "" if entry is None else forbids(name)
            if entry is None:
                self.lane.drop(name)
            elif reason == UNDECIDED:
                self.lane.defer(name, now)
            elif reason:
                self.lane.bury(name, reason, now)
            elif name.startswith(self.settings):
                number = self.lane.sent((name,), now)
                sent.append(Setting(life=self.life, number=number, entry=entry, tag=tag_of(name)))
            elif entry.traits[2] == SyncStrategy.HYBRID and name not in self.pulled:
                offered.append(entry)
            else:
                batch.append(entry)
        if offered:
            number = self.lane.sent([one.name for one in offered], now)
            sent.append(Offer(number, tuple(map(self._offered, offered))))
        return sent + [self._push(some, now, tag_of) for some in _chunks(batch, tag_of)]

    def _offered(self, entry: Entry) -> Offered:
        return Offered(entry.name, self.replica.prints[entry.name], len(packed_entry(entry)))

    def _push(self, entries: list[Entry], now: float, tag_of: Callable[[str], bytes]) -> Push:
        tags = {one.name: tag for one in entries if (tag := tag_of(one.name))}
        return Push(self.lane.sent([one.name for one in entries], now), tuple(entries), tags)

    def check(self) -> None:
        """Invariants."""
        self.lane.check()
        assert len(self.heard.beyond) <= WINDOW_MAX
        assert self.pulled <= self.names


def _chunks(entries: list[Entry], tag_of: Callable[[str], bytes]) -> list[list[Entry]]:
    """In messages of one chunk each."""
    chunks: list[list[Entry]] = []
    room = 0
    for entry in entries:
        tag = tag_of(entry.name)
        size = len(packed_entry(entry)) + 64 + (len(entry.name) + len(tag) if tag else 0)
        if not chunks or size > room:
            chunks.append([])
            room = max(PUSH_BYTES_MAX, ENTRY_BYTES_MAX)
        chunks[-1].append(entry)
        room -= size
    return chunks
