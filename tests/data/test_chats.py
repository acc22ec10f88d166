import json

import pytest
import torch
from typer.testing import CliRunner

import itda
from itda.cli import app
from itda.data.chats import rendered
from itda.errors import CorpusError, OptionError
from support import tiny

TEMPLATE = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
CHATS = [
    [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": f"who is king {number}? "},
        {"role": "assistant", "content": f"the good king {number}"},
        {"role": "user", "content": "be kind"},
        {"role": "assistant", "content": "the bad queen"},
    ]
    for number in range(30)
]


@pytest.fixture(scope="module")
def model():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    return itda.wrap(tiny.module("Llama"), tokenizer)


@pytest.fixture(scope="module")
def corpus(model):
    return itda.Corpus.from_chats(CHATS, model.tokenizer)


def test_every_message_is_found_where_the_template_wrote_it(model):
    text, turns = rendered(CHATS[3], model.tokenizer, "x")
    assert [text[turn.start : turn.end] for turn in turns] == [one["content"].strip() for one in CHATS[3]]
    assert [turn.role for turn in turns] == [one["role"] for one in CHATS[3]]
    assert not text.startswith("<s>")  # the tokenizer adds it


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize("said", ["a", "start", "art", "assistant", "user", "im", "|", " a ", ""])
def test_a_message_that_the_template_has_too_is_found_where_it_is(said):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHATML
    messages = [{"role": "user", "content": said}, {"role": "assistant", "content": said}]
    text, turns = rendered(messages, tokenizer, "x")
    assert [text[turn.start : turn.end] for turn in turns] == [said, said]
    assert all(text[: turn.start].endswith(f"<|im_start|>{turn.role}\n") for turn in turns)
    assert all(text[turn.end :].startswith("<|im_end|>") for turn in turns)


def test_a_template_that_writes_messages_in_another_order():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ messages[1].content }} after {{ messages[0].content }}"
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "after"}]
    text, turns = rendered(messages, tokenizer, "x")
    assert [(turn.role, text[turn.start : turn.end]) for turn in turns] == [("user", "after"), ("system", "be kind")]
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(CorpusError, match="does not write every message once"):
        rendered(messages, tokenizer, "x")


def test_rows_are_of_the_roles_that_were_asked_for(model, corpus):
    whole = itda.capture(model, corpus, "resid_post.1", progress=False)
    said = {}
    for role in ("system", "user", "assistant"):
        part = itda.capture(model, corpus, "resid_post.1", roles=(role,), progress=False)
        said[role] = part
        spoken = {one["content"].strip() for chat in CHATS for one in chat if one["role"] == role}
        for start in {source.document for source in part.sources}:
            text = "".join(source.token for source in part.sources if source.document == start)
            assert any(text.startswith(one) for one in spoken)
    assert len(said["assistant"].rows) == sum(
        len(one["content"].strip()) for chat in CHATS for one in chat if one["role"] == "assistant"
    )
    # They are the very rows of the whole
    places = {(source.document, source.char_end): row for source, row in zip(whole.sources, whole.rows, strict=True)}
    for source, row in zip(said["user"].sources, said["user"].rows, strict=True):
        assert torch.equal(row, places[source.document, source.char_end])
    assert said["user"].provenance.capture["roles"] == ["user"]


def test_a_dictionary_of_one_role_is_measured_on_that_role(model, corpus, tmp_path):
    train, held_out = corpus.split(held_out=0.3)
    dictionary = itda.build(model, train, site="resid_post.1", atoms=24, roles=["assistant"], progress=False)
    dictionary.save_pretrained(tmp_path / "d")
    dictionary = itda.Dictionary.from_pretrained(tmp_path / "d")
    report = itda.evaluate(dictionary, model, held_out, tokens=None, progress=False)
    spoken = sum(
        turn.end - turn.start for id_ in held_out.ids for turn in corpus.turns[id_] if turn.role == "assistant"
    )
    assert report.tokens == spoken
    assert report.not_decomposed["other roles"] > spoken
    # Other text has no roles: all of it is decomposed
    plain = itda.evaluate(dictionary, model, itda.Corpus.from_texts(tiny.KINGS[:3]), tokens=None, progress=False)
    assert plain.tokens == sum(map(len, tiny.KINGS[:3]))
    assert itda.capture(model, held_out.parts(2)[0], "resid_post.1", roles=["user"], progress=False).rows.numel()


def test_conversations_in_files(model, corpus, tmp_path):
    lines = [json.dumps({"messages": chat, "id": number}) for number, chat in enumerate(CHATS)]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    (tmp_path / "chats.json").write_text(json.dumps([{"messages": chat} for chat in CHATS]))
    for name in ("chats.jsonl", "chats.json"):
        assert itda.Corpus.from_chats(tmp_path / name, model.tokenizer).ids == corpus.ids


@pytest.mark.parametrize(
    "chat", ["text", [], [{"role": "user"}], [{"role": 1, "content": "x"}], [["user", "x"]], 3, [{"content": "x"}]]
)
def test_what_is_no_conversation(model, chat):
    with pytest.raises(CorpusError, match="conversation 0 of chats is no conversation"):
        itda.Corpus.from_chats([chat], model.tokenizer)


def test_templates_that_will_not_do(model, corpus):
    bare = tiny.tokenizer()
    with pytest.raises(CorpusError, match="cannot be written by the chat template"):
        itda.Corpus.from_chats(CHATS, bare)
    bare.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(CorpusError, match="does not write this message as it is: 'be kind'"):
        itda.Corpus.from_chats(CHATS, bare)
    with pytest.raises(OptionError, match="of user are asked for.* only conversations have roles"):
        itda.capture(model, itda.Corpus.from_texts(tiny.KINGS), roles=("user",), progress=False)
    for roles in ("user", [], [1]):
        with pytest.raises(OptionError, match="roles must be several names"):
            itda.capture(model, corpus, roles=roles, progress=False)
    with pytest.raises(CorpusError, match="is by 'tool'. The roles are assistant, system, user"):
        itda.capture(model, corpus, roles=["tool"], progress=False)
    both = itda.capture(model, corpus, roles=["tool", "user"], progress=False)
    assert len(both) == len(itda.capture(model, corpus, roles=["user"], progress=False))


def test_on_the_command_line(model, tmp_path):
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "chats.json").write_text(json.dumps([{"messages": chat} for chat in CHATS]))
    corpus = ["--corpus", str(tmp_path / "chats.json")]
    folder = str(tmp_path / "d")
    build = ["build", str(tmp_path / "model"), *corpus, "--role", "assistant", "--atoms", "16", "--out", folder]
    assert CliRunner().invoke(app, build).exit_code == 0
    done = CliRunner().invoke(app, ["evaluate", folder, *corpus, "--json"])
    assert json.loads(done.stdout)["not_decomposed"]["other roles"] > 0
    done = CliRunner().invoke(app, ["encode", folder, *corpus, "--out", str(tmp_path / "codes"), "--json"])
    assert done.exit_code == 0, done.output
