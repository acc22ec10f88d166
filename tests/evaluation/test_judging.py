import json
import re

import pytest

from itda import Corpus, Judge, build, capture, judge_atoms
from itda.errors import ActivationError, FormatError, JudgeError, OptionError
from support import tiny
from support.judge import judge_service

_NO_TEXT = '{"choices": [{"message": {"content": %s}}]}'


@pytest.fixture(scope="module")
def corpora():
    return Corpus.from_texts(tiny.KINGS).split(held_out=0.5, seed=0)


@pytest.fixture(scope="module")
def dictionary(model, corpora):
    return build(model, corpora[0], site="resid_post.1", atoms=24, steps=4, progress=False)


@pytest.fixture(scope="module")
def held_out(model, corpora):
    return capture(model, corpora[1], "resid_post.1", progress=False)


def everything(question):
    return json.dumps({"active": [int(number) for number in re.findall(r"^(\d+)\.", question, re.MULTILINE)]})


def asking(service, **options):
    return Judge(url=service.url, model="a-model", first_wait=0.001, **options)


def test_answers_are_scored_against_what_the_codes_say(dictionary, held_out, tmp_path):
    codes = dictionary.encode(held_out)
    used = {}  # the text of every use of every atom, as a question quotes it
    for row, source in enumerate(held_out.sources):
        quote = "{}[{}]{}".format(*source.quoted(before=160, after=20))
        for atom in codes.atoms[row][codes.atoms[row] >= 0].tolist():
            used.setdefault(atom, set()).add(quote)
    named = {dictionary.sources[atom].text: atom for atom in range(len(dictionary))}
    assert len(named) == len(dictionary)

    def knowing(question):
        first, *numbered = question.splitlines()
        own = [atom for atom in used if first == "Taken from: " + "{}[{}]{}".format(
            *dictionary.sources[atom].quoted(before=160, after=20))]  # fmt: skip
        lines = [line.split(". ", 1) for line in numbered]
        return json.dumps({"active": [int(n) for n, text in lines if any(text in used[atom] for atom in own)]})

    with judge_service(knowing) as service:
        found = judge_atoms(
            dictionary, held_out, asking(service), answers=tmp_path / "a.jsonl", atoms=6, progress=False
        )
    assert found.mean > 0.95
    assert len(found.atoms) == len(service.asked) == 6
    assert service.asked[0]["path"] == "/v1/chat/completions"
    assert service.asked[0]["model"] == "a-model"
    assert [message["role"] for message in service.asked[0]["messages"]] == ["system", "user"]
    assert found.interval[0] <= found.mean <= found.interval[1]
    assert "0.5 by guessing" in str(found)
    with judge_service(everything) as service:
        found = judge_atoms(
            dictionary, held_out, asking(service), answers=tmp_path / "b.jsonl", atoms=6, progress=False
        )
    assert found.mean == 0.5


def test_an_answer_that_cannot_be_read_is_a_guess(dictionary, held_out, tmp_path):
    with judge_service(lambda question: "I would rather not say.") as service:
        found = judge_atoms(
            dictionary, held_out, asking(service), answers=tmp_path / "a.jsonl", atoms=3, progress=False
        )
    assert {one.right for one in found.atoms} == {0.5}
    assert found.unread == 3
    assert "3 answers could not be read" in str(found)


def test_a_busy_judge_is_asked_again(dictionary, held_out, tmp_path):
    with judge_service(everything) as service:
        service.failures = [429, 408, 500]
        judge_atoms(dictionary, held_out, asking(service), answers=tmp_path / "a.jsonl", atoms=2, progress=False)
    assert len(service.asked) == 5


def test_what_was_answered_is_kept_when_the_judge_fails_half_way(dictionary, held_out, tmp_path):
    file = tmp_path / "answers.jsonl"
    asked = 0

    def dying(question):
        nonlocal asked
        asked += 1
        if asked == 3:
            service.failures = [503] * 3
        return everything(question)

    with judge_service(dying) as service:
        with pytest.raises(JudgeError, match=r"3 of 5 atoms are judged and kept in .*answers.jsonl"):
            judge_atoms(dictionary, held_out, asking(service, retries=2), answers=file, atoms=5, progress=False)
        assert len(service.asked) == 6
        cut = [b'\n{"key": "cut sho', b'\n{"ke', b'\n{"key": "x", "answer": "def f() {}']  # as a power cut may leave it
        file.write_bytes(file.read_bytes() + b"".join(cut))
        found = judge_atoms(dictionary, held_out, asking(service), answers=file, atoms=5, progress=False)
        assert len(found.atoms) == 5
        assert len(service.asked) == 8
        again = judge_atoms(dictionary, held_out, asking(service), answers=file, atoms=5, progress=False)
        assert len(service.asked) == 8
        assert again == found


