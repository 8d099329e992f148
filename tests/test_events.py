"""Event, MessageEvent, ErrorEvent and EventTarget by themselves, without a channel (DOM Standard, "Events")."""

import asyncio
import functools
import gc

import pytest

from ends import MessageChannel
from loops import Unraisable
from messagechannel import ErrorEvent, Event, EventTarget, MessageEvent


@pytest.fixture
def target():
    return EventTarget()


# ---- Event ----


def test_event_has_its_type():
    assert Event("ping").type == "ping"


@pytest.mark.parametrize("wrong", [None, 1, b"ping", ["ping"]])
def test_event_type_must_be_a_str(wrong):
    with pytest.raises(TypeError, match="type"):
        Event(wrong)


def test_event_type_is_required():
    with pytest.raises(TypeError):
        Event()


@pytest.mark.parametrize("name", ["type", "target", "current_target", "is_trusted", "cancelable", "default_prevented"])
def test_event_attribute_is_read_only(name):
    with pytest.raises(AttributeError):
        setattr(Event("ping"), name, "x")


def test_event_before_dispatch_has_no_target():
    event = Event("ping")
    assert (event.target, event.current_target) == (None, None)


def test_event_made_by_the_program_is_not_trusted():
    assert Event("ping").is_trusted is False


def test_event_is_not_cancelable_unless_asked():
    event = Event("ping")
    event.prevent_default()
    assert (event.cancelable, event.default_prevented) == (False, False)


def test_prevent_default_of_a_cancelable_event():
    event = Event("ping", cancelable=True)
    event.prevent_default()
    assert event.default_prevented is True


# ---- MessageEvent ----


def test_message_event_defaults():
    event = MessageEvent("message")
    fields = (event.type, event.data, event.origin, event.last_event_id, event.source, event.ports)
    assert fields == ("message", None, "", "", None, ())


def test_message_event_keeps_what_it_was_given(channel):
    data = ["x"]
    event = MessageEvent(
        "message", data=data, origin="https://a.example", last_event_id="7", source=channel.port1, ports=[channel.port2]
    )
    assert event.data is data
    assert (event.origin, event.last_event_id) == ("https://a.example", "7")
    assert event.source is channel.port1
    assert event.ports == (channel.port2,)


def test_message_event_ports_become_a_tuple(channel):
    assert MessageEvent("message", ports=iter([channel.port1])).ports == (channel.port1,)


@pytest.mark.parametrize("name", ["data", "origin", "last_event_id", "source", "ports"])
def test_message_event_attribute_is_read_only(name):
    with pytest.raises(AttributeError):
        setattr(MessageEvent("message"), name, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": 1},
        {"origin": None},
        {"last_event_id": 3},
        {"source": object()},
        {"source": "x"},
        {"ports": [object()]},
        {"ports": [None]},
        {"ports": 5},
        {"unknown": 1},
    ],
)
def test_message_event_refuses_a_wrong_field(wrong):
    with pytest.raises(TypeError):
        MessageEvent("message", **wrong)


def test_message_event_fields_are_keyword_only():
    with pytest.raises(TypeError):
        MessageEvent("message", "data")


def test_message_event_is_an_event():
    assert issubclass(MessageEvent, Event)


def test_message_event_repr_names_type_and_data():
    text = repr(MessageEvent("message", data=42))
    assert "message" in text
    assert "42" in text


# ---- ErrorEvent ----


def test_error_event_fields():
    error = ValueError("boom")
    event = ErrorEvent("error", message="boom", error=error)
    assert (event.type, event.message, event.error) == ("error", "boom", error)


def test_error_event_defaults():
    event = ErrorEvent("error")
    assert (event.message, event.error) == ("", None)


def test_error_event_message_must_be_a_str():
    with pytest.raises(TypeError, match="message"):
        ErrorEvent("error", message=ValueError("boom"))


# ---- adding and removing listeners ----


@pytest.mark.parametrize("wrong", [None, 1, "f", object()])
def test_listener_must_be_callable(target, wrong):
    with pytest.raises(TypeError, match="callable"):
        target.add_event_listener("ping", wrong)


