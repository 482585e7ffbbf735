"""Whole functions: where they go, what is kept of the old ones, and what a model is told."""

from __future__ import annotations

import ast
import re
import textwrap
import xml.sax
from functools import singledispatchmethod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.agents.definitions import definitions, parse
from plait.agents.edits.base import EditError, Excerpt, NothingFound, Source
from plait.agents.edits.functions import Functions
from plait.agents.edits.lines import bare
from plait.agents.edits.reader import read_edit

FORM = Functions()
CART = '''\
"""Carts."""

from __future__ import annotations

import os


class Cart:
    """What a customer wants to buy."""

    limit = 3

    # How full it is.
    @property
    def total(self):
        """Price of all."""
        return sum(self.items)
        # To be done: taxes.

    @total.setter
    def total(self, value):
        self.fixed = value

    def clear(self):
        self.items = []


def load(path):
    text = """
one
  two
"""
    return Cart(), text


class Other:
    def clear(self):
        pass
'''


def functions_of(path, text):
    lines = bare(text)
    return {
        (one.name, one.first): Excerpt(
            path=path, name=one.name, first_line=one.first + 1, text="\n".join(lines[one.first : one.last]) + "\n"
        )
        for one in definitions(parse(text), lines)
    }


def source(*names, text=CART, others=()):
    """`names`: functions that are shown; none: the whole file."""
    shown = [one for (name, _), one in functions_of("shop/cart.py", text).items() if name in names]
    excerpts = shown if names else [Excerpt(path="shop/cart.py", text=text)]
    return Source(files={"shop/cart.py": text, **dict(others)}, excerpts=excerpts)


def edited(text, here=None):
    edit = FORM.parse(text, here or source())
    assert set(edit) == {"shop/cart.py"}
    return edit["shop/cart.py"]


def fence(code, above=""):
    return f"{above}\n```python\n{textwrap.dedent(code)}```\n"


CLEAR = "    def clear(self):\n        self.items = []\n"
NEW_CLEAR = "    def clear(self):\n        self.items.clear()\n"
WANTED = CART.replace("self.items = []", "self.items.clear()")


@pytest.mark.parametrize(
    "text",
    [
        "shop/cart.py::Cart.clear\n```python\n" + NEW_CLEAR + "```",
        "**`shop/cart.py::Cart.clear`**\n\n```py\n" + textwrap.dedent(NEW_CLEAR) + "```",
        "Words.\n### File: shop/cart.py::Cart::clear()\n```\n" + NEW_CLEAR + "```\nWords.",
        "```python\n# shop/cart.py::Cart.clear\n" + textwrap.dedent(NEW_CLEAR) + "```",
        "```python shop/cart.py::Cart.clear\n" + NEW_CLEAR + "```",
        "```python\nclass Cart:\n" + NEW_CLEAR + "```",
        '```python\nclass Cart:\n    """What it is."""\n    limit = 3\n' + NEW_CLEAR + "```",
        "shop/cart.py::Cart.clear\n```python\nclass Cart:\n    ...\n" + NEW_CLEAR + "```",
        "```python\nimport os\nfrom shop import nothing\n\nclass Cart:\n" + NEW_CLEAR + "\nCart().clear()\n```",
        "```python\r\nclass Cart:\r\n" + NEW_CLEAR.replace("\n", "\r\n") + "```",
        # What it quotes first does not count, what it writes last does.
        "```python\nclass Cart:\n" + CLEAR + "```\nBetter:\n```python\nclass Cart:\n" + NEW_CLEAR + "```",
        "```bash\npytest\n```\nshop/cart.py::Cart.clear\n```python\n" + NEW_CLEAR + "```",
        "shop/cart.py::Cart.clear\n" + NEW_CLEAR,
        "class Cart:\n" + NEW_CLEAR,
    ],
)
def test_ways_to_name_a_method(text):
    assert edited(text) == WANTED


def test_a_lone_function_needs_no_name():
    text = fence("def clear(self):\n    self.items.clear()\n")
    assert edited(text, source("Cart.clear")) == WANTED
    assert edited(fence("def load(path):\n    return path\n")).endswith(
        "def load(path):\n    return path\n\n\n" + CART[CART.index("class Other") :]
    )
    assert read_edit(FORM, "Here it is:\n" + text, source("Cart.clear")) == {"shop/cart.py": WANTED}


