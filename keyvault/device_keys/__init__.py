"""Device keys: provisioning, epochs, inventory, agreement, shipments, export, and commands sealed under them."""
