"""Whatever a user has becomes a raised graph: see `load_model`."""

from compressc.frontend.export import export_module
from compressc.frontend.importer import import_program
from compressc.frontend.load import Loaded, load_model

__all__ = ["Loaded", "export_module", "import_program", "load_model"]
