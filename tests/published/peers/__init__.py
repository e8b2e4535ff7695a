"""The published tests of each server, as cases."""

from __future__ import annotations

from tests.published.cases import Peer
from tests.published.peers import infinity, llama_cpp, ollama, sglang, tei, vllm

PEERS: tuple[Peer, ...] = (vllm.PEER, ollama.PEER, tei.PEER, llama_cpp.PEER, sglang.PEER, infinity.PEER)
