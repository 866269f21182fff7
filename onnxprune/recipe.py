"""One value describes a whole run: the network, the data, how small, how trained, how measured.

A recipe is read from YAML or built in Python. Every key has a default but `module`, `data` and `budget`; a key that
isn't known is an error that names the nearest one.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from onnxprune.errors import RecipeError

METRICS = ("top1", "top5", "error_rate")
PROVIDERS = ("cpu", "cuda")
ROUND_TO = ("cpu",)
#: Those of `onnxprune.prune.criteria`, `.schedule` and `.ranking`, which need NumPy; a test holds them to be the same.
CRITERIA = (
    *("activation", "apoz", "batchnorm", "connection", "error_rate", "fisher", "fpgm", "gradient", "hessian", "lamp"),
    *("lasso", "magnitude", "magnitude_l2", "neuron", "normalized", "obd", "omp", "parameter", "random"),
    *("random_magnitude", "sensitivity", "structure", "taylor"),
)
UNIT_KINDS = ("conv group", "key-value group", "head", "head dimension", "channel", "neuron", "embedding", "block")
WEIGHT_CRITERIA = (
    *("fisher", "gradient", "hessian", "lamp", "magnitude", "magnitude_l2", "normalized", "obd", "sensitivity"),
    "taylor",
)
SCHEDULES = ("adaptive", "cubic", "exponential", "fixed", "hierarchical", "linear", "one-shot", "threshold")
ADJUSTMENTS = ("none", "rescale", "norm", "bias", "batchnorm", "least_squares")
PENALTIES = ("l1", "group", "batchnorm", "growing")
OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
RANKINGS = ("global", "layer", "isomorphic")
#: Built-in recipes are YAML files beside this module, read like anybody's.
BUILT_IN_FOLDER = Path(__file__).parent / "recipes"
TEMPLATE = "template"


def _check_reference(text: Any) -> str:
    """`package.module:object`, each part a Python name."""
    module, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not colon or not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
        raise ValueError("write it as package.module:object, for example my_project.net:build")
    return text


def _one_of(*names: str) -> BeforeValidator:
    """One of the names given, or the user's own object."""

    def check(text: Any) -> str:
        if text in names:
            return text
        try:
            return _check_reference(text)
        except ValueError as error:
            raise ValueError(f"choose {_either(names)}, or {error}") from None

    return BeforeValidator(check)


def _check_grain(value: Any) -> Any:
    if value in ROUND_TO or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"give a whole number of channels, or {_either(ROUND_TO)}")


