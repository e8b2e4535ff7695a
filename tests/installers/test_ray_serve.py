"""The example for Ray Serve: its own schema takes the file, and the application its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "installers" / "ray-serve" / "serve.yaml"


def test_the_example_is_one_that_serve_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reason = "Ray is not installed (it is in the dev group): nothing to check the file with"
    schema: Any = pytest.importorskip("ray.serve.schema", reason=reason)
    from edgeembed import serve_app

    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path))
    checked = schema.ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    [application] = checked.applications
    module, _, name = application.import_path.partition(":")
    assert module == serve_app.__name__
    ingress = getattr(serve_app, name)(application.args)
    replicas = ingress._bound_deployment.init_args[0]._bound_deployment
    names = {replicas.name, ingress._bound_deployment.name}
    for deployment in application.deployments:
        assert deployment.name in names
    configured = next(each for each in application.deployments if each.name == replicas.name)
    scaling = replicas._deployment_config.autoscaling_config
    assert configured.autoscaling_config["max_replicas"] == scaling.max_replicas == 4
    assert configured.autoscaling_config["policy"]["policy_kwargs"] == scaling.policy.policy_kwargs
    assert replicas.ray_actor_options["num_cpus"] == application.args["cpus"]


def test_the_application_without_arguments_has_one_replica(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="Ray is not installed (it is in the dev group): nothing to build")
    from edgeembed import serve_app

    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path))
    replicas = serve_app.app._bound_deployment.init_args[0]._bound_deployment
    assert replicas.num_replicas == 1
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = serve_app.other
