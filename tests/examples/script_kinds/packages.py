# Classes made by packages: attrs, msgspec, pydantic, numpy.
import typing

import attrs
import msgspec
import numpy
import pydantic

from .declare import kind


class Struct(msgspec.Struct):
    x: int
    y: list[int] = []

    def total(self):
        return self.x + sum(self.y)


@kind("msgspec.Struct", Struct(4), Struct(5, [4]))
def job_msgspec(struct):
    struct.y.append(1)
    return Struct(struct.total(), [struct.x])


class Tagged(msgspec.Struct, frozen=True, kw_only=True, tag="own", omit_defaults=True):
    x: int
    inner: Struct | None = None


class TaggedChild(Tagged, kw_only=True, order=True):
    more: "Tagged | None" = None


@kind(
    "msgspec.Struct: frozen, tagged, nested, decoded",
    Tagged(x=4, inner=Struct(1)),
    lambda r: type(r) is TaggedChild and r.x == 4 and type(r.inner) is Struct,
)
def job_msgspec_tagged(one):
    packed = msgspec.json.encode(one)
    assert msgspec.json.decode(packed, type=Tagged) == one
    return TaggedChild(x=one.x, inner=one.inner)


class Linked(msgspec.Struct):
    x: "int"
    next: "Linked | None" = None


@kind("msgspec.Struct: types given as strings, decoded", 4, Linked(1, Linked(4)))
def job_msgspec_linked(x):
    return msgspec.json.decode(b'{"x": 1, "next": {"x": 4}}', type=Linked)


@attrs.define
class Defined:
    x: int = attrs.field(converter=int)
    y: list = attrs.Factory(list)

    @x.validator
    def check(self, attribute, value):
        if value < 0:
            raise ValueError(value)

    def total(self):
        return self.x + sum(self.y)


@kind("attrs.define", Defined("4"), Defined(5, [4]))
def job_attrs(one):
    assert not hasattr(one, "__dict__")
    return Defined(one.total() + 1, [one.x])


@attrs.frozen(kw_only=True)
class FrozenDefined:
    x: int
    y: int = 2


@attrs.define
class ChildDefined(Defined):
    z: int = 3

    def total(self):
        return super().total() + self.z


@kind("attrs.frozen", FrozenDefined(x=4), FrozenDefined(x=5, y=4))
def job_attrs_frozen(one):
    return FrozenDefined(x=one.x + 1, y=one.x)


@kind("attrs.define that inherits, super()", ChildDefined(4), 7)
def job_attrs_child(one):
    return one.total()


class Model(pydantic.BaseModel):
    x: int
    y: list[int] = []

    @pydantic.field_validator("x")
    @classmethod
    def check(cls, value):
        if value < 0:
            raise ValueError("negative")
        return value

    @pydantic.computed_field
    @property
    def total(self) -> int:
        return self.x + sum(self.y)


class ChildModel(Model):
    model_config = pydantic.ConfigDict(frozen=True)
    inner: Model | None = None
    name: typing.Annotated[str, pydantic.Field(min_length=1)] = "name"
    _secret: int = pydantic.PrivateAttr(default=7)

    def total_of_all(self):
        return super().total + (self.inner.total if self.inner else 0)


@kind("pydantic.BaseModel", Model(x=4), Model(x=5, y=[4]))
def job_pydantic(model):
    return Model(x=model.total + 1, y=["4"])


@kind("pydantic: the job validates", {"x": -1}, ("ValidationError", "negative"))
def job_pydantic_validates(data):
    try:
        Model(**data)
    except pydantic.ValidationError as error:
        return type(error).__name__, error.errors()[0]["msg"][-8:]


@kind(
    "pydantic: inheritance, nesting, private attributes",
    ChildModel(x=4, inner=Model(x=1)),
    lambda r: type(r[0]) is ChildModel and type(r[0].inner) is Model and r[1:] == (5, 7),
)
def job_pydantic_child(model):
    again = ChildModel.model_validate_json(model.model_dump_json())
    assert again == model
    return again, again.total_of_all(), again._secret


@pydantic.dataclasses.dataclass
class Validated:
    x: int
    y: list[int] = pydantic.Field(default_factory=list)


@kind("pydantic.dataclasses.dataclass", Validated(x="4"), Validated(x=5))
def job_pydantic_dataclass(one):
    return Validated(x=str(one.x + 1))


class Response(pydantic.BaseModel, typing.Generic[typing.TypeVar("Item")]):
    status: int = 200


@kind("a generic pydantic model", Response[int](), lambda r: type(r) is Response[int])
def job_pydantic_generic(one):
    return one


class Settings(pydantic.RootModel[list[Model]]):
    pass


@kind("pydantic.RootModel", Settings([Model(x=1)]), Settings([Model(x=2)]))
def job_pydantic_root(one):
    return Settings([{"x": one.root[0].x + 1}])


class Signal(numpy.ndarray):
    def energy(self):
        return float((self * self).sum())


@kind(
    "a subclass of numpy.ndarray",
    numpy.arange(3).view(Signal),
    lambda r: type(r[0]) is Signal and r[1] == 5.0,
)
def job_ndarray(signal):
    return signal + 1, signal.energy()


weights = numpy.arange(3)


@kind("a numpy array as a global", 4, 12)
def job_numpy_global(x):
    return int((weights * x).sum())


ufunc = numpy.vectorize(lambda x: x + 1)


@kind("numpy.vectorize", [1, 2], [2, 3])
def job_vectorize(numbers):
    return ufunc(numbers).tolist()
