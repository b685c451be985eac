"""A commit whose wait for the synchronous standby was cancelled is no commit to whoever made it."""

import pytest
from django.db import OperationalError, connection

from ami_headend.core.database_errors import Trouble, trouble_of
from ami_headend.core.postgresql import base

# A warning before PostgreSQL's answer, as when such a wait is cancelled. `make rack` cancels real ones.
WARNED = "DO $$ BEGIN RAISE WARNING 'canceling wait'; END $$"
AT_COMMIT = """
    CREATE FUNCTION pg_temp.told() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE WARNING 'canceling wait'; RETURN NULL; END $$;
    CREATE TEMPORARY TABLE slow (n integer);
    CREATE CONSTRAINT TRIGGER told AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION pg_temp.told();
"""
UNCONFIRMED = "did not confirm"


@pytest.mark.django_db
def test_an_unconfirmed_commit_is_an_error_of_the_statement_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    other = connection.copy()  # outside the transaction of this test
    try:
        with other.cursor() as cursor:
            cursor.execute(WARNED)  # by another function than the one that waits
            monkeypatch.setattr(base, "WAITING", "exec_stmt_raise")
            with pytest.raises(OperationalError, match=UNCONFIRMED) as raised:
                cursor.execute(WARNED)
            assert trouble_of(raised.value) is Trouble.AWAY
            cursor.execute(AT_COMMIT)
            with pytest.raises(OperationalError, match=UNCONFIRMED):
                cursor.execute("INSERT INTO slow VALUES (1)")
            other.set_autocommit(False)
            cursor.execute("INSERT INTO slow VALUES (2)")
            with pytest.raises(OperationalError, match=UNCONFIRMED):
                other.commit()
            cursor.execute("SELECT n FROM slow ORDER BY n")
            assert cursor.fetchall() == [(1,), (2,)]  # they stand here, and may be lost with this server
            other.commit()
    finally:
        other.close()
