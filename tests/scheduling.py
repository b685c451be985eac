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
    "tests/flows/test_commands_flow.py": 120,
    "tests/test_bench.py::test_every_part_measures_and_tells": 110,
    "tests/flows/test_simulate.py": 85,
    "tests/test_growth.py::test_growth_is_measured_and_goes_on_where_it_was": 70,
    "tests/test_supervision.py": 60,
    "tests/test_commands.py": 55,
    "tests/server/test_supervisor.py": 50,
    "tests/flows/test_workers.py": 45,
    "tests/test_doors.py": 45,
    "tests/test_terminal.py": 45,
    "tests/flows/test_alerts_flow.py": 40,
    "tests/flows/test_poisoned.py": 40,
    "tests/test_households.py": 40,
    "tests/test_doctor.py": 35,
    "tests/console/test_every_page.py": 35,
    "tests/upgrade/test_upgrade.py": 35,
    "tests/flows/test_outages.py": 30,
    "tests/stateful/test_stateful.py::test_any_order_of_things": 30,
    "tests/flows/test_crashes.py": 30,
    "tests/flows/test_secrets.py": 30,
    "tests/flows/test_database_role.py": 30,
    "tests/flows/test_shipments.py": 30,
    "tests/flows/test_restore.py::test_a_backup_is_drilled_and_restored_by_commands": 30,
    "tests/flows/test_doors.py": 30,
    "tests/flows/test_master_key.py::test_a_rotation_waits_for_who_provisions": 30,
    "tests/flows/test_restore.py::test_nothing_is_forgotten_over_a_restore": 26,
    "tests/flows/test_restore_live.py::test_killed_anywhere_the_same_words_finish_it": 25,
    "tests/console/test_any_parameter.py::test_no_field_of_a_form_is_a_fault": 25,
    "tests/concentrators/ingest/test_enrolment_sweep.py": 22,
    "tests/server/test_troubles.py": 20,
    "tests/console/test_any_parameter.py::test_no_parameter_of_a_page_is_a_fault": 20,
    "tests/flows/test_master_key.py::test_workers_are_killed_during_a_rotation": 20,
    "tests/test_admin.py": 20,
    "tests/server/test_deadlines.py": 20,
    "tests/server/test_stalled_clients.py": 20,
    "tests/alerts/test_history.py": 20,
    "tests/flows/test_restore_live.py::test_what_was_acknowledged_is_there_after_a_restore_beside_live_processes": 18,
    "tests/flows/test_restore.py::test_a_master_key_version_is_kept_while_a_backup_needs_it": 18,
    "tests/concentrators/failures/test_queries.py": 16,
    "tests/test_stored_times.py": 15,
    "tests/test_backup.py::test_a_new_machine_is_restored_with_the_embedded_database": 15,
    "tests/flows/test_restore_live.py::test_ids_of_uplinks_that_are_lost_never_come_again": 15,
    "tests/vectors/test_check_frame.py": 15,
    "tests/vectors/test_vectors.py": 12,
    "tests/test_reference_meter.py": 12,
    "tests/console/test_any_parameter.py::test_no_number_in_an_address_is_a_fault": 10,
    "tests/stateful/test_stateful.py::test_an_act_between_any_two_statements_of_a_verification": 10,
    "tests/console/test_any_parameter.py::test_a_nul_is_refused_in_words_wherever_it_stands": 6,
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
    "tests/test_growth.py",
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
