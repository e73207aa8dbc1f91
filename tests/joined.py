"""Two processes that JAX joins to one."""

import os
import socket
import subprocess


def together(command: list[str], flags: str = "") -> list[str]:
    """What each of two processes says; the command gets where to meet, how many they are, and which
    one it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"]
    ran = [
        subprocess.Popen(
            [*command, *meeting, str(process)],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_X64": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        return [process.communicate(timeout=400)[0] for process in ran]
    finally:
        for process in ran:
            process.kill()
