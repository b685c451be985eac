"""REST doors of meters: readings, events, places, keys, enrolment. No meter is registered here: import a file for that."""
