"""The command `modprop-jax`, before anything heavy is imported.

Loading JAX and compiling take seconds: it speaks before, and Ctrl-C ends it at any moment. Python's
own KeyboardInterrupt would rise in the midst of JAX, shows its inside, and may crash there. Nothing
is lost by leaving at once, since a run's folder outlives a kill at any moment.
"""

import importlib.metadata
import os
import signal
import sys
import threading


_WORK = ("compare", "align", "bench")


def main() -> int:
    """Run the command and return its exit code; 130 on Ctrl-C, at once."""
    if sys.argv[1:] == ["--version"]:
        print(f"modprop_jax {importlib.metadata.version('modprop_jax')}")
        return 0
    advice: list[str] = []
    _leave_on_interrupt(advice)
    if sys.argv[1:2] and sys.argv[1] in _WORK and not {"-h", "--help"} & set(sys.argv):
        print("modprop-jax: starting", file=sys.stderr, flush=True)
    from modprop_jax.experiments import main as run

    try:
        code = run(announce=advice.append)
        sys.stdout.flush()
    except BrokenPipeError:  # what reads the output (`| head`) has enough; as a shell has it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _leave_on_interrupt(advice: list[str]) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell
        return
    # The signal is written to a pipe at once, whatever native code the main thread is in; another
    # thread reads it there.
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=_leave, args=(read, advice), daemon=True).start()


def _leave(read: int, advice: list[str]) -> None:
    os.read(read, 1)
    said = f"continue with: {advice[-1]}" if advice else "there is nothing to continue"
    shown = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # the cursor, which progress bars hide
    os.write(2, f"{shown}modprop-jax: interrupted; {said}\n".encode())
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
