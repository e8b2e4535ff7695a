"""The Helm chart: what it gives for many values, by Kubernetes' own schemas, and what has to agree with the daemon.

No cluster runs here; test_kubernetes_balancer.py runs the balancer's configuration.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeembed.cli.embed import embed
from edgeembed.config.settings import Settings
from tests.installers.kubernetes_tools import (
    CHART,
    VERSIONS,
    faults,
    helm,
    needs_helm,
    objects_of,
    of_kind,
    programs,
    render,
)
from tests.installers.loading import INSTALLERS, load

pytestmark = [needs_helm, pytest.mark.xdist_group("chart")]  # they share what was rendered
KUBERNETES = INSTALLERS / "kubernetes"
KEYS = ("apiKeys.secret=keys",)
MIRROR = 'env=[{"name": "HF_ENDPOINT", "value": "https://hub.example"}]'
CASES: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "keys": KEYS,
    "init": ("model.source=init", "hubToken.secret=hub", *KEYS),
    "token": ("hubToken.secret=hub",),
    "claim": ("model.source=claim", "model.claim=models", "model.name=/models/mine.gguf"),
    "no volume": ("persistence.enabled=false",),
    "config": ("config=pin = ['bge-m3']",),
    "cache": ("sharedCache.url=redis://cache:6379/0",),
    "cache by secret": ("sharedCache.secret=redis",),
    "gpu": ("gpu.enabled=true", "gpu.image=edgeembed-cuda:1", "gpu.runtimeClassName=nvidia"),
    "hpa": ("autoscaling.enabled=true",),
    "keda": ("autoscaling.enabled=true", "autoscaling.kind=keda"),
    "no balancer": ("balancer.enabled=false",),
    "bare": ("networkPolicy.enabled=false", "podDisruptionBudget.enabled=false", "topologyKeys=[]"),
    "monitor": ("metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.secret=one", *KEYS),
    "placed": (
        'tolerations=[{"key": "a", "operator": "Exists"}]',
        'nodeSelector={"kind": "big"}',
        'imagePullSecrets=[{"name": "registry"}]',
        MIRROR,
        "priorityClassName=high",
        "serviceAccountName=models",
        "balancer.hashBalanceFactor=150",
    ),
}
IMAGE_VOLUME = ("model.source=image", "model.image=models:1", "model.name=/models/mine.gguf")
cases = pytest.mark.parametrize("values", CASES.values(), ids=CASES)


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the templates of pods."""
    yield from (found["spec"]["template"] for found in objects if found["kind"] in ("StatefulSet", "Deployment"))


def daemon_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the daemon's container."""
    container: dict[str, Any]
    (container,) = of_kind("StatefulSet", objects)["spec"]["template"]["spec"]["containers"]
    return container


def box(*values: str) -> dict[str, Any]:
    """Return the daemon's container for these values."""
    return daemon_of(render(*values))


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of a container: values, or where they come from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_lint_finds_nothing() -> None:
    for more in ([], ["--set", "apiKeys.none=true,autoscaling.enabled=true,metrics.serviceMonitor.enabled=true"]):
        found = helm("lint", "--strict", str(CHART), *more)
        assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_schemas_allow_all_that_it_gives(version: str) -> None:
    several = [*CASES.values(), IMAGE_VOLUME] if version != VERSIONS[0] else CASES.values()
    different = {json.dumps(each): each for values in several for each in render(*values)}
    assert [fault for each in different.values() for fault in faults(each, version)] == []


