"""The head-end on one machine: embedded services, demo, up. Never imported by the rest."""
