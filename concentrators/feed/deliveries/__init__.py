"""Deliveries: the rows of a subscription, sent to its consumer: signed webhooks, files in a folder, files by SFTP."""
