"""OpenVINO's tools and NNCF report their use over the network; a process of ours never does."""

from __future__ import annotations

import sys
from typing import Any

_PACKAGE = "openvino_telemetry"
_SENDERS = ("send_event", "send_error", "send_stack_trace", "start_session", "end_session")


def block_telemetry() -> None:
    """Make sure that nothing is sent from this process; call it before importing nncf or openvino.

    Both import the package `openvino_telemetry` and fall back to a stub where it is not there, so
    its import is refused. Where the user's own code had imported it before, its senders are
    replaced: what runs on our behalf must not be reported either.
    """
    loaded = sys.modules.get(_PACKAGE)
    if loaded is None:
        sys.modules[_PACKAGE] = None  # type: ignore[assignment]  # the documented way to refuse
        return
    for name in _SENDERS:
        setattr(loaded.Telemetry, name, _send_nothing)


def _send_nothing(*args: Any, **kwargs: Any) -> None:
    """Stands where a sender of the telemetry class stood."""
