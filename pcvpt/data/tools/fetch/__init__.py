"""Getting the data of the 24 tasks: sources, downloads, archives, and steps for the user."""
