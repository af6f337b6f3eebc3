"""Runs a function in a forked child, so that a process can be killed without paying for its imports."""

import os
import signal
import socket
import threading
import time
import traceback
import warnings

from tqdm import tqdm


class Child:
    """A forked process that ends with the exit status of `fn` (70 where it raised something unforeseen)."""

    _status = None

    def __init__(self, fn):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the child touches no thread of its parent
            self.pid = os.fork()
        if self.pid:
            return
        code = 70
        tqdm.set_lock(
            threading.RLock()
        )  # its own lock lives in shared memory: killed while it holds it, the child would stop its parent
        try:
            fn()
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait_for(self, condition, seconds=60, may_end=False):
        """Wait until the condition holds. The child must still run then, unless it `may_end` before."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the child never came so far"
            if self._poll() is not None:
                assert may_end, f"the child ended early with status {self._status}"
                return
            time.sleep(0.002)

    def signal(self, number):
        if self._poll() is None:
            os.kill(self.pid, number)

    def status(self):
        """Exit status as subprocess gives it: negative for a signal."""
        if self._poll() is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def _poll(self):
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status


def ranks(count, fn, seconds=120):
    """Run `fn(rank)` in `count` forked processes that form one world, as a launcher would announce it; returns their statuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def work(rank):
        from accelerate.state import AcceleratorState

        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in world.items()}, ACCELERATE_USE_CPU="true")
        AcceleratorState._reset_state(reset_partial_state=True)  # the parent's world of one process
        fn(rank)

    children = [Child(lambda rank=rank: work(rank)) for rank in range(count)]
    end = time.monotonic() + seconds
    while any(child._poll() is None for child in children):
        if time.monotonic() > end:
            for child in children:
                child.signal(signal.SIGKILL)
            raise AssertionError("the processes hang")
        time.sleep(0.01)
    return [child.status() for child in children]
