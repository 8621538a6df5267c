"The questions before something is called a platform, and what is measured beside them."
import pytest

from rap_analyzer.app import create_app
from rap_analyzer.frameworks.platform import HELD, PLATFORM_QUESTIONS, find_platform_facts, review_platform
from rap_analyzer.music.plugins import list_analyzers
from rap_analyzer.platform.tenancy import find_leaks
from rap_analyzer.search.store import Store, migrate

@pytest.fixture
def store(lab):
    migrate(lab)
    store = Store(lab, "platform-review").register()
    yield store
    store.forget()


def test_each_component_and_principle_of_the_original_is_asked_about():
    words = {q.text.partition(":")[0] for q in PLATFORM_QUESTIONS}
    assert words == {"Core services", "API and SDK", "Infrastructure as code", "Developer tools", "Governance and security",
                     "Marketplace", "Self-service", "Standardisation", "Observability", "Scalability", "Reliability"}


def test_what_is_said_is_read_from_service_and_database(store):
    schema = create_app(store).openapi()
    facts = {text.partition(":")[0]: fact for text, fact in find_platform_facts(schema, store).items()}
    count = sum(len(methods) for methods in schema["paths"].values())
    assert facts["API and SDK"].startswith(f"{count} operations, ")
    assert facts["Marketplace"].startswith(f"{len(list_analyzers())} analyzers were found")
    tables = int(facts["Governance and security"].split()[2])
    assert tables > 5 and facts["Governance and security"].startswith(f"{tables} of {tables} tables")
    assert not find_leaks(store) and "find something: 0" in facts["Governance and security"]


def test_a_table_that_a_policy_was_taken_from_is_seen(store):
    with store.admin() as con, con.transaction(force_rollback=True):
        proven, tables = con.execute(HELD).fetchone()
        con.execute("DROP POLICY proven_tenant ON jobs")
        assert con.execute(HELD).fetchone() == (proven - 1, tables) and proven == tables


def test_the_review_is_a_document_with_open_questions(store):
    review = review_platform(create_app(store).openapi(), store, about="Ten teams bring analyzers.")
    text = review.markdown()
    assert len(review.unanswered) == len(PLATFORM_QUESTIONS) and text.count("> Measured: ") == 3
    assert "Ten teams bring analyzers." in text and "`rap-analyzer audit verify`" in text
