"""Chat templates are rendered as transformers renders them."""

from __future__ import annotations

import json
import shutil
import threading

import hypothesis
import pytest
from hypothesis import example
from hypothesis import strategies as st
from transformers import AutoTokenizer

from plait import InvalidInput, Runtime
from plait.runtime.engines.native import tokenizer as tokenizer_module
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.native.tokenizer import HFTokenizer
from plait.runtime.engines.registry import find_model
from plait.runtime.methods.prompt import ROLES
from plait.tests.runtime.engines.native.tokenizer_kinds import BOS, raw, save

MESSAGES = [
    {"role": "system", "content": "Be kind. ä \"'<&>"},
    {"role": "user", "content": "  2 + 2?  "},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3 + 3?"},
]
LOOP = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}{% endfor %}"
TEMPLATES = {
    "plain": f"{{{{ bos_token }}}}{LOOP}{{% if add_generation_prompt %}}<assistant>{{% endif %}}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "nothing given": "{{ tools is none }} {{ documents is none }} {{ tools is defined }}" + LOOP,
    "tojson": "{{ messages | tojson(indent=2) }}{{ messages[0] | tojson(ensure_ascii=True) }}",
    "tojson, separators": "{{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':'), sort_keys=True) }}" + LOOP,
    "dates": "{{ strftime_now('%Y-%m-%d') }}" + LOOP,
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
}


def folder(tmp_path, template):
    save("byte-level with BOS", tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return tmp_path


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_transformers(name, tmp_path):
    where = folder(tmp_path, TEMPLATES[name])
    theirs = AutoTokenizer.from_pretrained(where)
    expected = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert HFTokenizer.load(where).chat(MESSAGES) == expected


@pytest.mark.parametrize("given", [{}, {"enable_thinking": False}, {"enable_thinking": True, "effort": "low"}])
def test_variables_reach_the_template_as_in_transformers(given, tmp_path):
    empty = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{{ effort }}"
    where = folder(tmp_path, TEMPLATES["plain"] + empty)
    theirs = AutoTokenizer.from_pretrained(where)
    expected = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False, **given)
    ours = HFTokenizer.load(where)
    ours.chat_template_kwargs = given
    assert ours.chat(MESSAGES) == expected


async def test_variables_are_an_option_of_the_engine(tmp_path):
    where = shutil.copytree(find_model("countdown").path, tmp_path / "model")
    (where / "chat_template.jinja").write_text("{% if enable_thinking is false %}1{% else %}2{% endif %}")
    for given, text in (({}, "2"), ({"enable_thinking": False}, "1")):
        async with Runtime(str(where), chat_template_kwargs=given) as rt:
            assert rt.engine.tokenizer.decode(rt.engine.tokenizer.chat(MESSAGES[1:2])).strip() == text


@pytest.mark.parametrize("given", [1, None, "a", [["a", 1]], {1: 2}, {"a b": 1}, {"messages": []}, {"eos_token": "x"}])
def test_what_are_no_variables_is_refused(given):
    with pytest.raises(InvalidInput, match="chat_template_kwargs"):
        NativeOptions.of({"chat_template_kwargs": given})


def test_of_several_templates_the_default_is_taken(tmp_path):
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": TEMPLATES["plain"]}]
    where = folder(tmp_path, several)
    expected = AutoTokenizer.from_pretrained(where).apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_dict=False
    )
    assert HFTokenizer.load(where).chat(MESSAGES) == expected


TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
WITH_TOOLS = "tools:{{ tools | tojson(indent=2) }}" + LOOP


@pytest.mark.parametrize("place", ["list", "files", "list and file", "only one"])
@pytest.mark.parametrize("tools", [(), TOOLS])
def test_chats_with_tools_have_a_template_of_their_own(place, tools, tmp_path):
    several = [{"name": "tool_use", "template": WITH_TOOLS}, {"name": "default", "template": LOOP}]
    where = folder(tmp_path, LOOP if place in ("files", "only one") else several)
    if place == "files":
        (where / "additional_chat_templates").mkdir()
        (where / "additional_chat_templates" / "tool_use.jinja").write_text(WITH_TOOLS)
    if place in ("files", "list and file"):
        (where / "chat_template.jinja").write_text(LOOP + "!")
    expected = AutoTokenizer.from_pretrained(where).apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_dict=False, tools=tools or None
    )
    assert HFTokenizer.load(where).chat(MESSAGES, tools) == expected


