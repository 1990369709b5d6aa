"""Libraries that report their use to their makers: all of them are told not to, in one place.

A switch counts only before its library is imported, so `import compressc` comes first to this.
"""

from __future__ import annotations

import os
import sys
from typing import Any

#: Read by the libraries when they are imported; child processes inherit them.
SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime: a device id and an event store in the cache
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and so transformers
    "DISABLE_TELEMETRY": "1",  # the same two under their older name, and diffusers
    "DO_NOT_TRACK": "1",  # what everybody else should read
}
_PACKAGE = "openvino_telemetry"
_SENDERS = ("send_event", "send_error", "send_stack_trace", "start_session", "end_session")


def stop_reporting() -> None:
    """Make sure that no library reports what this process and its children do.

    OpenVINO's tools and NNCF have no switch: both import `openvino_telemetry` and fall back to a
    stub where it is not there, so its import is refused. Where the user's own code had imported a
    library before, it has begun to report already; what runs from now on is not reported.
    """
    os.environ.update(SWITCHES)
    loaded = sys.modules.get(_PACKAGE)
    if loaded is None:
        sys.modules[_PACKAGE] = None  # type: ignore[assignment]  # the documented way to refuse
    else:
        for name in _SENDERS:
            setattr(loaded.Telemetry, name, _send_nothing)
    runtime = sys.modules.get("onnxruntime")
    if runtime is not None:
        runtime.disable_telemetry_events()


def _send_nothing(*args: Any, **kwargs: Any) -> None:
    """Stands where a sender of the telemetry class stood."""