def test_listener_type_must_be_a_str(target):
    with pytest.raises(TypeError, match="type"):
        target.add_event_listener(None, print)


def test_once_is_keyword_only(target):
    with pytest.raises(TypeError):
        target.add_event_listener("ping", print, True)


def test_listeners_run_in_the_order_in_which_they_were_added(target):
    calls = []
    for name in "abcde":
        target.add_event_listener("ping", lambda event, name=name: calls.append(name))
    target.dispatch_event(Event("ping"))
    assert calls == list("abcde")


def test_listener_gets_the_event_itself(target):
    events = []
    target.add_event_listener("ping", events.append)
    event = Event("ping")
    target.dispatch_event(event)
    assert events[0] is event


def test_listener_runs_for_its_type_only(target):
    events = []
    target.add_event_listener("ping", events.append)
    target.dispatch_event(Event("pong"))
    assert events == []


def test_the_same_listener_is_added_once(target):
    events = []
    append = events.append
    target.add_event_listener("ping", append)
    target.add_event_listener("ping", append)
    target.dispatch_event(Event("ping"))
    assert len(events) == 1


def test_a_bound_method_is_the_same_listener_each_time_it_is_looked_up(target):
    events = []
    target.add_event_listener("ping", events.append)
    target.add_event_listener("ping", events.append)
    target.dispatch_event(Event("ping"))
    assert len(events) == 1


def test_the_same_listener_for_two_types_is_two_registrations(target):
    events = []
    target.add_event_listener("ping", events.append)
    target.add_event_listener("pong", events.append)
    target.dispatch_event(Event("ping"))
    target.dispatch_event(Event("pong"))
    assert [event.type for event in events] == ["ping", "pong"]


def test_a_repeated_add_keeps_the_first_place(target):
    calls = []

    def first(event):
        calls.append("first")

    target.add_event_listener("ping", first)
    target.add_event_listener("ping", lambda event: calls.append("second"))
    target.add_event_listener("ping", first)
    target.dispatch_event(Event("ping"))
    assert calls == ["first", "second"]


def test_a_removed_listener_no_longer_runs(target):
    events = []
    target.add_event_listener("ping", events.append)
    target.remove_event_listener("ping", events.append)
    target.dispatch_event(Event("ping"))
    assert events == []


def test_removing_what_was_not_added_does_nothing(target):
    events = []
    target.remove_event_listener("ping", print)
    target.add_event_listener("ping", events.append)
    target.remove_event_listener("ping", print)
    target.remove_event_listener("pong", events.append)
    target.dispatch_event(Event("ping"))
    assert len(events) == 1


def test_a_listener_can_be_added_again_after_removal_and_is_last_then(target):
    calls = []

    def moved(event):
        calls.append("moved")

    target.add_event_listener("ping", moved)
    target.add_event_listener("ping", lambda event: calls.append("other"))
    target.remove_event_listener("ping", moved)
    target.add_event_listener("ping", moved)
    target.dispatch_event(Event("ping"))
    assert calls == ["other", "moved"]


# ---- once ----


def test_a_once_listener_runs_once(target):
    events = []
    target.add_event_listener("ping", events.append, once=True)
    target.dispatch_event(Event("ping"))
    target.dispatch_event(Event("ping"))
    assert len(events) == 1


def test_a_once_listener_is_removed_before_it_is_called(target):
    calls = []

    def listener(event):
        calls.append(event.type)
        if len(calls) < 3:
            target.dispatch_event(Event("ping"))

    target.add_event_listener("ping", listener, once=True)
    target.dispatch_event(Event("ping"))
    assert len(calls) == 1


def test_a_once_listener_can_add_itself_again(target):
    calls = []

    def listener(event):
        calls.append(event)
        target.add_event_listener("ping", listener, once=True)

    target.add_event_listener("ping", listener, once=True)
    target.dispatch_event(Event("ping"))
    target.dispatch_event(Event("ping"))
    assert len(calls) == 2


def test_a_once_listener_that_raises_is_removed_all_the_same(target, monkeypatch):
    unraisable = Unraisable(monkeypatch)
    target.add_event_listener("ping", lambda event: 1 / 0, once=True)
    target.dispatch_event(Event("ping"))
    target.dispatch_event(Event("ping"))
    assert [type(error) for error in unraisable.errors] == [ZeroDivisionError]