def _check_criterion(text: Any) -> str:
    """A criterion's name, a sum such as 0.5*taylor + 0.5*magnitude, or the user's own function."""
    if isinstance(text, str) and ":" in text:
        return _check_reference(text)
    terms = text.split("+") if isinstance(text, str) else [""]
    for term in terms:
        factor, _, name = term.rpartition("*")
        if name.strip() not in CRITERIA or (factor and not _is_positive(factor)):
            raise ValueError(
                f"choose {_either(CRITERIA)}, a sum such as 0.5*taylor + 0.5*magnitude, or write your own as "
                "package.module:object"
            )
    return text


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _check_providers(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if names == ("auto",) or (names and set(names) <= set(PROVIDERS)):
        return names
    raise ValueError(f"give a list of {_either(PROVIDERS)}, or auto")


def _either(names: Iterable[str]) -> str:
    return " or ".join(filter(None, (", ".join([*names][:-1]), [*names][-1])))


Reference = Annotated[str, BeforeValidator(_check_reference)]
Positive = Annotated[int, Field(ge=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    """A part of a recipe: read-only, and nothing in it goes unread."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Budget(_Section):
    """What may be left: a fraction of the dense network, or an absolute figure above 1. All that are given hold."""

    macs: Rate | None = None
    params: Rate | None = None
    bytes: Rate | None = None
    units: dict[Literal[UNIT_KINDS], Rate] = {}

    @model_validator(mode="after")
    def _something_is_asked(self) -> "Budget":
        if not self.limits:
            raise ValueError("name at least one of macs, params and bytes, or a kind of unit under units")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """{cost or kind of unit: limit} of what was given."""
        costs = {name: getattr(self, name) for name in ("macs", "params", "bytes")}
        return {**{name: value for name, value in costs.items() if value is not None}, **self.units}


class Training(_Section):
    """How a network is trained. The learning rate rises over `warmup` of the epochs, stays until `hold`, then falls."""

    epochs: Positive
    batch: Positive = 64
    learning_rate: Rate = 3e-3
    optimizer: Literal[OPTIMIZERS] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    warmup: Fraction = 0.2
    hold: Fraction = 0.0
    label_smoothing: Fraction = 0.0
    accumulate: Positive = 1
    amp: bool = False
    average: Fraction = 0.0
    patience: Positive | None = None


class Distillation(_Section):
    """The dense network teaches the pruned one: `weight` of the loss is the softened difference to it."""

    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Rate = 2.0
    features: tuple[str, ...] = ()
    feature_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 100.0


class Adaptive(_Section):
    """Steps that follow the metric: halved after a drop beyond a share of the baseline, larger while it holds."""

    first: Annotated[float, Field(gt=0, le=1)] = 0.1
    tolerance: Fraction = 0.05
    growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.5
    patience: Positive = 2
    most: Positive = 100


class Hierarchical(Adaptive):
    """The same layer by layer, from the output down; `left` is the part of its units that each may end with.

    `blocks` is the part of whole residual blocks that may be left; they are taken before any layer.
    """

    first: Annotated[float, Field(gt=0, le=1)] = 0.5
    left: Annotated[float, Field(gt=0, lt=1)] = 0.5
    blocks: Annotated[float, Field(gt=0, lt=1)] | None = None


class Threshold(_Section):
    """A threshold on the units' scores that rises by a factor while the metric holds, and goes back after a drop."""

    first: Annotated[float, Field(gt=0, lt=1)] = 0.1
    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 1.5
    tolerance: Fraction = 0.05
    most: Positive = 100


class WeightThreshold(_Section):
    """Single weights whose score isn't above it go: a number, or a part of sigma(W) or of the largest score."""

    kind: Literal["fixed", "sigma", "max"] = "fixed"
    value: Rate
    everywhere: bool = False

    @model_validator(mode="after")
    def _something_is_left_of_a_maximum(self) -> "WeightThreshold":
        if self.kind == "max" and self.value >= 1:
            raise ValueError("value must be below 1 with the kind max")
        return self


class Weights(_Section):
    """Single weights that go besides the units; ONNX Runtime's CPU provider gains nothing by them."""

    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    pattern: Annotated[str, Field(pattern=r"^\d+(:|x)\d+$")] | None = None
    threshold: WeightThreshold | None = None
    clip: tuple[float, float] | None = None
    joint: Annotated[float, Field(ge=0, le=1)] | None = None
    criterion: Literal[WEIGHT_CRITERIA] = "magnitude"
    only: tuple[str, ...] = ()


class Penalty(_Section):
    """What drives weights to zero while the network is pruned: `weight` times the penalty is added to the loss.

    A `proximal` one is taken in steps of its own after each of the optimizer's, which reach exact zeros.
    """

    kind: Literal[PENALTIES] = "l1"
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    proximal: bool = False

    @model_validator(mode="after")
    def _growing_reaches_no_zeros(self) -> "Penalty":
        if self.proximal and self.kind == "growing":
            raise ValueError("proximal goes with l1, group and batchnorm")
        return self


class Constraints(_Section):
    """What each layer is held to in every step: a sum of |w|, and live units; up to 1 fractions, above figures."""

    l1: Rate | None = None
    units: Rate | None = None

    @property
    def limits(self) -> dict[str, float]:
        """{constraint: limit} of what was given."""
        return {name: value for name, value in (("l1", self.l1), ("units", self.units)) if value is not None}


class Parameters(_Section):
    """Single weights by their size: those not above `below` go, the others are held within `clip`."""

    below: Rate | None = None
    clip: tuple[float, float] | None = None


class Prune(_Section):
    """Rates by kind: the share of each that goes. A kind of unit is one of `budget.units`, in the plural."""

    channels: Fraction | None = None
    neurons: Fraction | None = None
    heads: Fraction | None = None
    head_dimensions: Fraction | None = None
    key_value_groups: Fraction | None = None
    conv_groups: Fraction | None = None
    embeddings: Fraction | None = None
    blocks: Fraction | None = None
    connections: Annotated[float, Field(gt=0, lt=1)] | None = None
    parameters: Parameters | None = None

    @property
    def units(self) -> dict[str, float]:
        """{kind of unit: what may be left}."""
        named = {kind: getattr(self, _plural(kind)) for kind in UNIT_KINDS}
        return {kind: 1 - rate for kind, rate in named.items() if rate}

    @property
    def weights(self) -> Weights | None:
        """The rule for single weights, None where there is none."""
        sizes = self.parameters or Parameters()
        if (self.connections, sizes.below, sizes.clip) == (None, None, None):
            return None
        threshold = WeightThreshold(kind="fixed", value=sizes.below) if sizes.below is not None else None
        return Weights(share=self.connections, threshold=threshold, clip=sizes.clip)


def _plural(kind: str) -> str:
    return kind.replace(" ", "_").replace("-", "_") + "s"


class Template(_Section):
    """What is done to all layers whose names are like `match`: one of width, replace, drop and pattern.

    `width` leaves that part of each one's units; `replace` puts two layers of a low rank, or a depthwise and a 1x1
    convolution, in its place; `drop` takes out blocks; `pattern` is for single weights, n:m, or a block with a share.
    """

    match: Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
    width: Annotated[float, Field(gt=0, lt=1)] | None = None
    replace: Literal["low rank", "depthwise"] | None = None
    energy: Annotated[float, Field(gt=0, le=1)] = 0.95
    data_aware: bool = True
    drop: Literal["every second block"] | None = None
    pattern: Annotated[str, Field(pattern=r"^\d+(:|x)\d+$")] | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> "Template":
        if sum(value is not None for value in (self.width, self.replace, self.drop, self.pattern)) != 1:
            raise ValueError("give one of width, replace, drop and pattern")
        return self


class Finetuning(Training):
    """Training while and after pruning: the steps are spread between two fractions of the epochs, or so far apart."""

    epochs: Positive = 20
    warmup: Fraction = 0.05
    prune_start: Fraction = 0.05
    prune_end: Fraction = 0.5
    prune_every: Positive | None = None
    distillation: Distillation | None = Distillation()


class Quantizing(Training):
    """The last stage: training in which weights and activations are rounded as the int8 graph rounds them."""

    epochs: Positive = 5
    learning_rate: Rate = 3e-4
    warmup: Fraction = 0.1
    bits: Annotated[int, Field(ge=2, le=8, strict=True)] = 8
    per_channel: bool = True
    reduce_range: bool = True
    distillation: Distillation | None = Distillation()

    @model_validator(mode="after")
    def _something_is_left_of_the_range(self) -> "Quantizing":
        if self.bits - self.reduce_range < 2:
            raise ValueError("bits must be 3 at least with reduce_range, which takes one")
        return self


class Gates(_Section):
    """What the result must reach: an accuracy drop the data can rule out, and a speed-up on each provider named."""

    max_drop: Fraction | None = None
    min_speedup: Rate | None = None


class Measuring(_Section):
    """How the latency of dense and pruned network is measured: each batch size and thread count for `seconds`."""

    batches: tuple[Positive, ...] = (1,)
    threads: tuple[Count, ...] = (1,)
    seconds: Rate = 20.0


class Recipe(_Section):
    """A whole run. See `onnxprune recipe --template` for what each key means."""

    name: str = "run"
    module: Reference
    data: Reference
    metric: Annotated[str, _one_of(*METRICS)] = "top1"
    loss: Annotated[str, _one_of("cross_entropy")] = "cross_entropy"

    budget: Budget | None = None
    prune: Prune | None = None
    templates: dict[str, Template] = {}
    weights: Weights | None = None
    criterion: Annotated[str, BeforeValidator(_check_criterion)] = "taylor"
    ranking: Literal[RANKINGS] = "global"
    retention: Fraction | None = None
    soft: bool = False
    penalty: Penalty = Penalty()
    constraints: Constraints = Constraints()
    adjust: Literal[ADJUSTMENTS] = "none"
    calibration: Positive = 256
    sensitivity: Count = 128
    schedule: Literal[SCHEDULES] = "cubic"
    adaptive: Adaptive = Adaptive()
    hierarchical: Hierarchical = Hierarchical()
    threshold: Threshold = Threshold()
    steps: Positive = 10
    guard: Fraction = 0.05
    tolerance: Fraction = 0.01
    noise: Fraction = 0.005
    keep: tuple[str, ...] = ()
    min_width: Positive = 1
    round_to: Annotated[Any, BeforeValidator(_check_grain)] = "cpu"

    dense: Training | None = Training(epochs=20)
    finetune: Finetuning = Finetuning()
    quantize: Quantizing | None = None

    device: Literal["auto", "cpu", "cuda"] = "auto"
    providers: Annotated[tuple[str, ...], BeforeValidator(_check_providers)] = ("auto",)
    measure: Measuring = Measuring()
    gates: Gates = Gates()
    seed: Count = 0

    @model_validator(mode="after")
    def _something_is_to_go(self) -> "Recipe":
        rules = [self.weights, self.prune and self.prune.weights]
        rules += [template for template in self.templates.values() if template.pattern]
        if sum(rule is not None for rule in rules) > 1:
            raise ValueError(
                "say what single weights go in one place: under weights, as connections and parameters, or a template"
            )
        if self.schedule == "hierarchical":
            if self.budget is not None or self.prune is not None:
                raise ValueError("hierarchical has its budget in hierarchical.left: leave budget and prune out")
            return self
        if self.prune is None:
            if self.budget is None and not self.templates:
                raise ValueError("give a budget, what may be left, or under prune the share of each kind that goes")
            return self
        if not self.limits and not self.templates and self.prune.weights is None:
            raise ValueError("prune names nothing that goes: give channels, neurons, heads, connections or parameters")
        twice = sorted(self.budget.units.keys() & self.prune.units.keys()) if self.budget else []
        if twice:
            raise ValueError(f"the rate of {twice[0]} is given twice, under budget.units and under prune")
        return self

    @model_validator(mode="after")
    def _pruning_ends_after_it_starts(self) -> "Recipe":
        if self.finetune.prune_end < self.finetune.prune_start:
            raise ValueError("finetune.prune_end must not be below finetune.prune_start")
        return self

    @model_validator(mode="after")
    def _smoothing_has_its_loss(self) -> "Recipe":
        sections = (self.dense, self.finetune, self.quantize)
        smoothing = any(section is not None and section.label_smoothing for section in sections)
        if smoothing and self.loss != "cross_entropy":
            raise ValueError("label_smoothing goes with the loss cross_entropy only")
        return self

    @model_validator(mode="after")
    def _one_shot_takes_one_step(self) -> "Recipe":
        if self.schedule == "one-shot" and "steps" in self.model_fields_set and self.steps != 1 and not self.soft:
            raise ValueError("steps must be 1 with the schedule one-shot, unless masks are soft")
        return self

    @model_validator(mode="after")
    def _soft_masks_leave_readers_alone(self) -> "Recipe":
        if self.soft and self.adjust not in ("none", "batchnorm"):
            raise ValueError("adjust must be none or batchnorm with soft masks: units may come back")
        return self

    @model_validator(mode="after")
    def _retention_has_its_criterion(self) -> "Recipe":
        if self.retention is not None and self.criterion != "error_rate":
            raise ValueError("retention goes with the criterion error_rate only")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """{cost, kind of unit or pattern over layers: what may be left}, of budget, prune and templates together."""
        widths = {p: t.width for t in self.templates.values() if t.width is not None for p in t.match}
        if self.schedule == "hierarchical":
            blocks = self.hierarchical.blocks
            return {"*": self.hierarchical.left, **({} if blocks is None else {"block": blocks})}
        return {**(self.budget.limits if self.budget else {}), **(self.prune.units if self.prune else {}), **widths}

    @property
    def single_weights(self) -> Weights | None:
        """The rule for single weights, wherever it is given."""
        patterned = [t for t in self.templates.values() if t.pattern is not None]
        if patterned:
            return Weights(pattern=patterned[0].pattern, share=patterned[0].share, only=patterned[0].match)
        return self.weights or (self.prune and self.prune.weights)

    @property
    def providers_measured(self) -> tuple[str, ...]:
        """Every provider to try; with `auto` CUDA is tried, and refused without consequence where there is none."""
        return ("cpu", "cuda") if self.providers == ("auto",) else self.providers

    @property
    def providers_asked(self) -> frozenset[str]:
        """The providers that count for the verdict."""
        return frozenset({"cpu"} if self.providers == ("auto",) else self.providers)

    def to_yaml(self) -> str:
        """The whole recipe, defaults included, in the form that `load` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load(source: "str | os.PathLike | Mapping[str, Any] | Recipe", **changes: Any) -> Recipe:
    """Read a recipe from a YAML file, the name of a built-in one, a mapping, or a Recipe.

    `changes` replace top-level keys, for example `load("digits", seed=1)`. Raises RecipeError naming file, key and way
    out.
    """
    if isinstance(source, Recipe):
        content, where = source.model_dump(exclude_unset=True), "the recipe"
    elif isinstance(source, Mapping):
        content, where = dict(source), "the recipe"
    elif str(source) in built_in():
        content, where = _parse(built_in_text(str(source)), str(source)), f"the recipe {source}"
    else:
        content, where = _parse(_read(Path(source)), str(source)), f"'{source}'"
    try:
        return Recipe.model_validate({**content, **changes})
    except ValidationError as error:
        problems = "; ".join(_sentence(problem) for problem in error.errors(include_url=False))
        raise RecipeError(
            f"{where[0].upper()}{where[1:]} can't be used: {problems}{'' if problems.endswith('?') else '.'} "
            "`onnxprune recipe --template` shows every key."
        ) from error


def built_in() -> tuple[str, ...]:
    """The names of the built-in recipes."""
    return tuple(sorted(file.stem for file in BUILT_IN_FOLDER.glob("*.yaml") if file.stem != TEMPLATE))


def template() -> str:
    """A commented recipe with every key, which reads as a recipe itself."""
    return _built_in_file(TEMPLATE).read_text(encoding="utf-8")


def built_in_text(name: str) -> str:
    """The YAML text of a built-in recipe. Raises RecipeError for a name that isn't one."""
    if name not in built_in():
        raise RecipeError(f"There is no built-in recipe {name!r}: choose one of {', '.join(built_in())}.")
    return _built_in_file(name).read_text(encoding="utf-8")


def _built_in_file(name: str) -> Path:
    return BUILT_IN_FOLDER / f"{name}.yaml"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        names = ", ".join(built_in())
        raise RecipeError(
            f"The recipe '{path}' can't be read: {error.strerror}. Give a YAML file or a built-in recipe ({names})."
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"The recipe '{path}' isn't text. `onnxprune recipe --template` prints one.") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(
            f"The recipe '{where}'{line} isn't YAML: {getattr(error, 'problem', None) or error}. "
            "`onnxprune recipe --template` prints one that is."
        ) from error
    if not isinstance(content, dict):
        raise RecipeError(f"The recipe '{where}' holds no keys. `onnxprune recipe --template` prints one that does.")
    return content


class _Loader(yaml.SafeLoader):
    """YAML without Python objects, in which a key that is written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _sentence(problem: Mapping[str, Any]) -> str:
    """One of pydantic's findings in our words."""
    location = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        key, known = str(problem["loc"][-1]), _keys_beside(problem["loc"])
        near = difflib.get_close_matches(key, known, 1)
        elsewhere = [path for path in _all_keys() if path.split(".")[-1] == key]
        if elsewhere or near:
            return f"unknown key '{location}', did you mean '{(elsewhere or near)[0]}'?"
        return f"unknown key '{location}' (known here: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"'{location}' is missing"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    return f"'{location}' is {problem['input']!r}: {message}" if location else message


def _section_at(location: tuple) -> type[BaseModel] | None:
    section: type[BaseModel] | None = Recipe
    for part in location:
        if section is None or part not in section.model_fields:
            continue
        section = _section_of(section.model_fields[part].annotation)
    return section


def _keys_beside(location: tuple) -> tuple[str, ...]:
    section = _section_at(location[:-1])
    return tuple(section.model_fields) if section else ()


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _all_keys(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every key of a recipe as a dotted path."""
    for name, field in section.model_fields.items():
        yield prefix + name
        inner = _section_of(field.annotation)
        if inner:
            yield from _all_keys(inner, f"{prefix}{name}.")
