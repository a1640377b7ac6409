"""Small models in memory and on disk, the program `glue`, and a DLPack producer that is of no library."""

import ctypes
import json
import os
import subprocess

import numpy as np

LAYERS, WIDTH, ROWS = 3, 48, 64
# Longer than a span of the driver (2**18 elements), so that threads share the tensor.
VOCABULARY = 6000


def program():
    """The program `glue`: that of the environment variable, or of the wheel `model-glue`."""
    if path := os.environ.get("GLUE"):
        return path
    import model_glue

    return str(model_glue.find_program())


def glue(*arguments, cwd=None):
    """Runs the program; returns its standard output."""
    done = subprocess.run([program(), *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shapes():
    """The tensors of a small Llama."""
    found = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        found[f"model.layers.{layer}.input_layernorm.weight"] = (WIDTH,)
        found[f"model.layers.{layer}.mlp.down_proj.weight"] = (WIDTH, ROWS)
        found[f"model.layers.{layer}.mlp.up_proj.weight"] = (ROWS, WIDTH)
        found[f"model.layers.{layer}.self_attn.q_proj.weight"] = (WIDTH, WIDTH)
    found["model.norm.weight"] = (WIDTH,)
    found["lm_head.weight"] = (VOCABULARY, WIDTH)
    return found


class Array:
    """Elements in the memory of numpy, with a type that numpy may not have."""

    def __init__(self, values, dtype):
        values = np.ascontiguousarray(values, np.float32)
        self.dtype, self.shape = dtype, values.shape
        if dtype == "bfloat16":
            # Rounding does not matter: these are the numbers of the test.
            self.data = (values.view(np.uint32) >> 16).astype(np.uint16)
        else:
            self.data = values.astype(dtype)

    def bytes(self):
        return self.data.tobytes()


def model(seed, dtype="float32", base=None, scale=0.02):
    """A model of random weights; near `base`, if one is given."""
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(shape, np.float32) * scale for name, shape in shapes().items()}
    if base is not None:
        values = {name: base_values(base[name]) + x * 0.1 for name, x in values.items()}
    return {name: Array(x, dtype) for name, x in values.items()}


def base_values(array):
    if array.dtype == "bfloat16":
        return (array.data.astype(np.uint32) << 16).view(np.float32)
    return array.data.astype(np.float32)


SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64"}


def save(directory, arrays, config=True):
    """Writes a model directory, or with `config=False` a bare file of tensors."""
    directory.mkdir(parents=True)
    header, at, data = {}, 0, []
    for name, array in arrays.items():
        raw = array.bytes()
        header[name] = {
            "dtype": SAFETENSORS[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(raw)],
        }
        at += len(raw)
        data.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
    if config:
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "tie_word_embeddings": False,
        }
        (directory / "config.json").write_text(json.dumps(config))
    return directory


def load(directory):
    """Types, shapes and bytes of all tensors of a directory, by name."""
    found = {}
    for file in sorted(directory.glob("*.safetensors")):
        raw = file.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8:start]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = (entry["dtype"], tuple(entry["shape"]), raw[start + begin : start + end])
    return found


def result_bytes(tensor):
    """Type, shape and bytes of a result of the module, read through its capsule."""
    data = Imported(tensor)
    return (SAFETENSORS[tensor.dtype], tensor.shape, data.bytes())


# DLPack, written down from its specification.


class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("number", ctypes.c_int32)]


class DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = [("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", DELETER)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


READ_ONLY = 1
CODES = {
    "float16": (2, 16),
    "float32": (2, 32),
    "float64": (2, 64),
    "bfloat16": (4, 16),
    "int64": (0, 64),
    "complex64": (5, 64),
}

_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype, _name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_set_name = ctypes.pythonapi.PyCapsule_SetName
_set_name.restype, _set_name.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


class Raw:
    """A producer of DLPack capsules over the memory of an `Array`."""

    alive = {}

    def __init__(self, array, versioned=True, flags=READ_ONLY, strides=None, device=(1, 0), offset=0):
        self.array, self.versioned, self.flags = array, versioned, flags
        self.strides, self.device, self.offset = strides, device, offset
        self.exported = self.deleted = 0

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        assert copy is not True, "nobody asks for a copy"
        array = self.array
        rank = len(array.shape)
        managed = Versioned() if self.versioned else Managed()
        if self.versioned:
            assert max_version is not None and max_version[0] >= 1
            managed.major, managed.minor, managed.flags = 1, 0, self.flags
        tensor = managed.tensor
        # An offset is a start before the elements.
        tensor.data, tensor.byte_offset = array.data.ctypes.data - self.offset, self.offset
        tensor.device = Device(*self.device)
        tensor.ndim, tensor.dtype = rank, DataType(*CODES[array.dtype], 1)
        shape = (ctypes.c_int64 * rank)(*array.shape)
        tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
        strides = None
        if self.strides is not None:
            strides = (ctypes.c_int64 * rank)(*self.strides)
            tensor.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
        address = ctypes.addressof(managed)

        def delete(pointer):
            assert pointer == address
            self.deleted += 1
            Raw.alive.pop(pointer)

        managed.deleter = DELETER(delete)
        Raw.alive[address] = (managed, shape, strides, array)
        self.exported += 1
        return _new(address, b"dltensor_versioned" if self.versioned else b"dltensor", None)


class Imported:
    """A consumer of DLPack capsules: holds one, and gives it back."""

    def __init__(self, producer, max_version=(1, 0)):
        capsule = producer.__dlpack__(max_version=max_version)
        self.kind = _name(capsule)
        structure = {b"dltensor": Managed, b"dltensor_versioned": Versioned}[self.kind]
        self.address = _pointer(capsule, self.kind)
        self.managed = structure.from_address(self.address)
        self.tensor = self.managed.tensor
        # The capsule keeps the pointer to its name.
        self.used = b"used_" + self.kind
        used = {b"dltensor": b"used_dltensor", b"dltensor_versioned": b"used_dltensor_versioned"}[self.kind]
        Imported.names.append(used)
        assert _set_name(capsule, Imported.names[-1]) == 0

    names = []

    def shape(self):
        return tuple(self.tensor.shape[i] for i in range(self.tensor.ndim))

    def bytes(self):
        n = self.tensor.dtype.bits // 8
        for extent in self.shape():
            n *= extent
        return ctypes.string_at(self.tensor.data + self.tensor.byte_offset, n)

    def __del__(self):
        if address := self.__dict__.pop("address", None):
            self.managed.deleter(address)
