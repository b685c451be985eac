"""What ought to come of the word of concentrators: the part of the model that knows sums, and for whom they speak."""

from dataclasses import dataclass, field

from tests.stateful.entities import ACCEPTABLE, Key, Kid, Sent

SumPlace = tuple[int, str, int]  # concentrator, register, Unix second of the start


def is_usable(keys: dict[Kid, Key], title: bytes) -> bool:
    """Whether a meter has a key by which its concentrator may read it."""
    return any(key.state in ACCEPTABLE and key.scheme == "hop" for (owner, _), key in keys.items() if owner == title)


@dataclass
class SaidSums:
    """Sums as concentrators say them: under which epoch and counter, value, meters, and the uplink that brought it."""

    standing: dict[SumPlace, tuple[tuple[int, int], int, int, int]] = field(default_factory=dict)

    def take_over(self, sent: Sent, concentrator: int, uplink_id: int) -> None:
        """Let the sums of a frame stand where none under a higher epoch and counter does."""
        under = sent.epoch, sent.counter
        for one in sent.sums:
            place = concentrator, one.register, one.start_s
            if place not in self.standing or self.standing[place][0] < under:
                self.standing[place] = under, one.value, one.meters, uplink_id

    def brought(self, sent: Sent, concentrator: int) -> set[int]:
        """The uplinks that brought what stands in the places of a frame's sums, its own or those before which it gave
        way; none where one of its sums never stood.
        """
        found = [self.standing.get((concentrator, one.register, one.start_s)) for one in sent.sums]
        return (
            {one[3] for one in found if one}
            if all(one and one[0] >= (sent.epoch, sent.counter) for one in found)
            else set()
        )