def test_the_schemas_find_a_misspelt_field() -> None:
    found = of_kind("StatefulSet", render())
    found["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    assert any("readynessProbe" in fault for fault in faults(found, VERSIONS[-1]))


def test_a_key_that_is_given_twice_is_found() -> None:
    with pytest.raises(AssertionError, match="given twice"):
        objects_of("metadata:\n  labels:\n    a: b\n    a: c\n")


def leaves(node: dict[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield the path and the schema of each value that has no named values below it."""
    for name, below in node["properties"].items():
        if "properties" in below:
            yield from leaves(below, *path, name)
        else:
            yield (*path, name), below


def values_of(choose: Callable[[dict[str, Any]], Any]) -> list[str]:
    """Return the values of the chart that `choose` gives for their schema, for `render`; None leaves a value as it is."""
    chosen: dict[str, Any] = {}
    for path, node in leaves(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))):
        if (value := choose(node)) is not None:
            at = chosen
            for name in path[:-1]:
                at = at.setdefault(name, {})
            at[path[-1]] = value
    return [f"{name}={json.dumps(value)}" for name, value in chosen.items()]


def scalars(found: Any) -> Iterator[Any]:
    """Yield what is in objects, besides objects and arrays; their keys, too."""
    if isinstance(found, dict | list):
        for each in (*found, *found.values()) if isinstance(found, dict) else found:
            yield from scalars(each)
    else:
        yield found


@pytest.mark.parametrize("word", ["8765432", "null"])
@pytest.mark.parametrize(
    "more",
    [
        (*IMAGE_VOLUME, "autoscaling.enabled=true"),
        ("model.source=claim", "model.name=/models/mine.gguf", "autoscaling.enabled=true", "autoscaling.kind=keda"),
        ("model.source=init", "gpu.enabled=true", "persistence.enabled=false"),
    ],
)
def test_a_string_of_the_values_is_a_string_in_the_objects(word: str, more: tuple[str, ...]) -> None:
    """Without quotes, YAML takes the name of a Secret such as 8765432 for a number, and Kubernetes refuses the object."""

    def choose(node: dict[str, Any]) -> Any:
        for wrap, below in (
            (lambda: word, node),
            (lambda: [word], node.get("items", {})),
            (lambda: {word: word}, node.get("additionalProperties", {})),
        ):
            if below.get("type") == "string" and re.search(below.get("pattern", ""), word):
                return wrap()
        return None

    given = ("fullnameOverride=edgeembed", "metrics.serviceMonitor.enabled=true", *more)
    objects = render(*values_of(choose), *given, release=word)
    assert [fault for each in objects for fault in faults(each, VERSIONS[-1])] == []
    found = list(scalars(objects))
    assert found.count(word) > 30
    assert yaml.safe_load(word) not in found


def test_large_numbers_are_written_in_full() -> None:
    """Helm would write 1000000 as 1e+06."""

    def choose(node: dict[str, Any]) -> Any:
        if node.get("type") != "integer":
            return None
        return max(each.get("maximum", 0) for each in (node, *node.get("anyOf", ()))) or 30_000_000

    for kind in ("hpa", "keda"):
        objects = render(*values_of(choose), "autoscaling.enabled=true", f"autoscaling.kind={kind}")
        assert "e+" not in json.dumps(objects)
        assert "30000000" in scalars(objects)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((), "set apiKeys.secret to the name of a Secret with a key file, or apiKeys.none to true"),
        (("apiKeys.none=true", "apiKeys.secret=keys"), "contradict each other"),
        (("apiKeys.none=true", "replicas=0"), "at '/replicas': minimum: got 0, want 1"),
        (("apiKeys.none=true", "image.tagg=1"), "at '/image': additional properties 'tagg' not allowed"),
        (("apiKeys.none=true", "model.source=hub"), "must be one of 'start', 'init', 'claim', 'image'"),
        (("apiKeys.none=true", "model.source=claim"), "needs model.claim"),
        (("apiKeys.none=true", "model.source=claim", "model.claim=x"), "needs a model.name below /models/"),
        (("apiKeys.none=true", "model.source=image"), "needs model.image"),
        (("apiKeys.none=true", "sharedCache.url=http://cache"), "at '/sharedCache/url'"),
        (("apiKeys.none=true", "sharedCache.url=redis://:password@cache"), "at '/sharedCache/url'"),
        (("apiKeys.none=true", "sharedCache.url=redis://c", "sharedCache.secret=c"), "contradict each other"),
        (("apiKeys.none=true", "gpu.enabled=true"), "gpu.enabled needs gpu.image"),
        (("apiKeys.none=true", "autoscaling.enabled=true", "autoscaling.minReplicas=9"), r"minReplicas \(9\) is more than"),
        (("apiKeys.secret=keys", "metrics.serviceMonitor.enabled=true"), "needs metrics.serviceMonitor.secret"),
        (("apiKeys.none=true", "env[0].name=EDGEEMBED_PORT", "env[0].value=x"), "env may not have EDGEEMBED_PORT"),
        (("apiKeys.none=true", "model.source=init", "env[0].name=EDGEEMBED_OFFLINE"), "env may not have EDGEEMBED_OFFLINE"),
        (("apiKeys.none=true", "hubToken.secret=hub", "env[0].name=HF_TOKEN"), "env may not have HF_TOKEN"),
        ((*KEYS, "model.source=init", "hubToken.secret=hub", "env[0].name=HF_TOKEN"), "env may not have HF_TOKEN"),
        ((*KEYS, r"podLabels.app\.kubernetes\.io/component=x"), "podLabels may not have app.kubernetes.io/component"),
        ((*KEYS, r"podAnnotations.checksum/config=x"), "podAnnotations may not have checksum/config"),
        ((*KEYS, r"metrics.serviceMonitor.labels.helm\.sh/chart=x"), "labels may not have helm.sh/chart"),
        ((*KEYS, "fullnameOverride=8-boxes"), "at '/fullnameOverride'"),
        (("apiKeys.none=true", "sharedCache.secret=c", "env[0].name=EDGEEMBED_CACHE_URL"), "not have EDGEEMBED_CACHE_URL"),
        (("apiKeys.none=true", "sharedCache.secret=c", "env[0].name=EDGEEMBED_CACHE_SECRET"), "EDGEEMBED_CACHE_SECRET"),
    ],
)
def test_wrong_values_are_refused_with_a_reason(values: tuple[str, ...], said: str) -> None:
    made = helm("template", "edgeembed", str(CHART), *(part for value in values for part in ("--set", value)))
    assert made.returncode != 0
    assert re.search(said, made.stderr), made.stderr


@pytest.mark.parametrize("release", ["8", "a.b"])
def test_a_release_that_no_service_can_be_called_after_is_refused(release: str) -> None:
    made = helm("template", release, str(CHART), "--set", "apiKeys.none=true")
    assert f"a Service cannot be called {release}-edgeembed: set fullnameOverride" in made.stderr
    assert render("fullnameOverride=boxes", release=release)


def test_values_and_schema_have_the_same_names() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def compare(values: dict[str, Any], node: dict[str, Any], where: str) -> None:
        assert set(values) == set(node["properties"]) - {"global", "claims"}, where
        for name, value in values.items():
            if "properties" in node["properties"][name] and name != "resources":
                compare(value, node["properties"][name], f"{where}.{name}")

    compare(defaults, schema, "")


@cases
def test_pods_keep_to_the_restricted_profile(values: tuple[str, ...]) -> None:
    """Kubernetes' Pod Security Standards, the strictest of the three; and no root file system that can be written to."""
    for pod in pods(render(*values)):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        allowed = {"name", "configMap", "emptyDir", "secret", "persistentVolumeClaim"}
        assert all(set(volume) <= allowed for volume in spec["volumes"])
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            claimed = {"home"} if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "box" else set()
            assert mounted <= {volume["name"] for volume in spec["volumes"]} | claimed


@cases
def test_selectors_find_their_pods(values: tuple[str, ...]) -> None:
    objects = render(*values)
    labels = [pod["metadata"]["labels"] for pod in pods(objects)]
    selectors = [
        (found["metadata"]["name"], found["spec"]["selector"])
        for found in objects
        if found["kind"] in ("Service", "PodDisruptionBudget", "StatefulSet", "Deployment")
    ]
    selectors += [
        (found["metadata"]["name"], found["spec"]["podSelector"]) for found in objects if found["kind"] == "NetworkPolicy"
    ]
    assert len(selectors) >= 3
    for name, selector in selectors:
        wanted = selector.get("matchLabels", selector)
        assert sum(wanted.items() <= each.items() for each in labels) == 1, name
    services = [found for found in objects if found["kind"] == "Service"]
    for container in (container for pod in pods(objects) for container in pod["spec"]["containers"]):
        assert "http" in {port["name"] for port in container["ports"]}
    assert all(port["targetPort"] == "http" for service in services for port in service["spec"]["ports"])
    assert of_kind("StatefulSet", objects)["spec"]["serviceName"] in {each["metadata"]["name"] for each in services}


@cases
def test_the_daemon_knows_each_variable(values: tuple[str, ...]) -> None:
    """An unknown one is a warning only, and the setting would not count."""
    settings = {f"EDGEEMBED_{name.upper()}" for name in Settings.__struct_fields__} | {"EDGEEMBED_HOME"}
    found = set(variables(box(*values)))
    assert {name for name in found if name.startswith("EDGEEMBED_")} <= settings


def test_no_variable_is_given_twice() -> None:
    """Kubernetes' server-side apply refuses a pod with two of a name; so `env` may have none that is there anyway."""
    helpers = (CHART / "templates" / "_helpers.tpl").read_text(encoding="utf-8")
    refused = set(re.findall(r'"(EDGEEMBED_\w+|HF_TOKEN)"', helpers))
    cases = [values for name, values in CASES.items() if name != "placed"]  # which has an `env`
    assert set().union(*(variables(box(*values)) for values in cases)) == refused
    user_s = ("EDGEEMBED_OFFLINE", "EDGEEMBED_CACHE_SECRET", "HF_TOKEN")
    own = box("sharedCache.url=redis://cache", *(f"env[{number}].name={name}" for number, name in enumerate(user_s)))
    assert set(user_s) < set(variables(own)), "the chart sets none of them with these values"


def test_only_boxes_that_are_ready_have_names() -> None:
    """HAProxy takes a server whose name appears as one that works until a check fails."""
    service = of_kind("Service", render(), "edgeembed-boxes")
    assert service["spec"]["clusterIP"] == "None"
    assert not service["spec"].get("publishNotReadyAddresses")


def test_service_links_are_off() -> None:
    """With them, a Service named edgeembed gives each pod of the namespace EDGEEMBED_PORT=tcp://…, and no daemon starts."""
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in pods(render()))


def test_a_pod_has_time_to_end() -> None:
    for delay, grace in ((10, 60), (0, 600)):
        objects = render(f"drain.delaySeconds={delay}", f"drain.graceSeconds={grace}")
        for pod in pods(objects):
            # The daemon aborts connections after its grace period; its worker then has 12 s at most.
            assert pod["spec"]["terminationGracePeriodSeconds"] >= delay + grace + 12
            (container,) = pod["spec"]["containers"]
            assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(delay)]
        assert variables(daemon_of(objects))["EDGEEMBED_GRACE_PERIOD"] == str(grace)
        assert f"hard-stop-after {grace}s" in of_kind("ConfigMap", objects)["data"]["haproxy.cfg"]


def test_secrets_are_not_written_into_manifests() -> None:
    container = box(*CASES["init"], "sharedCache.secret=redis")
    assert variables(container)["EDGEEMBED_CACHE_URL"] == {"secretKeyRef": {"name": "redis", "key": "url"}}
    assert variables(container)["EDGEEMBED_CACHE_SECRET"]["secretKeyRef"]["optional"] is True
    assert variables(container)["EDGEEMBED_API_KEY_FILE"] == "/etc/edgeembed/keys"
    assert "EDGEEMBED_NO_AUTH" not in variables(container)
    assert variables(box())["EDGEEMBED_NO_AUTH"] == "true"


def test_where_the_model_comes_from() -> None:
    start = box("hubToken.secret=hub")
    assert variables(start)["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert "EDGEEMBED_OFFLINE" not in variables(start)
    objects = render(*CASES["init"])
    spec = of_kind("StatefulSet", objects)["spec"]["template"]["spec"]
    (first,) = spec["initContainers"]
    assert first["args"] == ["pull", "all-minilm-l6-v2"]
    (asks_mirror,) = of_kind("StatefulSet", render(*CASES["init"], MIRROR))["spec"]["template"]["spec"]["initContainers"]
    assert variables(asks_mirror)["HF_ENDPOINT"] == "https://hub.example"
    assert "HF_TOKEN" in variables(first)
    assert variables(spec["containers"][0])["EDGEEMBED_OFFLINE"] == "true"
    assert "HF_TOKEN" not in variables(spec["containers"][0]), "the daemon needs no token then"
    for source in ("claim", "image"):
        values = CASES["claim"] if source == "claim" else IMAGE_VOLUME
        objects = render(*values)
        assert (
            variables(of_kind("StatefulSet", objects)["spec"]["template"]["spec"]["containers"][0])["EDGEEMBED_OFFLINE"]
            == "true"
        )
        ports = _ports_out(objects)
        assert ports == {53}, "nothing is fetched"
    assert _ports_out(render()) == {53, 443}
    assert _ports_out(render("sharedCache.url=redis://cache")) == {53, 443, 6379}


def _ports_out(objects: list[dict[str, Any]]) -> set[int]:
    rules = of_kind("NetworkPolicy", objects, "edgeembed-box")["spec"]["egress"]
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_only_the_balancer_reaches_the_boxes() -> None:
    for values, component in (((), "balancer"), (("balancer.enabled=false",), None)):
        (rule,) = of_kind("NetworkPolicy", render(*values), "edgeembed-box")["spec"]["ingress"]
        first = rule["from"][0]["podSelector"].get("matchLabels", {})
        assert first.get("app.kubernetes.io/component") == component


def test_names_of_the_service_are_taken_without_keys() -> None:
    hosts = variables(box('allowedHosts=["api.example"]'))["EDGEEMBED_ALLOWED_HOSTS"].split(",")
    assert hosts == ["edgeembed.here", "edgeembed.here.svc", "api.example"]


def test_a_graphics_card_is_a_limit_and_nothing_else_changes() -> None:
    plain, card = box(), box(*CASES["gpu"])
    assert card["image"] == "edgeembed-cuda:1"
    assert card["resources"]["limits"] == {**plain["resources"]["limits"], "nvidia.com/gpu": 1}
    assert card["resources"]["requests"] == plain["resources"]["requests"]


@pytest.mark.parametrize("text", ["pin = ['bge-m3']\nkeep_alive = '1h'", "  pin = ['bge-m3']\nkeep_alive = '1h'\n\n"])
def test_settings_are_where_the_daemon_reads_them_and_a_change_starts_it_anew(text: str) -> None:
    objects = render(f"config={json.dumps(text)}")
    (mount,) = (each for each in daemon_of(objects)["volumeMounts"] if each["name"] == "config")
    assert mount["mountPath"] == f"{variables(daemon_of(objects))['EDGEEMBED_HOME']}/config.toml"
    written = of_kind("ConfigMap", objects, "edgeembed-config")["data"][mount["subPath"]]
    assert tomllib.loads(written) == {"pin": ["bge-m3"], "keep_alive": "1h"}
    before, after = (
        of_kind("StatefulSet", each)["spec"]["template"]["metadata"]["annotations"] for each in (render(), objects)
    )
    assert before["checksum/config"] != after["checksum/config"]


def test_threads_follow_the_request() -> None:
    """Without a limit, the daemon would take a thread for each processor of the node."""
    assert variables(box())["EDGEEMBED_THREADS"] == {"resourceFieldRef": {"resource": "requests.cpu"}}
    assert variables(box("threads=3"))["EDGEEMBED_THREADS"] == "3"


def test_the_metric_that_boxes_are_added_by_is_one_of_the_daemon() -> None:
    page = (INSTALLERS.parent / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert "`queue_tokens`" in page
    objects = render(*CASES["hpa"])
    scaler = of_kind("HorizontalPodAutoscaler", objects)
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "edgeembed_queue_tokens"
    assert "replicas" not in of_kind("StatefulSet", objects)["spec"], "an upgrade would undo what the autoscaler did"
    (trigger,) = of_kind("ScaledObject", render(*CASES["keda"]))["spec"]["triggers"]
    assert 'edgeembed_queue_tokens{namespace="here",pod=~"edgeembed-[0-9]+"}' in trigger["metadata"]["query"]


@pytest.mark.parametrize("content", ["app: a:key\nother: b\n", "# app: old\n\n  # x\napp:  a:key\n", "a-key"])
def test_the_notes_read_the_first_key_of_the_secret(content: str, tmp_path: Path) -> None:
    values = ("apiKeys.secret=mine", "apiKeys.key=keys.txt")
    flags = [part for value in values for part in ("--set", value)]
    made = helm("install", "edgeembed", str(CHART), "--namespace", "here", "--dry-run=client", *flags)
    (line,) = re.findall(r"^ +(KEY=.*)$", made.stdout, re.MULTILINE)
    assert r"kubectl -n here get secret mine -o jsonpath='{.data.keys\.txt}'" in line
    (tmp_path / "keys").write_text(content, encoding="utf-8")
    script = f'kubectl() {{ base64 "$1"; }}; {line.replace("kubectl", "kubectl $0", 1)}; printf %s "$KEY"'
    done = subprocess.run(["sh", "-c", script, str(tmp_path / "keys")], capture_output=True, text=True, timeout=60)
    assert done.stdout == ("a:key" if "a:key" in content else "a-key"), done.stderr


def test_the_notes_name_no_key_where_none_is_needed() -> None:
    made = helm("install", "edgeembed", str(CHART), "--dry-run=client", "--set", "apiKeys.none=true")
    assert made.returncode == 0 and "curl http" in made.stdout and "KEY" not in made.stdout.partition("NOTES:")[2]


def test_the_written_manifests_are_what_the_chart_gives() -> None:
    renderer = load("kubernetes/render.py")
    assert renderer.rendered(str(programs() / "helm" / "helm")) == renderer.WRITTEN.read_text(encoding="utf-8"), (
        "run installers/kubernetes/render.py"
    )
    found = objects_of(renderer.WRITTEN.read_text(encoding="utf-8"))
    assert [fault for version in VERSIONS for each in found for fault in faults(each, version)] == []


def test_the_chart_has_the_version_of_the_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    version = load("release.py").current_version()
    assert chart["appVersion"] == version


@pytest.mark.parametrize("name", ["rayservice", "rayjob"])
def test_the_pods_of_the_ray_examples_are_pods(name: str) -> None:
    """KubeRay's own fields are checked by nothing here."""
    (found,) = objects_of((KUBERNETES / "ray" / f"{name}.yaml").read_text(encoding="utf-8"))
    spec = found["spec"]
    cluster = spec.get("rayClusterConfig") or spec["rayClusterSpec"]
    image = (KUBERNETES / "ray" / "image.Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{cluster['rayVersion']}-" in image
    assert f"ray[serve,data]=={cluster['rayVersion']}" in image
    assert cluster["authOptions"] == {"mode": "token"}, "without it, every pod may run code on the cluster"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        assert faults(pod, VERSIONS[-1]) == []
        assert pod["spec"]["enableServiceLinks"] is False
        for container in pod["spec"]["containers"]:
            assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    if "serveConfigV2" in spec:
        (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
        (example,) = yaml.safe_load((INSTALLERS / "ray-serve" / "serve.yaml").read_text(encoding="utf-8"))["applications"]
        assert application["import_path"] == example["import_path"]
        assert set(application["args"]) <= set(example["args"])
    else:
        flags = set(re.findall(r"--[a-z-]+", spec["entrypoint"]))
        assert flags <= {flag for option in embed.params for flag in option.opts}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian: prometheus) is not installed")
def test_the_rule_of_the_adapter_adds_up_the_models_of_a_pod(tmp_path: Path) -> None:
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    query = rule["metricsQuery"]
    for old, new in (  # as the adapter fills it in for the pods of a StatefulSet
        ("<<.Series>>", re.match(r"\w+", rule["seriesQuery"])[0]),  # type: ignore[index]
        ("<<.LabelMatchers>>", 'namespace="here",pod=~"edgeembed-0|edgeembed-1"'),
        ("<<.GroupBy>>", "pod"),
    ):
        query = query.replace(old, new)
    given = [
        ("here", "edgeembed-0", "a", 100),
        ("here", "edgeembed-0", "b", 20),
        ("here", "edgeembed-1", "a", 7),
        ("elsewhere", "edgeembed-1", "a", 1000),
    ]
    test = {
        "interval": "15s",
        "input_series": [
            {"series": f'edgeembed_queue_tokens{{namespace="{space}",pod="{pod}",model="{model}"}}', "values": f"{value}x20"}
            for space, pod, model, value in given
        ],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "2m",
                "exp_samples": [
                    {"labels": f'{{pod="edgeembed-{pod}"}}', "value": value} for pod, value in ((0, 120), (1, 7))
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}), encoding="utf-8")
    found = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
