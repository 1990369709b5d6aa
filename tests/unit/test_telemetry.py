"""No library sends or leaves anything from a process of ours, whoever imported what before."""

import logging
import os
import platform
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from compressc.quiet import quiet

#: Kills the process (SIGSYS) where anybody, native code too, opens a socket to a network: a filter
#: of the kernel's on socket(2) with AF_INET or AF_INET6. It holds for threads and children.
NO_NETWORK = """
    import ctypes, platform, struct
    def forbid_network():
        numbers = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
        arch, socket = numbers[platform.machine()]
        load, equal, answer, kill, allow = 0x20, 0x15, 0x06, 0x80000000, 0x7FFF0000
        code = [(load, 0, 0, 4), (equal, 0, 5, arch), (load, 0, 0, 0), (equal, 0, 3, socket),
                (load, 0, 0, 16), (equal, 2, 0, 2), (equal, 1, 0, 10), (answer, 0, 0, allow),
                (answer, 0, 0, kill)]
        text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
        class Program(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
        program = Program(len(code), ctypes.addressof(text))
        libc = ctypes.CDLL(None)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0  # PR_SET_SECCOMP, a filter
    forbid_network()
"""
filtered = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the kernel's filter is written for Linux on x86-64 and AArch64",
)
#: Every switch taken out, as on a user's machine.
CLEAN = ("PATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG")


def run(code: str, home: Path, expected: int = 0) -> str:
    """In a fresh process with an empty home, which dies where the network is touched."""
    (home / "tmp").mkdir(parents=True)
    env = {name: os.environ[name] for name in CLEAN if name in os.environ}
    env |= {"HOME": str(home), "TMPDIR": str(home / "tmp")}
    script = textwrap.dedent(NO_NETWORK) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == expected, done.stderr[-2000:]
    return done.stdout


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@filtered
def test_the_filter_sees_native_sockets(tmp_path):
    code = "libc = ctypes.CDLL(None); libc.socket(1, 1, 0); print('unix', flush=True)"
    assert run(code, tmp_path / "a") == "unix\n"
    assert run(code + "; libc.socket(2, 1, 0)", tmp_path / "b", expected=-31) == "unix\n"  # SIGSYS


@filtered
def test_onnx_runtime_keeps_no_event_store(tmp_path):
    out = run(
        """
        import compressc, onnxruntime, subprocess, sys
        onnxruntime.get_available_providers()
        child = "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
        print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout)
        """,
        tmp_path,
    )
    assert out.strip() == "1"
    assert files(tmp_path) == []


@filtered
@pytest.mark.slow
def test_openvino_and_nncf_find_no_package_to_report_with(tmp_path):
    out = run(
        """
        import compressc, nncf, openvino, sys
        from openvino.tools import ovc
        from nncf.telemetry.wrapper import telemetry
        print(sys.modules["openvino_telemetry"], type(telemetry).__module__)
        print(ovc.telemetry.__class__.__module__)
        """,
        tmp_path,
    )
    assert out.split() == ["None", "unittest.mock", "openvino.tools.ovc.telemetry_stub"]
    assert files(tmp_path) == []


@filtered
@pytest.mark.slow
@pytest.mark.parametrize("way", ["library", "command line"])
def test_a_whole_run_leaves_only_its_cache_at_home(tmp_path, way):
    passes = "prune,lowrank,distill(epochs=1),quant"
    model = """
        import sys, torch, numpy
        from compressc import compile
        net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        batch = {0: torch.export.Dim.DYNAMIC}
        net = torch.export.export(net.eval(), (torch.randn(3, 4),), dynamic_shapes=(batch,))
        x = numpy.random.default_rng(0).normal(size=(200, 4)).astype("f4")
    """
    ways = {
        "library": f"""
        from compressc import Dataset, Split
        half = Split((torch.from_numpy(x),), torch.arange(200) % 3)
        out = compile(net, {passes!r}, data=Dataset("d", half, half, half))
        out.save({str(tmp_path / "out")!r}, batches=())
        """,
        "command line": f"""
        import os
        os.chdir({str(tmp_path)!r})
        torch.export.save(net, "m.pt2"), numpy.savez("d.npz", x=x, y=numpy.arange(200) % 3)
        from compressc.cli import main
        end = main(["m.pt2", "-p", {passes!r}, "--data", "d.npz", "--batches", "", "-o", "out"])
        assert end == 0, end
        """,
    }
    run(model + ways[way], tmp_path / "home")
    assert (tmp_path / "out/manifest.json").exists()
    assert {name.rsplit("/", 2)[0] for name in files(tmp_path / "home")} == {".cache/compressc"}


def test_senders_of_packages_the_user_imported_are_silenced(tmp_path):
    out = run(
        """
        import sys, types
        package = types.ModuleType("openvino_telemetry")
        class Telemetry:
            def send_event(self, *args): raise AssertionError("sent")
            def start_session(self, *args): raise AssertionError("sent")
        package.Telemetry = Telemetry
        runtime = types.ModuleType("onnxruntime")
        runtime.disable_telemetry_events = lambda: print("onnxruntime")
        sys.modules |= {"openvino_telemetry": package, "onnxruntime": runtime}
        client = Telemetry()
        import compressc
        client.send_event("category", "action"), client.start_session("category")
        print("silent")
        """,
        tmp_path,
    )
    assert out.split() == ["onnxruntime", "silent"]


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