def test_the_example_of_the_prompt_is_an_edit():
    text = "class Cart:\n    def total(self):\n        return sum(item.price for item in self.items)\n"
    edit = read_edit(FORM, FORM.example, source(text=text))
    assert edit == {"shop/cart.py": text.replace("item.price", "item.price * item.count")}
    assert "<edit>" in FORM.instructions()


def test_decorators_and_comments_stay_unless_there_are_new_ones():
    plain = "def total(self):\n    return 1\n"
    new = edited(fence("@property\n" + plain, "shop/cart.py::Cart.total"))
    assert "    # How full it is.\n    @property\n    def total(self):\n        return 1\n\n    @total.setter" in new
    assert "taxes" not in new  # It stood inside the function.
    new = edited(fence(plain), source("Cart.total", text=CART.replace("@total.setter\n    def total", "def other")))
    assert "    # How full it is.\n    @property\n    def total(self):\n        return 1\n" in new
    new = edited(fence("# New.\n@cached_property\n" + plain, "shop/cart.py::Cart.total"), source_of_one())
    assert "    # New.\n    @cached_property\n    def total(self):\n        return 1\n" in new and "How full" not in new


def source_of_one():
    return source(text=CART.replace("@total.setter\n    def total", "def other"))


def test_a_property_and_its_setter_are_told_apart():
    new = edited(fence("@total.setter\ndef total(self, value):\n    pass\n", "shop/cart.py::Cart.total"))
    assert "@total.setter\n    def total(self, value):\n        pass\n" in new and "Price of all" in new
    only = [
        one for one in functions_of("shop/cart.py", CART).values() if "fixed" in one.text and "limit" not in one.text
    ]
    here = Source(files={"shop/cart.py": CART}, excerpts=only)
    assert "Price of all" in edited(fence("def total(self, value):\n    pass\n"), here)
    with pytest.raises(EditError, match=r"may be shop/cart.py::Cart.total \(line 15\), .* with its decorators"):
        edited(fence("def total(self):\n    pass\n"))


PARTS = {
    "property": "@property\n    def total(self):\n        return {}\n",
    "setter": "@total.setter\n    def total(self, value):\n        self.x = {}\n",
    "deleter": "@total.deleter\n    def total(self):\n        self.y = {}\n",
    "whole": "@overload\n    def get(self, x: int) -> int: return {}\n",
    "text": "@overload\n    def get(self, x: str, *y) -> str: return {}\n",
    "get": "def get(self, x):\n        return x, {}\n",
    "show": "@singledispatchmethod\n    def show(self, x):\n        return {}\n",
    "show int": "@show.register\n    def _(self, x: int):\n        return {}\n",
    "show str": "@show.register\n    def _(self, x: str):\n        return {}\n",
    "show list": "@show.register(list)\n    def _(self, x):\n        return {}\n",
}


@settings(max_examples=150, deadline=None)
@given(st.sets(st.sampled_from(list(PARTS))), st.sets(st.sampled_from(list(PARTS)), min_size=1), st.booleans())
def test_functions_of_one_name_that_all_stay_in_use(there, written, is_named):
    """Whatever of them is there: those that are written are there afterwards, new and once, in an order that works."""
    there |= {"property", "get", "show"}
    old = "class Cart:\n" + "\n".join("    " + PARTS[part].format(1) for part in PARTS if part in there)
    chosen = [part for part in PARTS if part in written]
    if is_named:
        names = [re.findall(r"def (\w+)", PARTS[part])[0] for part in chosen]
        blocks = [
            fence("    " + PARTS[part].format(2), f"shop/cart.py::Cart.{name}")
            for part, name in zip(chosen, names, strict=True)
        ]
        text = "".join(blocks)
    else:
        text = fence("class Cart:\n" + "\n".join("    " + PARTS[part].format(2) for part in chosen))
    new = edited(text, source(text=old))
    for part in PARTS:
        assert new.count(PARTS[part].format(1)) == (part in there - written)
        assert new.count(PARTS[part].format(2)) == (part in written)
    exec(new, {"overload": lambda function: None, "singledispatchmethod": singledispatchmethod}, space := {})
    assert space["Cart"]().get(1) == (1, 2 if "get" in written else 1)


