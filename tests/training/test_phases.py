from typing import Any

import pytest

from pcvpt import UsageError
from pcvpt.training.phases import Schedule, budgets_of

TWO = Schedule(prompt_epochs=3, finetune_epochs=2, budgets=("0.5", "0.1"))


@pytest.mark.parametrize(
    ("schedule", "budgets", "numbers", "ends"),
    [
        (TWO, [""] * 3 + ["0.5"] * 2 + ["0.1"] * 3, [0, 1, 2, 3, 4, 3, 4, 5], {3, 5, 7}),
        (Schedule(3, 0), [""] * 4, [0, 1, 2, 3], {3}),  # plain VPT
        (Schedule(3, 1, ("",)), [""] * 7, [0, 1, 2, 3, 4, 5, 6], {3, 4}),
    ],
)
def test_each_budget_has_epochs_after_prompt_training_and_counts_them_as_if_alone(
    schedule: Schedule, budgets: list[str], numbers: list[int], ends: set[int]
) -> None:
    # One epoch more than there are: the trainer counts so once all is done.
    epochs = range(len(budgets))
    assert schedule.total_epochs == max(ends)
    assert [schedule.budget(epoch) for epoch in epochs] == budgets
    assert [schedule.single_budget_epoch(epoch) for epoch in epochs] == numbers
    assert {epoch for epoch in epochs if schedule.ends_phase(epoch)} == ends


@pytest.mark.parametrize(
    ("budgets", "epochs"), [(["0.5"], 2), (["0.1", "0.5"], 2), (["0.5", "0.1"], 3), ([""], 2)]
)
def test_another_row_of_fine_tunings_is_no_continuation(budgets: list[str], epochs: int) -> None:
    TWO.check_resumed(["0.5", "0.1"], 2)
    Schedule(3, 1, ("",)).check_resumed([""], 5)  # a single one may become longer
    with pytest.raises(UsageError, match=r"has 0\.5, 0\.1 for 2 epochs each; .*prompt-last"):
        TWO.check_resumed(budgets, epochs)


@pytest.mark.parametrize(
    ("options", "budgets", "finetuned"),
    [
        ({"keep": None}, {}, ()),
        ({"keep": 0.3}, {"": 0.3}, ("",)),
        ({"keep": [0.3]}, {"": 0.3}, ("",)),
        ({"keep": None, "count": 5}, {"": None}, ("",)),
        ({"keep": None, "max_drop": 1.0}, {"": None}, ("",)),
        ({"keep": [0.5, 0.1, 1]}, {"0.5": 0.5, "0.1": 0.1, "1.0": 1.0}, ("0.5", "0.1", "1.0")),
        (
            {"keep": [0.5, 0.1, 1], "finetune_keep": [1, 0.5]},
            {"0.5": 0.5, "0.1": 0.1, "1.0": 1.0},
            ("1.0", "0.5"),
        ),
        ({"keep": [0.5, 0.1], "finetune_keep": []}, {"0.5": 0.5, "0.1": 0.1}, ()),
        ({"keep": 0.3, "finetune_keep": []}, {"": 0.3}, ()),
        ({"keep": 0.3, "finetune_keep": [0.3]}, {"": 0.3}, ("",)),
    ],
)
def test_budgets_are_named_where_there_are_several(
    options: dict[str, Any], budgets: dict[str, float | None], finetuned: tuple[str, ...]
) -> None:
    assert budgets_of(**options) == (budgets, finetuned)
    assert list(budgets_of(**options)[0]) == list(budgets)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": []}, r"condense\.keep=\[\] holds no fraction"),
        ({"keep": [0.3, 0.3]}, r"condense\.keep=\[0\.3, 0\.3\] has a fraction twice"),
        ({"keep": [0.3, 0.0]}, r"keep=0\.0; give the fraction"),
        ({"keep": [1.5, 0.3]}, r"keep=1\.5; give the fraction"),
        ({"keep": [0.3, float("nan")]}, r"keep=nan; give the fraction"),
        (
            {"keep": [0.3, 0.1], "finetune_keep": [0.2]},
            r"condense\.finetune_keep=\[0\.2\]: 0\.2 is not in condense\.keep=\[0\.3, 0\.1\]",
        ),
        ({"keep": 0.3, "finetune_keep": [0.2]}, r"0\.2 is not in condense\.keep=\[0\.3\]"),
        ({"keep": [0.3, 0.1], "finetune_keep": [0.1, 0.1]}, r"finetune_keep=.* has a fraction twi"),
        ({"keep": None, "finetune_keep": []}, r"condense\.finetune_keep=\[\] chooses among"),
        ({"keep": [0.3, 0.1], "count": 5}, r"keep=\[0\.3, 0\.1\], count=5, .*give one of them"),
    ],
)
def test_a_wrong_list_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        budgets_of(**options)
