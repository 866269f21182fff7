"""Recipes: the template says every key, a wrong key names the right one, what is written is what is read."""

import textwrap
from pathlib import Path

import pytest
import yaml

from onnxprune import recipe as recipes
from onnxprune.errors import RecipeError

LEAST = {"module": "net:build", "data": "net:task", "budget": {"macs": 0.2}}

WRONG = {
    "a typing error": ({"modul": "a:b"}, "unknown key 'modul', did you mean 'module'?"),
    "a typing error in a section": ({"dense": {"epochs": 3, "bach": 8}}, "'dense.bach', did you mean 'batch'?"),
    "a typing error two levels down": (
        {"finetune": {"distillation": {"temprature": 3}}},
        "'finetune.distillation.temprature', did you mean 'temperature'?",
    ),
    "a key one level too high": ({"temperature": 3}, "did you mean 'finetune.distillation.temperature'?"),
    "a key like no other": ({"gates": {"zzz": 1}}, "'gates.zzz' (known here: max_drop, min_speedup)"),
    "an empty budget": ({"budget": {}}, "name at least one of macs, params and bytes"),
    "a unit of no kind": ({"budget": {"units": {"layer": 0.5}}}, "'budget.units.layer"),
    "a negative budget": ({"budget": {"macs": -1}}, "'budget.macs' is -1: it should be greater than 0"),
    "a budget that isn't a number": ({"budget": {"macs": "few"}}, "'budget.macs' is 'few'"),
    "an infinite budget": ({"budget": {"macs": float("inf")}}, "'budget.macs' is inf"),
    "a budget beside that of each layer": (
        {"schedule": "hierarchical"},
        "hierarchical has its budget in hierarchical.left",
    ),
    "rates of nothing": ({"budget": None, "prune": {"parameters": {}}}, "prune names nothing that goes"),
    "a rate that is given twice": (
        {"budget": {"units": {"head": 0.5}}, "prune": {"heads": 0.5}},
        "the rate of head is given twice",
    ),
    "single weights that are given twice": (
        {"weights": {"share": 0.5}, "prune": {"connections": 0.5}},
        "say what single weights go in one place",
    ),
    "a template of two things": (
        {"templates": {"thin": {"match": "a", "width": 0.5, "pattern": "2:4"}}},
        "give one of width, replace, drop and pattern",
    ),
    "no steps": ({"steps": 0}, "'steps' is 0"),
    "steps that are a yes": ({"steps": True}, "'steps' is True"),
    "half an epoch": ({"dense": {"epochs": 1.5}}, "'dense.epochs' is 1.5"),
    "dense training without epochs": ({"dense": {"batch": 8}}, "'dense.epochs' is missing"),
    "many steps of a one-shot schedule": ({"schedule": "one-shot", "steps": 3}, "steps must be 1"),
    "soft masks and repairs": ({"soft": True, "adjust": "bias"}, "adjust must be none or batchnorm with soft masks"),
    "an end before the start": ({"finetune": {"prune_start": 0.6, "prune_end": 0.2}}, "must not be below"),
    "an object without its module": ({"module": "build"}, "write it as package.module:object"),
    "an object with a path": ({"module": "nets/net.py:build"}, "write it as package.module:object"),
    "an unknown metric": ({"metric": "top2"}, "choose top1, top5 or error_rate, or write it as"),
    "an unknown criterion": (
        {"criterion": "l1"},
        "taylor, a sum such as 0.5*taylor + 0.5*magnitude, or write",
    ),
    "a sum with something unknown": ({"criterion": "0.5*taylor + l1"}, "'criterion' is '0.5*taylor + l1'"),
    "a sum with nothing": ({"criterion": "0*taylor"}, "'criterion' is '0*taylor'"),
    "an unknown schedule": ({"schedule": "quartic"}, "'schedule' is 'quartic'"),
    "an unknown ranking": ({"ranking": "local"}, "'ranking' is 'local'"),
    "a retention of another criterion": ({"retention": 0.1}, "retention goes with the criterion error_rate"),
    "a pattern that is none": ({"weights": {"pattern": "some"}}, "'weights.pattern' is 'some'"),
    "a share of single weights": ({"weights": {"share": 1}}, "'weights.share' is 1"),
    "a threshold of everything": ({"weights": {"threshold": {"kind": "max", "value": 1}}}, "value must be below 1"),
    "a criterion of no weights": ({"weights": {"criterion": "apoz"}}, "'weights.criterion' is 'apoz'"),
    "a factor that falls": ({"threshold": {"factor": 1}}, "'threshold.factor' is 1"),
    "an unknown provider": ({"providers": ["cpu", "tpu"]}, "give a list of cpu or cuda, or auto"),
    "no provider": ({"providers": []}, "give a list of cpu or cuda, or auto"),
    "an unknown device": ({"device": "gpu"}, "'device' is 'gpu'"),
    "a grain of nothing": ({"round_to": 0}, "'round_to' is 0: give a whole number of channels, or cpu"),
    "a drop of everything": ({"gates": {"max_drop": 2}}, "'gates.max_drop' is 2: it should be less than 1"),
    "a batch of nothing": ({"measure": {"batches": [1, 0]}}, "'measure.batches.1' is 0"),
    "a seed below zero": ({"seed": -1}, "'seed' is -1"),
    "several at once": (
        {"steps": 0, "seed": -1},
        "'steps' is 0: it should be greater than or equal to 1; 'seed' is -1",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_recipe_says_what_and_where(change, sentence):
    with pytest.raises(RecipeError) as caught:
        recipes.load({**LEAST, **change})
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message
    assert "--template" in message


def test_rates_by_kind_are_limits_and_a_rule_for_single_weights():
    rates = {"neurons": 0.2, "head_dimensions": 0.25, "connections": 0.3}
    prune = {**rates, "parameters": {"below": 1e-3, "clip": [-10, 10]}}
    recipe = recipes.load({"module": "a:b", "data": "a:c", "prune": prune})
    assert recipe.limits == {"neuron": 0.8, "head dimension": 0.75}
    rule = recipe.single_weights
    assert (rule.share, rule.threshold.value, rule.clip) == (0.3, 1e-3, (-10, 10))
    both = recipes.load({**LEAST, "prune": {"heads": 0.5}})
    assert both.limits == {**LEAST["budget"], "head": 0.5} and both.single_weights is None


def test_templates_say_one_thing_of_layers_by_name():
    templates = {
        "narrow": {"match": "layer1.*", "width": 0.5},
        "thin": {"match": ["layer2.*", "head"], "replace": "low rank", "energy": 0.9},
        "short": {"match": "blocks.*", "drop": "every second block"},
        "half empty": {"match": "tail", "pattern": "2:4"},
    }
    recipe = recipes.load({"module": "a:b", "data": "a:c", "templates": templates})
    assert recipe.limits == {"layer1.*": 0.5}
    assert (recipe.single_weights.pattern, recipe.single_weights.only) == ("2:4", ("tail",))
    assert recipe.templates["thin"].match == ("layer2.*", "head")


def test_layer_by_layer_the_budget_is_that_of_each_layer():
    recipe = recipes.load({"module": "a:b", "data": "a:c", "schedule": "hierarchical", "hierarchical": {"left": 0.7}})
    assert recipe.limits == {"*": 0.7} and recipe.single_weights is None


def test_a_budget_or_rates_must_be_given():
    with pytest.raises(RecipeError, match="give a budget, what may be left, or under prune"):
        recipes.load({"module": "a:b", "data": "a:c"})


@pytest.mark.parametrize("key", ["module", "data"])
def test_what_has_no_default_must_be_given(key):
    with pytest.raises(RecipeError, match=f"'{key}' is missing"):
        recipes.load({name: value for name, value in LEAST.items() if name != key})


UNREADABLE = {
    "missing": (None, "can't be read: No such file or directory.*built-in recipe \\(cifar-classic"),
    "empty": (b"", "holds no keys"),
    "a list": (b"- a\n- b\n", "holds no keys"),
    "not YAML": (b"module: [a\nb: c\n", "line 2 isn't YAML"),
    "a key twice": (b"seed: 1\nname: x\nseed: 2\n", "line 3 isn't YAML: 'seed' is written twice"),
    "a Python object": (b"seed: !!python/object/apply:os.getpid []\n", "isn't YAML"),
    "not text": (b"\xff\xfe\x00\x01", "isn't text"),
}


@pytest.mark.parametrize(("content", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_is_no_recipe(tmp_path, content, sentence):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=sentence):
        recipes.load(path)


def dotted(content: dict, prefix: str = "") -> set[str]:
    inner = (dotted(value, f"{prefix}{key}.") for key, value in content.items() if isinstance(value, dict))
    return {prefix + key for key in content}.union(*inner)


def test_the_template_shows_every_key_with_its_default(tmp_path):
    content = yaml.safe_load(recipes.template())
    read = recipes.load(content)
    assert read == recipes.load({key: content[key] for key in LEAST})
    assert dotted(content) == dotted(read.model_dump())


@pytest.mark.parametrize("name", recipes.built_in())
def test_a_built_in_recipe_reads_and_names_itself(name):
    assert recipes.load(name).name == name
    assert recipes.load(yaml.safe_load(recipes.built_in_text(name))) == recipes.load(name)


def test_the_built_in_recipes_are_these():
    assert recipes.built_in() == ("cifar-classic", "digits", "digits-quick", "keywords", "languages")
    with pytest.raises(RecipeError, match="choose one of cifar-classic, digits, digits-quick, keywords, languages"):
        recipes.built_in_text("template")


FULL = {
    **LEAST,
    "budget": {"macs": 0.25, "bytes": 100_000},
    "schedule": "one-shot",
    "steps": 1,
    "keep": ["head"],
    "dense": None,
    "finetune": {"epochs": 3, "distillation": None},
    "providers": ["cpu", "cuda"],
    "round_to": 8,
    "gates": {"max_drop": 0.02},
}


def test_a_recipe_can_name_everything_that_is_there():
    from onnxprune.graph.units import BLOCK, KINDS
    from onnxprune.prune import criteria, ranking, schedule
    from onnxprune.training import adjusting, finetune, regularize

    assert sorted(recipes.CRITERIA) == sorted(criteria.CRITERIA)
    assert (*KINDS, BLOCK) == recipes.UNIT_KINDS
    assert recipes.load({**LEAST, "budget": {"units": {"head": 0.5}}}).budget.limits == {"head": 0.5}
    assert sorted(recipes.SCHEDULES) == sorted([*schedule.SCHEDULES, *schedule.OTHERS])
    of_weights = [name for name, c in criteria.CRITERIA.items() if c.scope == "weights" and "scale" not in c.reads]
    single = [*of_weights, "taylor"]
    assert sorted(recipes.WEIGHT_CRITERIA) == sorted(single)
    assert recipes.RANKINGS == ranking.RANKINGS
    assert recipes.PENALTIES == regularize.PENALTIES
    assert recipes.ADJUSTMENTS == adjusting.ADJUSTMENTS
    assert tuple(finetune.OPTIMIZERS) == recipes.OPTIMIZERS
    for name in (*recipes.CRITERIA, "0.5*taylor + 1e-3*apoz", "lamp+fpgm", "my.code:criterion"):
        assert recipes.load({**LEAST, "criterion": name}).criterion == name
    for name, control in schedule.CONTROLS.items():
        assert control(**getattr(recipes.load(LEAST), name).model_dump()) == control()


@pytest.mark.parametrize("content", [LEAST, FULL], ids=["defaults", "everything else"])
def test_what_is_written_is_what_is_read(tmp_path, content):
    recipe = recipes.load(content)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert recipes.load(path) == recipe
    assert recipes.load(recipe) == recipe


def test_changes_replace_keys_and_are_checked():
    assert recipes.load(LEAST, seed=3, budget={"params": 0.5}).budget.limits == {"params": 0.5}
    with pytest.raises(RecipeError, match="did you mean 'seed'"):
        recipes.load(LEAST, sed=3)


@pytest.mark.parametrize(
    ("providers", "measured", "asked"),
    [
        ("auto", ("cpu", "cuda"), {"cpu"}),
        ("cpu", ("cpu",), {"cpu"}),
        (["cuda"], ("cuda",), {"cuda"}),
        (["cpu", "cuda"], ("cpu", "cuda"), {"cpu", "cuda"}),
    ],
)
def test_only_providers_that_are_named_count(providers, measured, asked):
    recipe = recipes.load({**LEAST, "providers": providers})
    assert (recipe.providers_measured, recipe.providers_asked) == (measured, frozenset(asked))


def test_exponents_are_numbers():
    """YAML 1.1 takes 5e-4 for text; a learning rate is written so by everybody."""
    text = textwrap.dedent("""
        module: net:build
        data: net:task
        budget: {macs: 0.2}
        dense: {epochs: 1, learning_rate: 5e-4}
    """)
    assert recipes.load(yaml.safe_load(text)).dense.learning_rate == 5e-4


def test_a_recipe_is_read_only():
    recipe = recipes.load(LEAST)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1


def test_a_path_and_its_text_are_the_same(tmp_path: Path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(LEAST))
    assert recipes.load(str(tmp_path / "r.yaml")) == recipes.load(tmp_path / "r.yaml") == recipes.load(LEAST)


def test_soft_masks_choose_anew_in_each_step_of_a_one_shot_schedule():
    assert recipes.load({**LEAST, "schedule": "one-shot", "steps": 3, "soft": True}).steps == 3