def test_a_rendered_chat_is_not_given_a_second_beginning(tmp_path):
    where = folder(tmp_path, TEMPLATES["plain"])
    tokenizer = HFTokenizer.load(where)
    text = AutoTokenizer.from_pretrained(where).apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=False
    )
    assert text.startswith(BOS)
    assert tokenizer.encode(text) == tokenizer.chat(MESSAGES)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system messages here') }}", "no system messages here"),
        ("{% if %}", "not valid"),
        ("{{ messages[7].content }}", "rejects"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "rejects"),
    ],
)
def test_what_a_template_refuses_is_one_clear_error(template, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        HFTokenizer.load(folder(tmp_path, template)).chat(MESSAGES)


LOOKS = {
    "as it is": "{{ m.content }}",
    "trimmed": "{{ m['content'] | trim }}",
    "quoted": "{{ m.content | tojson }}",
    "escaped": "{{ m.content | escape }}",
    "without a thought": "{{ m.content.split('</think>')[-1] }}",
    "cut": "{{ m.content[:3] }}",
}
SAID = st.sampled_from(["", " ", "hi", 'a "b" <c>\n', "a</think>b"])


@pytest.mark.parametrize("name", LOOKS)
@example(chat=[("developer", "hi"), ("user", "hi")], others=["system"])
@example(chat=[("user", "hi"), ("tool", "hi")], others=["system"])
@hypothesis.given(
    chat=st.lists(st.tuples(st.sampled_from(ROLES), SAID), min_size=1, max_size=5),
    others=st.lists(st.sampled_from(["system", "developer", "tool"]), unique=True),
)
def test_no_message_is_left_out_without_a_word(name, chat, others):
    known = ["user", "assistant", *others]
    loop = f"{{% for m in messages if m.role in {known} %}}<{{{{ m.role }}}}>{LOOKS[name]}{{% endfor %}}"
    tokenizer = HFTokenizer(raw("byte-level"), chat_template=loop)
    messages = [{"role": role, "content": content} for role, content in chat]
    # To a template that does not know developers, they speak for the system.
    aliases = {} if "developer" in known else {"developer": "system"}
    read = [{**message, "role": aliases.get(message["role"], message["role"])} for message in messages]
    lost = [number for number, message in enumerate(read) if message["role"] not in known and message["content"]]
    if lost:
        with pytest.raises(InvalidInput, match=f"leaves out message {lost[0]}, whose role is '{chat[lost[0]][0]}'"):
            tokenizer.chat_text(messages)
    else:
        assert tokenizer.chat_text(messages) == tokenizer.chat_text(read)
        assert tokenizer.chat_text(messages).count("<") >= sum(message["role"] in known for message in read)


def test_a_template_that_reads_what_tools_say_may_refuse_it():
    template = "{% for m in messages %}{{ 1 // (m.content == '5') }}{{ m.content }}{% endfor %}"
    assert HFTokenizer(raw("byte-level"), chat_template=template).chat_text([{"role": "tool", "content": "5"}]) == "15"


HOSTILE = {
    "many rounds": "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}",
    "much text": "{{ 'a' * (10 ** 15) }}",
    "a division by zero": "{{ 1 // 0 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "what is outside": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_in_time(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "TEMPLATE_SECONDS", 0.5)
    folder = shutil.copytree(find_model("countdown").path, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(HOSTILE[name])
    before = threading.active_count()
    with pytest.raises(InvalidInput, match="chat template"):
        HFTokenizer.load(folder).chat([{"role": "user", "content": "x"}])
    assert threading.active_count() == before
