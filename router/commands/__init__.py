"""The command line: `serve` (the default) and the other commands.

Modules that take long to import are imported by the commands that need them: `--help`, `--version` and mistakes in the
command line are then answered at once.

Stands on everything. Begin with `table`, which lists the commands.

::

    command  what a command is, and its exit codes      -> nothing
    serving  serve and demo                             -> command
    models   commands about models and their files      -> command
    table    the commands                               -> command serving models
    main     runs the command that a command line names -> command table
"""
