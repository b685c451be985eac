"""The protection schemes, each in turn with ccm: frames/s and CPU."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench import measure
from bench.measure import SystemRun
from bench.parts import Bench, Sizes
from bench.scheme_keys import KINDS, MIXED
from keyvault.schemes.sealed import SealedCipher, SealedSealer, parse_sealed
from keyvault.schemes.table import USUAL

GOALS = {"session": 0.9, "mac": 0.9, "hop": 0.8, "agreed": 1.0}  # of ccm, after the first frame
OF_OPENINGS_GOAL = 0.9  # sealed, of twice the bare loop
OF_MEAN_GOAL = 0.9  # a mixed fleet, of the weighted mean of its parts
_SIZE = 1000  # frames an uplink
_OPENINGS = 2000
_PAYLOAD_OCTETS = 58


@dataclass
class SchemeRuns:
    """Pairs of ccm and another scheme in the same round.

    ``first`` is of the other scheme's first frames, one a meter, which no worker has met; those of ccm are met.
    """

    first: tuple[SystemRun, SystemRun]
    rounds: list[tuple[SystemRun, SystemRun]] = field(default_factory=list)

    @property
    def of_ccm(self) -> list[float]:
        return [run.rate / ccm.rate for ccm, run in self.rounds]


@dataclass
class SchemeResults:
    """Every scheme's runs, and HPKE openings a second of a bare loop in one process, beside each round of sealed."""

    runs: dict[str, SchemeRuns] = field(default_factory=dict)
    openings: list[float] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return MIXED in self.runs and bool(self.runs[MIXED].rounds)

    @property
    def of_openings(self) -> list[float]:
        """The rates of sealed, of twice the bare loop."""
        rounds = self.runs["sealed"].rounds
        return [run.rate / (2 * bare) for (_, run), bare in zip(rounds, self.openings, strict=True)]

    @property
    def weighted_mean(self) -> float:
        """What a mixed fleet would do of ccm if each frame took the time that it takes in a fleet of its scheme."""
        return 1 / fmean(1.0 if kind == USUAL else 1 / median(self.runs[kind].of_ccm) for kind in KINDS)


def against_ccm(bench: Bench, concentrators: int, meters_each: int, sizes: Sizes) -> None:
    """Measure ccm and each other scheme in turn, in uplinks of 1,000 frames; then a mixed fleet."""
    results = bench.results.schemes = SchemeResults()

    def beside(kind: str) -> None:
        if kind == "sealed":
            results.openings.append(openings())

    in_pairs(bench, concentrators, meters_each, (*KINDS, MIXED), sizes, results.runs, beside)


def in_pairs(
    bench: Bench,
    concentrators: int,
    meters_each: int,
    kinds: Sequence[str],
    sizes: Sizes,
    results: dict[str, SchemeRuns],
    beside: Callable[[str], None],
) -> None:
    """Measure ccm, the first kind, and each other kind in turn; ``beside`` measures what goes with a round.

    All stand in one database, each with as many concentrators, and go on from interval to interval: it is not emptied.
    """
    with bench.site(concentrators, meters_each, kinds) as site, bench.stack(site) as running:
        parts = {kind: site.part(at * concentrators, (at + 1) * concentrators, 0) for at, kind in enumerate(kinds)}

        def measured(kind: str, count: int) -> SystemRun:
            part = parts[kind]
            sealed = bench.seal(part, count)
            part.next_interval += len(sealed[0]) // meters_each
            return measure.system(part, running, sealed, min(_SIZE, len(sealed[0])))

        def warm(kind: str) -> None:
            for _ in range(sizes.warm_rounds):
                measured(kind, part_size)

        part_size = concentrators * meters_each
        warm(USUAL)
        for kind in kinds[1:]:
            runs = results[kind] = SchemeRuns((measured(USUAL, part_size), measured(kind, part_size)))
            warm(kind)
            for number in range(1, sizes.rounds + 1):
                beside(kind)
                pair = measured(USUAL, sizes.frames), measured(kind, sizes.frames)
                runs.rounds.append(pair)
                bench.say(
                    f"round {number}, {kind}: ccm {pair[0].rate:,.0f}, {kind} {pair[1].rate:,.0f} frames/s, "
                    f"ratio {runs.of_ccm[-1]:.2f}"
                )


def openings() -> float:
    """Return the HPKE openings a second of a bare loop in this process."""
    title, key, private = secrets.token_bytes(8), secrets.token_bytes(32), X25519PrivateKey.generate()
    sealer = SealedSealer(key, title, 1, private.public_key().public_bytes_raw())
    frames = [parse_sealed(sealer.seal(n, bytes(_PAYLOAD_OCTETS))) for n in range(_OPENINGS)]
    open_ = SealedCipher(key, title, 1, private).open_
    began = time.perf_counter()
    for frame in frames:
        open_(frame)
    return _OPENINGS / (time.perf_counter() - began)
