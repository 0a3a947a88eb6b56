"""``python -m bench.gateway``, small."""

from __future__ import annotations

import pytest

from bench import gateway


@pytest.mark.usefixtures("aws")  # which makes MiniStack's environment where it is absent
def test_it_measures_gateway_endpoint_and_peer() -> None:
    figures = gateway.measure(gateway.Size(rounds=1, requests=10, connections=2, seconds=0.5, load_rounds=1, warm_up=5))
    assert {"added_to_boto3_invoke_p50_ms", "gateway_requests_a_second", "gateway_load_p99_ms", "aws_sample_load_p99_ms"} <= set(figures)
    for name, figure in figures.items():
        assert "added" in name or figure.value > 0, name
