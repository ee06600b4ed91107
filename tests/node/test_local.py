from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from router.engine import discovery
from router.engine.discovery import Engine
from router.errors import LoadFailed
from router.node.devices import Devices
from router.node.interface import Launch, Node
from router.node.local import LocalNode
from router.node.run_directory import MARK
from router.scheduling.resources import Device
from tests.engine.test_engines import program
from tests.node.rig import FAKE_COMMAND, ask
from tests.routers import ENGINES

ENGINE = Engine("llama-server", FAKE_COMMAND, {"LD_LIBRARY_PATH": "/engine"})
ENVIRON = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home",
    "LLAMA_ARG_THREADS": "3",
    "LLAMA_API_KEY": "the router's",
    "LLAMA_ARG_HOST": "0.0.0.0",
    "LLAMA_ARG_DEVICE": "CUDA1",
    "LLAMA_ARG_API_KEY_FILE": "x",
    "LLAMA_ARG_API_PREFIX": "/x",
    "LLAMA_ARG_MODELS_DIR": "x",
    "LLAMA_ARG_MODEL": "x",
    "LLAMA_ARG_SSL_KEY_FILE": "x",
    "LLAMA_ROUTER_ENGINE": "x",
    "LLAMA_SERVER_PATH": "x",
    "AIP_HTTP_PORT": "1",
}


@pytest.fixture
def devices() -> Devices:
    return Devices({})


@pytest.fixture
async def node(folder: Path, devices: Devices) -> AsyncIterator[LocalNode]:
    node = LocalNode(ENGINE, devices, folder / "run", ENVIRON)
    yield node
    node.close()
    assert [path.name for path in (folder / "run").iterdir()] == ["lock"]


# B-P6
async def test_arguments_and_environment_of_a_child(node: Node, folder: Path) -> None:
    env = (("MINE", "1"), ("LLAMA_API_KEY", "not mine"), ("LLAMA_ARG_DEVICE", "CUDA1"))
    launch = Launch("a/b:Q4", ("--threads", "1"), (), env=env)
    one, two = await node.spawn(launch), await node.spawn(launch)
    await one.ready()
    process = psutil.Process(one.pid)
    argv, environ = process.cmdline(), process.environ()
    assert argv[-6:] == ["--threads", "1", "--host", one.address.path, "--alias", "a/b:Q4"]
    assert one.key not in " ".join(argv)
    assert one.key != two.key
    assert environ.pop("LLAMA_API_KEY") == one.key
    assert environ.pop(MARK).startswith(str(folder / "run"))
    assert environ.pop("LLAMA_SERVER_ROUTER_PORT")
    left = {"PATH": "/usr/bin:/bin", "HOME": "/home", "LLAMA_ARG_THREADS": "3"}
    assert environ.items() >= {**left, "MINE": "1", "LD_LIBRARY_PATH": "/engine"}.items()
    assert not environ.keys() & (ENVIRON.keys() - left.keys())
    assert Path(str(one.address.path)).parent.stat().st_mode & 0o077 == 0
    assert (await ask(one, "/props")).status_code == 200
    await one.stop()
    await two.stop()


async def test_a_child_gets_the_division_that_was_booked(node: Node) -> None:
    child = await node.spawn(Launch("m", (), (), layer_counts=(3, 14)))
    argv: list[str] = []
    while not argv:  # it is empty for a moment while the program begins
        argv = psutil.Process(child.pid).cmdline()
        await asyncio.sleep(0)
    assert argv[argv.index("--tensor-split") + 1] == "3,14"
    await child.stop()


