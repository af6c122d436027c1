"""Reading the published pickles without running what they contain.

A pickle is a program for a small stack machine, and Python's own machine lets it call any function
there is. The one here is written anew and can do nothing but build arrays, dicts, lists, tuples,
strings, bytes and numbers: it imports nothing, and a file that asks for more is refused by name.
It is also bounded: in steps, in bytes held in memory, in depth.

In: ``.npy`` files, bare pickles of protocol 2 to 5, ``torch.save`` zips. Out: what they hold. Long
arrays aren't read but mapped onto the file, so that a file larger than memory opens at once.
"""

import math
import pickle  # for the names of the machine's operations only; nothing of it runs here
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from nice_demo.errors import InputError, one_line

_MAPPED_FROM = 4_000_000  # bytes; what is longer stays in the file
_MOST_HELD = 64_000_000  # bytes of everything that is shorter, together
_MOST_STEPS = 500_000  # the image metadata take some 100,000
_MOST_ITEMS = 10_000_000  # if nothing were shared: a few lists of lists can stand for billions
_DEEPEST = 100

# Operations whose argument is a number, that are followed by a length and so many bytes, …
_NUMBERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
_TEXTS = {pickle.SHORT_BINUNICODE: "<B", pickle.BINUNICODE: "<I", pickle.BINUNICODE8: "<Q"}
_BYTES = {
    pickle.SHORT_BINBYTES: "<B",
    pickle.BINBYTES: "<I",
    pickle.BINBYTES8: "<Q",
    pickle.BYTEARRAY8: "<Q",
}
_LONG_NUMBERS = {pickle.LONG1: "<B", pickle.LONG4: "<i"}
_CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
_TUPLES = {pickle.EMPTY_TUPLE: 0, pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_PUTS = {pickle.BINPUT: "<B", pickle.LONG_BINPUT: "<I"}
_GETS = {pickle.BINGET: "<B", pickle.LONG_BINGET: "<I"}

_STORAGES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ByteStorage": "u1",
}
# What a file may ask for. Modules are named as in NumPy 2 and Python 3.
_ADMITTED = {
    "numpy.ndarray",
    "numpy.dtype",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "_codecs.encode",  # how protocol 2 writes bytes
    "builtins.bytes",  # and no bytes
    "builtins.complex",
    "torch._utils._rebuild_tensor_v2",
    "collections.OrderedDict",  # an empty one, part of every tensor
    *_STORAGES,
}
_KEYS = {str, bytes, int, float, bool, type(None)}
_LEAVES = {*_KEYS, complex, np.ndarray, np.memmap}


class _Name(str):
    """A global that the file has asked for; only its name, never the thing."""


class _Region(NamedTuple):
    """Bytes that were left in the file."""

    start: int
    size: int


class _Storage(NamedTuple):
    """The memory of a torch tensor."""

    region: _Region
    dtype: np.dtype


class _Unbuilt:
    """An array or dtype whose content comes in a later step.

    Parameters
    ----------
    dtype : dtype, optional
        The dtype but for its byte order; None for an array.
    """

    def __init__(self, dtype: np.dtype | None = None) -> None:
        self.dtype = dtype
        self.memo_keys: list[int] = []  # where else the finished one has to go


def read_pickle(path: Path | str) -> object:
    """Read a pickle of arrays, dicts, lists, tuples, strings, bytes and numbers, and no other.

    Parameters
    ----------
    path : Path or str
        ``.npy``, a bare pickle (protocol 2 to 5), or a zip by ``torch.save``; its content decides,
        not its name.

    Returns
    -------
    object
        What was pickled; of an object array of shape () (``np.save`` of a dict) its only item.
        Arrays are read-only; those of 4 MB and more, of ``.npy`` files and of tensors are mapped
        onto the file. Tensors come as arrays, bytearrays as bytes, an OrderedDict as a dict.

    Raises
    ------
    InputError
        Where the file is missing or damaged, too deep, has too many parts, or asks for anything
        that isn't admitted, which is then named.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            file.seek(0)
            if start.startswith(b"PK\x03\x04"):
                return _read_zip(path, file)
            if start == b"\x93NUMPY":
                return _read_npy(path, file)
            return _Reader(path, file).load()
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing; download it anew.") from None
    except Exception as error:  # bytes that mean harm can make any step fail in any way
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{path} can't be read ({reason}); download it anew.") from None


def _read_npy(path: Path, file: BinaryIO) -> object:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    reader = _Reader(path, file)
    if dtype.kind != "O":
        region = reader.region(dtype.itemsize * math.prod(shape))
        return reader.array(region, dtype, shape, "F" if fortran else "C")
    array = reader.load()
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise ValueError(f"it announces an array of shape {shape} and holds something else")
    return array.item() if shape == () else array


def _read_zip(path: Path, file: BinaryIO) -> object:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"a zip with {len(pickles)} files data.pkl, not one as torch.save writes")
    folder = pickles[0].removesuffix("data.pkl")
    if order := members.get(folder + "byteorder"):
        region = _stored(file, order)
        file.seek(region.start)
        if file.read(min(region.size, 10)) != b"little":
            raise ValueError("it was saved on a big-endian machine")
    storages = {
        name.removeprefix(folder + "data/"): member
        for name, member in members.items()
        if name.startswith(folder + "data/")
    }
    file.seek(_stored(file, members[pickles[0]]).start)
    return _Reader(path, file, storages).load()


def _stored(file: BinaryIO, member: zipfile.ZipInfo) -> _Region:
    """Return where an uncompressed member lies in a zip."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"{member.filename!a:.100} is compressed or encrypted")
    file.seek(member.header_offset)
    header = file.read(30)
    name_length, extra_length = struct.unpack_from("<HH", header, 26)
    return _Region(member.header_offset + 30 + name_length + extra_length, member.file_size)


