"""Make files of torch.save for tests/convert/test_pickled.py. Needs torch: PYTHON -m tests.reference.make_pickled."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "pickled"


def main() -> None:
    """Write a state dictionary, one with every type and two views, a transposed tensor, and a file of the older format."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Embedding(4, 3)).half()
    torch.save(model.state_dict(), FOLDER / "state.bin")
    numbers = torch.arange(12.0).view(3, 4)
    kinds = {
        "parameter": torch.nn.Parameter(numbers.clone()),
        "view": numbers[1:],
        "whole": numbers,
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        **{
            str(dtype).removeprefix("torch."): torch.tensor([[0.0, 1.0, 3.0]]).to(dtype)
            for dtype in (torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.uint16)
        },
    }
    torch.save(kinds, FOLDER / "kinds.bin")
    torch.save({"transposed": numbers.t()}, FOLDER / "transposed.bin")
    torch.save({"old": torch.ones(2)}, FOLDER / "old.bin", _use_new_zipfile_serialization=False)
    print(*(f"{file.name}: {file.stat().st_size} bytes" for file in sorted(FOLDER.glob("*.bin"))), sep="\n")


if __name__ == "__main__":
    main()