def test_a_property_and_its_setter_are_new_together_or_lone():
    both = "@property\ndef size(self):\n    return 1\n\n@size.setter\ndef size(self, value):\n    pass\n"
    new = edited(fence(both, "shop/cart.py::Cart.size"))
    assert textwrap.indent(both, "    ", lambda line: bool(line.strip())) in new
    text = "class Cart:\n    @property\n    def total(self):\n        return 1\n\n    def last(self):\n        pass\n"
    setter = "@total.setter\ndef total(self, value):\n    pass\n"
    new = edited(fence(setter), source(text=text))
    assert new == text.replace("1\n", "1\n\n" + textwrap.indent(setter, "    "))


def test_overloads_stand_before_what_they_are_of():
    text = "# How.\ndef get(x):\n    return x\n"
    stubs = "@overload\ndef get(x: int) -> int: ...\n\n\n@overload\ndef get(x: str) -> str: ...\n"
    assert edited(fence(stubs, "shop/cart.py::get"), source(text=text)) == stubs + "\n\n" + text


def test_several_functions_and_new_ones():
    text = (
        fence(NEW_CLEAR, "shop/cart.py::Cart.clear")
        + fence("def save(cart):\n    pass\n", "shop/cart.py::save")
        + fence("def add(self, item):\n    pass\n", "shop/cart.py::Cart.add")
        + fence("class Full(Exception):\n    pass\n", "shop/cart.py::Full")
    )
    new = edited(text)
    added = "        self.items.clear()\n\n    def add(self, item):\n        pass\n\n\ndef load"
    assert added in new
    assert new.endswith("        pass\n\n\ndef save(cart):\n    pass\n\n\nclass Full(Exception):\n    pass\n")
    assert "    def add(self):\n        pass\n" in edited(fence("class Cart:\n    def add(self):\n        pass\n"))


def test_a_whole_class():
    whole = "class Other:\n    x = 1\n"
    assert edited(fence(whole, "shop/cart.py::Other")) == CART[: CART.index("class Other")] + whole
    assert edited(fence(whole), source("Other")) == CART[: CART.index("class Other")] + whole


def test_imports_are_added_where_they_are_needed():
    code = "import os\nimport re, json as j\nfrom x import a, b\n\ndef load(path):\n    return re.sub(a, os.sep)\n"
    new = edited(fence(code))
    assert "import os\nimport re\nfrom x import a\n\n\nclass Cart" in new and "json" not in new
    bare_text = "def load(path):\n    return path\n"
    assert edited(fence("import re\n" + bare_text.replace("path\n", "re\n")), source(text=bare_text)).startswith(
        "import re\ndef load"
    )
    assert edited(fence(bare_text.replace("return path", "return 2")), source(text=bare_text)) == bare_text.replace(
        "return path", "return 2"
    )


@settings(deadline=None)
@given(
    st.sampled_from(["", "#!/usr/bin/env python\n", "\n"]),
    st.sampled_from(["", "# -*- coding: utf-8 -*-\n", "# words\n", "def g():\n    # coding: utf-8\n    pass\n"]),
    st.sampled_from(["", '"""Doc."""\n', "import os\n", "import xml.dom\n", "x = 1\n", "def f():\n    pass\n"]),
)
def test_imports_stand_before_what_needs_them(program, encoding, rest):
    """Whatever the file begins with: it runs, and what its first lines say of it is said there still."""
    old = program + encoding + rest
    code = "import functools\nimport xml.sax\n\n@functools.cache\ndef cached():\n    return xml.sax.parseString\n"
    new = edited(fence(code, "shop/cart.py::cached"), source(text=old))
    exec(new, space := {})
    assert space["cached"]() is xml.sax.parseString
    assert new.count("import xml.sax\n") == 1
    if program.startswith("#!"):
        assert new.startswith(program)
    if encoding.startswith("# -*- coding"):
        assert encoding.strip() in new.split("\n")[:2]


