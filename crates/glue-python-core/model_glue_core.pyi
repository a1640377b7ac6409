"""Merges language models: tensors in memory by `merge`, recipes by `Plan`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, TypedDict, final, overload, type_check_only

__version__: str
__all__ = [
    "__version__",
    "Tensor",
    "Plan",
    "merge",
    "operators",
    "set_num_threads",
    "get_num_threads",
]

@type_check_only
class SupportsDLPack(Protocol):
    """A tensor of torch, numpy, jax or any other library that speaks DLPack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

@type_check_only
class Parameter(TypedDict, total=False):
    """A parameter of an operator. The keys after `kind` depend on it."""

    name: str
    doc: str
    per_model: bool
    required: bool
    default: float | bool | str | None
    allowed: str
    kind: Literal["number", "integer", "flag", "choice", "operator"]
    min: float | None
    min_excluded: bool
    max: float | None
    usual: list[float]
    options: list[str]

@type_check_only
class Operator(TypedDict):
    """A merge operator."""

    name: str
    summary: str
    formula: str
    reference: str
    models: dict[str, int | None]
    base: Literal["unused", "optional", "required"]
    wraps: str | None
    statistic: dict[str, str] | None
    parameters: list[Parameter]

@final
class Tensor:
    """A merged tensor. `torch.from_dlpack`, `numpy.from_dlpack` and their like share its memory."""

    @property
    def name(self) -> str:
        """Name in the model."""
    @property
    def dtype(self) -> str:
        """Element type, as torch calls it: "bfloat16"."""
    @property
    def shape(self) -> tuple[int, ...]:
        """Extents, outermost first; empty for a scalar."""
    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of the same memory. `copy=True` and other devices are a BufferError."""
    def __dlpack_device__(self) -> tuple[int, int]:
        """The CPU: (1, 0)."""

def merge(
    tensors: Iterable[Mapping[str, SupportsDLPack]],
    method: str,
    params: Mapping[str, float | bool | str | Sequence[float | bool | str]] | None = None,
    base: Mapping[str, SupportsDLPack] | None = None,
    *,
    statistics: Iterable[Mapping[str, SupportsDLPack]] | None = None,
    seed: int = 0,
    dtype: Any = None,
) -> dict[str, Tensor]:
    """Merges models that are in memory, tensor by tensor, as `glue merge` merges them on disk: to the bit.

    `tensors` has a mapping from names to tensors for each model, such as a `state_dict()`, and `base` is one too.
    Tensors are on the CPU and contiguous. They are read in place and must not be written to during the merge. `params`
    has a value for all models, or a sequence with one for each; `operators()` lists them. `statistics`, for operators
    that need some, has a mapping from `NAME.STATISTIC` for each model, or one for the base. `dtype` is the type of the
    results; by default, each has the type it has in the base or the first model.

    ValueError: models that do not fit together, or what the operator refuses. TypeError: what is no tensor.
    """

def operators() -> list[Operator]:
    """Every merge operator, with parameters, defaults and docs: what `glue ops --json` prints."""

def set_num_threads(n: int | None = None) -> None:
    """Sets the number of worker threads; `None` is one for each processor. No result depends on it."""

def get_num_threads() -> int:
    """The number of worker threads."""

@final
class Plan:
    """A recipe, checked against the headers of its models: no weight is read before one is asked for.

    ValueError: what is wrong in the recipe, with line and column, or between its models. FileNotFoundError: a model that
    is not there. UserWarning: a key without effect.
    """

    def __new__(
        cls,
        recipe: str | dict[str, Any],
        directory: str | PathLike[str] | None = None,
        *,
        seed: int | None = None,
        dtype: Any = None,
        follow_links: bool = False,
    ) -> Plan: ...
    @staticmethod
    def from_file(
        path: str | PathLike[str],
        directory: str | PathLike[str] | None = None,
        *,
        seed: int | None = None,
        dtype: Any = None,
        follow_links: bool = False,
    ) -> Plan:
        """The plan of the recipe in a YAML file."""
    def names(self) -> list[str]:
        """Names of the tensors of the result, in the order in which they are merged."""
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor of the result."""
    def dtype(self, name: str) -> str:
        """The element type of a tensor of the result, as torch calls it."""
    def tensor(self, name: str) -> Tensor:
        """Merges one tensor."""
    @overload
    def tensors(self, *, torch: Literal[False] = False) -> Iterator[tuple[str, Tensor]]: ...
    @overload
    def tensors(self, *, torch: Literal[True]) -> Iterator[tuple[str, Any]]:
        """Names and tensors. Each tensor is merged when it is asked for; with `torch=True` it is one of torch."""
    def side_files(self) -> dict[str, bytes]:
        """The files of the result other than weights, by name."""
    def write(
        self, directory: str | PathLike[str], overwrite: bool = False, *, max_shard_size: int = 5_000_000_000
    ) -> None:
        """Merges everything into a new model directory, as `glue merge` does. It appears when it is complete.

        `overwrite` replaces a directory that glue has written.
        """
    @property
    def notes(self) -> list[str]:
        """Notes about the merge, none of which needs an action."""
    def __len__(self) -> int: ...
