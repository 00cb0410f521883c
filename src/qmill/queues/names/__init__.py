"""Names of queues: their folders, their files, the list of them."""