def test_a_submodule_is_imported_beside_another_one_of_its_package():
    code = "import xml.sax, xml.dom, os.path\ndef load(path):\n    return xml.sax, xml.dom, os.path\n"
    old = "import xml.dom.minidom\nxml, os = 1, 2\ndef load(path):\n    import xml.sax\n"
    new = edited(fence(code), source(text=old))
    assert new.startswith("import xml.dom.minidom\nimport xml.sax\nxml, os")


def test_functions_inside_functions_are_written_with_them():
    old = (
        "def deco(function):\n    def inner():\n        return 1\n    return inner\n\n\nclass A:\n"
        "    def f(self):\n        def help(): pass\n"
    )
    for name, outer in (("inner", "deco"), ("deco.inner", "deco"), ("A.help", "A.f"), ("A.f.help", "A.f")):
        text = fence(f"def {name.rpartition('.')[2]}():\n    return 2\n", f"shop/cart.py::{name}")
        with pytest.raises(EditError, match=rf"is there inside {outer} \(line .*: write shop/cart.py::{outer} whole"):
            edited(text, source(text=old))
    assert "    def inner(self):" in edited(fence("def inner(self): pass\n", "shop/cart.py::A.inner"), source(text=old))


def test_functions_in_cases_are_found():
    old = "match 1:\n    case 1:\n        def f():\n            return 1\n    case _:\n        pass\n"
    new = edited(fence("def f():\n    return 2\n", "shop/cart.py::f"), source(text=old))
    assert new == old.replace("return 1", "return 2")


def test_the_text_of_strings_is_not_indented():
    old = 'class A:\n    def f(self):\n        """Doc.\n\n        More.\n        """\n        return """\nx\n  y\n"""\n'
    written = 'def f(self):\n    """Doc.\n\n    New.\n    """\n    return """\nx\n  z\n"""\n'
    new = edited("```python\n" + written + "```", source(text=old))
    assert new == old.replace("More", "New").replace("  y", "  z")
    # A model that takes the margin off everything takes it off the text, too: what the file has wins.
    old = 'class A:\n    def f(self):\n        return 1, """\n            x\n        """\n'
    new = edited("```python\n" + textwrap.dedent(old[len("class A:\n") :]).replace("1", "2") + "```", source(text=old))
    assert new == old.replace("1", "2")
    # Of a string as a whole: one of its lines may happen to be there both ways.
    old = 'class A:\n    def f(self):\n        return 1, """\n        a\n            a\n        """\n'
    new = edited(
        "```python\n" + old[len("class A:\n") :].replace("\n    ", "\n")[4:].replace("1", "2") + "```", source(text=old)
    )
    assert new == old.replace("1", "2")


def test_fences_in_docstrings_are_code():
    code = 'def load(path):\n    """Use it:\n\n    ```python\n    load()\n    ```\n    """\n    return 1\n'
    assert code in edited("```python\n" + code + "```\n")
    assert code in edited(code) and code in edited("shop/cart.py::load\n" + code)


def test_tabs_and_windows_lines():
    old = "class A:\r\n\tdef f(self):\r\n\t\treturn 1\r\n\r\n\tdef g(self):\r\n\t\treturn 2"
    new = edited(fence("def f(self):\n    return 3\n"), source(text=old))
    assert new == "class A:\r\n\tdef f(self):\r\n\t    return 3\r\n\r\n\tdef g(self):\r\n\t\treturn 2"
    new = edited(fence("def g(self):\n\treturn 2\n\t# end\n"), source(text=old))
    assert new == old + "\r\n\t\t# end\r\n"


