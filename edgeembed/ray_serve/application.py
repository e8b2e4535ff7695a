"""The Serve application: two deployments with their resources, scaling, health checks and routing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeembed.common.installation import find_installation
from edgeembed.config.resolution import resolve
from edgeembed.errors import ConfigError
from edgeembed.ray_serve.arguments import Replicas, read_arguments
from edgeembed.ray_serve.ingress import Ingress
from edgeembed.ray_serve.replica import Replica
from edgeembed.ray_serve.scaling import QueueTokensPolicy

REPLICAS_NAME, INGRESS_NAME = "edgeembed", "ingress"
"""Names of the deployments, for Serve's configuration and its metrics."""
MOST_ONGOING = 256
"""Requests that a replica takes at a time; a further one of its texts goes to the next replica. Its daemon limits tokens."""
MOST_IN_INGRESS = 4096
HEALTH_PERIOD_SECONDS = 5.0
HEALTH_SECONDS = 30.0
DRAIN_MORE_SECONDS = 20.0
"""Beyond the grace period of the daemon, for the requests that were on their way."""
LOGGING = {"enable_access_log": False}
"""The daemons have a log of requests, if it is wanted."""
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


def make_application(args: Mapping[str, Any]) -> Any:
    """Return the application. args: see `read_arguments`. Raises ConfigError."""
    try:
        from ray import serve
    except ImportError as error:
        raise ConfigError(f"edgeembed.serve_app needs Ray Serve ({error}): {find_installation().add('serve')}") from error
    replicas, settings = read_arguments(args)
    grace = resolve(settings).settings.grace_period
    options = {
        "name": REPLICAS_NAME,
        "ray_actor_options": {"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        "max_ongoing_requests": MOST_ONGOING,
        "health_check_period_s": HEALTH_PERIOD_SECONDS,
        "health_check_timeout_s": HEALTH_SECONDS,
        "graceful_shutdown_timeout_s": grace + DRAIN_MORE_SECONDS,
        "request_router_config": {"request_router_class": ROUTER},
        "logging_config": LOGGING,
        **_scaling(replicas),
    }
    computing = serve.deployment(**options)(Replica).bind(settings)
    ingress = serve.deployment(
        name=INGRESS_NAME,
        num_replicas=replicas.ingresses,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=MOST_IN_INGRESS,
        graceful_shutdown_timeout_s=grace + DRAIN_MORE_SECONDS,
        logging_config=LOGGING,
    )(Ingress)
    return ingress.bind(computing, settings)


def _scaling(replicas: Replicas) -> dict[str, Any]:
    """Return the options for a fixed number of replicas, or for as many as the load needs."""
    least, most = replicas.range
    if least == most:
        return {"num_replicas": most}
    scaling: dict[str, Any] = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": replicas.target_ongoing_requests,
    }
    if replicas.target_queue_tokens is not None:
        policy = f"{QueueTokensPolicy.__module__}:{QueueTokensPolicy.__name__}"
        kwargs = {"target_queue_tokens": replicas.target_queue_tokens}
        scaling["policy"] = {"policy_function": policy, "policy_kwargs": kwargs}
    return {"autoscaling_config": scaling}
