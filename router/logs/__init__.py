"""What the router writes for people and their programs: the log, and the lines on stderr.

Stands on redaction alone. Begin with `lines`: the router never waits for a reader, so lines that are not read are lost,
counted and told. Then `formats`: what a line may hold. `streams` is what `commands` calls. All other modules use
`logging`; what a line belongs to is given with it: `extra={"model": name}`, and `fields`, a mapping of what a program
would search for. The request id needs no argument (`request_ids`).

::

    letters      PURE: text as one line that a terminal can be shown   -> nothing
    request_ids  which request the code that runs now works for        -> nothing
    formats      records of the log as lines: text, or JSON            -> letters request_ids
    lines        lines on their way to a descriptor, which may be slow -> formats
    streams      where the log goes: stderr or a file, opened again    -> formats lines
"""
