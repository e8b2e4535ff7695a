"""The published tests of other embedding servers, told anew: what is asked, and what must hold.

    python -m tests.published --model MODEL.gguf [--peer NAME ...] [--tree PATH] [--all]

Each module of `tests.published.peers` holds the cases of one server as data, each with the place of the test that it
retells. They run against a real daemon with all-MiniLM-L6-v2 and a tiny reranker. A case holds, fails, or differs on
purpose: docs/dialects.md gives the reason, and the case says what holds instead. `--tree` runs the daemon of another
checkout, `--all` prints every case.
"""
