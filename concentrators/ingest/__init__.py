"""From a posted body to a verdict for each of its frames."""
