"""REST doors of meters: readings, events, places, keys, enrolment. Meters are added in the console, or by a file."""