class _Reader:
    """The stack machine.

    Parameters
    ----------
    path : Path
    file : binary file
        The same, open where the pickle begins.
    storages : dict of str to ZipInfo
        The tensors' memory, for a zip by torch.
    """

    def __init__(
        self, path: Path, file: BinaryIO, storages: dict[str, zipfile.ZipInfo] | None = None
    ) -> None:
        self.path, self.file, self.storages = path, file, storages
        self.size = path.stat().st_size
        self.steps = self.held = 0
        self.stack: list = []
        self.below: list[list] = []  # the stacks under each open mark
        self.memo: dict[int, object] = {}

    def load(self) -> object:
        """Run the pickle to its end and return its result."""
        while (operation := self.read(1)) != pickle.STOP:
            self.spend(1)
            self.do(operation)
        if self.below or len(self.stack) != 1:
            raise ValueError("it doesn't end with one object")
        _check(self.stack[0])
        return self.stack[0]

    def do(self, operation: bytes) -> None:
        """Take one step."""
        stack = self.stack
        if operation in _TEXTS:
            text = self.read(self.number(_TEXTS[operation]))
            stack.append(str(text, "utf-8", "surrogatepass"))
        elif operation == pickle.MEMOIZE:
            self.remember(len(self.memo))
        elif operation in _PUTS:
            self.remember(self.number(_PUTS[operation]))
        elif operation in _GETS:
            stack.append(self.memo[self.number(_GETS[operation])])
        elif operation in _NUMBERS:
            stack.append(self.number(_NUMBERS[operation]))
        elif operation in _LONG_NUMBERS:
            length = self.number(_LONG_NUMBERS[operation])
            if not 0 <= length <= 255:
                raise ValueError(f"a number of {length} bytes")
            stack.append(int.from_bytes(self.read(length), "little", signed=True))
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
        elif operation in _BYTES:
            length = self.number(_BYTES[operation])
            stack.append(self.region(length) if length >= _MAPPED_FROM else self.read(length))
        elif operation in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[operation])))
        elif operation == pickle.MARK:
            self.below.append(stack)
            self.stack = []
        elif operation == pickle.TUPLE:
            items = self.pop_mark()
            self.stack.append(tuple(items))
        elif operation == pickle.EMPTY_LIST:
            stack.append([])
        elif operation == pickle.APPEND:
            _extend(self.pop(1), stack[-1])
        elif operation == pickle.APPENDS:
            items = self.pop_mark()
            _extend(items, self.stack[-1])
        elif operation == pickle.EMPTY_DICT:
            stack.append({})
        elif operation == pickle.SETITEM:
            _update(self.pop(2), stack[-1])
        elif operation == pickle.SETITEMS:
            items = self.pop_mark()
            _update(items, self.stack[-1])
        elif operation == pickle.GLOBAL:
            module, name = self.line(), self.line()
            stack.append(_admit(self.path, module, name))
        elif operation == pickle.STACK_GLOBAL:
            stack.append(_admit(self.path, *self.pop(2)))
        elif operation == pickle.REDUCE:
            function, arguments = self.pop(2)
            stack.append(self.call(function, arguments))
        elif operation == pickle.BUILD:
            unbuilt, state = self.pop(2)
            stack.append(self.build(unbuilt, state))
        elif operation == pickle.BINPERSID and self.storages is not None:
            stack.append(self.storage(*self.pop(1)))
        elif operation == pickle.PROTO:
            self.number("<B")
        elif operation == pickle.FRAME:
            self.number("<Q")  # a hint for readers that read ahead
        else:
            raise ValueError(f"it uses the pickle operation {operation!r}, which isn't admitted")

    def spend(self, steps: int) -> None:
        """Count steps, so that no file keeps the machine busy for long."""
        self.steps += steps
        if self.steps > _MOST_STEPS:
            raise ValueError(f"it takes more than {_MOST_STEPS:,} steps")

    def hold(self, size: int) -> None:
        """Count bytes that are brought into memory."""
        self.held += size
        if self.held > _MOST_HELD:
            raise ValueError(f"it holds more than {_MOST_HELD // 10**6} MB outside of long arrays")

    def read(self, size: int) -> bytes:
        """Read bytes into memory."""
        self.hold(size)
        data = self.file.read(size)
        if len(data) < size:
            raise EOFError("it ends early")
        return data

    def line(self) -> str:
        """Read a line of text, without its end."""
        line = self.file.readline(1000)
        if not line.endswith(b"\n"):
            raise EOFError("it ends early")
        return str(line[:-1], "utf-8")

    def number(self, form: str) -> int | float:
        """Read a number of a format of `struct`."""
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def region(self, size: int) -> _Region:
        """Pass over bytes that stay in the file."""
        start = self.file.tell()
        if start + size > self.size:
            raise EOFError("it ends early")
        self.file.seek(start + size)
        return _Region(start, size)

    def pop(self, count: int) -> list:
        """Take the topmost items."""
        start = len(self.stack) - count
        if start < 0:
            raise IndexError("an operation lacks what it works on")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_mark(self) -> list:
        """Take all items above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def remember(self, key: int) -> None:
        """Keep the topmost item under a number."""
        item = self.memo[key] = self.stack[-1]
        if isinstance(item, _Unbuilt):
            item.memo_keys.append(key)

    def call(self, function: _Name, arguments: tuple) -> object:
        """Do what an admitted function does."""
        if type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("it calls something that isn't a function")
        match function:
            case "numpy.dtype":
                if not re.fullmatch(r"[biufcSUO]\d{1,9}", arguments[0]):
                    raise ValueError(f"the dtype {arguments[0]!a:.100}")
                return _Unbuilt(np.dtype(arguments[0]))
            case "numpy._core.multiarray._reconstruct":
                if type(arguments[0]) is not _Name or arguments[0] != "numpy.ndarray":
                    raise ValueError("an array of a class of its own")
                return _Unbuilt()
            case "numpy._core.numeric._frombuffer":
                data, dtype, shape, order, *axes = arguments
                if order == "K":
                    return self.array(data, dtype, shape).transpose(*axes)
                return self.array(data, dtype, shape, order)
            case "numpy._core.multiarray.scalar":
                dtype, data = arguments
                self.hold(len(data))
                return self.array(data, dtype, ())[()]
            case "_codecs.encode":
                text, encoding = arguments
                if encoding != "latin1":
                    raise ValueError(f"bytes as {encoding!a:.100}")
                self.hold(len(text))
                return text.encode("latin1")
            case "builtins.bytes" if not arguments:
                return b""
            case "builtins.complex":
                return complex(*arguments)
            case "collections.OrderedDict" if not arguments:
                return {}
            case "torch._utils._rebuild_tensor_v2":
                return self.tensor(*arguments[:4])
        raise ValueError(f"it calls {function}")

    def build(self, unbuilt: _Unbuilt, state: tuple) -> object:
        """Finish an array or a dtype, here and wherever it is remembered."""
        if type(unbuilt) is not _Unbuilt:
            raise ValueError(f"it sets the state of a {type(unbuilt).__name__}")
        if unbuilt.dtype is None:
            _, shape, dtype, fortran, data = state
            if isinstance(dtype, np.dtype) and dtype.kind == "O":
                built = self.objects(data, shape, "F" if fortran else "C")
            else:
                built = self.array(data, dtype, shape, "F" if fortran else "C")
        else:
            _, byte_order, *structure = state
            if structure[:3] != [None, None, None] or byte_order not in tuple("<>|="):
                raise ValueError("a dtype with fields")
            built = unbuilt.dtype.newbyteorder(byte_order)
        for key in unbuilt.memo_keys:
            self.memo[key] = built
        return built

    def array(
        self, data: bytes | _Region, dtype: np.dtype, shape: tuple[int, ...], order: str = "C"
    ) -> np.ndarray:
        """Return an array over bytes, read-only; a map of the file where they were left there."""
        if not isinstance(dtype, np.dtype) or dtype.kind not in "biufcSU":
            raise ValueError(f"an array of {dtype!a:.100}")
        count = _count(shape)
        size = data.size if type(data) is _Region else len(data)
        if count * dtype.itemsize != size or (not dtype.itemsize and count > 1):
            raise ValueError(f"an array of {dtype} of shape {shape} in {size} bytes")
        if type(data) is _Region and size:
            array = np.memmap(self.path, dtype, "r", data.start, shape, order)
        else:
            array = np.ndarray(shape, dtype, bytes(data) if size else b"", order=order)
        if dtype.kind == "U" and size:
            self.spend(size // 1000)
            if array.ravel("K").view(f"{dtype.byteorder}u4").max() > 0x10FFFF:
                raise ValueError("a string that isn't Unicode")
        return array

    def objects(self, items: list, shape: tuple[int, ...], order: str) -> np.ndarray:
        """Return an array of objects."""
        if type(items) is not list or len(items) != _count(shape):
            raise ValueError(f"an array of objects of shape {shape} that aren't so many")
        self.spend(len(items))
        return np.fromiter(items, object, len(items)).reshape(shape, order=order)

    def storage(self, reference: tuple) -> _Storage:
        """Find the memory of a tensor in the zip."""
        kind, storage_type, key, *_ = reference
        if kind != "storage" or storage_type not in _STORAGES:
            raise ValueError(f"it refers to {reference!a:.100}")
        here = self.file.tell()
        region = _stored(self.file, self.storages[key])
        self.file.seek(here)
        return _Storage(region, np.dtype(_STORAGES[storage_type]))

    def tensor(
        self, storage: _Storage, first: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> np.ndarray:
        """Return a tensor as an array."""
        whole, dtype = storage
        size = _count(shape) * dtype.itemsize
        start = first * dtype.itemsize
        dense = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        if size and any(s != d and n > 1 for s, d, n in zip(strides, dense, shape, strict=True)):
            raise ValueError("a tensor that isn't contiguous")
        if not 0 <= start <= start + size <= whole.size:
            raise ValueError("a tensor that reaches beyond its memory")
        return self.array(_Region(whole.start + start, size), dtype, shape)


def _admit(path: Path, module: str, name: str) -> _Name:
    """Return a global's name if it is admitted."""
    module = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
    full_name = f"{module}.{name}"
    if full_name not in _ADMITTED:
        raise InputError(
            f"{path} asks for {full_name!a:.200}, which a file of arrays has no need for and which "
            "could do harm; it was not read, get it from its publisher anew."
        )
    return _Name(full_name)


