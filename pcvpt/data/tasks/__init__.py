"""Facts about the 24 tasks: the table, their label rules and their splits."""
