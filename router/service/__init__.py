"""`llama-router service`: this user's router as a service of his systemd, which starts it at each login.

The one idea: a service runs with the options of the command line that installs it, in the same folder and with the
same `PATH`, so that it serves what the router served when it was tried in a terminal. Keys never go into the unit: it
names a file for them. Units for all users of a machine are in `presets/systemd`, and are copied by hand.

Stands on `plan` and `engine`. Begin with `command`.

::

    unit     PURE: the text of the unit                  -> nothing
    systemd  the user's systemd: where units are, orders -> nothing
    command  `service install`, `show` and `uninstall`   -> unit systemd
"""
