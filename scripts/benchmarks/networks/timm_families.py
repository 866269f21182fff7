"""The smallest network of each of timm's families; a family is a module of timm.models."""

import json
import warnings
from collections import defaultdict
from functools import partial
from pathlib import Path

import torch

from networks.network import Input, Network, Subject
from networks.torchvision_loads import make_torchvision_load

#: What `smallest` found for one version of timm; counting again takes minutes.
FOUND = Path(__file__).with_name("timm_smallest.json")


def import_timm():
    make_torchvision_load()
    import timm

    return timm


def families() -> dict[str, list[str]]:
    """{family: names of its architectures}, from timm's registry."""
    timm = import_timm()
    found = defaultdict(list)
    for name in timm.list_models():
        found[timm.model_entrypoint(name).__module__.rsplit(".", 1)[-1]].append(name)
    return dict(sorted(found.items()))


def smallest() -> dict[str, str]:
    """{family: its architecture with the fewest parameters}; counted anew where timm isn't the version in FOUND."""
    version = import_timm().__version__
    noted = json.loads(FOUND.read_text())
    if noted["timm"] == version:
        return noted["smallest"]
    found = {family: min(names, key=parameters) for family, names in families().items()}
    FOUND.write_text(json.dumps({"timm": version, "smallest": found}, indent=1) + "\n")
    return found


def parameters(name: str) -> int:
    """The parameters of an architecture, which is built without memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in _create(name).parameters())


#: Attention over more than four axes, which the exporter takes only when it is written out.
WRITTEN_OUT = {"hiera", "nest", "twins", "vision_transformer_sam"}
#: Networks that multiply activations by each other, over and over or over all places: layers are scaled to less.
DEVIATIONS = {"csatv2": 0.5, "davit": 0.25}


#: Networks whose sizes are such expressions that the exporter simplifies them for more than ten minutes.
FIXED = {"davit"}
#: Height and width of the first check and the second, where a network takes these rather than what it was made for;
#: the others are for patches of 14, in threes.
SMALL = (((128, 128), (192, 160)), ((126, 126), (168, 126)))
#: What is added to the size a network was made for; one that takes multiples of 128 only is checked at that size.
STEPS = ((64, 32), (32, 32), (64, 64))


def _create(name: str) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_timm().create_model(name)


def subject(family: str, name: str) -> Subject:
    """A timm network of dynamic image size where it takes several, else at the one that it wants."""
    import_timm().layers.set_fused_attn(family not in WRITTEN_OUT)
    module = _create(name).eval()
    channels, height, width = module.default_cfg["input_size"]
    own = (height, width)
    pairs = [*SMALL, *((own, (height + more, width + wider)) for more, wider in STEPS)]
    taken = next((p for p in pairs if all(_takes(module, channels, *size) for size in p)), None)
    is_fixed = module.default_cfg.get("fixed_input_size") or taken is None
    first, second = (own, own) if is_fixed else taken
    found = Subject(
        module,
        (Input("image", ("N", channels, "H", "W")),),
        ({"H": first[0], "W": first[1]}, {"H": second[0], "W": second[1]}),
        DEVIATIONS.get(family, 1.0),
        "exported at a fixed size: the exporter takes too long" if family in FIXED else "",
    )
    return found.static() if is_fixed or family in FIXED else found


def _takes(module: torch.nn.Module, channels: int, height: int, width: int) -> bool:
    try:
        with torch.no_grad():
            module(torch.zeros(1, channels, height, width))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def networks() -> list[Network]:
    return [Network(f"timm/{family}", partial(subject, family, name)) for family, name in smallest().items()]