# ---- changes during dispatch ----


def test_a_listener_removed_during_dispatch_does_not_run(target):
    calls = []

    def second(event):
        calls.append("second")

    target.add_event_listener("ping", lambda event: target.remove_event_listener("ping", second))
    target.add_event_listener("ping", second)
    target.dispatch_event(Event("ping"))
    assert calls == []


def test_a_listener_that_removes_itself_does_not_disturb_the_next(target):
    calls = []

    def first(event):
        calls.append("first")
        target.remove_event_listener("ping", first)

    target.add_event_listener("ping", first)
    target.add_event_listener("ping", lambda event: calls.append("second"))
    target.dispatch_event(Event("ping"))
    target.dispatch_event(Event("ping"))
    assert calls == ["first", "second", "second"]


def test_a_listener_added_during_dispatch_runs_from_the_next_event_on(target):
    calls = []

    def late(event):
        calls.append("late")

    target.add_event_listener("ping", lambda event: target.add_event_listener("ping", late))
    target.dispatch_event(Event("ping"))
    assert calls == []
    target.dispatch_event(Event("ping"))
    assert calls == ["late"]


def test_stop_immediate_propagation_stops_the_later_listeners(target):
    calls = []
    target.add_event_listener("ping", lambda event: event.stop_immediate_propagation())
    target.add_event_listener("ping", calls.append)
    target.dispatch_event(Event("ping"))
    assert calls == []


# ---- exceptions in listeners ----


def test_an_exception_in_a_listener_does_not_stop_the_others(target, monkeypatch):
    Unraisable(monkeypatch)
    calls = []
    target.add_event_listener("ping", lambda event: 1 / 0)
    target.add_event_listener("ping", calls.append)
    target.dispatch_event(Event("ping"))
    assert len(calls) == 1


def test_an_exception_in_a_listener_does_not_reach_the_dispatcher_of_the_event(target, monkeypatch):
    Unraisable(monkeypatch)
    target.add_event_listener("ping", lambda event: 1 / 0)
    assert target.dispatch_event(Event("ping")) is True


def test_an_exception_in_a_listener_is_reported_where_no_loop_runs(target, monkeypatch):
    unraisable = Unraisable(monkeypatch)
    error = ValueError("boom")

    def listener(event):
        raise error

    target.add_event_listener("ping", listener)
    target.dispatch_event(Event("ping"))
    assert unraisable.errors == [error]
    assert unraisable.objects == [listener]


def test_a_cancelled_error_in_a_listener_is_reported_and_does_not_stop_the_others(target, monkeypatch):
    # What the result of a cancelled future raises; only asyncio's tasks have a use for it.
    unraisable = Unraisable(monkeypatch)
    calls = []
    error = asyncio.CancelledError("mine")

    def listener(event):
        raise error

    target.add_event_listener("ping", listener)
    target.add_event_listener("ping", calls.append)
    target.dispatch_event(Event("ping"))
    assert len(calls) == 1
    assert unraisable.errors == [error]


def test_the_reported_exception_has_its_traceback(target, monkeypatch):
    unraisable = Unraisable(monkeypatch)

    def listener(event):
        raise ValueError("boom")

    target.add_event_listener("ping", listener)
    target.dispatch_event(Event("ping"))
    frames = []
    traceback = unraisable.errors[0].__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert "listener" in frames


def test_an_exception_in_a_listener_goes_to_the_exception_handler_of_a_running_loop(target):
    contexts = []
    error = ValueError("boom")

    def listener(event):
        raise error

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: contexts.append(context))
        target.add_event_listener("ping", listener)
        target.dispatch_event(Event("ping"))

    asyncio.run(main())
    assert [context["exception"] for context in contexts] == [error]


def test_a_broken_exception_handler_does_not_stop_the_other_listeners(target, monkeypatch):
    calls = []
    unraisable = Unraisable(monkeypatch)

    async def main():
        # Instead of the handler, the reporting itself breaks: a loop guards its handler well.
        asyncio.get_running_loop().call_exception_handler = None
        target.add_event_listener("ping", lambda event: 1 / 0)
        target.add_event_listener("ping", calls.append)
        target.dispatch_event(Event("ping"))

    asyncio.run(main())
    assert len(calls) == 1
    assert len(unraisable.errors) == 1


