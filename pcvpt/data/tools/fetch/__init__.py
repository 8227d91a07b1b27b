"""Getting the data of the 24 tasks: sources, downloads, archives, or what to do by hand."""