def test_a_refusal_is_not_repeated(dictionary, held_out, tmp_path):
    with judge_service(everything) as service:
        service.failures = [401]
        with pytest.raises(JudgeError, match="status 401"):
            judge_atoms(dictionary, held_out, asking(service), answers=tmp_path / "a", atoms=2, progress=False)
        assert len(service.asked) == 1
        service.failures = ["<html>"] * 3
        with pytest.raises(JudgeError, match="not of the chat protocol"):
            judge_atoms(
                dictionary, held_out, asking(service, retries=2), answers=tmp_path / "a", atoms=2, progress=False
            )
        assert len(service.asked) == 4, "such a body is asked for again"


def test_nobody_there(dictionary, held_out, tmp_path):
    judge = Judge(url="http://127.0.0.1:9", model="m", retries=1, first_wait=0.001)
    with pytest.raises(JudgeError, match="did not answer"):
        judge_atoms(dictionary, held_out, judge, answers=tmp_path / "a", atoms=2, progress=False)


def test_the_key_is_sent_and_kept_nowhere(dictionary, held_out, tmp_path, monkeypatch):
    monkeypatch.setenv("ITDA_JUDGE_KEY", "a-secret")
    file = tmp_path / "a.jsonl"
    with judge_service(everything) as service:
        judge_atoms(dictionary, held_out, asking(service), answers=file, atoms=2, progress=False)
    assert service.headers[0]["Authorization"] == "Bearer a-secret"
    assert "a-secret" not in file.read_text()


def test_the_key_is_not_shown():
    assert "a-secret" not in repr(Judge(url="http://localhost", model="m", key="a-secret"))
    with pytest.raises(OptionError, match="characters that no key has") as caught:
        Judge(url="http://localhost", model="m", key="a-secret\u00e9").ask("what?")
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize("refusal", [400, 422, *(_NO_TEXT % content for content in ("null", "7"))])
def test_a_question_that_has_no_answer_is_a_guess(refusal, dictionary, held_out, tmp_path):
    file = tmp_path / "a.jsonl"
    how = {"answers": file, "atoms": 4, "progress": False}
    with judge_service(everything) as service:
        tries = 1 if isinstance(refusal, int) else 3
        service.failures = [refusal] * tries
        found = judge_atoms(dictionary, held_out, asking(service, retries=2), **how)
        assert found.unread == 1
        assert len(service.asked) == tries + 3
        assert judge_atoms(dictionary, held_out, asking(service), **how) == found
        assert len(service.asked) == tries + 3, "it is not asked about again"


@pytest.mark.parametrize("refusal", [400, _NO_TEXT % "null"])
def test_a_judge_that_answers_nothing_is_no_judge(refusal, dictionary, held_out, tmp_path):
    file = tmp_path / "a.jsonl"
    how = {"answers": file, "atoms": 4, "progress": False}
    with judge_service(everything) as service:
        service.failures = [refusal] * 3
        with pytest.raises(JudgeError, match="did not answer .*0 of 4 atoms are judged"):
            judge_atoms(dictionary, held_out, asking(service, retries=0), **how)
        assert not service.failures
        assert not file.exists(), "no guess is kept"
        assert judge_atoms(dictionary, held_out, asking(service), **how).unread == 0


def test_a_number_of_any_length_can_be_read(dictionary, held_out, tmp_path):
    with judge_service(lambda question: '{"active": [1, ' + "9" * 5000 + "]}") as service:
        found = judge_atoms(dictionary, held_out, asking(service), answers=tmp_path / "a", atoms=2, progress=False)
    assert found.unread == 0


def test_bad_input(dictionary, held_out, tmp_path):
    for wrong in ({"judge": None}, {"answers": None}):
        given = {"judge": Judge(url="http://localhost", model="m"), "answers": tmp_path / "a", **wrong}
        with pytest.raises(OptionError, match=next(iter(wrong))):
            judge_atoms(dictionary, held_out, given["judge"], answers=given["answers"], progress=False)
    with pytest.raises(OptionError, match="http://"):
        Judge(url="localhost:8000", model="m")
    with pytest.raises(OptionError, match="name of a model"):
        Judge(url="http://localhost", model="")
    with pytest.raises(OptionError, match="retries must be"):
        Judge(url="http://localhost", model="m", retries=-1)
    judge = Judge(url="http://localhost", model="m")
    with pytest.raises(ActivationError, match="itda.capture"):
        judge_atoms(dictionary, held_out.rows, judge, answers=tmp_path / "a")
    foreign = tmp_path / "foreign.json"
    foreign.write_text('{"other": 1}\n')
    with pytest.raises(FormatError, match="does not hold answers"):
        judge_atoms(dictionary, held_out, judge, answers=foreign)