# ---- dispatch_event ----


@pytest.mark.parametrize("wrong", [None, "ping", object(), Event])
def test_dispatch_event_takes_events_only(target, wrong):
    with pytest.raises(TypeError, match="Event"):
        target.dispatch_event(wrong)


def test_dispatch_event_without_listeners_is_true(target):
    assert target.dispatch_event(Event("ping")) is True


def test_dispatch_event_is_false_when_the_default_action_was_prevented(target):
    target.add_event_listener("ping", lambda event: event.prevent_default())
    assert target.dispatch_event(Event("ping", cancelable=True)) is False


def test_dispatch_event_is_true_when_a_cancelable_event_was_left_alone(target):
    target.add_event_listener("ping", lambda event: None)
    assert target.dispatch_event(Event("ping", cancelable=True)) is True


def test_dispatch_event_runs_the_listeners_at_once(target):
    calls = []
    target.add_event_listener("ping", lambda event: calls.append("listener"))
    target.dispatch_event(Event("ping"))
    calls.append("after")
    assert calls == ["listener", "after"]


def test_dispatch_event_sets_the_target_for_good(target):
    event = Event("ping")
    target.dispatch_event(event)
    assert event.target is target


def test_current_target_is_set_while_listeners_run_only(target):
    during = []
    target.add_event_listener("ping", lambda event: during.append(event.current_target))
    event = Event("ping")
    target.dispatch_event(event)
    assert during == [target]
    assert event.current_target is None


def test_an_event_can_be_dispatched_again_elsewhere(target):
    other = EventTarget()
    events = []
    target.add_event_listener("ping", events.append)
    other.add_event_listener("ping", events.append)
    event = Event("ping")
    target.dispatch_event(event)
    other.dispatch_event(event)
    assert events == [event, event]
    assert event.target is other


def test_propagation_that_was_stopped_is_not_stopped_in_the_next_dispatch(target):
    event = Event("ping")
    other = EventTarget()
    calls = []
    target.add_event_listener("ping", lambda event: event.stop_immediate_propagation())
    other.add_event_listener("ping", calls.append)
    target.dispatch_event(event)
    other.dispatch_event(event)
    assert len(calls) == 1


def test_an_event_cannot_be_dispatched_while_it_is_being_dispatched(target):
    errors = []

    def listener(event):
        with pytest.raises(RuntimeError) as caught:
            target.dispatch_event(event)
        errors.append(caught.value)

    target.add_event_listener("ping", listener)
    target.dispatch_event(Event("ping"))
    assert len(errors) == 1


def test_an_event_dispatched_by_the_program_is_not_trusted_even_if_it_came_from_a_port(channel):
    channel.port1.post_message("x")
    event = channel.port2.receive_event(0)
    assert event.is_trusted is True
    EventTarget().dispatch_event(event)
    assert event.is_trusted is False


def test_dispatch_event_on_a_port_runs_its_listeners_now_even_if_it_is_not_started(channel):
    events = []
    channel.port1.add_event_listener("message", events.append)
    event = MessageEvent("message", data="made up")
    assert channel.port1.dispatch_event(event) is True
    assert events == [event]
    assert event.target is channel.port1


def test_an_event_type_of_ones_own_works_on_a_port(channel):
    events = []
    channel.port1.add_event_listener("ping", events.append)
    channel.port1.dispatch_event(Event("ping"))
    assert len(events) == 1


# ---- event handler attributes; a port that is not posted to has nothing else to dispatch ----


@pytest.mark.parametrize("name", ["onmessage", "onmessageerror", "onclose"])
def test_handler_attribute_is_none_at_first(channel, name):
    assert getattr(channel.port1, name) is None


@pytest.mark.parametrize("name", ["onmessage", "onmessageerror", "onclose"])
def test_handler_attribute_returns_what_was_set(channel, name):
    setattr(channel.port1, name, print)
    assert getattr(channel.port1, name) is print
    setattr(channel.port1, name, None)
    assert getattr(channel.port1, name) is None


