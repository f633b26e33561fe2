"""What lies in deploy/ can be deployed: it renders, fits the schemas, is hardened, carries no more than it needs."""

import shutil
import subprocess
import sys
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
SERVICES = ("gateway", "inference", "trainer")
KUBERNETES_VERSION = "1.32"


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed, so the manifests cannot be rendered here")
    rendered = subprocess.run(
        [kubectl, "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(rendered.stdout))


def pods(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    deployments = [manifest["spec"]["template"]["spec"] for manifest in manifests if manifest["kind"] == "Deployment"]
    jobs = [
        manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        for manifest in manifests
        if manifest["kind"] == "CronJob"
    ]
    return deployments + jobs


def test_manifests_fit_the_schemas_of_kubernetes(manifests: list[dict[str, Any]]) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def test_schemas_refuse_a_manifest_with_a_misspelt_field() -> None:
    broken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES_VERSION, strict=True)


def test_everything_that_is_needed_is_there(manifests: list[dict[str, Any]]) -> None:
    found = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    assert {
        *(("Deployment", name) for name in SERVICES),
        *(("Service", name) for name in SERVICES),
        ("CronJob", "retrain"),
        ("PodDisruptionBudget", "inference"),
        ("PodDisruptionBudget", "gateway"),
        ("PersistentVolumeClaim", "models"),
    } <= found.keys()
    assert found["Service", "inference"]["spec"]["clusterIP"] == "None"


def test_every_container_is_hardened_and_bounded(manifests: list[dict[str, Any]]) -> None:
    for pod in pods(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= container["resources"].keys()


def test_services_are_probed_by_their_own_protocol(manifests: list[dict[str, Any]]) -> None:
    probes = {
        manifest["metadata"]["name"]: manifest["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
        for manifest in manifests
        if manifest["kind"] == "Deployment"
    }
    assert {"grpc": {"port": 50051}}.items() <= probes["inference"].items()
    assert {"grpc": {"port": 50052}}.items() <= probes["trainer"].items()
    assert probes["gateway"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize("service", SERVICES)
def test_image_copies_only_files_that_exist_and_runs_as_nobody_special(service: str) -> None:
    lines = (DEPLOY / "docker" / f"{service}.Dockerfile").read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert "USER 10001" in lines


TRAINING_LIBRARIES = ("sklearn", "skl2onnx", "onnx", "scipy", "numba")


@pytest.mark.parametrize(
    ("service", "absent"),
    [
        ("inference", TRAINING_LIBRARIES),
        ("gateway", (*TRAINING_LIBRARIES, "onnxruntime", "numpy", "grpc_reflection")),
        ("trainer", ("litestar", "uvicorn", "typer", "rich")),
    ],
)
def test_service_starts_without_what_its_image_lacks(service: str, absent: tuple[str, ...]) -> None:
    program = f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\nimport services.{service}.__main__\n"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


def test_inference_requirements_name_no_training_library() -> None:
    pinned = (ROOT / "requirements" / "inference.txt").read_text()
    assert "onnxruntime==" in pinned
    assert "scikit-learn" not in pinned
    assert "skl2onnx" not in pinned


def test_compose_file_starts_the_three_services_hardened() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(SERVICES) <= compose["services"].keys()
    for name in SERVICES:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve().exists()