@pytest.mark.parametrize(
    ("text", "shown", "message"),
    [
        ("no code", (), "no ```python block"),
        (fence("x = 1\n"), (), r"block 1 \(line 3\): it holds no function"),
        (
            fence("def load(path:\n    pass\n"),
            (),
            r"block 1 \(line 3\) is no valid Python: line 1 of the",
        ),
        (
            fence("def clear(self):\n    pass\n"),
            (),
            "may be shop/cart.py::Cart.clear .*, .*::Other.clear",
        ),
        (fence("def lode(path):\n    pass\n"), (), "no function lode was shown: name it by a line"),
        (fence("def load(path):\n    pass\n"), ("Cart.clear",), "no function load was shown"),
        (fence("def f(): pass\n", "shop/cart.py::Nothing.f"), (), "has no class Nothing"),
        (fence("def f(): pass\n", "shop/card.py::f"), (), "no file shop/card.py; did you mean shop/cart.py"),
        (fence("def f(): pass\n", "../cart.py::f"), (), "without '..'"),
        (fence("def f(): pass\n", "shop/cart.py::g"), (), "names g, but the block holds f"),
        (
            fence("class Cart:\n    limit = 4\n    def clear(self): pass\n"),
            (),
            r"line 2 of the block .*shop/cart.py::Cart",
        ),
        (
            fence("class Cart:\n    limit = 4\n    def clear(self): pass\n"),
            ("Cart.clear",),
            "line 2 of the block .* not shown whole, so only its methods can be written",
        ),
        (
            fence("class Cart:\n    pass\n", "shop/cart.py::Cart"),
            ("Cart.clear",),
            "each .* by a line shop/cart.py::Cart.method",
        ),
        (
            fence("class Nothing:\n    def f(self): pass\n"),
            (),
            "name a method by a line path/of/file.py::Nothing.method .*, a new class by path/of/file.py::Nothing",
        ),
        (fence("def clear(self):\n    self.items = []\n"), ("Cart.clear",), "changes nothing"),
        (fence("N = 1\n\ndef load(path):\n    return N\n"), (), r"N is set beside the functions \(line 1 of"),
        (fence("def load(path):\n    return (\n"), (), "no valid Python"),
        (
            fence("class Other:\n    x = 1\n", "shop/cart.py::Other")
            + fence("def clear(self): x\n", "shop/cart.py::Other.clear"),
            (),
            "both change line",
        ),
    ],
)
def test_what_a_model_is_told(text, shown, message):
    with pytest.raises(EditError, match=message):
        edited(text, source(*shown))


def test_classes_of_one_line_cannot_grow():
    with pytest.raises(EditError, match="stands on one line"):
        edited(fence("def f(self): pass\n", "shop/cart.py::A.f"), source(text="class A: pass\n"))


def test_files_that_are_no_python():
    here = Source(files={"a.txt": "x", "b.py": "print 1\n"}, excerpts=[Excerpt(path="a.txt", text="x")])
    for name in ("a.txt", "b.py"):
        with pytest.raises(EditError, match="no (valid )?Python"):
            FORM.parse(fence("def f(): pass\n", f"{name}::f"), here)


def test_an_answer_that_ends_at_its_limit():
    text = "Words.\n```python\ndef load(path):\n    return 1\n"
    with pytest.raises(EditError, match="cut off"):
        read_edit(FORM, text, source(), is_cut=True)
    assert read_edit(FORM, text, source()) == read_edit(FORM, text + "```\nAnd so o", source(), is_cut=True)
    with pytest.raises(EditError, match="cut off"):
        read_edit(FORM, "<edit>\n" + text + "```\n", source(), is_cut=True)
    assert read_edit(FORM, "<edit>\n" + text, source())
    with pytest.raises(EditError, match="write exactly one <edit>"):
        read_edit(FORM, "words", source())


BODIES = st.lists(
    st.sampled_from(["return x", "x = 1", "if x:\n    y = 'é'", "# note", "z = '''\n\n t'''", "", "pass"]), max_size=4
)


