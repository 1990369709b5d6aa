"""A model and its data, loaded once and settled: what every run begins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressc.errors import CompresscError

if TYPE_CHECKING:  # imports below are inside the function: `import compressc` must stay light
    from compressc.data import Dataset
    from compressc.frontend import Loaded
    from compressc.tasks import SettledTask


@dataclass(frozen=True)
class Session:
    """What there is to work on.

    Attributes:
        loaded: the model, its sizes written over width symbols.
        data: with inputs in the order and the dtypes of the model; or None.
        task: what is learned and judged; None without data.
    """

    loaded: Loaded
    data: Dataset | None
    task: SettledTask | None


def open_session(  # noqa: PLR0913  (each option is one the user may give)
    model: Any,
    *,
    data: Any = None,
    workers: int = 0,
    augment: str = "",
    inputs: Sequence[str] = (),
    trust_pickle: bool = False,
    factory: str | None = None,
    state_key: str | None = None,
    ignore_extra: bool = False,
    dtype: str = "float32",
    task: Any = None,
    judged: str | None = None,
    others: Sequence[str] = (),
    check: Callable[[Dataset | None], None] = lambda data: None,
) -> Session:
    """Read data and model, see that they fit, and settle what is learned and judged.

    Args:
        model, data, workers, augment, inputs, trust_pickle, factory, state_key, ignore_extra,
            dtype, task, judged: as for `compressc.compile`.
        others: names of inputs of the data that the model does not take: it gets them, and reads
            them nowhere, so that a student may.
        check: called with the data before the model is read: what cannot work is refused there.

    Raises:
        CompresscError: for everything a caller can mend; see `compressc.errors.CODES`.
    """
    from compressc.analysis import symbolize_widths
    from compressc.data import augmented, open_dataset
    from compressc.frontend import add_inputs, fit_data, require_open_batch
    from compressc.tasks import load_task, settle

    named = load_task(task) if isinstance(task, str) else task
    if named is not None and data is None:
        raise CompresscError("CC105", f"task '{named.name}' needs data", hint="give --data")
    dataset = None if data is None else augmented(open_dataset(data, workers), augment)
    check(dataset)
    loaded = read_model(
        model,
        dataset.without(others) if dataset is not None and others else dataset,
        inputs,
        trust_pickle=trust_pickle,
        factory=factory,
        state_key=state_key,
        ignore_extra=ignore_extra,
        dtype=dtype,
    )
    require_open_batch(loaded)
    if dataset is not None:
        if others:
            add_inputs(loaded.graph, dataset, others)
        dataset = fit_data(loaded.graph, dataset, others)
    symbolize_widths(loaded.graph)
    settled = None if dataset is None else settle(loaded.graph, dataset, judged, named)
    return Session(loaded, dataset, settled)


def read_model(  # noqa: PLR0913  (each option is one the user may give)
    model: Any,
    data: Dataset | None,
    inputs: Sequence[str] | None,
    *,
    trust_pickle: bool,
    factory: str | None,
    state_key: str | None,
    ignore_extra: bool,
    dtype: str,
) -> Loaded:
    """Read a model, on inputs in words or else on those that the data have.

    Args:
        model, inputs, trust_pickle, factory, state_key, ignore_extra, dtype: as for
            `compressc.compile`.
        data: gives the example; None for none.

    Raises:
        CompresscError: CC2xx for the model.
    """
    from compressc.collecting import give_back
    from compressc.frontend import example_of, load_model, specs_of

    try:
        loaded = load_model(
            model,
            example=None if data is None else example_of(data),
            input_spec=inputs or (() if data is None else specs_of(data)),
            trust_pickle=trust_pickle,
            factory=factory,
            state_key=state_key,
            ignore_extra=ignore_extra,
            dtype=dtype,
        )
    except CompresscError as error:
        if error.code != "CC204" or error.where or data is None:
            raise
        raise error.at(data.name) from error
    give_back()  # what was read and traced lies in cycles that hold a second copy of the weights
    return loaded
