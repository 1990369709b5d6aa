"""Whatever a user has becomes a raised graph: see `load_model`."""

from compressc.frontend.export import export_module
from compressc.frontend.fitting import add_inputs, example_of, fit_data, specs_of
from compressc.frontend.importer import import_program
from compressc.frontend.inputs.specs import check_inputs
from compressc.frontend.load import Loaded, load_model, require_open_batch
from compressc.frontend.origin import Origin
from compressc.frontend.precision import cast_inputs

__all__ = [
    "Loaded",
    "Origin",
    "add_inputs",
    "cast_inputs",
    "check_inputs",
    "example_of",
    "export_module",
    "fit_data",
    "import_program",
    "load_model",
    "require_open_batch",
    "specs_of",
]
