"""Nothing is sent from a process of ours, whoever imported what before."""

import logging
import subprocess
import sys
import textwrap
import warnings

import pytest

from compressc.quiet import quiet


def run(code: str) -> str:
    """In a fresh process, where the network must not be touched."""
    prelude = """
        import socket, sys

        def refuse(*args, **kwargs):
            raise SystemExit("the network was used")

        socket.socket.connect = refuse
        socket.getaddrinfo = refuse
    """
    script = textwrap.dedent(prelude) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_package_is_refused_before_openvino_and_nncf_import_it():
    out = run("""
        from compressc.backend.telemetry import block_telemetry
        block_telemetry(), block_telemetry()
        import nncf, openvino
        from openvino.tools import ovc
        from nncf.telemetry.wrapper import telemetry
        print(sys.modules["openvino_telemetry"], type(telemetry).__module__)
        print(ovc.telemetry.__class__.__module__)
    """)
    assert out.split() == ["None", "unittest.mock", "openvino.tools.ovc.telemetry_stub"]


def test_senders_of_a_package_the_user_imported_are_silenced():
    out = run("""
        import types
        package = types.ModuleType("openvino_telemetry")
        class Telemetry:
            def send_event(self, *args): raise AssertionError("sent")
            def start_session(self, *args): raise AssertionError("sent")
        package.Telemetry = Telemetry
        sys.modules["openvino_telemetry"] = package
        client = Telemetry()
        from compressc.backend.telemetry import block_telemetry
        block_telemetry()
        client.send_event("category", "action"), client.start_session("category")
        print("silent")
    """)
    assert out.strip() == "silent"


def test_quiet_drops_chatter_but_no_exception(capsys):
    with quiet():
        print("progress")
        print("hint", file=sys.stderr)
        warnings.warn("advice", stacklevel=1)
        logging.getLogger("somebody").warning("advice")
    with pytest.raises(ValueError, match="real"), quiet():
        raise ValueError("real")
    captured = capsys.readouterr()
    assert not captured.out
    assert not captured.err
    print("back")
    assert capsys.readouterr().out == "back\n"
    assert logging.root.manager.disable == logging.NOTSET
