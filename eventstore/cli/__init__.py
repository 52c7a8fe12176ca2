"""The command line: one module a command group, each command a thin wrapper over a library verb of the same name."""