@st.composite
def modules(draw, size=3):
    """A module of functions and classes with methods, and the same with the bodies of some of them new."""
    old, new, names = [], [], []

    def function(name, indent):
        bodies = draw(BODIES), draw(BODIES)
        for parts, body in zip((old, new), bodies if draw(st.booleans()) else bodies[:1] * 2, strict=True):
            lines = [f"def {name}(x):", *textwrap.indent("\n".join([*body, "return None"]), "    ").split("\n")]
            parts.append(textwrap.indent("\n".join(lines), indent, lambda line: bool(line.strip())) + "\n\n")

    for number in range(draw(st.integers(1, size))):
        if draw(st.booleans()):
            function(f"f{number}", "")
            names.append(f"f{number}")
            continue
        for parts in (old, new):
            parts.append(f"class C{number}:\n")
        indent = draw(st.sampled_from(["  ", "    ", "\t"]))
        for inner in range(draw(st.integers(1, 2))):
            function(f"m{inner}", indent)
            names.append(f"C{number}.m{inner}")
    return "".join(old), "".join(new), names


@settings(max_examples=150, deadline=None)
@given(modules(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_is_written_as_functions_is_read(drawn, end, keeps_margin):
    old, new, names = drawn
    written = {one.name: one for one in functions_of("shop/cart.py", new).values()}
    text = ""
    for name in names:
        code = written[name].text
        has_string = "'''" in code or "'''" in old
        text += f"shop/cart.py::{name}\n```python\n{code if keeps_margin or has_string else textwrap.dedent(code)}```\n"
    here = source(text=old.replace("\n", end))
    if old == new:
        with pytest.raises(EditError, match="changes nothing"):
            FORM.parse(text, here)
    else:
        assert edited(text, here) == new.replace("\n", end)


@given(st.text())
def test_any_text_is_an_edit_or_an_error(text):
    for whole in (
        text,
        f"```python\n{text}\n```",
        f"shop/cart.py::{text}\n```\ndef f(): pass\n```",
        fence("def f():\n" + text),
    ):
        try:
            FORM.parse(whole, source())
        except EditError as error:
            assert isinstance(error, NothingFound) or str(error)


def test_flask_5014_as_a_small_model_writes_it():
    """The shape of the real trial's answers: a lone method, without name and margin."""
    old = "class Blueprint(Scaffold):\n    def __init__(self, name):\n        x()\n        self.name = name\n"
    code = 'def __init__(self, name):\n    x()\n    if not name:\n        raise ValueError("empty")\n'
    code += "    self.name = name\n"
    here = source("Blueprint.__init__", text=old)
    new = read_edit(FORM, f"Sure!\n\n```python\n{code}```\n\nThis checks the name.", here)["shop/cart.py"]
    assert ast.unparse(ast.parse(new)).count("raise ValueError('empty')") == 1
    assert new.replace('        if not name:\n            raise ValueError("empty")\n', "") == old


def test_a_part_of_a_class_that_was_shown_is_not_the_class():
    """An excerpt of a class's first lines does not make a class of one method the whole class."""
    head = Excerpt(path="shop/cart.py", name="Cart", first_line=8, text='class Cart:\n    """What it is."""\n')
    here = Source(files={"shop/cart.py": CART}, excerpts=[head])
    assert edited("```python\nclass Cart:\n" + NEW_CLEAR + "```", here) == WANTED


def test_a_class_around_methods_is_found_where_one_of_them_was_shown():
    assert edited(fence("class Cart:\n" + NEW_CLEAR), source("Cart.clear")) == WANTED
    two = "class Cart:\n    def clear(self): pass\n\n    class Line:\n        def clear(self): pass\n"
    block = fence("class Line:\n    def clear(self): return 1\n")
    assert edited(block, source("Cart.Line.clear", text=two)) == f"{two[:-5]}return 1\n"
    shown = [one for path in ("a.py", "b.py") for one in functions_of(path, two).values() if one.name == "Cart.clear"]
    here = Source(files={"a.py": two, "b.py": two}, excerpts=shown)
    with pytest.raises(
        EditError, match=r"Cart may be a.py::Cart .*, b.py::Cart .* by a line path/of/file.py::Cart.method"
    ):
        FORM.parse(fence("class Cart:\n" + NEW_CLEAR), here)


@pytest.mark.parametrize(
    "code",
    [
        "@" + "+".join(["x"] * 3000) + "\ndef load(path):\n    pass\n",
        "def load(path):\n    return " + "(" * 150 + ")" * 150 + "\n",
        "def load(path):\n    return " + "-" * 5000 + "1\n",
        "if x: pass\n" + "elif x: pass\n" * 3000 + "def load(path):\n    pass\n",
        "class Cart:\n    y = " + "+".join(["x"] * 3000) + "\n    def clear(self):\n        pass\n",
        "def load(path):\n    pass\n\\\n",
    ],
)
def test_odd_and_deep_code_is_an_edit_or_an_error(code):
    try:
        FORM.parse("```python\n" + code + "```", source())
    except EditError as error:
        assert len(str(error)) < 2000


def test_a_path_that_is_not_there_is_forgiven_where_the_name_is_that_of_one_thing_shown():
    files = {"till/coupon.py": "class Coupon:\n    def discount(self):\n        return 1\n", "other.py": "x = 1\n"}
    shown = [Excerpt(path="till/coupon.py", name="Coupon.discount", first_line=2, text="    def discount(self):\n")]
    source = Source(files=files, excerpts=shown, paths=list(files))
    text = "shop/cart.py::Coupon.discount\n```python\ndef discount(self):\n    return 2\n```\n"
    assert Functions().parse(text, source) == {"till/coupon.py": files["till/coupon.py"].replace("1", "2")}
    for wrong, hint in (("Coupon.total", False), ("Basket.discount", True)):
        written = text.replace("Coupon.discount", wrong).replace("def discount", f"def {wrong.rpartition('.')[2]}")
        with pytest.raises(EditError, match=r"there is no file shop/cart\.py") as told:
            Functions().parse(written, source)
        assert str(told.value).endswith("; discount is till/coupon.py::Coupon.discount") == hint


def test_several_tags_are_one_edit():
    files = {"a.py": "def f():\n    return 1\n\n\ndef g():\n    return 1\n"}
    source = Source(files=files, excerpts=[Excerpt(path="a.py", text=files["a.py"])], paths=list(files))
    one = "<edit>\na.py::{}\n```python\ndef {}():\n    return 2\n```\n</edit>\n"
    text = "First:\n" + one.format("f", "f") + "and then:\n" + one.format("g", "g")
    for written in (text, text.replace("\n", "\r\n")):
        assert read_edit(Functions(), written, source) == {"a.py": files["a.py"].replace("1", "2")}


@given(
    st.sampled_from(
        ["{}", "In `{}`:", "1. {}", "{} -> new helper", "**New in {}():**", "### File: {}", "So '{}', then", "# {}"]
    ),
    st.sampled_from(["b.py", "sp ace/b.py", "a b c.py", "a.py"]),
    st.sampled_from(["above", "info", "comment"]),
)
def test_a_name_amid_words_and_a_path_with_blanks_are_what_is_named(words, path, where):
    old, code = "def f():\n    return 1\n", "def f():\n    return 2\n"
    files = {"a.py": old, path: old if path == "a.py" else "x = 1\n"}
    here = Source(files=files, excerpts=[Excerpt(path="a.py", text=old)])
    line = words.format(f"{path}::f")
    text = {
        "above": f"{line}\n```python\n{code}```",
        "info": f"```python {line.replace('`', '')}\n{code}```",
        "comment": f"```python\n# {line}\n{code}```",
    }[where]
    assert FORM.parse(text, here) == {path: code if path == "a.py" else f"x = 1\n\n\n{code}"}


def test_a_path_with_blanks_alone_is_the_file_that_is_meant():
    files = {"a.py": "def f():\n    return 1\n", "sp ace/b.py": "x = 1\n"}
    here = Source(files=files, excerpts=[Excerpt(path=path, text=text) for path, text in files.items()])
    with pytest.raises(EditError, match="no function f was shown"):
        FORM.parse(fence("def f():\n    return 2\n", "sp ace/b.py"), here)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("In `till.py::load`:", "there is no file till.py"),
        ("Move shop/cart.py::Cart.load to shop/till.py::load:", r"names shop/cart.py::Cart.load, shop/till.py::load"),
    ],
)
def test_a_name_that_is_not_understood_is_not_left_out_of_account(line, message):
    with pytest.raises(EditError, match=message):
        edited(fence("def load(self):\n    pass\n", line), source("Cart.clear"))
