#!/usr/bin/env python3
"""Renders the Helm chart as people set it, and holds what comes out against Kubernetes' schemas, the plain manifest and
keymeter itself.

Usage: chart.py    (`make test` runs it, after the build, with the tools of tests/deploy/requirements.txt)
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "conf/deploy/helm"
HELM = pathlib.Path(sys.executable).with_name("helm")
KEYMETER = ROOT / "target/debug/keymeter"
# The oldest that the chart says it is for, and a late one.
VERSIONS = ["1.25.0", "1.34.0"]
HASH = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
PRODUCTION = {
    "replicas": 3,
    "image": {"repository": "images.example/keymeter", "tag": "1.2.3"},
    "config": {
        "upstreams": [{"name": "vllm", "replicas": [{"url": "http://a:8000"}, {"url": "http://b:8000"}]}],
        "limits": {
            "tokens_per_minute": 5000000,
            "store": "/var/lib/keymeter/limits",
            "shared": {"url": "redis://redis:6379"},
        },
    },
    "keys": {
        "keys": [
            {"id": "key_prod", "name": "Production API", "hash": HASH, "limits": {"tokens_per_minute": 50000000000}},
        ]
    },
    "persistence": {"enabled": True, "storageClassName": "fast"},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "hosts": ["inference.example"],
        "tls": [{"secretName": "inference-tls", "hosts": ["inference.example"]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "gateway", "operator": "Exists"}],
    "podAnnotations": {"example.com/owner": "platform"},
}
OF_A_SERVICE = {"config": {"keys": {"yaml": None, "http": {"url": "http://keys/v1/keys/{hash}"}}}}


def helm(*arguments, values=None):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values or {}, file)
        file.flush()
        return subprocess.run([HELM, *arguments, "--values", file.name], capture_output=True, text=True)


def rendered(values):
    done = helm("template", "keymeter", CHART, values=values)
    assert done.returncode == 0, done.stderr
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout) if one}


def refused(values, why):
    done = helm("template", "keymeter", CHART, values=values)
    assert done.returncode != 0 and why in done.stderr, (values, done.stdout, done.stderr)


def hold_against_schemas(objects):
    """A ServiceMonitor is the Prometheus Operator's: Kubernetes has no schema for it."""
    for (kind, _), one in objects.items():
        for version in VERSIONS if kind != "ServiceMonitor" else []:
            kubernetes_validate.validate(one, version, strict=True)


def checked(objects):
    """What keymeter says of the configuration that its pods are given."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in objects["ConfigMap", "keymeter"]["data"].items():
            (pathlib.Path(folder) / name).write_text(text.replace("/var/lib/keymeter", folder))
        environment = os.environ | {"KEYMETER_ADMIN_TOKEN": "t" * 32}
        command = [KEYMETER, "check", f"{folder}/keymeter.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]


def manifest():
    text = (ROOT / "conf/deploy/kubernetes.yaml").read_text()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def keeps_what_the_manifest_promises():
    objects, plain = rendered({}), manifest()
    hold_against_schemas(objects)
    hold_against_schemas({(kind, ""): one for kind, one in plain.items()})
    ours, theirs = objects["Deployment", "keymeter"]["spec"], plain["Deployment"]["spec"]
    assert ours["strategy"] == theirs["strategy"]
    pod, plain_pod = ours["template"]["spec"], theirs["template"]["spec"]
    [container], [plain_container] = pod.pop("containers"), plain_pod.pop("containers")
    container.pop("imagePullPolicy")
    assert container == plain_container, (container, plain_container)
    assert pod == plain_pod, (pod, plain_pod)
    written = [yaml.safe_load(one["data"]["keymeter.yaml"]) for one in (objects["ConfigMap", "keymeter"], plain["ConfigMap"])]
    assert written[0] == written[1]
    assert checked(objects).startswith("ok: 1 upstream (1 replica), 0 keys"), checked(objects)


def is_what_production_wants():
    objects = rendered(PRODUCTION)
    hold_against_schemas(objects)
    kinds = sorted(kind for kind, _ in objects)
    assert kinds == ["ConfigMap", "Ingress", "PodDisruptionBudget", "Service", "Service", "ServiceMonitor", "StatefulSet"], kinds
    gateway = objects["StatefulSet", "keymeter"]
    pod = gateway["spec"]["template"]
    assert gateway["spec"]["replicas"] == 3 and pod["spec"]["containers"][0]["image"] == "images.example/keymeter:1.2.3"
    assert [claim["metadata"]["name"] for claim in gateway["spec"]["volumeClaimTemplates"]] == ["data"]
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["configuration"], "the claim takes the other's place"
    assert checked(objects).startswith("ok: 1 upstream (2 replicas), 1 key"), checked(objects)
    selected = pod["metadata"]["labels"].items()
    for name in ("keymeter", "keymeter-admin"):
        assert objects["Service", name]["spec"]["selector"].items() <= selected, name
    assert [port["name"] for port in objects["Service", "keymeter"]["spec"]["ports"]] == ["http"], "the admin address is within"
    monitored = objects["ServiceMonitor", "keymeter"]["spec"]["selector"]["matchLabels"].items()
    labels = [objects["Service", name]["metadata"]["labels"].items() for name in ("keymeter", "keymeter-admin")]
    assert [monitored <= own for own in labels] == [False, True], "each gateway is scraped once"


def main():
    linted = helm("lint", "--strict", CHART, values=PRODUCTION)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    keeps_what_the_manifest_promises()
    is_what_production_wants()
    of_a_service = rendered(OF_A_SERVICE)
    hold_against_schemas(of_a_service)
    assert "keys of a service" in checked(of_a_service), checked(of_a_service)
    refused({"replicas": 2}, "config.limits.shared.url, or separateLimits: true")
    assert rendered({"replicas": 2, "separateLimits": True})
    refused({"replica": 2}, "replica")
    refused({"ingress": {"enabled": True}}, "hosts")
    version = next(line.split('"')[1] for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version = "))
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version), "the chart is of another version than the program"
    assert f"image: keymeter:{version}" in (ROOT / "conf/deploy/kubernetes.yaml").read_text()
    print(f"the chart {version} is what Kubernetes {' and '.join(VERSIONS)} take, and keeps what the manifest promises")


if __name__ == "__main__":
    main()
