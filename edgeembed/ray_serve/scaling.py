"""How many replicas the load needs, by the tokens that wait: a policy of Ray Serve's autoscaler."""

from __future__ import annotations

from typing import Any

QUEUE_TOKENS = "queue_tokens"
"""The name of what each replica reports."""


class QueueTokensPolicy:
    """Wants so many replicas that each has its share of tokens and of requests.

    A request can have one short text or a thousand long ones; tokens are what takes time.
    """

    def __init__(self, target_queue_tokens: float) -> None:
        """target_queue_tokens: of unanswered requests, per replica."""
        self._target = target_queue_tokens

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas; Serve applies its bounds and delays. context: its AutoscalingContext."""
        tokens = sum((context.aggregated_metrics or {}).get(QUEUE_TOKENS, {}).values())
        by_requests = context.total_num_requests / context.config.get_target_ongoing_requests()
        return max(tokens / self._target, by_requests), {}
