"""Export a sentence-transformers checkpoint of BERT's family to ONNX, and quantise its weights to int8.

    VENV/python export_onnx.py CHECKPOINT FOLDER

The graph gives the last hidden state; pooling happens outside. It is written twice: as torch exports it, and with attention,
embeddings and normalisation fused by ONNX Runtime's optimizer for BERT. Which one is faster differs between machines.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def export(checkpoint: Path, folder: Path) -> None:
    """Write model-int8-plain.onnx, model-int8-fused.onnx and tokenizer.json into a folder."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    model = AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    plain = folder / "model-plain.onnx"
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {0: "texts", 1: "tokens"}

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
            return hidden

    given = tuple(torch.ones((2, 16), dtype=torch.int64) for _ in names)
    torch.onnx.export(
        Hidden(),
        given,
        plain,
        input_names=names,
        output_names=["hidden"],
        dynamic_axes=dict.fromkeys([*names, "hidden"], axes),
        opset_version=17,
        dynamo=False,
    )
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    fused = optimizer.optimize_model(str(plain), model_type="bert", num_heads=heads, hidden_size=width, opt_level=0)
    fused.save_model_to_file(str(folder / "model-fused.onnx"))
    float32 = 1  # onnx.TensorProto.FLOAT; shape inference does not know the fused operators
    for name in ("plain", "fused"):
        quantize_dynamic(
            folder / f"model-{name}.onnx",
            folder / f"model-int8-{name}.onnx",
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": float32},
        )
    shutil.copy(checkpoint / "tokenizer.json", folder / "tokenizer.json")


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
