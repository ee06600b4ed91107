"""The manifest for Kubernetes is sound, and fits the images and the router. B-I3"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from router import settings
from router.engine.flags import default_table
from tests.test_docker import DOCKERFILES

FILE = Path(__file__).parents[1] / "docker/kubernetes.yaml"
PARTS: list[dict[str, Any]] = list(yaml.safe_load_all(FILE.read_text()))
POD: dict[str, Any] = PARTS[0]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def test_kubernetes_knows_every_field() -> None:  # B-I3
    pytest.importorskip("kubernetes_validate", reason="not installed: pip install kubernetes-validate")
    program = Path(sys.executable).with_name("kubernetes-validate")
    ended = subprocess.run([program, "--strict", "--quiet", FILE], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


def test_the_pod_has_no_rights_that_it_does_not_need() -> None:  # B-I3
    (user,) = {user for file in DOCKERFILES for user in file.all("USER")}
    context, own = POD["securityContext"], CONTAINER["securityContext"]
    assert context["runAsNonRoot"]
    assert {context[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert (POD["automountServiceAccountToken"], POD["enableServiceLinks"]) == (False, False)


def test_what_the_router_writes_is_on_volumes_and_what_it_needs_is_there() -> None:  # B-I3
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    for file in DOCKERFILES:
        assert {*json.loads(file.all("VOLUME")[0]), "/tmp"} == set(mounts)
        assert CONTAINER["ports"][0]["containerPort"] == int(file.all("EXPOSE")[0])
    claimed = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in POD["volumes"]
        if "persistentVolumeClaim" in volume
    }
    claims = {part["metadata"]["name"] for part in PARTS if part["kind"] == "PersistentVolumeClaim"}
    assert set(claimed.values()) == claims
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in POD["volumes"]}


def test_an_end_has_the_time_that_it_may_take() -> None:  # B-I3
    environ = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
    found, _ = settings.parse(CONTAINER["args"], environ, default_table())
    assert POD["terminationGracePeriodSeconds"] >= found.shutdown_delay + found.shutdown_grace + 10
    probe = CONTAINER["readinessProbe"]
    assert found.shutdown_delay > probe["periodSeconds"], "the pod is out of the Service before it refuses"


def test_probes_ask_what_needs_no_key() -> None:  # B-I3
    paths = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"}
    service = next(part for part in PARTS if part["kind"] == "Service")
    assert service["spec"]["selector"].items() <= PARTS[0]["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]
    # Keys are the operator's: without the secret, the pod says so and does not start.
    assert CONTAINER["envFrom"] == [{"secretRef": {"name": "llama-router"}}]
