"""Network builders in torch and their ONNX exporters.

The networks are the ones the papers of this field measure, with seeded random weights that are tuned
until the outputs vary over inputs (``cimc.models.variation``): an untrained network as it comes from
the constructor answers nearly the same for every image, and a compiler tested on such a network is
not tested. torch is loaded by ``build`` and ``export_onnx`` only, so that listing costs nothing.
"""

if not __name__.startswith("cimc."):
    raise ImportError(f"import cimc.{__name__}, not {__name__}: one module, one name")

from cimc.models.export import export_onnx
from cimc.models.registry import Network, build, names, network
from cimc.models.synthetic import images
from cimc.models.variation import Spread, spread

__all__ = ["Network", "Spread", "build", "export_onnx", "images", "names", "network", "spread"]