@pytest.mark.parametrize("name", ["onmessage", "onmessageerror", "onclose"])
@pytest.mark.parametrize("wrong", [1, "f", object()])
def test_handler_attribute_must_be_callable_or_none(channel, name, wrong):
    with pytest.raises(TypeError, match=name):
        setattr(channel.port1, name, wrong)
    assert getattr(channel.port1, name) is None


@pytest.mark.parametrize("name", ["onmessage", "onmessageerror", "onclose"])
def test_handler_attribute_handles_events_of_its_type(channel, name):
    events = []
    setattr(channel.port1, name, events.append)
    for type in ("message", "messageerror", "close"):
        channel.port1.dispatch_event(Event(type))
    assert [event.type for event in events] == [name[2:]]


def test_replacing_a_handler_keeps_its_place(channel):
    calls = []
    port = channel.port1
    port.onmessageerror = lambda event: calls.append("old")
    port.add_event_listener("messageerror", lambda event: calls.append("listener"))
    port.onmessageerror = lambda event: calls.append("new")
    port.dispatch_event(Event("messageerror"))
    assert calls == ["new", "listener"]


def test_a_handler_set_anew_after_none_is_last(channel):
    calls = []
    port = channel.port1
    port.onmessageerror = lambda event: calls.append("handler")
    port.add_event_listener("messageerror", lambda event: calls.append("listener"))
    port.onmessageerror = None
    port.onmessageerror = lambda event: calls.append("handler")
    port.dispatch_event(Event("messageerror"))
    assert calls == ["listener", "handler"]


def test_the_same_function_can_be_handler_and_listener(channel):
    events = []
    channel.port1.onmessageerror = append = events.append
    channel.port1.add_event_listener("messageerror", append)
    channel.port1.dispatch_event(Event("messageerror"))
    assert len(events) == 2


def test_remove_event_listener_does_not_remove_the_handler(channel):
    channel.port1.onmessageerror = print
    channel.port1.remove_event_listener("messageerror", print)
    assert channel.port1.onmessageerror is print


def test_a_handler_replaced_during_dispatch_runs_in_its_new_form(channel):
    calls = []
    port = channel.port1

    def first(event):
        port.onmessageerror = lambda event: calls.append("new")

    port.add_event_listener("messageerror", first)
    port.onmessageerror = lambda event: calls.append("old")
    port.dispatch_event(Event("messageerror"))
    assert calls == ["new"]


def test_any_callable_is_a_listener(target):
    calls = []

    class Listener:
        def __call__(self, event):
            calls.append("object")

    target.add_event_listener("ping", Listener())
    target.add_event_listener("ping", functools.partial(lambda name, event: calls.append(name), "partial"))
    target.dispatch_event(Event("ping"))
    assert calls == ["object", "partial"]


def test_event_target_can_be_subclassed():
    class Radio(EventTarget):
        pass

    calls = []
    radio = Radio()
    radio.add_event_listener("news", calls.append)
    radio.dispatch_event(Event("news"))
    assert calls[0].target is radio


def test_a_port_is_an_event_target():
    assert isinstance(MessageChannel().port1, EventTarget)


def test_listeners_that_a_destructor_adds_while_another_is_added():
    """Where an allocation may run the garbage collector, that may run anything, in the middle of anything."""
    calls = []

    class Adds:
        def __init__(self, target):
            self.cycle, self.target = self, target

        def __del__(self):
            self.target.add_event_listener("x", lambda event: calls.append("destructor"))

    before = gc.get_threshold()
    gc.collect()
    # What the other tests have left needs no look.
    gc.freeze()
    try:
        for allocations in range(1, 60):
            gc.set_threshold(100_000)
            target = EventTarget()
            target.add_event_listener("x", lambda event: calls.append("first"))
            Adds(target)
            gc.set_threshold(gc.get_count()[0] + allocations)
            target.add_event_listener("x", lambda event: calls.append("second"))
            gc.collect()
            target.dispatch_event(Event("x"))
            assert sorted(calls) == ["destructor", "first", "second"]
            calls.clear()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
