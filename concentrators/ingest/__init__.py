"""How a posted body becomes readings: received, dispatched to a worker, gathered, decided, stored."""
