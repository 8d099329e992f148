"""What inspect.signature and help() show, and what importing the package imports."""

import inspect
import pydoc

import pytest

import messagechannel
from messagechannel import MessageChannel, MessagePort

CLASSES = [
    getattr(messagechannel, name) for name in messagechannel.__all__ if isinstance(getattr(messagechannel, name), type)
]
METHODS = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls in CLASSES
    if not issubclass(cls, Exception)
    for name in dir(cls)
    if not name.startswith("_") and callable(getattr(cls, name))
]
ATTRIBUTES = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls in CLASSES
    if not issubclass(cls, Exception)
    for name in dir(cls)
    if not name.startswith("_") and not callable(getattr(cls, name))
]


@pytest.mark.parametrize("name", messagechannel.__all__)
def test_every_name_in_all_exists(name):
    assert hasattr(messagechannel, name)


def test_all_names_of_the_contract_are_public():
    assert {
        "MessageChannel",
        "MessagePort",
        "MessageEvent",
        "Event",
        "EventTarget",
        "ErrorEvent",
        "Worker",
        "ChannelClosedError",
        "DataCloneError",
        "structured_clone",
        "wait",
    } <= set(messagechannel.__all__)


@pytest.mark.parametrize(("cls", "name"), METHODS)
def test_method_has_a_signature(cls, name):
    assert next(iter(inspect.signature(getattr(cls, name)).parameters)) == "self"


@pytest.mark.parametrize(("cls", "name"), METHODS)
def test_method_has_a_docstring(cls, name):
    assert inspect.getdoc(getattr(cls, name))


@pytest.mark.parametrize(("cls", "name"), METHODS)
def test_help_of_a_method_shows_its_signature(cls, name):
    text = pydoc.plain(pydoc.render_doc(getattr(cls, name)))
    assert f"{name}(" in text
    assert "(...)" not in text


@pytest.mark.parametrize(("cls", "name"), ATTRIBUTES)
def test_attribute_is_documented_by_itself_or_in_its_class(cls, name):
    documented = "".join(base.__doc__ or "" for base in cls.__mro__[:-1])
    assert inspect.getdoc(getattr(cls, name)) or f":ivar {name}:" in documented


@pytest.mark.parametrize("cls", CLASSES)
def test_class_has_a_docstring(cls):
    assert cls.__doc__


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("MessageChannel", "(*, capacity=None, copy=True)"),
        ("Event", "(type, *, cancelable=False)"),
        ("MessageEvent", "(type, *, data=None, origin='', last_event_id='', source=None, ports=())"),
        ("ErrorEvent", "(type, *, message='', error=None, traceback='')"),
        ("structured_clone", "(value, *, transfer=())"),
        ("wait", "(ports, timeout=None)"),
    ],
)
def test_signature_of_what_is_called(name, signature):
    assert str(inspect.signature(getattr(messagechannel, name))) == signature


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("post_message", "(self, /, message, transfer=())"),
        ("send", "(self, /, message, transfer=(), timeout=None)"),
        ("asend", "(self, /, message, transfer=(), timeout=None)"),
        ("receive", "(self, /, timeout=None)"),
        ("receive_nowait", "(self, /)"),
        ("receive_event", "(self, /, timeout=None)"),
        ("receive_many", "(self, /, limit=None, timeout=None)"),
        ("areceive", "(self, /)"),
        ("start", "(self, /)"),
        ("close", "(self, /)"),
        ("statistics", "(self, /)"),
        ("add_event_listener", "(self, /, type, listener, *, once=False)"),
        ("remove_event_listener", "(self, /, type, listener)"),
        ("dispatch_event", "(self, event, /)"),
    ],
)
def test_signature_of_a_method_of_a_port(name, signature):
    assert str(inspect.signature(getattr(MessagePort, name))) == signature


def test_worker_names_its_parameters():
    parameters = inspect.signature(messagechannel.Worker).parameters
    assert list(parameters) == ["target", "args", "kind", "name", "start_method"]
    assert parameters["args"].kind is inspect.Parameter.VAR_POSITIONAL
    assert parameters["kind"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["kind"].default == "thread"


def test_a_bound_method_has_a_signature_without_self():
    assert str(inspect.signature(MessageChannel().port1.post_message)) == "(message, transfer=())"


def test_the_handler_attributes_have_docstrings():
    for name in ("onmessage", "onmessageerror", "onclose", "closed"):
        assert getattr(MessagePort, name).__doc__


@pytest.mark.parametrize("module", ["asyncio", "multiprocessing", "typing", "pickle", "threading"])
def test_importing_the_package_does_not_import(run_python, module):
    # -S and -I would keep site from importing things, but not every interpreter finds the package then.
    result = run_python(f"""
import sys
before = set(sys.modules)
import messagechannel
print(sorted(name for name in set(sys.modules) - before if name.split('.')[0] == {module!r}))
""")
    assert (result.returncode, result.stdout.strip()) == (0, "[]")


def test_using_a_channel_between_threads_imports_neither_asyncio_nor_multiprocessing(run_python):
    result = run_python("""
import sys
before = set(sys.modules)
import messagechannel
with messagechannel.MessageChannel() as (port1, port2):
    port2.onmessage = [].append
    port1.post_message(1)
    port2.onmessage = None
    port1.post_message({"a": [1]})
    port2.receive_many()
print(sorted({"asyncio", "multiprocessing"} & (set(sys.modules) - before)))
""")
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_package_is_marked_as_typed():
    from importlib.resources import files

    assert files("messagechannel").joinpath("py.typed").is_file()
