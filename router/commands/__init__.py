"""The command line: `serve` (the default) and the other commands.

Modules that take long to import are imported by the commands that need them: `--help`, `--version` and mistakes in the
command line are then answered at once.

Stands on everything. Begin with `table`, which lists the commands.

::

    command  what a command is, and its exit codes      -> nothing
    serving  serve, demo and service                    -> command
    models   commands about models and their files      -> command
    clients  commands against a router that runs        -> nothing
    table    the commands                               -> command serving models clients
    main     runs the command that a command line names -> command table
"""
