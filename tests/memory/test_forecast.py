"""What a model would take, by the command line and over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from router.memory import forecast
from router.memory.demand import CUDA_CONTEXT_BYTES
from router.scheduling.snapshot import Phase, Resident, Snapshot
from tests.conftest import Starter
from tests.memory.rig import MIB, TRAINED, Estimators, Specs, gpus
from tests.routers import ENGINES
from tests.waiting import until


def run_estimate(*argv: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "router", "estimate", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)


def test_the_shares_add_up(estimator: Estimators, spec: Specs) -> None:  # B-D1
    one = estimator(gpus(150, 150))
    found = forecast.forecast(one, spec("--ctx-size", str(TRAINED)), one.empty)
    assert found.devices
    for share in (*found.devices, found.host):
        assert share.weights + share.kv + share.compute + share.fixed == share.total
    need = one.need(spec("--ctx-size", str(TRAINED)))
    assert need.estimate
    assert sum(share.kv for share in (*found.devices, found.host)) == pytest.approx(need.estimate.kv, abs=2)
    assert all(share.fixed == CUDA_CONTEXT_BYTES for share in found.devices)
    assert sum(share.total for share in found.devices) == need.demand.split + len(found.devices) * need.demand.fixed


def test_forecast_names_the_models_that_would_go(estimator: Estimators, spec: Specs) -> None:
    one = estimator(gpus(200))
    held = {"n/CUDA0": one.empty.readings[0].device.total - 10 * MIB}

    def verdict(*residents: Resident, limit: int = 0) -> tuple[str, tuple[str, ...]]:
        now = Snapshot(one.empty.readings, residents, limit, one.empty.margins)
        found = forecast.forecast(one, spec(), now)
        return found.verdict, found.evicts

    assert verdict() == ("It fits now.", ())
    assert verdict(Resident("a", held, Phase.IDLE)) == ("It fits once these idle models have gone: a.", ("a",))
    assert verdict(Resident("a", held, Phase.BUSY))[1] == ("a",)
    assert verdict(Resident("a", held, Phase.IDLE, pinned=True))[0].startswith("It would wait: pinned")


def test_what_does_not_fit_is_refused_with_the_numbers(estimator: Estimators, spec: Specs) -> None:  # B-S12
    one = estimator(gpus(30))
    found = forecast.forecast(one, spec("--ctx-size", str(TRAINED), "--n-gpu-layers", "all"), one.empty)
    assert not found.fits
    assert "it needs" in found.verdict
    assert 0 < found.max_context < found.context


def test_file_is_estimated_as_json(tiny_models: Path) -> None:
    engine = ENGINES["llama-server"]()
    answer = run_estimate(str(tiny_models / "tiny-b.gguf"), "--engine", engine, "--ctx-size", "4096", "--json")
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found.keys() >= {"devices", "host", "source", "max_context"}
    assert found["host"].keys() == {"name", "weights", "kv", "compute", "fixed", "total"}
    assert (found["source"], found["context"], found["devices"]) == ("engine", 4096, [])


def test_model_of_the_catalog_is_estimated_as_a_table(tiny_models: Path) -> None:
    answer = run_estimate("tiny-a", "--engine", "embedded", "--models-dir", str(tiny_models), "--port", "1")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[0].split() == ["device", "weights", "kv", "compute", "fixed", "total"]
    assert answer.stdout.splitlines()[-1] == "It fits now."


def test_the_running_router_knows_who_would_go(routers: Starter, tiny_models: Path) -> None:
    router = routers("--engine", "embedded", "--models-dir", str(tiny_models), "--models-max", "1", "--api-key", "k")
    router.client.headers["x-api-key"] = "k"
    assert router.chat("tiny-a").status_code == 200
    port = router.url.rpartition(":")[2]
    answer = run_estimate(
        "tiny-b", "--engine", "embedded", "--models-dir", str(tiny_models), "--port", port, "--api-key", "k"
    )
    assert answer.stdout.splitlines()[-1] == "It fits once these idle models have gone: tiny-a."
    assert router.status("tiny-a") == "loaded"
    assert router.client.get("/models/estimate", params={"model": "tiny-b"}).json()["evicts"] == ["tiny-a"]


@pytest.mark.parametrize("host", ["::1", "{folder}/r.sock", "https"])
def test_the_running_router_is_found(host: str, routers: Starter, tiny_models: Path, tmp_path: Path) -> None:
    there = ["--host", host.format(folder=tmp_path)]
    if host == "https":
        key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
        there = ["--ssl-key-file", key, "--ssl-cert-file", certificate]
        request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other"]
        subprocess.run(["openssl", *request, "-keyout", key, "-out", certificate], capture_output=True, check=True)
    (tmp_path / "p.ini").write_text("[tiny-a]\nload-on-startup = on\n")
    common = ["--engine", "embedded", "--models-dir", str(tiny_models)]
    listens = [f"127.0.0.1,{word}" if word.endswith(".sock") else word for word in there]
    router = routers(*common, "--models-preset", str(tmp_path / "p.ini"), "--models-max", "1", *listens)
    until(lambda: "tiny-a: ready" in router.log)
    answer = run_estimate("tiny-b", *common, *there, "--port", router.url.rpartition(":")[2])
    assert answer.stdout.splitlines()[-1] == "It fits once these idle models have gone: tiny-a.", answer.stderr


def test_the_listing_shows_the_need_of_models_that_do_not_run(routers: Starter, tiny_models: Path) -> None:  # B-C2
    router = routers("--engine", "embedded", "--models-dir", str(tiny_models))
    memory = router.listing()["tiny-c"]["memory"]
    assert memory["total"] == memory["host"] > 30 * MIB
    assert memory["source"] == "header"
    assert router.loads() == 0


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ((), 2, "name a model or a file"),
        (("gone",), 1, "no model 'gone'"),
        (("gone.gguf",), 2, "there is no file gone.gguf"),
    ],
)
def test_wrong_arguments_end_with_one_line(argv: tuple[str, ...], code: int, said: str, tiny_models: Path) -> None:
    answer = run_estimate(*argv, *(["--models-dir", str(tiny_models), "--port", "1"] if argv else []))
    assert (answer.returncode, answer.stdout) == (code, "")
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