def _extend(items: list, target: list) -> None:
    if type(target) is not list:
        raise ValueError("it appends to something that isn't a list")
    target += items


def _update(items: list, target: dict) -> None:
    if type(target) is not dict or len(items) % 2:
        raise ValueError("it sets items of something that isn't a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Longer numbers can be chosen so that all of them collide.
        if type(key) not in _KEYS or (type(key) is int and not -(2**63) <= key < 2**63):
            raise ValueError(f"a dict key of type {type(key).__name__}")
        target[key] = value


def _count(shape: tuple[int, ...]) -> int:
    """Return how many elements a shape has."""
    if type(shape) is not tuple or len(shape) > 64:
        raise ValueError("a shape that isn't one")
    if not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise ValueError(f"the shape {shape!a:.200}")
    return math.prod(shape)


def _parts(item: object) -> list:
    """Return the items of a container; a leaf has none, anything else isn't admitted."""
    if type(item) in (list, tuple):
        return list(item)
    if type(item) is dict:
        return list(item.values())
    if type(item) is np.ndarray and item.dtype == object:
        return item.ravel().tolist()
    if type(item) in _LEAVES or isinstance(item, np.generic | np.dtype):
        return []
    raise ValueError(f"it leaves a {type(item).__name__.strip('_')} where a value belongs")


def _check(result: object) -> None:
    """Check that a result holds values only, isn't deep, and would stay small if unfolded.

    Containers may be shared, which makes some hundred bytes stand for more items than anyone can
    walk through, and they may hold themselves.
    """
    measures: dict[int, tuple[int, int]] = {}  # depth and number of items of finished containers
    entered: set[int] = set()
    todo = [(result, False)]
    while todo:
        item, finished = todo.pop()
        if id(item) in measures or not (parts := _parts(item)):
            continue
        if not finished:
            if id(item) in entered:
                raise ValueError("it holds a container that holds itself")
            entered.add(id(item))
            todo.append((item, True))
            todo += [(part, False) for part in parts]
            continue
        below = [measures.get(id(part), (0, 1)) for part in parts]
        depth, items = 1 + max(d for d, _ in below), 1 + sum(n for _, n in below)
        if depth > _DEEPEST or items > _MOST_ITEMS:
            raise ValueError(f"it is nested {depth} deep and unfolds to {items} items")
        measures[id(item)] = depth, items