# B-P6
async def test_the_key_is_needed(node: Node) -> None:
    child = await node.spawn(Launch("m", (), ()))
    await child.ready()
    transport = httpx.AsyncHTTPTransport(uds=child.address.path, verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://child") as client:
        assert (await client.get("/props")).status_code == 401
    await child.stop()


async def test_probe_reads_every_device(node: Node, devices: Devices) -> None:
    for expected in ({}, {"local/RAM": 2**60}):
        assert tuple(reading.device for reading in await node.probe(expected)) == devices.list()


def test_reprs_show_the_folder_and_the_devices(node: LocalNode, folder: Path) -> None:
    assert repr(node) == f"<LocalNode {node._run.folder}>"
    assert repr(node._run) == f"<RunDirectory {node._run.folder}>"
    assert repr(node._devices) == "<Devices local/RAM>"
    assert repr(node._watchdog) == "<Watchdog 0 process groups>"
    assert repr(node._readahead) == "<ReadAhead idle>"


SECRETS = {
    "HF_TOKEN": "hf_1",
    "HUGGING_FACE_HUB_TOKEN": "hf_2",
    "HF_HUB_TOKEN": "hf_3",
    "OPENAI_API_KEY": "k",
    "AWS_ACCESS_KEY_ID": "k",
    "AWS_SECRET_ACCESS_KEY": "k",
    "AWS_SESSION_TOKEN": "k",
    "GOOGLE_APPLICATION_CREDENTIALS": "/x",
    "PGPASSWORD": "k",
    "MYSQL_PWD": "k",
    "GITHUB_PAT": "k",
    "SSH_AUTH_SOCK": "/x",
    "DATABASE_URL": "postgres://user:secret@host/db",
    "https_proxy": "http://user:secret@proxy:3128",
    "LLAMA_ROUTER_ADMIN_KEY": "k",
}
HARMLESS = {
    "LANG": "C",
    "PWD": "/",
    "TOKENIZERS_PARALLELISM": "0",
    "LLAMA_ARG_IMAGE_MAX_TOKENS": "512",
    "KEYMAP": "de",
    "http_proxy": "http://proxy:3128",
}


@pytest.mark.parametrize("words", [("--model", "x.gguf"), ("--spec-draft-hf", "user/draft"), ("--hf-repo", "user/m")])
async def test_secrets_of_the_router_reach_only_what_needs_them(  # B-T7 B-H6
    words: tuple[str, ...], folder: Path, devices: Devices
) -> None:
    node = LocalNode(ENGINE, devices, folder / "run", {"PATH": "/usr/bin:/bin", **SECRETS, **HARMLESS})
    child = await node.spawn(Launch("m", words, (), env=(("MY_TOKEN", "given by a preset"),)))
    await child.ready()
    environ = psutil.Process(child.pid).environ()
    await child.stop()
    node.close()
    opens_the_hub = set() if words[0] == "--model" else {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "https_proxy"}
    assert environ.keys() & SECRETS.keys() == opens_the_hub
    assert environ.items() >= {**HARMLESS, "MY_TOKEN": "given by a preset"}.items()


@pytest.mark.parametrize("name", ["fake", *ENGINES])
async def test_without_a_place_for_sockets_children_listen_on_loopback(  # B-P10
    tiny_models: Path, tmp_path: Path, devices: Devices, name: str
) -> None:
    """They have the same key, and nobody without it is answered."""
    engine = ENGINE if name == "fake" else discovery.find(ENGINES[name](), os.environ)
    root = tmp_path / ("x" * 100)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_")}
    node = LocalNode(engine, devices, environ=environ, roots=[root])
    try:
        launch = Launch("m", ("--model", str(tiny_models / "tiny-a.gguf"), "--ctx-size", "256"), ())
        children = [await node.spawn(launch) for _ in range(2)]
        for child in children:
            await child.ready()
            assert (child.address.path, child.address.host) == (None, "127.0.0.1")
            url = f"http://127.0.0.1:{child.address.port}/v1/models"
            async with httpx.AsyncClient() as client:
                assert (await client.get(url, headers={"Authorization": f"Bearer {child.key}"})).status_code == 200
                if name != "fake":
                    assert (await client.get(url.replace("/v1/models", "/props"))).status_code == 401
            assert psutil.Process(child.pid).environ()[MARK].startswith(str(root))
        assert children[0].address != children[1].address
        for child in children:
            await child.stop()
    finally:
        node.close()
    assert [path.name for path in root.iterdir()] == ["lock"]


async def test_an_engine_that_takes_its_time_to_name_its_flags_holds_up_nobody(
    folder: Path, tmp_path: Path, devices: Devices
) -> None:
    """The file of a model's own engine was replaced while the model waited in the queue."""
    go = tmp_path / "go"
    path = program(tmp_path / "llama-server", more=f"until [ -e {go} ]; do sleep 0.01; done")
    gpu = Device("local", "CUDA0", "gpu", 1 << 30)
    node = LocalNode(ENGINE, devices, folder / "run", ENVIRON, margins={gpu.key: 1 << 30})
    spawn = asyncio.create_task(node.spawn(Launch("m", (), (gpu,), engine=str(path))))
    await asyncio.sleep(0.1)
    assert not spawn.done()
    go.touch()
    await (await spawn).stop()
    node.close()


async def test_a_start_that_fails_leaves_no_template(folder: Path, devices: Devices) -> None:
    node = LocalNode(ENGINE, devices, folder / "run", ENVIRON)
    for engine in ("/no/such/engine", "/dev/null"):
        with pytest.raises(LoadFailed):
            await node.spawn(Launch("m", (), (), template="{{ x }}", engine=engine))
    assert not [*(folder / "run").glob("*/*.jinja")]
    node.close()
