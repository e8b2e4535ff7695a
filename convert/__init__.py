"""edgeembed_convert: checkpoints into GGUF files.

`convert_checkpoint` is the way in. It needs numpy and the `gguf` package, neither torch nor transformers, and reads weights
only from safetensors files.
"""

from edgeembed_convert.conversion import Conversion, convert_checkpoint
from edgeembed_convert.quantization import QUANTIZATIONS, parse_quantization

__all__ = ["QUANTIZATIONS", "Conversion", "convert_checkpoint", "parse_quantization"]
