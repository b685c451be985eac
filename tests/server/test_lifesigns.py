"""Signs of life of the web server's processes, through the pipe to their supervisor."""

import os

from ami_headend.server import lifesigns
from ami_headend.server.lifesigns import Lifesigns


def test_signs_come_through_the_pipe_and_a_full_one_stops_nobody() -> None:
    signs = Lifesigns()
    assert signs.read() == set()
    lifesigns.show(signs.write_end)
    assert signs.read() == {os.getpid()}
    for _ in range(100_000):  # the reader sleeps for half a day
        lifesigns.show(signs.write_end)
    assert signs.read() == {os.getpid()}
    assert signs.read() == set()
    os.close(signs.read_end)
    lifesigns.show(signs.write_end)  # nor does one whose reader is gone
    os.close(signs.write_end)
