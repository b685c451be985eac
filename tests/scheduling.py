"""Which worker of pytest-xdist gets which tests: the long ones first, and live stacks beside what needs none.

A live stack waits more than it works, and tests inside of one process work all the time: each worker of even number
prefers the former, the others the latter. Long before short, so that at the end no worker has a long one left alone.
"""

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# What one unit takes, in seconds, alone on two cores; of others a test takes BRIEF_S. Only the order follows from it.
BRIEF_S = 0.1
SECONDS = {
    "tests/pages": 200,
}
# Files of which each test has its stack, or none: they need not be with one worker.
APART = (
    "tests/console/test_any_parameter.py",
    "tests/flows/test_master_key.py",
    "tests/flows/test_restore.py",
    "tests/flows/test_restore_live.py",
    "tests/stateful/",
    "tests/test_backup.py",
    "tests/test_bench.py",
    "tests/test_embedded.py",
)
LIVE = ("tests/flows/", "tests/pages", "tests/server/", "tests/test_commands.py", "tests/test_terminal.py")


class LongestFirst(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests go to one worker, and so do all tests of pages: they share a stack and a browser."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/pages/"):
            return "tests/pages"
        return nodeid if nodeid.startswith(APART) else super()._split_scope(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        prefers_live = int(node.gateway.id.removeprefix("gw")) % 2 == 0
        chosen = max(self.workqueue, key=lambda scope: (scope.startswith(LIVE) == prefers_live, self._seconds(scope)))
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)

    def _seconds(self, scope: str) -> float:
        name = scope.partition("[")[0]
        return SECONDS.get(scope, SECONDS.get(name, BRIEF_S * len(self.workqueue[scope])))
