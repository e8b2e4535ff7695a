"""Which files of a repository are downloaded as its checkpoint."""

from __future__ import annotations

import pytest

from edgeembed.hub.download.listing import RepositoryListing
from edgeembed.hub.download.transfer import RemoteFile

pytestmark = pytest.mark.unit

COMMIT = "0" * 40


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"],
         ["2_Dense/model.safetensors", "pytorch_model.bin"]),
        (["adapter_model.bin"], ["adapter_model.bin"]),
        (["adapter_model.bin", "adapter_model.safetensors"], ["adapter_model.safetensors"]),
        # The file of an adapter is no copy of the model's, nor the other way round.
        (["model.safetensors", "adapter_model.bin"], ["adapter_model.bin", "model.safetensors"]),
        (["pytorch_model.bin", "adapter_model.safetensors"], ["adapter_model.safetensors", "pytorch_model.bin"]),
        (["training_args.bin", "onnx/model.safetensors"], []),
    ],
)  # fmt: skip
def test_pickled_weights_are_fetched_only_where_they_are_no_copies(files: list[str], weights: list[str]) -> None:
    listing = RepositoryListing("a/b", COMMIT, {path: RemoteFile("a/b", path, COMMIT) for path in files}, None)
    assert [file.path for file in listing.weights] == weights


def test_heads_and_settings_of_other_outputs_are_part_of_a_checkpoint() -> None:
    wanted = ["1_Dense/config.json", "artifact.metadata", "colbert_linear.pt", "sparse_linear.pt", "model.safetensors"]
    files = [*wanted, "optimizer.pt", "vespa_colbert.onnx"]
    listing = RepositoryListing("a/b", COMMIT, {path: RemoteFile("a/b", path, COMMIT) for path in files}, None)
    assert [file.path for file in listing.checkpoint] == wanted
