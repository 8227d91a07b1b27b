"""The files that GitHub reads name what exists."""

import re
from typing import Any

import pytest
import yaml

from .conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _load(path: Any) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_names_this_package_and_both_papers() -> None:
    citation = _load(ROOT / "CITATION.cff")
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "references"}
    assert citation["license"] == "Apache-2.0"
    papers = {paper["url"].rpartition("/")[2]: paper for paper in citation["references"]}
    assert papers.keys() == {"2203.12119", "2305.17223"}
    for paper in papers.values():
        assert paper.keys() >= {"type", "title", "authors", "year"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_targets_of_the_makefile(path: Any) -> None:
    workflow = _load(path)
    assert workflow["permissions"] == {"contents": "read"}
    called: set[str] = set()
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"]
        rows = job["strategy"]["matrix"].get("include", [])
        for step in job["steps"]:
            for target in re.findall(r"^make (.*)$", step.get("run", ""), re.MULTILINE):
                called |= {r["target"] for r in rows} if "matrix.target" in target else {target}
    assert called >= {"check", "test", "docs", "lowest", "test-all"}
    assert called <= TARGETS


def test_issue_forms_ask_for_something() -> None:
    assert {path.stem for path in FORMS} == {"bug_report", "feature_request", "config"}
    for form in map(_load, FORMS):
        fields = [field for field in form.get("body", []) if field["type"] != "markdown"]
        assert "blank_issues_enabled" in form or fields
        assert all(field["attributes"]["label"] for field in fields)
