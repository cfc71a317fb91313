"""Who reads: one Reader protocol, and the ways from files and objects into memory that stand behind it."""
