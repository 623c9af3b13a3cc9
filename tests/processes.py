"""Programs in processes of their own that need not import TensorFlow first.

Importing TensorFlow and Keras takes longer than most programs that the tests run. One
process therefore imports them, and each program runs in a fork of that process. No
device is initialised there, so that a fork is as good as a fresh interpreter for
whatever does not depend on the import itself.
"""

import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

# TensorFlow is safe to fork before it has started its threads. On macOS its libraries
# are not, and every process is a fresh interpreter.
_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
_CONTEXT = multiprocessing.get_context(_METHOD)
if _METHOD == "forkserver":
    _CONTEXT.set_forkserver_preload(["keras_fitnets", "keras_tuner", "matplotlib"])


def hurry():
    """Let this process start its steps fast, where each of them is run a few times.

    In TensorFlow 2.21 an iterator that lived for a few elements waits at its end for
    the thread that tunes it: always some milliseconds, and now and then half a minute.
    """
    import tensorflow as tf
    from tensorflow.python import pywrap_tfe
    from tensorflow.python.data.ops import dataset_ops

    def without_tuning(dataset):
        """What each iterator asks a dataset for: here, one that is not tuned."""
        options = tf.data.Options()
        options.autotune.enabled = False
        return dataset.with_options(options)

    dataset_ops.DatasetV2._apply_debug_options = without_tuning
    # Optimising a graph takes longer than the few steps that a test runs of it.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # With each seed that is set TensorFlow forgets the kernels of all operations, since
    # some hold a state of random numbers. Those that Keras uses are stateless, and to
    # make the others again takes a quarter of the tests' time.
    pywrap_tfe.TFE_ContextClearCaches = lambda context: None


def _redirect(descriptor, path):
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, descriptor)
    os.close(file)


def _execute(command, folder, environment, paths):
    """Become `python COMMAND` in this folder, with this environment."""
    for descriptor, path in zip((1, 2), paths, strict=True):
        _redirect(descriptor, path)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    hurry()
    path = environment.get("PYTHONPATH")
    sys.path[:0] = path.split(os.pathsep) if path else []
    kind, *arguments = command
    if kind == "-c":
        code, *arguments = arguments
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        module, *arguments = arguments
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *arguments]
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")


class Program:
    """`python COMMAND`, running; with the methods of `subprocess.Popen`."""

    def __init__(self, command, folder=".", environment=None, log=None):
        """Start it; both of its outputs go to the file `log`, if there is one."""
        if log is None:
            kept = tempfile.mkdtemp(prefix="keras_fitnets_")
            weakref.finalize(self, shutil.rmtree, kept)
            paths = [os.path.join(kept, name) for name in ("output", "errors")]
        else:
            paths = [str(log)] * 2
        self._paths = paths
        environment = dict(os.environ if environment is None else environment)
        self.args = [str(word) for word in command]
        self._process = _CONTEXT.Process(
            target=_execute,
            args=(self.args, str(folder), environment, paths),
            daemon=True,
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    @property
    def returncode(self):
        return self._process.exitcode

    def kill(self):
        self._process.kill()

    def wait(self, timeout=None):
        """The exit code, which is minus the number of the signal that ended it."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """Standard output and standard error, once it has ended."""
        self.wait(timeout)
        return tuple(Path(path).read_text() for path in self._paths)


def run(command, folder=".", environment=None):
    """Run `python COMMAND` to its end; what `subprocess.run` would return."""
    program = Program(command, folder, environment)
    output, errors = program.communicate()
    return subprocess.CompletedProcess(program.args, program.returncode, output, errors)
