"""Methods that clients may use: others are refused wherever they stand, before their fields are looked at."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import model_validator

import plait
from plait.runtime.engines.registry import load_engine
from plait.runtime.engines.scripted import CharTokenizer
from plait.runtime.methods.nesting import all_methods
from plait.runtime.methods.prompt import LONG_PROMPT
from plait.runtime.methods.registry import METHODS
from plait.runtime.methods.words import method_of
from plait.runtime.server.problems import Refused
from plait.runtime.server.requests import ChatBody, CompletionBody
from plait.runtime.server.sampled import Sampled
from plait.runtime.server.settings import SAFE_METHODS

from .conftest import serving

PROMPT = "seq 24 : 8 3 1 ;"
FORBIDDEN = {
    "code_monkeys": {"method": "code_monkeys", "repository": "/", "issue": "x"},
    "tree_search": {"method": "tree_search", "prompt": "?", "reward": "prm:/etc", "strategy": "beam"},
    # Nobody has looked at its fields yet.
    "malformed": {"method": "code_monkeys", "repository": 3},
}


def inside(method):
    """JSON of methods that are allowed, with this one somewhere inside."""
    votes = {"method": "self_consistency", "prompt": PROMPT, "n": 1, "generator": method}
    calls = {"method": "apr", "prompt": PROMPT, "dialect": "compact", "generator": method}
    return {
        "itself": method,
        "votes": votes,
        "calls": calls,
        "deep": {**calls, "generator": {**votes, "generator": {**calls, "generator": method}}},
    }


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_what_is_forbidden_is_forbidden_inside_others(served, name):
    async with served.http() as http:
        for where, method in inside(FORBIDDEN[name]).items():
            asked = {
                "/v1/jobs": [{"method": method}],
                "/v1/completions": [{"model": "countdown", "prompt": PROMPT, "method": method}],
                "/v1/chat/completions": [
                    {"model": "countdown", "messages": [{"role": "user", "content": PROMPT}], "method": method}
                ],
            }
            if where == "votes":
                word = f"countdown:self_consistency:n=1,generator={json.dumps(method['generator'])}"
                asked["/v1/completions"].append({"model": word, "prompt": PROMPT})
            for path, bodies in asked.items():
                for body in bodies:
                    answer = await http.post(path, json=body)
                    assert answer.status_code == 403, (where, path, answer.text)
                    assert "does not allow the method" in answer.json()["error"]["message"]
    assert not served.service.works


async def test_answer_rules_by_regular_expression_are_refused_inside_others(served):
    rule = {"method": "self_consistency", "prompt": "?", "n": 1, "answer": "regex:(a+)+$"}
    async with served.http() as http:
        for where, method in inside(rule).items():
            answer = await http.post("/v1/jobs", json={"method": method})
            assert answer.status_code == 400 and "regular expression" in answer.text, where


async def test_what_is_allowed_runs_inside_others():
    async with serving(methods=("self_consistency", "sequential")) as served, served.http() as http:
        inner = {"method": "sequential", "prompt": "?", "max_tokens": 4}
        body = {"model": "countdown", "prompt": PROMPT, "method": inside(inner)["votes"]}
        assert (await http.post("/v1/completions", json=body)).status_code == 200
        schema = {"type": "object", "properties": {"method": {"type": "string"}}}  # no method, for all its name
        body = {"model": "countdown", "prompt": PROMPT, "structured_outputs": {"json": schema}}
        assert (await http.post("/v1/completions", json=body)).status_code == 400


async def test_what_could_never_fit_is_the_clients_mistake():
    """It is not asked to try again later."""
    prompt = {"prompt": "seq " * 200, "max_tokens": 3}
    async with serving(engine=load_engine("countdown", {"kv_tokens": 64})) as served, served.http() as http:
        for path, body in (
            ("/v1/completions", {"model": "countdown", **prompt}),
            ("/v1/jobs", {"method": {"method": "sequential", **prompt}}),
        ):
            answer = await http.post(path, json=body)
            assert answer.status_code == 400 and answer.json()["error"]["code"] == "OutOfBlocks", path
            assert "the store has 4" in answer.text and "Retry-After" not in answer.headers


WORDS = st.text('sc0123456789:=,[]{}"n \u0664', max_size=40) | st.text(max_size=20) | st.from_regex("sc[0-9]{1,9}:n=.*")


@example("sc" + "9" * 5000)
@example("sequential:n=" + "9" * 5000)
@example("sequential:n=" + "[" * 5000)
@given(WORDS)
def test_any_word_is_a_method_or_one_error(word):
    try:
        fields = method_of(word)
    except plait.InvalidInput:
        return
    assert isinstance(fields["method"], str)


def test_all_methods_are_found():
    inner = plait.Sequential(prompt="?")
    votes = plait.SelfConsistency(prompt="?", n=1, generator=inner)
    search = plait.TreeSearch(prompt="?", generator=votes, reward="self_certainty", strategy="rebase")
    holder = plait.CodeMonkeys(repository=".", issue="x", generators={"edits": inner, "tests": votes})
    for method, expected in ((inner, [inner]), (votes, [votes, inner]), (plait.APR(prompt="?", generator=votes), None)):
        found = list(all_methods(method))
        assert found == (expected or [method, votes, inner])
    assert len(list(all_methods(search))) == 3 and len(list(all_methods(holder))) == 4


VALUES: dict[str, list[Any]] = {
    "prompt": ["ab", "seq 24 : 8 3 1 ;"],
    "max_tokens": [1, 3, 50],
    "temperature": [0, 0.5, 1],
    "top_p": [0.5, 1],
    "top_k": [0, 40],
    "min_p": [0, 0.1],
    "repetition_penalty": [1, 1.5],
    "stop": [["x"], ["y", "x"]],
}
FIELDS = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()})


@example(body={"max_tokens": 3}, fields={"max_tokens": 50}, as_word=False, kind="sequential")
@example(body={"temperature": 0}, fields={"temperature": None}, as_word=True, kind="self_consistency")
@given(body=FIELDS, fields=FIELDS, as_word=st.booleans(), kind=st.sampled_from(["sequential", "self_consistency"]))
def test_what_stands_in_the_body_and_in_the_method_is_the_same_there(body, fields, as_word, kind):
    body = {"prompt": PROMPT, **body}
    word = ",".join(f"{name}={json.dumps(value)}" for name, value in fields.items())
    method = f"{kind}:{word}" if as_word else {"method": kind, **fields}
    asked = CompletionBody(model="countdown", method=method, **body)
    said = {name: value for name, value in fields.items() if value is not None}
    differ = [name for name in VALUES if name in body and body[name] != said.get(name, body[name])]
    if differ:
        with pytest.raises(Refused, match=f"another ({'|'.join(differ)}) than the body") as refused:
            asked.specs("countdown", CharTokenizer(), lambda _: None)
        assert refused.value.status == 400
    else:
        spec = asked.specs("countdown", CharTokenizer(), lambda _: None)[0]
        assert spec.method == plait.parse_method({"method": kind, **fields, **body, **said})


def test_constraints_in_the_body_and_in_the_method_are_compared():
    for pattern, differs in (("[0-9]", False), ("[a-z]", True)):
        method = {"method": "sequential", "constraint": {"constraint": "regex", "pattern": "[0-9]"}}
        asked = CompletionBody(model="countdown", prompt=PROMPT, method=method, structured_outputs={"regex": pattern})
        with pytest.raises(Refused, match="another constraint") if differs else nullcontext():
            asked.specs("countdown", CharTokenizer(), lambda _: None)


@pytest.mark.parametrize("model", ["countdown", "ann:countdown", "countdown:7b"])
def test_a_model_whose_name_has_a_colon_has_the_rules_of_one_without_a_method(model):
    asked = CompletionBody(model=model, prompt=PROMPT, echo=True)
    (spec,) = asked.specs(model, CharTokenizer(), lambda _: None)
    assert isinstance(spec.method, Sampled) and (spec.method.max_tokens, spec.method.echo) == (16, True)


@pytest.mark.parametrize("limits", [(3, 3, 3), (3, None, 3), (None, 3, 3), (None, None, None), (3, 5, "refused")])
def test_two_limits_of_a_chat_are_the_same(limits):
    one, two, limit = limits
    asked = ChatBody(
        model="countdown", messages=[{"role": "user", "content": "?"}], max_tokens=one, max_completion_tokens=two
    )
    with pytest.raises(Refused, match="differ: give one") if limit == "refused" else nullcontext():
        assert asked.limit(is_plain=True) == limit


WIDE = {
    "sc": {"method": "self_consistency", "prompt": PROMPT, "n": 9},
    "sc of sc": {
        "method": "self_consistency",
        "prompt": PROMPT,
        "n": 3,
        "generator": {"method": "self_consistency", "prompt": "?", "n": 3},
    },
    "hogwild": {"method": "hogwild", "prompt": PROMPT, "workers": 9},
    "multiverse": {"method": "multiverse", "prompt": PROMPT, "num_paths": 9},
    "search": {"method": "tree_search", "prompt": PROMPT, "width": 9},
}


async def test_more_branches_than_the_server_allows_are_refused_before_any_work():
    async with serving(methods=(*SAFE_METHODS, "tree_search"), max_samples=8) as served, served.http() as http:
        several = [{"model": "countdown:sc9"}, {"model": "countdown", "n": 9}]
        bodies = [("/v1/completions", {**one, "prompt": PROMPT}) for one in several]
        for method in WIDE.values():
            around = {"method": "apr", "prompt": PROMPT, "dialect": "compact", "generator": method}
            bodies += [("/v1/jobs", {"method": one}) for one in (method, around)]
        for path, body in bodies:
            answer = await http.post(path, json=body)
            assert answer.status_code == 400 and "the server allows 8" in answer.text, (body, answer.text)
        assert not served.service.works
        body = {"model": "countdown:sc8", "prompt": PROMPT, "max_tokens": 1}
        assert (await http.post("/v1/completions", json=body)).status_code == 200


@pytest.mark.parametrize("field", ["workers", "num_paths", "n"])
def test_numbers_beyond_all_reason_are_refused_at_once(field):
    name = {"workers": "hogwild", "num_paths": "multiverse", "n": "self_consistency"}[field]
    with pytest.raises(plait.InvalidJob, match=field):
        plait.parse_method({"method": name, "prompt": PROMPT, field: 10**9})


class Odd(plait.Answering):
    """A method with mistakes in its code."""

    method: Literal["odd"] = "odd"
    wrong: str = ""
    """What raises."""

    @model_validator(mode="after")
    def _validate(self):
        self._fail("validator")
        return self

    @property
    def fan_out(self):
        self._fail("fan_out")
        return 1

    def tokens(self, tokenizer):
        self._fail("tokens")
        return super().tokens(tokenizer)

    def check(self, engine):
        self._fail("check")
        super().check(engine)

    def most_tokens(self, engine):
        self._fail("most_tokens")

    def _fail(self, where):
        if self.wrong == where:
            raise KeyError("mine")

    async def run(self, ctx):
        raise NotImplementedError


@pytest.fixture
def odd(monkeypatch):
    """Its name, which is known meanwhile."""
    monkeypatch.setitem(METHODS._things, "odd", Odd)
    return "odd"


@pytest.mark.parametrize("wrong", ["validator", "fan_out", "tokens", "check", "most_tokens"])
async def test_what_a_methods_code_raises_is_told_to_who_asks_for_it(odd, wrong):
    method = {"method": odd, "prompt": "x" * 3 * LONG_PROMPT, "wrong": wrong}
    async with serving(engine=plait.ScriptedEngine(["x"], context_limit=1 << 20), methods=(odd,)) as served:
        async with served.http() as http:
            for path, body in (
                ("/v1/jobs", {"method": method}),
                ("/v1/completions", {"model": "countdown", "prompt": method["prompt"], "method": method}),
            ):
                answer = await http.post(path, json=body)
                assert answer.status_code == 400, path
                assert answer.json()["error"]["message"].startswith("the method 'odd' cannot be "), path
                assert answer.json()["error"]["message"].endswith(": KeyError: 'mine'"), path
        assert not served.service.works


@pytest.mark.parametrize("wrong", ["validator", "fan_out"])
async def test_a_method_with_a_mistake_is_left_out_of_the_models_alone(odd, wrong, monkeypatch, caplog):
    monkeypatch.setattr(Odd, "_fail", lambda self, where: 1 / 0 if where == wrong else None)
    async with serving(methods=(odd, "sequential", "code_monkeys")) as served, served.http() as http:
        for _ in range(2):
            found = (await http.get("/v1/models")).json()["data"]
            assert [one["id"] for one in found] == ["countdown", "countdown:sequential"]
        answer = await http.get("/v1/models/countdown:odd")
        assert answer.status_code == 404 and "ZeroDivisionError" in answer.text
    (told,) = [one.getMessage() for one in caplog.records if "left out" in one.message]
    assert "countdown:odd" in told and "ZeroDivisionError" in told


async def test_behind_an_unexpected_error_the_connection_is_closed_as_is_said(served, monkeypatch):
    monkeypatch.setattr(served.service, "start", lambda *_, **__: 1 / 0)
    async with served.http() as http:
        for _ in range(3):
            answer = await http.post("/v1/jobs", json={"method": {"method": "sequential", "prompt": PROMPT}})
            assert answer.status_code == 500 and answer.json()["error"]["message"] == "internal error"
            assert answer.headers["connection"] == "close"
