"""What a study file says: its cells, their runs, and the faults that are refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from pcvpt.cli.config_files import STUDIES
from pcvpt.cli.studies.main import check_options
from pcvpt.cli.studies.study import Run, Study, with_seed
from pcvpt.cli.studies.study_file import read_study
from pcvpt.errors import UsageError

RATE, DECAY = "model.prompt.base_lr", "model.prompt.weight_decay"
TUNING = "model.finetune.base_lr"
ROOT = STUDIES.parent
FROM_A = {"from": "a"}


def keys(study: Study) -> set[str]:
    """Return the keys of all runs of a study that searches nothing."""
    return {run.key for cell in study.cells for run in cell.runs(lambda *_: None).values()}


def test_every_config_takes_every_method_and_all_that_varies(study: Any) -> None:
    made = study(
        configs=["demo.yaml", "fgvc"],
        methods={
            "linear": {"configs": ["linear.yaml"]},
            "deep": {"vary": {"condense.keep": [0.1, 0.3]}},
        },
        seeds=[0, 1],
    )
    assert len(made.cells) == 6 * 3
    names = [cell.name for cell in made.cells if cell.config == "cars"]
    assert names == ["linear", "deep keep=0.1", "deep keep=0.3"]
    assert len(keys(made)) == 6 * 3 * 2


def test_a_list_of_methods_names_configs(study: Any) -> None:
    made = study(configs=["demo.yaml"], methods=["linear.yaml", "shallow.yaml"])
    assert [cell.method for cell in made.cells] == ["linear", "shallow"]
    assert made.cells[0].base.configs == ("demo.yaml", "linear.yaml")


def test_a_run_is_named_by_its_merged_configuration(study: Any) -> None:
    plain = Run(("demo.yaml",), ())
    assert plain.key == Run(("demo.yaml",), (("condense.keep", 0.1),)).key  # as demo.yaml has it
    assert plain.key == Run(("demo.yaml",), (("output_dir", "elsewhere"),)).key
    others = [(), (("condense.keep", 0.3),), (("seed_everything", 1),), (("data.root", "x"),)]
    assert len({Run(("demo.yaml",), other).key for other in others}) == 4


def test_another_class_does_not_keep_the_arguments_of_the_former() -> None:
    optimizer = "model.prompt.optimizer"
    of_sgd = (
        (f"{optimizer}.class_path", "torch.optim.SGD"),
        (f"{optimizer}.init_args.momentum", 0.9),
    )
    changed = (*of_sgd, (f"{optimizer}.class_path", "torch.optim.AdamW"))
    merged = Run(("demo.yaml",), changed).merged()
    assert merged["model"]["prompt"]["optimizer"] == {"class_path": "torch.optim.AdamW"}


def test_a_class_that_is_given_by_its_name_alone_stays(tmp_path: Path) -> None:
    configs = [tmp_path / f"{name}.yaml" for name in ("Cars", "DTD")]
    for path in configs:
        path.write_text(f"data: pcvpt.data.{path.stem}")
    runs = [with_seed(Run((str(path),), ()), 1) for path in configs]
    assert runs[0].merged()["data"] == {"class_path": "pcvpt.data.Cars", "init_args": {"seed": 1}}
    assert runs[0].key != runs[1].key


def test_a_seed_is_that_of_weights_images_and_condensation() -> None:
    options = dict(with_seed(Run(("demo.yaml",), (("condense.seed", 7),)), 3).options)
    assert options == {"seed_everything": 3, "data.init_args.seed": 3, "condense.seed": 7}


@pytest.fixture
def dependent(study: Any) -> Study:
    """Prompts with a searched rate, and two condensations of them whose rate is searched too."""
    return study(  # type: ignore[no-any-return]
        configs=["demo.yaml"],
        methods={
            "deep": {"configs": ["vpt.yaml"], "vary": {"model.num_prompts": [10, 20]}},
            "pruned": {
                "from": "deep",
                "vary": {"condense.score": ["gate", "random"]},
                "options": {"condense.keep": [0.1, 0.3]},
                "search": {"vary": {TUNING: [0.3, 1.0]}},
            },
        },
        search={"vary": {RATE: [0.1, 0.3]}},
        options={"model.prompt.weight_decay": 0.0},
        seeds=[0, 1],
        final={"data.val_fraction": 0.1},
    )


def test_a_method_starts_from_the_run_of_the_same_config_options_and_seed(dependent: Any) -> None:
    names = [cell.name for cell in dependent.cells]
    assert names[:2] == ["deep num_prompts=10", "deep num_prompts=20"]
    assert names[2:4] == [f"pruned num_prompts=10 score={score}" for score in ("gate", "random")]
    deep, pruned = dependent.cells[1], dependent.cells[5]
    assert pruned.start is deep
    assert (deep.planned, pruned.planned) == (4, 4)
    best = {RATE: 0.3, TUNING: 1.0}

    def accuracy(run: Run, may_stop: bool = False) -> float:
        return sum(dict(run.options).get(key) == value for key, value in best.items())

    for seed, run in pruned.runs(accuracy).items():
        options = dict(run.options)
        assert run.start.key == deep.runs(accuracy)[seed].key
        assert run.configs == ("demo.yaml", "vpt.yaml")
        assert options.items() >= {**best, "model.num_prompts": 20, "seed_everything": seed}.items()
        assert options["condense.score"] == "random"
    # A candidate does not start from prompts that have seen what it is chosen by.
    for run in pruned.candidates(accuracy).values():
        assert run.start.key == deep.candidates(accuracy)[(RATE, 0.3),].key


def test_what_starts_from_another_method_waits_for_its_choice(dependent: Any) -> None:
    cell = dependent.cells[2]
    assert not cell.candidates(lambda *_: None)
    assert not cell.runs(lambda *_: None)
    known = {run.key for run in cell.start.candidates(lambda *_: None).values()}

    def accuracy(run: Run, may_stop: bool = False) -> float | None:
        return 70.0 if run.key in known else None

    assert len(cell.candidates(accuracy)) == 2
    assert not cell.runs(accuracy)


def test_the_key_follows_from_the_key_of_the_start_and_not_from_its_place() -> None:
    one, other = (Run(("demo.yaml",), (("seed_everything", seed),)) for seed in (0, 1))
    same = Run(("demo.yaml",), (("seed_everything", 0), ("output_dir", "elsewhere")))
    runs = [Run(("demo.yaml",), (), start) for start in (None, one, other, same)]
    assert len({run.key for run in runs}) == 3
    assert runs[1].key == runs[3].key


def test_ranges_are_logarithmic_unless_they_say_otherwise(study: Any) -> None:
    vary = {
        RATE: {"from": 0.01, "to": 1.0, "count": 3},
        DECAY: {"from": 0.0, "to": 0.2, "count": 3, "scale": "linear"},
    }
    made = study(configs=["demo.yaml"], methods=["linear.yaml"], search={"vary": vary})
    tried = [dict(options) for options in made.cells[0].candidates(lambda *_: None)]
    assert sorted({options[RATE] for options in tried}) == [0.01, 0.1, 1.0]
    assert sorted({options[DECAY] for options in tried}) == [0.0, 0.1, 0.2]


def test_the_choice_is_the_best_on_val_and_the_smaller_rate_of_equals(study: Any) -> None:
    made = study(
        configs=["demo.yaml"],
        methods=["linear.yaml"],
        search={"vary": {RATE: [1.0, 0.3, 0.1]}},
        seeds=[0, 1],
    )
    cell = made.cells[0]
    found = {1.0: 75.0, 0.3: 75.0, 0.1: 70.0}
    assert cell.chosen(lambda run, *_: found[dict(run.options)[RATE]]) == ((RATE, 0.3),)
    assert cell.chosen(lambda *_: None) is None
    runs = cell.runs(lambda run, *_: found[dict(run.options)[RATE]])
    assert [dict(run.options)[RATE] for run in runs.values()] == [0.3, 0.3]
    assert not cell.runs(lambda *_: None)  # the seeds wait for the choice


def test_a_random_search_tries_some_of_all(study: Any) -> None:
    search = {"vary": {RATE: [0.1, 0.2, 0.3], DECAY: [0.0, 0.1]}, "sampler": "random", "trials": 4}
    made = study(configs=["demo.yaml"], methods=["linear.yaml"], search=search)
    tried = made.cells[0].candidates(lambda *_: None)
    assert len(tried) == made.cells[0].planned - 1 == 4
    assert set(tried) < set(made.cells[0].search.grid)
    assert list(made.cells[0].candidates(lambda run, *_: 1.0)) == list(tried)


def test_optuna_proposes_from_the_results_before(study: Any) -> None:
    pytest.importorskip("optuna")
    rates = [round(0.1 * step, 1) for step in range(1, 31)]
    search = {"vary": {RATE: rates}, "sampler": "tpe", "trials": 15}
    made = study(configs=["demo.yaml"], methods=["linear.yaml"], search=search)
    cell, known = made.cells[0], dict[str, float]()
    for number in range(1, 100):
        tried = cell.candidates(lambda run, *_: known.get(run.key))
        missing = [run for run in tried.values() if run.key not in known]
        if not missing:
            break
        assert len(missing) == 1
        assert cell.chosen(lambda run, *_: known.get(run.key)) is None
        assert len(tried) == number
        known[missing[0].key] = -abs(dict(missing[0].options)[RATE] - 2.04)
    assert len(tried) == 15
    assert list(cell.candidates(lambda run, *_: known.get(run.key))) == list(tried)
    best = dict(cell.chosen(lambda run, *_: known.get(run.key)) or ())
    assert best[RATE] == min((dict(one)[RATE] for one in tried), key=lambda rate: abs(rate - 2.04))


def test_options_of_the_final_runs_are_not_those_of_the_search(study: Any) -> None:
    made = study(
        configs=["dtd.yaml"],
        methods=["vpt.yaml"],
        search={"vary": {RATE: [0.1]}},
        final={"data.init_args.split": "train800val200"},
    )
    (candidate,) = made.cells[0].candidates(lambda *_: None).values()
    (run,) = made.cells[0].runs(lambda run, *_: 1.0).values()
    assert "data.init_args.split" not in dict(candidate.options)
    assert dict(run.options)["data.init_args.split"] == "train800val200"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"methods": ["linear.yaml"]}, "configs is missing"),
        ({"configs": ["demo.yaml"], "method": {}}, "unknown key method; did you mean methods?"),
        ({"configs": ["nowhere.yaml"], "methods": ["vpt.yaml"]}, "no configuration nowhere.yaml"),
        (
            {"configs": ["demo.yaml"], "methods": ["vpt.yaml"], "seeds": 3},
            "seeds is 3; give a list",
        ),
        (
            {"configs": ["demo.yaml"], "methods": {"a": {"vary": {RATE: 0.1}}}},
            f"vary: {RATE} is 0.1, but what varies needs a list",
        ),
        (
            {
                "configs": ["demo.yaml"],
                "methods": {"a": {"vary": {RATE: {"from": 0, "to": 1, "count": 3}}}},
            },
            "a log scale (the default) needs from above 0",
        ),
        (
            {"configs": ["demo.yaml"], "methods": ["vpt.yaml"], "search": {"trials": 3}},
            "search: trials goes with sampler random or tpe",
        ),
        (
            {
                "configs": ["demo.yaml"],
                "methods": {"a": {}, "b": {"from": "a"}, "c": {"from": "b"}},
            },
            "methods.c.from is b; choose a method above it that has no from itself: a",
        ),
        (
            {"configs": ["demo.yaml"], "methods": {"b": FROM_A, "a": {}}},
            "methods.b.from is a; choose a method above it that has no from itself: there is none",
        ),
        (
            {"configs": ["demo.yaml"], "methods": {"a": {}, "b": {**FROM_A, "configs": ["x"]}}},
            "methods.b has configs and from",
        ),
        (
            {
                "configs": ["demo.yaml"],
                "methods": ["vpt.yaml"],
                "search": {"metric": "test/accuracy"},
            },
            "search: unknown key metric",
        ),
        (
            {"configs": ["demo.yaml"], "methods": {"a": {"stages": ["best"]}}},
            "stages best; choose of trained, condensed, finetuned",
        ),
    ],
)
def test_a_fault_is_refused_with_the_file_and_the_key(
    study: Any, content: dict[str, Any], error: str
) -> None:
    with pytest.raises(UsageError, match=rf"mine\.yaml.*{re.escape(error)}"):
        study(**content)


@pytest.mark.parametrize(
    "file", [*sorted(STUDIES.glob("*.yaml")), ROOT / "experiments" / "real" / "default_score.yaml"]
)
def test_shipped_studies_can_be_read_and_their_options_are_known(
    file: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(ROOT)  # the configs of an experiment are beside it
    made = read_study(file)
    assert made.cells
    check_options(made)  # those that `pcvpt fit` would refuse
    if file.stem == "vpt_search":
        assert sum(cell.planned for cell in made.cells) == 855


def test_a_shipped_study_is_found_by_its_name(tmp_path: Path) -> None:
    for name in "demo.yaml", "demo", "elsewhere/demo":
        assert read_study(Path(name)).file == STUDIES / "demo.yaml"
    with pytest.raises(UsageError, match=r"no study .*nowhere\.yaml.*shipped are .*demo\.yaml"):
        read_study(tmp_path / "nowhere.yaml")
