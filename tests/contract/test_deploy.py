"""What lies in deploy/ can be deployed: it renders, fits the schemas, is hardened, carries no more than it needs."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.trainer.settings import Settings as TrainerSettings
from services.transport.settings import SharedSettings
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
SERVICES = ("gateway", "inference", "trainer")
WORKLOADS = {"Deployment", "StatefulSet"}
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
    deployments = [manifest["spec"]["template"]["spec"] for manifest in manifests if manifest["kind"] in WORKLOADS]
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
        ("Deployment", "gateway"),
        ("Deployment", "inference"),
        ("StatefulSet", "trainer"),
        *(("Service", name) for name in SERVICES),
        ("CronJob", "retrain"),
        ("PodDisruptionBudget", "inference"),
        ("PodDisruptionBudget", "gateway"),
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
        if manifest["kind"] in WORKLOADS
    }
    assert {"grpc": {"port": 50051}}.items() <= probes["inference"].items()
    assert {"grpc": {"port": 50052}}.items() <= probes["trainer"].items()


def workload(manifests: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return what describes the pods of a service."""
    (found,) = (each for each in manifests if each["kind"] in WORKLOADS and each["metadata"]["name"] == name)
    spec: dict[str, Any] = found["spec"]
    return spec


def pod_of(manifests: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the pod of a service."""
    pod: dict[str, Any] = workload(manifests, name)["template"]["spec"]
    return pod


def test_gateway_takes_a_rollback_also_when_inference_does_not_serve(manifests: list[dict[str, Any]]) -> None:
    (gateway,) = pod_of(manifests, "gateway")["containers"]
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/livez"


def test_fleet_shares_no_volume_and_each_trainer_has_one_of_its_own(manifests: list[dict[str, Any]]) -> None:
    assert [manifest for manifest in manifests if manifest["kind"] == "PersistentVolumeClaim"] == []
    for name in SERVICES:
        volumes = pod_of(manifests, name)["volumes"]
        assert {tuple(volume.keys() - {"name"}) for volume in volumes} == {("emptyDir",)}, name
    (claim,) = workload(manifests, "trainer")["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    (container,) = pod_of(manifests, "trainer")["containers"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/var/lib/moodfood"} in container["volumeMounts"]


def test_one_trainer_runs_unless_its_database_is_a_server(manifests: list[dict[str, Any]]) -> None:
    assert workload(manifests, "trainer")["replicas"] == 1
    (container,) = pod_of(manifests, "trainer")["containers"]
    assert {"secretRef": {"name": "trainer", "optional": True}} in container["envFrom"]


def test_inference_and_trainer_read_the_models_from_one_bucket(manifests: list[dict[str, Any]]) -> None:
    (models,) = (each for each in manifests if each["kind"] == "ConfigMap")
    assert SharedSettings.model_validate({"models_url": models["data"]["MOODFOOD_MODELS_URL"]}).models_url
    for name in ("inference", "trainer"):
        (container,) = pod_of(manifests, name)["containers"]
        sources = [source.get("configMapRef", source.get("secretRef")) for source in container["envFrom"]]
        assert sources[:2] == [{"name": models["metadata"]["name"]}, {"name": "models", "optional": True}]


def test_version_that_passed_its_rehearsal_fits_into_a_replica(manifests: list[dict[str, Any]]) -> None:
    (inference,) = pod_of(manifests, "inference")["containers"]
    limit = int(inference["resources"]["limits"]["memory"].removesuffix("Mi"))
    assert limit > TrainerSettings.model_fields["rehearsal_memory_mib"].default


def test_replicas_of_one_service_go_to_different_nodes(manifests: list[dict[str, Any]]) -> None:
    for name in SERVICES:
        (spread,) = pod_of(manifests, name)["topologySpreadConstraints"]
        assert (spread["topologyKey"], spread["labelSelector"]) == (
            "kubernetes.io/hostname",
            {"matchLabels": {"app": name}},
        )


def test_manifests_name_the_images_that_compose_builds(manifests: list[dict[str, Any]]) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    built = {compose["services"][name]["image"] for name in SERVICES}
    assert built == {container["image"] for pod in pods(manifests) for container in pod["containers"]}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert built == {f"moodfood/{name}:{version}" for name in SERVICES}


@pytest.mark.parametrize("service", SERVICES)
def test_image_copies_only_files_that_exist_and_runs_as_nobody_special(service: str) -> None:
    lines = (DEPLOY / "docker" / f"{service}.Dockerfile").read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert "USER 10001" in lines


@pytest.mark.parametrize("service", SERVICES)
def test_image_holds_every_package_that_its_service_imports(service: str) -> None:
    lines = (DEPLOY / "docker" / f"{service}.Dockerfile").read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY services/")]
    program = (
        f"import sys, services.{service}.__main__\n"
        "print(*(module.__file__ for name, module in sys.modules.items() if name.split('.')[0] == 'services'))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    files = [Path(file).relative_to(ROOT).as_posix() for file in ran.stdout.split()]
    assert [file for file in files if not any(file == path or file.startswith(f"{path}/") for path in copied)] == []


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


def test_compose_shares_the_models_and_nothing_that_people_said() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    mounted = {name: {volume.split(":")[0] for volume in services[name].get("volumes", [])} for name in SERVICES}
    assert mounted == {"inference": {"models", "queries"}, "trainer": {"models", "data"}, "gateway": set()}


def test_services_that_compose_starts_can_write_where_they_keep_what_must_last() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in ("inference", "trainer"):
        image = (DEPLOY / "docker" / f"{name}.Dockerfile").read_text()
        (folder,) = re.findall(r"MOODFOOD_DATA_DIR=(\S+)", image)
        assert folder in {volume.split(":", 1)[1] for volume in services[name]["volumes"]}
        assert "MOODFOOD_DATA_DIR" not in services[name].get("environment", {})
