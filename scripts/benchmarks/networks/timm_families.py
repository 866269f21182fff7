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
WRITTEN_OUT = {"hiera"}
#: Networks that multiply activations by each other, over and over or over all places: layers are scaled to less.
DEVIATIONS = {"csatv2": 0.5, "davit": 0.25}


def _create(name: str) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_timm().create_model(name)


def subject(family: str, name: str) -> Subject:
    """A timm network at the image size that it wants; of dynamic size where it takes others."""
    import_timm().layers.set_fused_attn(family not in WRITTEN_OUT)
    module = _create(name)
    channels, height, width = module.default_cfg["input_size"]
    dynamic = Subject(
        module,
        (Input("image", ("N", channels, "H", "W")),),
        ({"H": height, "W": width}, {"H": height + 64, "W": width + 32}),
        DEVIATIONS.get(family, 1.0),
    )
    return dynamic.static() if module.default_cfg.get("fixed_input_size") else dynamic


def networks() -> list[Network]:
    return [Network(f"timm/{family}", partial(subject, family, name)) for family, name in smallest().items()]
