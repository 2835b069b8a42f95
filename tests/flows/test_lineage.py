"""Lineage across rooms: from an answer to the data behind it and back, within what the caller may see."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.accounts import Principal, Role
from tandem.flows import lineage, model_card
from tandem.kit.config import Settings
from tandem.kit.errors import NotFound
from tandem.registry import Graph, Kind, Node, outline
from tandem.server import House
from tests.accounts.stand_ins import principal
from tests.history import answered, chartered, dataset_of, deployed, journaled, measured, opened, released, trained

DIGITS = "0" * 31 + "a"
CALLER = principal("key_1")


@pytest.fixture
def house(settings: Settings, migrated_sqlite: Path) -> Iterator[House]:
    house = opened(settings, migrated_sqlite)
    yield house
    house.db.close()


def kinds(graph: Graph) -> dict[Kind, list[str]]:
    found: dict[Kind, list[str]] = {}
    for node in graph.nodes.values():
        found.setdefault(node.kind, []).append(node.id)
    return found


def of_kind(graph: Graph, kind: Kind) -> Node:
    (found,) = [node for node in graph.nodes.values() if node.kind is kind]
    return found


def test_an_answer_leads_back_to_its_data(house: House) -> None:
    version = trained(house)
    release = released(house, version)
    deployed(house, version)
    assert (version.facts["system"], version.facts["tokenizer"]) == ("fake", f"sha256:{'e' * 64}")
    own = answered(house, DIGITS, version.ref, caller=CALLER)
    graph = lineage(f"chatcmpl-{DIGITS}", house=house, principal=CALLER)
    assert graph.start.id == own
    recipe = house.runs.read("run_0001").recipe_id
    data = dataset_of(house)
    assert kinds(graph) == {
        Kind.RESPONSE: [own],
        Kind.DEPLOYMENT: ["code=coder@1"],
        Kind.RELEASE: [release.digest],
        Kind.VERSION: ["coder@1"],
        Kind.EVIDENCE: list(release.release.evidence),
        Kind.CHARTER: [release.release.charter],
        Kind.RUN: ["run_0001"],
        Kind.RECIPE: [recipe],
        Kind.DATASET: [data.digest],
        Kind.TOKENIZER: [house.runs.recipe("run_0001").tokenizer.sha256],
    }
    node = of_kind(graph, Kind.DATASET)
    assert (node.facts["license"], node.facts["train"]) == ("PSF-2.0", 90)
    assert of_kind(graph, Kind.RELEASE).facts["signed_by"] == ["ada of lab"]
    lines = outline(graph)
    assert lines[0] == f"response chatcmpl-{DIGITS}  (ok)"
    assert "└─ answered by deployment code" in lines[3]
    assert "became:" not in lines, "nothing comes of an answer"


def test_data_lead_forward_to_what_answers_with_them(house: House) -> None:
    version = trained(house)
    release = released(house, version)
    deployed(house, version)
    graph = lineage(dataset_of(house).digest, house=house)
    found = kinds(graph)
    assert found[Kind.RUN] == ["run_0001"]
    assert found[Kind.VERSION] == ["coder@1"]
    assert found[Kind.RELEASE] == [release.digest]
    assert found[Kind.DEPLOYMENT] == ["code=coder@1"]
    assert Kind.TOKENIZER not in found, "it came of something else"
    words = {edge.word for edge in graph.edges}
    assert words == {"learns from", "executes", "made by", "measures", "releases", "rests on", "serves"}


def test_an_answer_stays_with_the_version_that_gave_it(house: House) -> None:
    first, second = trained(house), trained(house, "run_0002", size=256, seed=1)
    assert (first.ref, second.ref) == ("coder@1", "coder@2")
    deployed(house, first)
    answered(house, DIGITS, first.ref, caller=CALLER)
    deployed(house, second)
    graph = lineage(f"cmpl-{DIGITS}", house=house, principal=CALLER)
    assert kinds(graph)[Kind.VERSION] == ["coder@1"]
    assert of_kind(graph, Kind.DEPLOYMENT).facts == {"version": "coder@1", "now serves": "coder@2"}
    assert kinds(lineage(second.ref, house=house))[Kind.DEPLOYMENT] == ["code=coder@2"]
    assert Kind.DEPLOYMENT not in kinds(lineage(first.ref, house=house))


def test_siblings_are_not_ancestors(house: House) -> None:
    trained(house)
    trained(house, "run_0002", size=256, seed=1)
    graph = lineage("coder@1", house=house)
    assert kinds(graph)[Kind.RUN] == ["run_0001"]
    both = lineage(dataset_of(house).digest, house=house)
    assert sorted(kinds(both)[Kind.RUN]) == ["run_0001", "run_0002"]


def test_a_model_has_parents_and_children(house: House) -> None:
    parent = trained(house)
    model = {"parent": "coder@1", "parent_sha256": parent.artifact.digest}
    child = trained(house, "run_0002", size=256, name="tuned", model=model)
    assert child.ref == "tuned@1"
    assert kinds(lineage("tuned", house=house))[Kind.VERSION] == ["tuned@1", "coder@1"]
    assert sorted(kinds(lineage("coder", house=house))[Kind.VERSION]) == ["coder@1", "tuned@1"]
    assert "begins from version coder@1" in "\n".join(outline(lineage("tuned@1", house=house)))
    assert "inherits the limits of coder@1" in model_card("tuned", house=house).html()


def test_what_was_removed_is_told_as_gone(house: House) -> None:
    version = trained(house)
    answered(house, DIGITS, version.ref, caller=CALLER)
    house.registry.remove(version.ref)
    graph = lineage(f"req_{DIGITS}", house=house, principal=CALLER)
    assert of_kind(graph, Kind.VERSION).missing
    assert of_kind(graph, Kind.DEPLOYMENT).missing
    assert of_kind(graph, Kind.DATASET).facts["license"] == "PSF-2.0", "the way goes on"
    assert "version coder@1" in "\n".join(outline(graph))
    assert lineage("coder@1", house=house).start.missing


def test_a_version_remembers_where_its_run_is_not(house: House) -> None:
    parent = trained(house)
    model = {"parent": "coder@1", "parent_sha256": parent.artifact.digest}
    trained(house, "run_0002", size=256, name="tuned", model=model)
    shutil.rmtree(house.runs.folder("run_0002").path)
    graph = lineage("tuned@1", house=house)
    runs = {node.id: node.missing for node in graph.nodes.values() if node.kind is Kind.RUN}
    assert runs == {"run_0002": True, "run_0001": False}
    assert kinds(graph)[Kind.DATASET] == [dataset_of(house).digest]
    assert sorted(kinds(graph)[Kind.VERSION]) == ["coder@1", "tuned@1"]


def test_an_answer_by_a_version_that_nobody_knows_is_told_as_far_as_it_goes(house: House) -> None:
    answered(house, DIGITS, "never@9", caller=CALLER)
    graph = lineage(f"req_{DIGITS}", house=house, principal=CALLER)
    assert of_kind(graph, Kind.VERSION).missing
    assert len(graph.nodes) == 3


def test_an_answer_that_only_the_journal_has_is_found(house: House) -> None:
    version = trained(house)
    own = journaled(house.settings.home / "journal", DIGITS, version.ref, caller=CALLER)
    graph = lineage(own, house=house, principal=CALLER)
    assert graph.start.facts["operation"] == "embeddings"
    assert kinds(graph)[Kind.RUN] == ["run_0001"]


@pytest.mark.parametrize(
    "other", [principal("key_2"), principal("key_1", tenant="b"), principal("key_9", tenant="b", role=Role.ADMIN)]
)
def test_an_answer_is_only_for_those_who_may_see_it(house: House, other: Principal) -> None:
    trained(house)
    answered(house, DIGITS, "coder@1", caller=CALLER)
    with pytest.raises(NotFound, match="no response"):
        lineage(f"chatcmpl-{DIGITS}", house=house, principal=other)


def test_a_development_deployment_is_only_for_its_owner(house: House) -> None:
    version = trained(house)
    released(house, version)
    deployed(house, version, "mine", owner="key_1")
    assert "mine=coder@1" in kinds(lineage("coder@1", house=house, principal=CALLER))[Kind.DEPLOYMENT]
    assert Kind.DEPLOYMENT not in kinds(lineage("coder@1", house=house, principal=principal("key_2")))
    graph = lineage("deployment:mine", house=house, principal=CALLER)
    assert Kind.RELEASE not in kinds(graph), "it does not serve by the release"
    with pytest.raises(NotFound):
        lineage("deployment:mine", house=house, principal=principal("key_2", role=Role.ADMIN))


def test_everything_is_found_by_its_name(house: House) -> None:
    version = trained(house)
    release = released(house, version)
    deployed(house, version)
    refs = {
        "coder": Kind.VERSION,
        "coder@1": Kind.VERSION,
        version.artifact.digest: Kind.VERSION,
        version.artifact.digest.removeprefix("sha256:"): Kind.VERSION,
        "run_0001": Kind.RUN,
        "run_": Kind.RUN,
        dataset_of(house).digest: Kind.DATASET,
        house.runs.read("run_0001").recipe_id: Kind.RECIPE,
        house.runs.recipe("run_0001").tokenizer.sha256: Kind.TOKENIZER,
        release.digest: Kind.RELEASE,
        release.digest[:20]: Kind.RELEASE,
        release.release.evidence[0]: Kind.EVIDENCE,
        release.release.charter: Kind.CHARTER,
        "deployment:code": Kind.DEPLOYMENT,
    }
    assert {ref: lineage(ref, house=house).start.kind for ref in refs} == refs


@pytest.mark.parametrize("ref", ["nothing", "nothing@1", f"sha256:{'1' * 64}", "run_9", "", "a/b", "x" * 5000, "@"])
def test_what_is_not_there_is_said(house: House, ref: str) -> None:
    trained(house)
    with pytest.raises(NotFound) as caught:
        lineage(ref, house=house)
    assert caught.value.remedy
    assert len(caught.value.message) < 200


def test_a_card_tells_what_is_known(house: House) -> None:
    version = trained(house)
    chartered(house)
    measured(house, version, edit_similarity=0.61)
    card = model_card("coder", house=house)
    text = card.markdown()
    for told in (
        "# coder@1",
        "| suite | metric | value | 95 % | cases |",
        "| quality-code | edit\\_similarity | 0.61 | 0.6 to 0.62 | 50 |",
        "ada of lab",
        "| stdlib: | PSF-2.0 | code | 90 | 5 |",
        "there is no evidence of safety-core",
        "No release of it is in force",
        "It has not been released.",
        "| cost | 0.04 USD |",
        "| time | 37.0 s |",
        "bits per byte",
        "It reads at most 512 tokens, prompt and answer together.",
    ):
        assert told in text, told
    assert "no evidence of quality-code" not in text


def test_a_card_tells_of_releases(house: House) -> None:
    release = released(house, trained(house))
    text = model_card("coder@1", house=house).markdown()
    assert f"| {release.digest[7:19]} | in force |" in text
    assert "No release of it is in force" not in text
