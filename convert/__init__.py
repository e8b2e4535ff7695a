"""edgeembed_convert: converts checkpoints to GGUF files.

`convert_checkpoint` is the entry point. It needs numpy and the `gguf` package, but neither torch nor transformers, and reads
weights only from safetensors files.
"""

from edgeembed_convert.conversion import Conversion, ConversionOptions, convert_checkpoint
from edgeembed_convert.quantization import QUANTIZATIONS, parse_quantization

__all__ = ["QUANTIZATIONS", "Conversion", "ConversionOptions", "convert_checkpoint", "parse_quantization"]
