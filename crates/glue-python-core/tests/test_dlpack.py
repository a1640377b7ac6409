"""Memory: what is read in place, who owns what, and when it is given back."""

import gc
import os
import subprocess
import sys

import model_glue_core as core
import numpy as np
import pytest
import support
from support import Array, Imported, Raw

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def mean(*tensors, **options):
    return core.merge([{"w": x} for x in tensors], "linear", {"weight": 1}, **options)["w"]


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("strides", [None, (4, 1)])
@pytest.mark.parametrize("offset", [0, 64])
def test_inputs_are_given_back(versioned, strides, offset):
    raw = [Raw(Array(X, "float32"), versioned, strides=strides, offset=offset) for _ in range(2)]
    assert np.array_equal(np.from_dlpack(mean(*raw)), X)
    gc.collect()
    assert [(r.exported, r.deleted) for r in raw] == [(1, 1), (1, 1)]


def test_inputs_are_given_back_after_an_error():
    good, bad = Raw(Array(X, "float32")), Raw(Array(X, "float32"), strides=(1, 3))
    with pytest.raises(ValueError, match="contiguous"):
        mean(good, bad)
    with pytest.raises(TypeError):
        mean(good, [1.0])
    with pytest.raises(TypeError, match="element type"):
        mean(good, Raw(Array(X, "complex64")))
    gc.collect()
    assert (good.exported, good.deleted, bad.exported, bad.deleted) == (3, 3, 1, 1)


def test_strides_of_single_rows_do_not_matter():
    column = Raw(Array(X[:, :1], "float32"), strides=(1, 17))
    assert np.from_dlpack(mean(column, column)).tolist() == [[0.0], [4.0], [8.0]]


def test_read_only_arrays_are_read():
    x = X.copy()
    x.flags.writeable = False
    assert np.array_equal(np.from_dlpack(mean(x, x)), X)


def test_a_producer_that_refuses():
    class Refuses:
        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, **_):
            raise BufferError("not today\nand a trace")

    with pytest.raises(ValueError) as raised:
        mean(X, Refuses())
    assert str(raised.value) == "tensor `w` of model 2 cannot be read through DLPack: not today"
    assert isinstance(raised.value.__cause__, BufferError)

    class Interrupts(Refuses):
        def __dlpack__(self, **_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mean(X, Interrupts())


def test_every_capsule_is_of_the_same_memory():
    merged = mean(X, X)
    arrays = [np.from_dlpack(merged), np.from_dlpack(merged)]
    old, new = Imported(merged, max_version=None), Imported(merged, max_version=(1, 0))
    assert (old.kind, new.kind) == (b"dltensor", b"dltensor_versioned")
    address = arrays[0].ctypes.data
    assert address % 256 == 0
    assert {address, arrays[1].ctypes.data, old.tensor.data, new.tensor.data} == {address}
    assert new.managed.flags == 0, "it may be written to"
    assert merged.__dlpack_device__() == (1, 0)
    with pytest.raises(BufferError):
        merged.__dlpack__(copy=True)
    with pytest.raises(BufferError):
        merged.__dlpack__(dl_device=(2, 0))


def test_arrays_outlive_their_result():
    array = np.from_dlpack(mean(X, X))
    gc.collect()
    other = [np.from_dlpack(mean(X * i, X * i)) for i in range(50)]
    assert np.array_equal(array, X) and np.array_equal(other[7], X * 7)


def test_a_capsule_that_nobody_takes_is_no_leak():
    for _ in range(3):
        merged = mean(np.ones(1 << 20, np.float32), np.ones(1 << 20, np.float32))
        for _ in range(2000):
            merged.__dlpack__(max_version=(1, 0))
    before = resident()
    for _ in range(50):
        merged = mean(np.ones(1 << 20, np.float32), np.ones(1 << 20, np.float32))
        merged.__dlpack__(max_version=(1, 0))
        np.from_dlpack(merged)
    assert resident() - before < 24 << 20, "50 results of 4 MiB"


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


PEAK = """
import sys
import numpy as np
import model_glue_core as core

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))

dtype, method = sys.argv[1:]
x = [{"w": np.full((4096, 4096), i, dtype)} for i in range(3)]
core.set_num_threads(2)
# What is paid once.
core.merge([{"w": np.ones(8, dtype)}] * 2, method, {"weight": 0.5}, {"w": np.ones(8, dtype)} if method == "ties" else None)
before = status("VmRSS")
merged = core.merge(x[1:], method, {"weight": 0.5}, x[0] if method == "ties" else None)
print(status("VmHWM") - before, merged["w"].nbytes)
"""


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_nothing_is_copied(dtype, method):
    """The peak of memory is the result and a few blocks: neither an input nor the result is there twice."""
    arguments = [sys.executable, "-c", PEAK, dtype, method]
    grown, result = map(int, subprocess.check_output(arguments, text=True).split())
    assert result == 4096 * 4096 * np.dtype(dtype).itemsize
    assert result <= grown < result + (20 << 20), (grown, result)


def test_bfloat16_results_say_so():
    array = Array(X, "bfloat16")
    merged = mean(Raw(array), Raw(array))
    imported = Imported(merged)
    dtype = imported.tensor.dtype
    assert (dtype.code, dtype.bits, dtype.lanes) == (4, 16, 1)
    assert imported.bytes() == array.bytes() and imported.shape() == X.shape
    assert repr(merged) == 'Tensor("w", dtype=bfloat16, shape=[3, 4])'
    assert (merged.name, merged.nbytes) == ("w", 24)
    assert support.result_bytes(merged)[0] == "BF16"
